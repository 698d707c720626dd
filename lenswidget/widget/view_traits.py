"""What a person chooses: the traits that hold it, and what is checked before one of them changes."""

import operator
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import traitlets as t

from lenswidget.checks import check_temperature, check_text
from lenswidget.errors import CellError, EditError, LensError, PromptError
from lenswidget.interventions.recipe import Edit, RunSpec
from lenswidget.models.bands import Band
from lenswidget.readout.shown import SHOWS
from lenswidget.widget.refusals import refused_together, validates
from lenswidget.widget.session import Session
from lenswidget.widget.turns import TakesTurns

COLOURINGS = ("prob", "log_prob", "entropy", "kl", "rank", "agrees")
TRAJECTORY_METRICS = ("prob", "log_prob", "rank")
# Of a run with edits, or of two runs (a and b): what the grid shows, and what of a difference.
VIEWS = ("before", "after", "difference", "control", "a", "b", "map")
DIFFERENCES = ("kl", "kl_back", "js", "log_prob", "rank", "agrees")
MOST_ON_A_CARD = 1000


# of traits: shared with the page; and such that a person sets them there or from Python, as `state` holds
SHARED, CHOICE = {"sync": True}, {"sync": True, "is_choice": True}


def is_taken_back(obj: t.HasTraits) -> bool:
    """Whether traitlets is undoing what was set in a hold: nothing is run then, and `_way_back` shows it."""
    # it puts a function in place of `notify_change`: one that keeps changes, and then one that drops them
    return getattr(obj.__dict__.get("notify_change"), "__name__", "") == "<lambda>"


class PromptTrait(t.Any):
    """What was run. Setting it runs the new prompt first, and keeps it only if that went well."""

    def set(self, obj: Any, value: Any) -> None:
        """Run `value`; the widget then calls `keep`."""
        if is_taken_back(obj):
            self.keep(obj, value)
        else:
            with refused_together():
                obj._run_prompt(value)

    def keep(self, obj: Any, value: str | list[int]) -> None:
        """The prompt of the run that is shown now; observers hear of it."""
        super().set(obj, value)


class EditsTrait(t.Any):
    """The edits of the run. Setting them runs the prompt first, and keeps them only if that went well."""

    def set(self, obj: Any, value: Any) -> None:
        """Run the prompt with these edits; the widget then calls `keep`."""
        if is_taken_back(obj):
            self.keep(obj, value)
        else:
            with refused_together():
                obj._run_edits(value)

    def keep(self, obj: Any, value: tuple[Edit, ...]) -> None:
        """The edits of the run that is shown now; observers hear of it."""
        super().set(obj, value)


