"""Every language model that transformers has, tiny and random: what discovery makes of it.

`python scripts/survey.py` prints the table and writes it into docs/models.md.
"""

import copy
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as hf
from torch import Tensor, nn

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.fidelity import compare
from lenswidget.anatomy.recording import probe_ids
from lenswidget.errors import AnatomyError
from lenswidget.language_model import LanguageModel
from lenswidget.models.hf_model import forward, inputs_for, logits_of
from lenswidget.readout.attribute import attribute
from lenswidget.readout.reading import read
from lenswidget.tracing.trace import Trace
from lenswidget.tracing.traced_model import TracedModel

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from survey_pictures import pictures
from tiny_models import WHY_NOT, tiny_config, tiny_model

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
START, END = "<!-- survey: written by `python scripts/survey.py` -->", "<!-- end of survey -->"


MAPPINGS = {
    "causal": hf.MODEL_FOR_CAUSAL_LM_MAPPING,
    "encoder-decoder": hf.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "masked": hf.MODEL_FOR_MASKED_LM_MAPPING,
    "pictures": hf.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
}


@dataclass(frozen=True)
class Row:
    """One entry of a mapping.

    `status` is "exact", "off", "refused" or "no instance". The errors are the largest |difference| of
    log-probs on a fresh prompt, in nats: of the tail against the model's own logits, of the tail against
    float64 of the same weights, and of the model's own float32 against that. `sum_error` is the largest
    |resid_pre + what the sites add - resid_post| over the largest |resid_post|. `heads` says in how many
    layers they verified, `closes_to` is what a logit's terms by head leave of it, over the sum of their
    sizes; None where it cannot be taken apart. `reuse` is how far the log-probs of a run that took columns
    over are from a whole run's; None where it is run whole. `picture` is what
    `survey_pictures.pictures` says, of the mapping "pictures".
    """

    mapping: str
    config: str
    model: str
    status: str
    reason: str = ""
    is_fast: bool = False
    from_own: float = 0.0
    from_float64: float | None = None
    own_from_float64: float | None = None
    kinds: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    sum_error: float = 0.0
    reads: str = ""
    picture: str = ""
    heads: str = ""
    closes_to: float | None = None
    reuse: float | None = None


@functools.cache
def survey() -> tuple[Row, ...]:
    """A row per entry of each mapping, in its order."""
    return tuple(
        _row(name, config_class, model_class)
        for name, mapping in MAPPINGS.items()
        for config_class, found in mapping.items()
        for model_class in (found if isinstance(found, tuple) else (found,))
    )


def _row(mapping: str, config_class: type[hf.PretrainedConfig], model_class: type[hf.PreTrainedModel]) -> Row:
    names = (mapping, config_class.__name__, model_class.__name__)
    try:
        config = tiny_config(config_class)
        if mapping == "masked":
            config.is_decoder = False
        model = tiny_model(config, model_class)
        ids = probe_ids(model, shift=5)[:2, :6]
        with torch.no_grad():
            own = logits_of(forward(model, ids))
        assert own.shape[:2] == ids.shape, f"logits are {list(own.shape)} for ids {list(ids.shape)}"
        assert bool(own.isfinite().all()), "logits are not finite"
    except Exception as error:
        return Row(*names, "no instance", WHY_NOT.get(names[1]) or _short(error))
    lm = LanguageModel(model)
    try:
        anatomy = lm.anatomy
    except AnatomyError as error:
        return Row(*names, "refused", _short(error))
    with torch.no_grad():
        sum_error = max(_sum_errors(lm, ids))
        with traced(lm, ids):
            states = lm.layers[anatomy.n_layers - 1].resid_post.clone()
        decoded = lm.tail(states).flatten(0, 1)
    fidelity = compare(decoded, own.flatten(0, 1))
    exact = float64_logits(model, ids)
    return Row(
        *names,
        status="exact" if fidelity.ok and lm.tail.fidelity.ok else "off",
        is_fast=lm.tail.is_fast,
        from_own=fidelity.max_abs_error,
        from_float64=None if exact is None else gap(decoded, exact.flatten(0, 1)),
        own_from_float64=None if exact is None else gap(own.flatten(0, 1), exact.flatten(0, 1)),
        kinds=tuple(dict.fromkeys(sites.kind for sites in anatomy.sites)),
        sites=tuple(dict.fromkeys(name for sites in anatomy.sites for name in sites.offered)),
        reason=_reason(anatomy.sites),
        sum_error=sum_error,
        reads=_reads(anatomy),
        picture=pictures(lm) if mapping == "pictures" else "",
        heads=_heads(anatomy),
        closes_to=_closes_to(lm, ids),
        reuse=_reuse(lm, ids),
    )


def _heads(anatomy: Anatomy) -> str:
    """How many layers' heads verified, and how many each of them has."""
    found = [units.heads.n for units in anatomy.units if units.heads is not None]
    return f"{len(found)} of {anatomy.n_layers}" if found else "none"


def _closes_to(lm: LanguageModel, ids: Tensor) -> float | None:
    """What the terms by head leave of the last cell's logit, over the sum of their sizes."""
    if lm.anatomy.is_encoder_decoder:
        return None
    try:
        run = lm.run(ids[:1])
        found = attribute(run, run.n_layers - 1, run.seq - 1, by="head", is_measured=False)
    except Exception:  # refused, or a tiny instance that its own code cannot run so
        return None
    return abs(found.remainder) / float(abs(found.predicted).sum())


