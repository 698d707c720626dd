"""Traits that are set together: all are taken, or, where one is refused, none; the run shown agrees."""

import pytest
import traitlets
from tiny import PROMPT, gpt2, language_model

from lenswidget.errors import CellError, LensError
from lenswidget.interventions.recipe import Edit
from lenswidget.widget.widget import LensWidget

BAD = {
    "selection": {"bad": 1},
    "site": "nonsense",
    "lens": "nonsense",
    "pins": [{}],
    "cards": [{"layer": 1}],
    "trajectory": {"metric": "none"},
    "rank_token": -1,
    "metric": "loss",
    "view": "sideways",
    "difference": "x",
    "show": "nonsense",
    "floor": 3,
    "reuse": 3,
    "show_spine": 3,
    "orientation": "x",
    "hide_special": 3,
    "hide_template": 3,
    "folded_bands": [-1],
    "folded_passes": [-1],
    "stride": 0,
    "column_width_px": 1,
    "k": 0,
    "card_k": 0,
    "prompt": "",
    "edits": 3,
    "run": {},
    "snapshot": {},
    "decoded": {},
    "status": {},
}


@pytest.fixture
def widget():
    return LensWidget(language_model(gpt2), PROMPT)


def set_together(widget, **traits):
    with widget.hold_trait_notifications():
        for name, value in traits.items():
            setattr(widget, name, value)


def values(widget):
    return {name: getattr(widget, name) for name in (*widget.keys, "edits") if name != "layout"}


def test_every_trait_that_a_person_sets_is_tried():
    assert set(BAD) >= set(LensWidget.class_trait_names(is_choice=True))


@pytest.mark.parametrize("name", BAD)
def test_a_value_refused_in_a_hold_is_not_kept_and_takes_the_others_with_it(widget, name):
    widget.selection = {"layer": 1, "position": 2}
    before, heard = values(widget), []
    widget.observe(lambda change: heard.append(change["name"]))
    others = {"k": 7} if name != "k" else {"card_k": 7}
    with pytest.raises((LensError, traitlets.TraitError)):
        set_together(widget, **others, **{name: BAD[name]})
    assert values(widget) == before
    assert heard == []
    widget.k = 9  # and it goes on as if nothing had been
    assert (widget.k, widget.snapshot["header"]["k"]) == (9, 9)


@pytest.mark.parametrize(
    "change", [{"prompt": "The city"}, {"edits": [Edit("zero", layers=1)]}], ids=["prompt", "edits"]
)
def test_a_run_made_in_a_hold_that_fails_is_not_shown(widget, change):
    widget.selection = {"layer": 1, "position": 2}
    before = values(widget)
    with pytest.raises(CellError):
        set_together(widget, **change, selection={"layer": 99, "position": 0})
    assert values(widget) == before
    assert widget._session.shown == widget.run["id"]
    assert widget.readout().run_id == widget.run["id"]
    set_together(widget, **change)
    assert widget.run["id"] == widget._session.shown != before["run"]["id"]


def test_good_values_in_a_hold_are_all_taken(widget):
    set_together(widget, prompt="The city", k=7, selection={"layer": 0, "position": 0})
    assert (widget.prompt, widget.k, widget.decoded["layer"]) == ("The city", 7, 0)
    assert widget.snapshot["header"]["k"] == 7


def test_the_error_is_still_of_its_own_kind(widget):
    with pytest.raises(CellError) as told:
        widget.selection = {}
    assert type(told.value).__name__ == "CellError"
    assert isinstance(told.value, IndexError)


def test_a_value_refused_in_a_hold_leaves_a_comparison_and_its_tree_as_they_were(widget):
    widget.fork(2, 7)
    widget.compare_with(0)
    before, shown = values(widget), widget._session.shown
    tree = list(widget._branches.all)
    with pytest.raises(CellError):
        set_together(widget, prompt="The city", selection={"layer": 99, "position": 0})
    assert values(widget) == before
    assert widget._session.is_paired
    assert (widget._session.shown, widget._branches.all) == (shown, tree)
    assert widget.readout().run_id == widget.run["id"] == shown
    widget.compare_with(None)  # and the one run is there as it was
    assert widget.run["id"] == widget._session.shown == tree[1].id
    set_together(widget, prompt="The city", k=7)
    assert (widget.prompt, widget.branches) == ("The city", [])
