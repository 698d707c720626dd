"""Pictures for the survey: made-up pixels in the ways in which transformers' models take them.

No table of families: each way is tried, and what a model makes of it is checked against the model itself.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import lenswidget as lw
from lenswidget.errors import PromptError
from lenswidget.language_model import LanguageModel
from lenswidget.models.hf_model import logits_of, takes
from lenswidget.models.pictures import placeholder_ids
from lenswidget.nested import leaves

BEFORE, AFTER = [5, 17], [40, 33, 21]
# Far above rounding, far below what leaving a picture out does.
NATS = 1e-3


def pictures(lm: LanguageModel) -> str:
    """What the survey says of a model and a picture: "exact", that none was taken, or what is wrong."""
    hf_model: Any = lm.hf_model
    found = next(_taken(hf_model), None)
    if found is None:
        return "no picture made here was taken"
    inputs, n = found
    own = _logits(hf_model, inputs).double().log_softmax(-1)
    run = lm.run(inputs)
    if run.token_ids.tolist() != inputs["input_ids"][0].tolist():
        return "wrong columns"
    d_vocab = own.shape[-1]
    last = lm.anatomy.n_layers - 1
    readout = lw.read(run, [(last, position) for position in range(run.seq)], k=d_vocab)
    ids = torch.from_numpy(readout.ids).long()
    gap = (torch.from_numpy(readout.log_probs).double() - own.gather(1, ids)).abs().max()
    if not float(gap) < NATS:
        return f"off by {float(gap):.1e}"
    if n == 0:
        return "exact, no placeholders"
    bands = [i for band in run.spec.prompt.bands for i in range(band.start, band.stop)]
    if len(bands) != n:
        return "wrong band"
    try:
        lm.run(inputs["input_ids"])
    except PromptError:
        return "exact"
    return "silent without its picture"


def _logits(hf_model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return logits_of(hf_model(**inputs))[0].float()


def _taken(hf_model: nn.Module) -> Iterator[tuple[dict[str, Any], int]]:
    """Inputs that the model runs on and whose picture moves its logits, with the number of placeholders."""
    known = [i for i, kind in placeholder_ids(hf_model).items() if kind == "image"]
    for given in _ways(hf_model):
        for n in _numbers(hf_model, given) if known else [0]:
            ids = torch.tensor([[*BEFORE, *(known[:1] * n), *AFTER]])
            inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
            for name in ("mm_token_type_ids", "token_type_ids"):
                if takes(hf_model, name):
                    inputs[name] = torch.isin(ids, torch.tensor(known or [-1])).long()
            pixels = next(name for name in given if given[name].is_floating_point())
            try:
                one = _logits(hf_model, inputs)
                other = _logits(hf_model, {**inputs, pixels: -given[pixels]})
            except Exception:
                continue
            moves = one.shape == other.shape and float((one - other).abs().max()) > 1e-6
            if one.shape[0] == ids.shape[1] and bool(one.isfinite().all()) and moves:
                yield inputs, n


def _numbers(hf_model: Any, given: dict[str, Tensor]) -> list[int]:
    """How many placeholders the picture may need: what the model makes of it, else what is usual."""
    found: list[int] = []
    try:
        with torch.no_grad():
            out = hf_model.get_image_features(**given)
        out = getattr(out, "pooler_output", out)
        found = [sum(t[..., 0].numel() for t in leaves(out) if isinstance(t, Tensor) and t.ndim > 1)]
    except Exception:
        pass
    told = [getattr(hf_model.config, name, None) for name in ("image_seq_length", "num_query_tokens")]
    return [n for n in dict.fromkeys([*found, *told, 1, 4, 16, 64]) if isinstance(n, int) and 0 < n < 100]


def _ways(hf_model: Any) -> Iterator[dict[str, Tensor]]:
    """Pixels as a picture, as tiles of one, and as a row of patches with their grid."""
    vision = getattr(hf_model.config, "vision_config", None)
    sizes = [getattr(vision, name, None) for name in ("image_size", "patch_size", "temporal_patch_size")]
    size, patch, depth = (s[0] if isinstance(s, (list, tuple)) and s else s for s in sizes)
    n_channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for side in dict.fromkeys(s for s in (size, 32, 64, 224) if isinstance(s, int) and s <= 512):
        sized = torch.tensor([[side, side]])
        for tiles in ((1,), (1, 1), (1, 2), (2,), (1, 3), (1, 5)):
            yield {"pixel_values": noise(*tiles, 3, side, side)}
            yield {"pixel_values": noise(*tiles, 3, side, side), "image_sizes": sized}
    if isinstance(patch, int):
        width = n_channels * patch * patch
        for more in dict.fromkeys((depth or 1, 1, 2)):
            for grid in (4, 8):
                pixels = noise(grid * grid, width * more)
                yield {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, grid, grid]])}
        yield {"pixel_values": noise(16, 3, patch, patch), "image_grid_thw": torch.tensor([[1, 4, 4]])}
        yield {"pixel_values": noise(16, 3, patch, patch), "image_grid_hws": torch.tensor([[4, 4]])}
        yield {
            "pixel_values": noise(1, 16, width),
            "spatial_shapes": torch.tensor([[4, 4]]),
            "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
        }
        positions = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing="xy"), -1)
        yield {"pixel_values": noise(1, 36, width), "image_position_ids": positions.reshape(1, 36, 2)}
        yield {"pixel_values": noise(1, 3, patch * 4, patch * 4)}
