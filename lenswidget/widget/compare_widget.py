"""The widget of two runs: A, B and their difference on one grid."""

from collections.abc import Collection, Mapping
from typing import Any

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensError
from lenswidget.interventions.recipe import RunSpec
from lenswidget.lenses.lens import LensLike
from lenswidget.models.encoded_prompt import prompt_of_state
from lenswidget.readout.compare import compare_pair
from lenswidget.readout.compared import Comparison
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.pair import pair_of
from lenswidget.widget.paired_session import PairedSession, prompts_of
from lenswidget.widget.refusals import validates
from lenswidget.widget.view_traits import as_state
from lenswidget.widget.widget import LensWidget

# Differences of whole distributions, which two vocabularies do not have.
DIVERGENCES = ("kl", "kl_back", "js")


class CompareWidget(LensWidget):
    """Two runs on one grid: `w.view` shows `"a"`, `"b"` or the `"difference"` that `w.difference` names.

    Where the vocabularies differ there is no KL: the difference is that of a token that both have, or whether
    the top tokens read the same. Tokens of one text have one id here, that of the first vocabulary.

    Columns are aligned as `lenswidget.compare` says, those that one side lacks are hatched; rows are the
    first model's layers, beside the second's at the same depth. A card has the cell of both sides. A prompt
    that is set, or typed, is run on the second side; on both where models or an adapter are compared.

    Args:
        given: as for `lenswidget.compare`: a model and two prompts; two models and one prompt; two runs; or a
            model that has an adapter and one prompt. With a `state` the models alone.
        lens, lenses, strict, choices: as for `LensWidget`.
        state: `w.state` of an earlier one.
    Raises:
        LensError: anything else was given.
    """

    _session: PairedSession
    has_spine = False  # one text has a spine, and these are two

    def __init__(
        self,
        *given: Any,
        lens: LensLike | str = None,
        lenses: Collection[Any] | None = None,
        strict: bool = True,
        state: Mapping[str, Any] | None = None,
        **choices: Any,
    ) -> None:
        begin = {"view": "difference", **as_state(state), **choices}
        begin.pop("recipe", None)
        begin.pop("branches", None)
        self._check_choices(begin)
        if state is not None:
            given = _again(given, state)
        session = PairedSession(pair_of(given), lens, lenses, strict=strict)
        if session.pair_at_first.why_no_kl is not None and begin.get("difference") in (None, *DIVERGENCES):
            begin["difference"] = "log_prob" if session.has_answer_in_both else "agrees"
        if lens is not None or "lens" not in begin:
            begin["lens"] = session.first_lens
        self._begin(session, session.first(), begin, is_cell_given="selection" in choices)

    @validates("difference")
    def _validate_difference(self, proposal: Any) -> Any:
        pair = self._session.pair_at_first
        if pair.why_no_kl is not None and proposal["value"] in DIVERGENCES:
            raise LensError(f"{pair.why_no_kl} Choose log_prob, rank or agrees.")
        return proposal["value"]

    def comparison(self, **options: Any) -> Comparison:
        """The numbers of the grid, of both sides, with the widget's site, lens, k and pins.

        Args:
            options: `lens`, `site`, `k`, `track` and `progress` of `lenswidget.compare`, in place of them.
        """
        asked: dict[str, Any] = {**self._reading, **options}
        if isinstance(asked["lens"], str):
            asked["lens"] = self._session.lens(asked["lens"])
        if not self._session.ids.is_one and "track" not in options:
            asked["track"] = self._session.texts_in_both(asked["track"])
        return compare_pair(self._session.pair, **asked)

    def to_dataframe(self, **options: Any) -> Any:
        """`comparison().to_dataframe()`: a row per cell, with both sides and their differences."""
        return self.comparison(**options).to_dataframe()


def _again(given: tuple[Any, ...], state: Mapping[str, Any]) -> tuple[Any, ...]:
    """Models with the prompts of a state: two prompts of one model, or one of two models or of an adapter."""
    if not given or not all(isinstance(each, ReadableModel) for each in given):
        raise LensError(
            "A comparison from a state takes the models alone. Pass CompareWidget(model, state=...)."
        )
    first, second = prompts_of(state)
    encoded: list[Any] = []
    for written in [first, second] if len(given) == 1 and first != second else [second]:
        prompt, options = prompt_of_state(written)
        encoded.append(RunSpec(LocalEngine(given[0]).encode(prompt, **options)))
    return (*given, *encoded)