class ViewTraits(TakesTurns):
    """The traits that a person sets, on the page or from Python; one that is refused keeps its value."""

    _session: Session

    selection = t.Dict(allow_none=True, default_value=None).tag(**CHOICE)
    metric = t.Enum(COLOURINGS, default_value="prob").tag(**CHOICE)
    k = t.Int(5, min=1, max=100).tag(**CHOICE)
    show = t.Enum(SHOWS, default_value="top").tag(**CHOICE)
    floor = t.Bool(False).tag(**CHOICE)
    card_k = t.Int(20, min=1, max=MOST_ON_A_CARD).tag(**CHOICE)
    site = t.Unicode("resid_post").tag(**CHOICE)
    lens = t.Unicode("logit").tag(**CHOICE)
    stride = t.Int(1, min=1).tag(**CHOICE)
    orientation = t.Enum(("layers", "tokens"), default_value="layers").tag(**CHOICE)
    hide_special = t.Bool(False).tag(**CHOICE)
    hide_template = t.Bool(False).tag(**CHOICE)
    # the places in run["bands"] of those that are one column; None folds what is folded at first
    folded_bands = t.List(t.Int(min=0), allow_none=True, default_value=None).tag(**CHOICE)
    # the places in run["passes"] of those that are shown by their last row alone
    folded_passes = t.List(t.Int(min=0)).tag(**CHOICE)
    column_width_px = t.Int(72, min=24, max=400).tag(**CHOICE)
    pins = t.List(t.Dict()).tag(**CHOICE)
    cards = t.List(t.Dict()).tag(**CHOICE)
    trajectory = t.Dict({"metric": "prob", "positions": []}).tag(**CHOICE)
    rank_token = t.Int(None, allow_none=True).tag(**CHOICE)
    view = t.Enum(VIEWS, default_value="after").tag(**CHOICE)
    difference = t.Enum(DIFFERENCES, default_value="kl").tag(**CHOICE)
    # whether runs take over what they share with earlier ones; read before each run
    reuse = t.Bool(True).tag(**CHOICE)

    def _keep_recipe(self, spec: RunSpec) -> None:
        """The prompt and the edits of the run that is shown now."""
        traits: dict[str, Any] = self.traits()
        traits["prompt"].keep(self, spec.prompt.as_given)
        traits["edits"].keep(self, spec.edits)

    def _check_reading(self) -> None:
        """In a hold, which checks at its end: check now what another run is read with."""
        if self._cross_validation_lock:
            traits: dict[str, Any] = self.traits()
            for name in ("site", "lens", "pins"):
                traits[name]._cross_validate(self, getattr(self, name))

    def _keep_folds(self, before: Sequence[Band], now: Sequence[Band]) -> None:
        """Another prompt is shown: of its bands, those that the last one had too stay as they were."""
        places: Any = self.folded_bands
        if places is None or before == now:
            return
        folded = [before[place] for place in places if place < len(before)]
        self.folded_bands = [
            place
            for place, band in enumerate(now)
            if band in folded or (band.is_folded and band not in before)
        ]

    @property
    def state(self) -> dict[str, Any]:
        """The choices made here and the recipe of the run; `model.lens(state=w.state)` shows both again.

        Plain JSON values. A recipe that JSON cannot hold (inputs that are not tensors, edits along a lens
        that is not among the widget's) is None.
        """
        with self._turn():
            try:
                recipe = self._recipe_state()
            except (PromptError, EditError):
                recipe = None
            choices = {name: getattr(self, name) for name in self.trait_names(is_choice=True)}
            branches = self._branches_state()
        return {**choices, "recipe": recipe, **({"branches": branches} if branches else {})}

    def _recipe_state(self) -> dict[str, Any]:
        return self._session.recipe_state()

    def _branches_state(self) -> list[dict[str, Any]]:
        """The recipes of the runs that were forked from one another."""
        return []

    @property
    def spans(self) -> dict[str, list[int]]:
        """The columns of a chat: of each role's messages, of the `template` around them, of `thinking`."""
        return self._session.spec.prompt.spans

    @property
    def _reading(self) -> dict[str, Any]:
        """How the grid is read: the choices that a readout is asked with."""
        pins: list[dict[str, Any]] = self.pins
        track = list(dict.fromkeys(i for pin in pins for i in pin["ids"]))
        return {"site": self.site, "lens": self.lens, "k": self.k, "track": track}

    @validates("site", "lens")
    def _validate_reading(self, proposal: Any) -> Any:
        self._session.check_known(proposal["trait"].name, proposal["value"])
        return proposal["value"]

    @validates("show")
    def _validate_show(self, proposal: Any) -> Any:
        self._session.check_show(proposal["value"])
        return proposal["value"]

    @validates("selection")
    def _validate_selection(self, proposal: Any) -> Any:
        if proposal["value"] is None:
            return None
        cell = as_selection(proposal["value"])
        if not self._is_decoded(cell):
            self._session.check(**cell, site=self.site, lens=self.lens)
        return cell

    @validates("pins")
    def _validate_pins(self, proposal: Any) -> Any:
        pins = as_pins(proposal["value"])
        for pin in pins:
            self._session.check_ids(pin["ids"])
        return pins

    @validates("rank_token")
    def _validate_rank_token(self, proposal: Any) -> Any:
        if proposal["value"] is not None:
            self._session.check_ids([proposal["value"]])
        return proposal["value"]

    @validates("cards")
    def _validate_cards(self, proposal: Any) -> Any:
        return as_cards(proposal["value"])

    @validates("trajectory")
    def _validate_trajectory(self, proposal: Any) -> Any:
        return as_trajectory(proposal["value"])

    def _is_decoded(self, cell: Mapping[str, int]) -> bool:
        """Whether the card of a cell is there, so that the cell needs no check."""
        return False

    def _has(self, cell: Any) -> bool:
        """Whether a cell chosen before, on another prompt perhaps, is one of this grid's."""
        if cell is None:
            return False
        cell = as_selection(cell)
        try:
            self._session.check(**cell, site=self.site, lens=self.lens)
        except CellError:
            return False
        return True


