"""A cell card as code: the trace that reproduces it."""

from typing import Any

from lenswidget.widget.requests import DecodeRequest


def cell_code(
    prompt: str | list[int], cell: DecodeRequest, *, load: str, dtype: str, is_function: bool
) -> str:
    """Python source that decodes one cell with a trace and prints its top tokens.

    Args:
        prompt: what was run, as text or ids.
        load: `load_code(model)`.
        cell: as on the card.
        dtype: what the model is stored in, "float32" say: a trace computes in it, a card in float32.
        is_function: whether the lens is a function of `(layer, states)`.
    Returns:
        Source that takes the `model` that is there, or else loads it (one that was loaded outside, and a
        `lens` of your own, must be there), and leaves `logits` `[d_vocab]`, `probs` `[d_vocab]` and `top`
        (values and indices, `[k]`).
    """
    layer, lens = cell.layer, cell.lens
    read = "model.layers.embed" if layer < 0 else f"model.layers[{layer}].{cell.site}"
    is_plain = lens == "logit"
    through = f"lens({layer}, states.float())" if is_function else f"lens.transport({layer}, states)"
    carried = "states" if is_plain else through
    divided = "logits" if cell.temperature == 1 else f"logits / {cell.temperature!r}"
    lines = [
        *(["import lenswidget as lw"] if "lw." in load else []),
        "import torch",
        "",
        load,
        *([] if is_plain else [f"# lens: your {'function' if is_function else 'lens'} shown as {lens!r}"]),
        *(
            [f"# the model's own modules round to {dtype}; the card is decoded in float32"]
            if dtype in ("bfloat16", "float16")
            else []
        ),
        f"with torch.no_grad(), model.trace({prompt!r}):",
        f"    states = {read}[:, {cell.position}]",
        f"    logits = model.tail({carried})[0]",
        "",
        f"probs = torch.softmax({divided}, dim=-1)",
        f"top = probs.topk({cell.k})",
        "for prob, token_id in zip(top.values.tolist(), top.indices.tolist()):",
        "    token = repr(model.tokenizer.decode([token_id])) if model.tokenizer else token_id",
        '    print(f"{prob:.4f}  {token}")',
    ]
    return "\n".join(lines) + "\n"


def load_code(model: Any) -> str:
    """Source that loads this model where there is no `model`; a comment for one that was loaded outside."""
    if model.source is None:
        return f"# model: your LanguageModel of a {type(model.hf_model).__name__} that you loaded yourself"
    # in the notebook that it was copied from, a large model would be loaded a second time
    return f'if "model" not in globals():\n    model = {model.source}'
