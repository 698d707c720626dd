"""A cell card as code: the trace that reproduces it."""

from typing import Any


def cell_code(
    prompt: str | list[int],
    *,
    load: str,
    layer: int,
    position: int,
    site: str,
    lens: str,
    k: int,
    temperature: float,
) -> str:
    """Python source that decodes one cell with a trace and prints its top tokens.

    Args:
        prompt: what was run, as text or ids.
        load: source that gives the model, `lw.demo_model()` say; written as a comment, since the reader
            mostly has the model at hand under the name `model`.
        layer, position, site, lens, k, temperature: as on the card.
    Returns:
        Source that needs `model` (and `lens`, where the card's lens was fitted), and leaves `logits`
        `[d_vocab]`, `probs` `[d_vocab]` and `top` (values and indices, `[k]`).
    """
    read = "model.layers.embed" if layer < 0 else f"model.layers[{layer}].{site}"
    is_plain = lens == "logit"
    carried = "states" if is_plain else f"lens.transport({layer}, states)"
    divided = "logits" if temperature == 1 else f"logits / {temperature!r}"
    lines = [
        "import torch",
        "",
        f"# model = {load}",
        *([] if is_plain else [f"# lens = ...  # the fitted lens shown as {lens!r}"]),
        f"with torch.no_grad(), model.trace({prompt!r}):",
        f"    states = {read}[:, {position}]",
        f"    logits = model.tail({carried})[0]",
        "",
        f"probs = torch.softmax({divided}, dim=-1)",
        f"top = probs.topk({k})",
        "for prob, token_id in zip(top.values.tolist(), top.indices.tolist()):",
        "    token = repr(model.tokenizer.decode([token_id])) if model.tokenizer else token_id",
        '    print(f"{prob:.4f}  {token}")',
    ]
    return "\n".join(lines) + "\n"


def load_code(model: Any) -> str:
    """Source that loads this model again, as far as the model knows how it was made."""
    source = getattr(model, "source", None)
    name = getattr(getattr(model.hf_model, "config", None), "_name_or_path", "")
    return source or (f"lw.LanguageModel({name!r})" if name else "lw.LanguageModel(hf_model, tokenizer)")