def _reuse(lm: LanguageModel, ids: Tensor) -> float | None:
    """A longer prompt that takes the columns of a shorter one over, beside the same run whole: log-probs."""
    longer = [*ids[0].tolist(), *ids[1].tolist()]
    try:
        reused = lm.run(longer, reuse=lm.run(longer[:-2]))
        if not reused.reuse.n_columns:
            return None
        whole = lm.run(longer, reuse=False)
    except Exception:  # a prompt that its own code does not take
        return None
    metrics = {"k": 1, "track": longer}
    ours, theirs = (read(run, **metrics).tracked_log_probs for run in (reused, whole))
    return float(abs(ours - theirs).max())


def _reads(anatomy: Anatomy) -> str:
    """What a position speaks of, and what else is unlike a causal decoder of a layer per block."""
    said = ["its own token" if anatomy.predicts == "same" else "next token"]
    said += ["decoder's columns"] if anatomy.is_encoder_decoder else []
    said += [] if anatomy.is_causal else ["sees later ones"]
    return ", ".join(said + (["blocks in a loop"] if anatomy.is_looped else []))


def traced(lm: LanguageModel, ids: Tensor) -> Trace:
    """A trace of the forward that `forward` runs; an encoder-decoder's takes no text."""
    return TracedModel.trace(lm, **inputs_for(lm.hf_model, ids))


def _sum_errors(lm: LanguageModel, ids: Tensor) -> Iterator[float]:
    """Per layer: what the sites say against what the block did, on a prompt that discovery has not seen."""
    with traced(lm, ids):
        for layer in lm.layers:
            total = layer.resid_pre.clone()
            parts = [name for name in ("attn_out", "mlp_out") if name in layer.offered]
            for name in ("attn_out", "resid_mid", "mlp_out"):
                if name == "resid_mid" and name in layer.offered:
                    mid = layer.resid_mid.clone()
                elif name in parts:
                    total = total + getattr(layer, name)
            post = layer.resid_post.clone()
            whole = not lm.anatomy.sites[layer.index].others
            if parts and whole:
                yield float((total - post).abs().max() / post.abs().max())
            if "resid_mid" in layer.offered and "mlp_out" in parts and whole:
                yield float((mid + layer.mlp_out - post).abs().max() / post.abs().max())
    yield 0.0


def float64_logits(model: nn.Module, ids: Tensor) -> Tensor | None:
    """The logits of the same weights in float64; None where the model cannot run in it."""
    exact = copy.deepcopy(model).double()
    if hasattr(exact, "set_experts_implementation"):
        exact.set_experts_implementation("eager")  # the grouped matrix product knows no float64
    try:
        with torch.no_grad():
            return logits_of(forward(exact, ids))
    except Exception:
        return None


def gap(logits: Tensor, exact: Tensor) -> float:
    """Largest |difference| of log-probs, in nats."""
    difference = logits.double().log_softmax(-1) - exact.double().log_softmax(-1)
    return float(difference.nan_to_num(0.0).abs().max())


def _reason(sites: tuple) -> str:
    reasons = Counter(reason for each in sites for reason in dict.fromkeys(each.refused.values()))
    return "; ".join(reasons)


def _short(error: Exception) -> str:
    """The error on one line, without the machine's own paths."""
    text = re.sub(r"\s+", " ", str(error) or type(error).__name__)
    return re.sub(r"/\S+/", "", text)[:300].replace("|", "/")


def table(rows: tuple[Row, ...]) -> str:
    """The survey as Markdown: the counts, the models that run, and those that do not."""
    running = [row for row in rows if row.status != "no instance"]
    exact = [row for row in running if row.status == "exact"]
    fast = [row for row in exact if row.is_fast]
    lines = [
        f"transformers {hf.__version__}, torch {torch.__version__.split('+')[0]}: {len(rows)} entries, "
        f"{len(running)} run tiny, {len(exact)} of those decode exactly "
        f"({len(exact) / len(running):.1%}), {len(fast)} by the fast way. By mapping: "
        + "; ".join(_count(name, rows) for name in MAPPINGS)
        + ".",
        "",
        "| model | tail | off float64 by | model's own by | blocks | sites besides resid_pre, resid_post "
        "| heads | attribution closes to | reuse | a position speaks of |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(row) for row in running if row.status in ("exact", "off")]
    lines += ["", "| model | why not |", "| --- | --- |"]
    lines += [f"| {row.model} ({row.config}) | {row.status}: {row.reason} |" for row in rows if _is_out(row)]
    return "\n".join(lines)


def _count(mapping: str, rows: tuple[Row, ...]) -> str:
    running = [row for row in rows if row.mapping == mapping and row.status != "no instance"]
    return f"{mapping} {sum(row.status == 'exact' for row in running)} of {len(running)}"


def _is_out(row: Row) -> bool:
    return row.status in ("no instance", "refused")


def _line(row: Row) -> str:
    way = "off" if row.status == "off" else "fast" if row.is_fast else "own forward"
    inner = ", ".join(site for site in row.sites if site not in ("resid_pre", "resid_post")) or "none"
    errors = [_number(row.from_float64), _number(row.own_from_float64)]
    reads = f"{row.reads}; picture: {row.picture}" if row.picture else row.reads
    units = [row.heads, _number(row.closes_to), _number(row.reuse)]
    cells = [f"{row.model} ({row.config})", way, *errors, ", ".join(row.kinds), inner, *units, reads]
    return f"| {' | '.join(cells)} |"


def _number(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def main() -> None:
    """Prints the table and writes it into the page."""
    text = table(survey())
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")
    print(text)


if __name__ == "__main__":
    main()