def as_state(value: Any) -> dict[str, Any]:
    """The choices that a widget begins with; None is none.

    Raises:
        LensError: it is no mapping.
    """
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise LensError(f"The widget was given state={value!r:.80}. Pass the state of another widget, w.state.")


def as_selection(value: Any) -> dict[str, int]:
    """A cell, `{"layer": i, "position": j}`, with plain integers.

    Raises:
        CellError: it is anything else.
    """
    with _must_be('The selection must be {"layer": i, "position": j}, or None', value):
        return _cell(value)


def as_cards(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Cells kept open, with the site and lens each is read by, and its `k` and `temperature` if given.

    Raises:
        CellError: one of them is anything else.
        LensError: a temperature that is not a finite number above 0.
    """
    form = '{"layer": i, "position": j, "site": text, "lens": text}, with or without "k" and "temperature"'
    with _must_be(f"Each card must be {form}", values):
        return [_card(card) for card in values]


def as_pins(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Pinned tokens: each the ids whose probabilities are summed, a label, and the number of a colour.

    Raises:
        CellError: one of them is anything else.
    """
    with _must_be('Each pin must be {"ids": [token ids], "label": text, "color": number}', values):
        pins = [
            {
                "ids": list(dict.fromkeys(_integers(pin["ids"]))),  # twice would count twice in the sum
                "label": _text(pin["label"]),
                "color": operator.index(pin["color"]),
            }
            for pin in values
        ]
        if not all(pin["ids"] for pin in pins):
            raise ValueError
        return pins


def as_trajectory(value: Any) -> dict[str, Any]:
    """What the chart shows: a metric, and the positions; none of them follows the one that is looked at.

    With `"over": "tokens"` it runs along the prompt in the layer that is looked at, else over the layers.

    Raises:
        CellError: it is anything else.
    """
    metrics = " or ".join(f'"{metric}"' for metric in TRAJECTORY_METRICS)
    with _must_be(f'The trajectory must be {{"metric": {metrics}, "positions": [j, ...]}}', value):
        if value["metric"] not in TRAJECTORY_METRICS:
            raise ValueError
        over = value.get("over", "layers")
        if over not in ("layers", "tokens"):
            raise ValueError
        chart = {"metric": value["metric"], "positions": _integers(value["positions"])}
        return chart if over == "layers" else {**chart, "over": over}


@contextmanager
def _must_be(need: str, value: Any) -> Generator[None, None, None]:
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise CellError(f"{need}; it was set to {value!r:.80}.") from None


def _cell(value: Any) -> dict[str, int]:
    return {name: operator.index(value[name]) for name in ("layer", "position")}


def _card(value: Any) -> dict[str, Any]:
    card: dict[str, Any] = {**_cell(value), "site": _text(value["site"]), "lens": _text(value["lens"])}
    if "k" in value:
        card["k"] = operator.index(value["k"])
        if not 1 <= card["k"] <= MOST_ON_A_CARD:
            raise CellError(f"A card holds 1 to {MOST_ON_A_CARD} tokens; it was asked for {card['k']}.")
    if "temperature" in value:
        card["temperature"] = check_temperature(value["temperature"])
    return card


def _integers(values: Any) -> list[int]:
    return [operator.index(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return check_text(value, "A label or name", CellError)
