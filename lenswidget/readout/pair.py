"""Two runs and what sets them apart: of two prompts, of two models, or of one with its adapter off and on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensError, ModelError
from lenswidget.lenses.lens import Lens, covered_layers
from lenswidget.models.token_ids import token_id
from lenswidget.readout.adapter import AdapterOffEngine
from lenswidget.readout.alignment import Alignment, align
from lenswidget.readout.engine import Engine
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import Run


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs, with the engines that make them again; None of a run that was given as it is.

    Attributes:
        by: "prompt", "model", "adapter" or "run": what differs.
        names: what each side is called.
    """

    a: Run
    b: Run
    by: str
    names: tuple[str, str]
    engines: tuple[Engine | None, Engine | None]

    @property
    def why_no_kl(self) -> str | None:
        """One sentence where an id is not the same token in both runs; else None."""
        return why_no_kl(self.a, self.b)

    def align(self, site: str, lens: Lens) -> Alignment:
        """Which columns and rows go together, of the rows that the lens carries in both."""
        a, b = self.a, self.b
        alignment = align(a, b, site, by_ids=self.why_no_kl is None)
        carried = [covered_layers(lens, run.n_layers) for run in (a, b)]
        rows = [row for row in alignment.rows.tolist() if row[0] in carried[0] and row[1] in carried[1]]
        return Alignment(
            alignment.columns, alignment.is_same_token, np.array(rows, np.int64).reshape(-1, 2), alignment.by
        )


def pair_of(given: Sequence[Any]) -> Pair:
    """Runs what is to be compared; `lenswidget.compare` explains what can be given."""
    match given:
        case (Run() as a, Run() as b):
            by_model = a.tail is not b.tail
            names = [run.model.name if by_model else repr(run.prompt)[:60] for run in (a, b)]
            return Pair(a, b, "run", (names[0], names[1]), (None, None))
        case (ReadableModel() as one, ReadableModel() as other, prompt):
            engines = LocalEngine(one), LocalEngine(other)
            a, b = (engine.run(_prompt(prompt)) for engine in engines)
            return Pair(a, b, "model", (a.model.name, b.model.name), engines)
        case (ReadableModel() as model, prompt):
            engines = AdapterOffEngine(model), LocalEngine(model)
            with model.lock:
                off = engines[0].run(_prompt(prompt))
                pair = Pair(off, engines[1].run(off.spec), "adapter", ("adapter off", "adapter on"), engines)
            _check_tail(pair)
            return pair
        case (ReadableModel() as model, one, other):
            engine = LocalEngine(model)
            a, b = (engine.run(_prompt(prompt)) for prompt in (one, other))
            return Pair(a, b, "prompt", (repr(a.prompt)[:60], repr(b.prompt)[:60]), (engine, engine))
        case _:
            kinds = ", ".join(type(each).__name__ for each in given) or "nothing"
            raise LensError(
                f"Asked to compare {kinds}. Pass a model and two prompts, two models and one prompt, two "
                "runs, or a model with an adapter and one prompt."
            )


def _prompt(prompt: Any) -> Any:
    """A prompt as `LocalEngine.run` takes it."""
    if isinstance(prompt, (Run, ReadableModel)):
        raise LensError(
            f"Asked to compare a {type(prompt).__name__} as if it were a prompt. Pass two runs alone, or "
            "models and a prompt."
        )
    return prompt


def _check_tail(pair: Pair) -> None:
    """Both runs are decoded by the model as it is now, with its adapter: that must be right for either."""
    if not (pair.a.fidelity.ok and pair.b.fidelity.ok):
        raise ModelError(
            f"The adapter of {pair.a.model.name} changes its unembed or final norm too, so what it says "
            "without can only be read by a second copy. Load one, and pass both models."
        )


def why_no_kl(a: Run, b: Run) -> str | None:
    """None where an id is the same token in both runs; else why not, in a sentence."""
    one, other = a.tokenizer, b.tokenizer
    if a.d_vocab == b.d_vocab:
        if one is other or one is None or other is None:
            return None
        if one.get_vocab() == other.get_vocab():
            return None
    found = (
        f"{a.d_vocab} and {b.d_vocab} tokens" if a.d_vocab != b.d_vocab else "other tokens for the same ids"
    )
    return (
        f"There is no KL between {a.model.name} and {b.model.name}, whose vocabularies differ ({found}): "
        "compare top tokens, or models of one vocabulary."
    )


def tracked_in_both(track: Iterable[Any], pair: Pair) -> tuple[list[int], list[int]]:
    """The ids of some tokens in either run.

    Raises:
        LensError: ids, where an id is not the same token in both.
        CellError: a text that is not one token.
    """
    a, b, is_shared = pair.a, pair.b, pair.why_no_kl is None
    listed: list[Any] = [track] if isinstance(track, (str, int)) else list(track)
    if not is_shared and any(not isinstance(token, str) for token in listed):
        raise LensError(
            f"Asked to track the ids {listed!r:.60} in two vocabularies. Give texts that are one token "
            "in both."
        )
    own = [token_id(token, a.tokenizer, a.d_vocab) for token in listed]
    if is_shared:
        return own, own
    return own, [token_id(token, b.tokenizer, b.d_vocab) for token in listed]
