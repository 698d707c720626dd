"""The gradient of a number of the logits with respect to a site, at every layer by one backward pass."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import EditError
from lenswidget.interventions.changes import Change, Rule
from lenswidget.interventions.edited_call import EditedCall
from lenswidget.interventions.recipe import Edit
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.models.hf_model import logits_of, uncached


def site_gradients(
    model: ReadableModel,
    prompt: EncodedPrompt,
    columns: Tensor,
    site: str,
    layers: Sequence[int],
    metric: Callable[[Tensor], Tensor],
) -> dict[int, Float[Tensor, "seq d_model"]]:
    """By layer, the gradient of the metric at the last column, `[seq, d_model]` float32.

    A zero is added to the site of each layer, and the gradient is that zero's: so it is right for parts that
    are sums of several outputs, or times a constant, as well.

    Args:
        columns: `[seq]`, where the prompt's columns lie in the model's own sequence.
        metric: from logits `[1, d_vocab]` to `[1]`.
    Raises:
        EditError: the model's forward cannot be differentiated.
    """
    if torch.is_inference_mode_enabled():
        raise EditError(
            "Asked for the estimate in inference mode, which keeps no gradients. Use torch.no_grad(), or "
            "leave the estimate out of measure=."
        )
    with torch.enable_grad():
        zeros = {
            layer: torch.zeros(len(columns), model.anatomy.d_model, device=model.device, requires_grad=True)
            for layer in layers
        }
        edit = Edit("zero", site=site)
        changes = [Change(edit, layer, [columns], False, _plus(zero)) for layer, zero in zeros.items()]
        call = EditedCall(model.hf_model, model.hf_model, model.anatomy, changes)
        try:
            logits = logits_of(call(**prompt.model_inputs, **uncached(model.hf_model)))
            number = metric(logits[:, int(columns[-1])].float())[0]
            # what has no path to the answer, as other positions of the last layer, has a gradient of 0
            found = torch.autograd.grad(number, list(zeros.values()), materialize_grads=True)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0].rstrip(". ")
            raise EditError(
                f"Asked for the estimate, but {model.anatomy.model_class} cannot be differentiated there "
                f"({reason:.120}). Leave the estimate out of measure=."
            ) from None
    return {layer: gradient.detach() for layer, gradient in zip(zeros, found, strict=True)}


def _plus(zero: Tensor) -> Rule:
    return lambda rows, states, moment: rows + zero.to(rows.device)
