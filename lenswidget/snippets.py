"""A cell card as code: the trace that reproduces it."""

from typing import Any

from lenswidget.wire import DecodeRequest


def cell_code(prompt: str | list[int], load: str, cell: DecodeRequest) -> str:
    """Python source that decodes one cell with a trace and prints its top tokens.

    Args:
        prompt: what was run, as text or ids.
        load: `load_code(model)`.
        cell: as on the card.
    Returns:
        Source that takes the `model` that is there, or else loads it (one that was loaded outside, and a
        fitted lens, must be there), and leaves `logits` `[d_vocab]`, `probs` `[d_vocab]` and `top` (values
        and indices, `[k]`).
    """
    read = "model.layers.embed" if cell.layer < 0 else f"model.layers[{cell.layer}].{cell.site}"
    is_plain = cell.lens == "logit"
    carried = "states" if is_plain else f"lens.transport({cell.layer}, states)"
    divided = "logits" if cell.temperature == 1 else f"logits / {cell.temperature!r}"
    lines = [
        *(["import lenswidget as lw"] if "lw." in load else []),
        "import torch",
        "",
        load,
        *([] if is_plain else [f"# lens = ...  # the fitted lens shown as {cell.lens!r}"]),
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
