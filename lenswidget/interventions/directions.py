"""What a token's logit reads at a layer: the row of the unembed, pulled back through a lens."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import EditError, ModelError
from lenswidget.lenses.lens import CallableLens, Lens, LensLike, as_lens, carry, check_carried, check_lens

# Directions this nearly parallel have no coordinates of their own.
PARALLEL_COSINE = 0.999


def token_directions(
    model: ReadableModel, ids: list[int], layer: int, lens: LensLike = None
) -> Float[Tensor, "tokens d_model"]:
    """`J_l^T w_t` of some tokens, `[tokens, d_model]` float32, on the unembed's device.

    Args:
        layer: -1 for the embedding, `i` for the stream after block `i`.
        lens: an affine one; None is the logit lens, whose direction is `w_t` at every layer.
    Raises:
        EditError: the lens is a function of your own, or the model has no unembed as wide as its stream.
        CellError: the lens does not carry that layer.
        LensMismatchError: the lens was fitted to another model.
    Source: Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models".
    """
    found = as_lens(lens)
    if isinstance(found, CallableLens):
        raise EditError(
            f"Asked for a direction through the function {found.name!r}. Pass a fitted lens, or None for the "
            "logit lens: a direction is defined through affine lenses alone."
        )
    check_lens(found, model)
    n_layers = model.anatomy.n_layers
    check_carried(found, [layer], n_layers)
    rows = _unembed_rows(model, ids)
    return rows if layer == n_layers - 1 else pulled_back(found, layer, rows)


def check_apart(directions: Tensor, tokens: Any) -> None:
    """Refuse directions along one line.

    Raises:
        EditError: two of them are nearly parallel, or one is 0.
    """
    norms = directions.norm(dim=-1, keepdim=True)
    if not bool((norms > 0).all()):
        raise EditError(f"A direction of {tokens!r} is 0 at this layer. Choose another token or layer.")
    unit = directions / norms
    cosines = (unit @ unit.T).fill_diagonal_(0.0).abs()
    if float(cosines.max()) >= PARALLEL_COSINE:
        raise EditError(
            f"The directions of {tokens!r} are nearly parallel at this layer (cosine "
            f"{float(cosines.max()):.4f}), so they have no coordinates of their own. Choose other tokens or "
            "layers."
        )


def random_like(directions: Float[Tensor, "n d_model"], seed: int) -> Float[Tensor, "n d_model"]:
    """Random directions with the norms of the given ones and the same angles to one another."""
    generator = torch.Generator().manual_seed(seed)
    n, d_model = directions.shape
    frame, _ = torch.linalg.qr(torch.randn(d_model, n, generator=generator, dtype=torch.float64))
    _, triangle = torch.linalg.qr(directions.detach().cpu().double().T)
    return (frame @ triangle).T.to(directions)


def _unembed_rows(model: ReadableModel, ids: list[int]) -> Tensor:
    """The rows of the unembed, `[tokens, d_model]`, read off its product: its weight may lie elsewhere."""
    path = model.anatomy.unembed
    if path is None:
        raise EditError(
            f"{model.anatomy.model_class} calls no unembed, so its tokens have no direction. Use op='add'."
        )
    unembed = model.hf_model.get_submodule(path)
    linear = model.tail.linear()
    if linear is not None:
        rows = linear.weight[ids].detach().float()
    else:
        with model.lock, torch.enable_grad(), torch.inference_mode(False):
            at = torch.zeros(1, _width(model), device=model.device, dtype=_dtype(model), requires_grad=True)
            logits: Tensor = unembed(at)
            rows = torch.stack([torch.autograd.grad(logits[0, i], at, retain_graph=True)[0][0] for i in ids])
        rows = rows.detach().float()
    if rows.shape[-1] != model.anatomy.d_model:
        raise EditError(
            f"The unembed of {model.anatomy.model_class} is {rows.shape[-1]} wide and its stream "
            f"{model.anatomy.d_model}, so its tokens have no direction there. Use op='add'."
        )
    return rows


def _width(model: ReadableModel) -> int:
    width = getattr(model.hf_model.get_submodule(str(model.anatomy.unembed)), "in_features", None)
    return int(width) if width is not None else model.anatomy.d_model


def _dtype(model: ReadableModel) -> torch.dtype:
    found = getattr(model.hf_model, "dtype", torch.float32)
    if not found.is_floating_point:
        raise ModelError(f"{model.anatomy.model_class} has no float dtype, so its tokens have no direction.")
    return found


def pulled_back(lens: Lens, layer: int, rows: Tensor) -> Tensor:
    """Each row `w` times the lens's matrix, `[tokens, d_model]`: the gradient of `w . transport(x)`."""
    with torch.enable_grad(), torch.inference_mode(False):
        rows = rows.clone()
        at = torch.zeros(1, rows.shape[-1], device=rows.device, requires_grad=True)
        carried = carry(lens, layer, at).float()
        grads = [torch.autograd.grad(carried[0] @ row, at, retain_graph=True)[0][0] for row in rows]
    return torch.stack(grads).detach()
