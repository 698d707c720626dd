"""A cell card as code: the trace that reproduces it."""

from lenswidget.anatomy.passes import row_phrase
from lenswidget.interventions.recipe import Sampling
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.models.token_bytes import token_text
from lenswidget.readout.run import ModelInfo
from lenswidget.widget.requests import DecodeRequest


def cell_code(
    prompt: EncodedPrompt,
    cell: DecodeRequest,
    info: ModelInfo,
    *,
    is_function: bool,
    is_own: bool = False,
    n_tokens: int | None,
    edits: str | None = "[]",
    sampling: Sampling | None = None,
) -> str:
    """Python source that decodes one cell with a trace and prints its top tokens.

    Args:
        prompt: of the run, with everything that came with it.
        cell: as on the card.
        info: of the model; a trace computes in its dtype, a card in float32.
        is_function: whether the lens is a function of `(layer, states)`.
        is_own: whether the lens comes with the model.
        n_tokens: how many ids stand for a token; None where all do.
        edits: of the run, as `edits_code` writes them; None where they cannot be written down.
        sampling: how the end of the prompt was generated; None where it was given.
    Returns:
        Source that takes the `model` that is there, or else loads it (a model that was loaded outside, a
        `lens` of your own, and inputs that cannot be written down must be there), and leaves `logits`
        `[d_vocab]`, `probs` `[d_vocab]` and `top` (values and indices, `[k]`).
    """
    layer = cell.layer
    read = "model.layers.embed" if layer < 0 else f"model.layers[{layer}].{cell.site}"
    is_plain = cell.lens == "logit"
    through = f"lens({layer}, states.float())" if is_function else f"lens.transport({layer}, states)"
    carried = "states" if is_plain else through
    divided = "logits" if cell.temperature == 1 else f"logits / {cell.temperature!r}"
    position = cell.position if prompt.columns is None else int(prompt.columns[cell.position])
    is_edited = edits != "[]"
    inputs = f"{prompt.code or 'prompt'}{', edits=edits' if is_edited else ''}"
    after = _run_code(cell, inputs, info)
    # ids without a token count in the softmax, and are not on the card
    shown = "" if n_tokens is None else f"[:{n_tokens}]"
    called = f"  # layer {layer}: {row_phrase(info.rows[layer])}" if info.rows and layer >= 0 else ""
    load = _load_code(info)
    lines = [
        *(["import lenswidget as lw"] if "lw." in f"{load}{edits}{after}" else []),
        "import torch",
        "",
        load,
        *([] if is_plain else [_lens_code(cell.lens, is_function, is_own)]),
        *_input_comments(prompt, sampling, edits),
        *(
            [f"# the model's own modules round to {info.dtype}; the card is decoded in float32"]
            if info.dtype in ("bfloat16", "float16")
            else []
        ),
        *([f"edits = {edits}"] if is_edited and edits is not None else []),
        f"with torch.no_grad(), model.trace({inputs}):",
        f"    states = {read}[:, {position}]{called}",
        f"    logits = model.tail({carried})[0]",
        "",
        f"probs = torch.softmax({divided}, dim=-1)",
        f"top = probs{shown}.topk({cell.k})",
        "for prob, token_id in zip(top.values.tolist(), top.indices.tolist()):",
        "    token = repr(model.tokenizer.decode([token_id])) if model.tokenizer else token_id",
        '    print(f"{prob:.4f}  {token}")',
        *after,
    ]
    return "\n".join(lines) + "\n"


def _input_comments(prompt: EncodedPrompt, sampling: Sampling | None, edits: str | None) -> list[str]:
    """What cannot be written down and must be there, and where the end of the prompt comes from."""
    return [
        *(
            []
            if prompt.code
            else [f"# prompt: the encoding that you gave, with {', '.join(prompt.model_inputs)}"]
        ),
        *(["# images: the pictures that you gave"] if "images" in prompt.options else []),
        *([] if sampling is None else [_sampling_code(sampling)]),
        *(["# edits: those of the widget, w.edits"] if edits is None else []),
    ]


def _lens_code(name: str, is_function: bool, is_own: bool) -> str:
    """Source that finds the lens again if it comes with the model; a comment for one that was given."""
    if is_own:
        return f"lens = model.lenses[{name!r}]"
    return f"# lens: your {'function' if is_function else 'lens'} shown as {name!r}"


def _sampling_code(sampling: Sampling) -> str:
    how = "greedily"
    if sampling.temperature:
        how = f"with temperature={sampling.temperature!r}, top_p={sampling.top_p!r}, seed={sampling.seed!r}"
    return f"# tokens from {sampling.n_prompt} on were generated {how}: w.generate(...)"


def _run_code(cell: DecodeRequest, inputs: str, info: ModelInfo) -> list[str]:
    """Source of what a run gives: the token in the grid's cell, and what the card explains."""
    lens = "" if cell.lens == "logit" else ", lens=lens"
    lines = [*_standing_code(cell, lens), *_why_code(cell, lens, info)]
    return ["", f"run = model.run({inputs})", *lines] if lines else []


def _standing_code(cell: DecodeRequest, lens: str) -> list[str]:
    """Source that reads the token which stands in the grid's cell, where that is not the top one."""
    if cell.show == "top":
        return []
    site = "" if cell.site == "resid_post" else f", site={cell.site!r}"
    usual = f", background=lw.fit_background(model{lens}{site})" if cell.show == "lift" else ""
    what = "the word that is most above its usual" if cell.show == "lift" else "the top word"
    asked = f"[({cell.layer}, {cell.position})]{lens}{site}, show={cell.show!r}{usual}"
    return [
        f"# what stands in the grid's cell: {what}, and how many tokens of all are above it",
        f"standing = lw.read(run, {asked})",
        "print(repr(standing.shown()[0]), standing.shown_ranks[0])",
    ]


def _why_code(cell: DecodeRequest, lens: str, info: ModelInfo) -> list[str]:
    """Source that takes the cell's logit apart, where the card does."""
    why = cell.why
    if why is None or cell.site != "resid_post":
        return []
    foil = "" if why.foil is None else f", foil={why.foil}"
    told = " less ".join(repr(token_text(info.tokenizer, i)) for i in (why.token, why.foil) if i is not None)
    asked = f"run, {cell.layer}, {cell.position}, token={why.token}{foil}{lens}"
    split = [
        f'print(lw.attribute({asked}, by="{by}", layers=[{why.of_layer}]))'
        for by in ("head", "source", "neuron")
        if why.of_layer is not None
    ]
    return [
        f"# why: the logit of {told} as a sum of what was added to the stream",
        f"why = lw.attribute({asked})",
        "print(why)",
        *split,
    ]


def _load_code(info: ModelInfo) -> str:
    """Source that loads this model where there is no `model`; a comment for one that was loaded outside."""
    if info.source is None:
        return f"# model: your LanguageModel of a {info.class_name} that you loaded yourself"
    # in the notebook that it was copied from, a large model would be loaded a second time
    return f'if "model" not in globals():\n    model = {info.source}'
