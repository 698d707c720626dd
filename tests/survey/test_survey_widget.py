"""The picture of a survey, without a browser: its numbers are the survey's, and a column opens its prompt."""

import json
import re
import threading
import time

import numpy as np
import pytest
import tiny
import traitlets
from side_by_side import together
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import LensError
from lenswidget.survey.measured import Measured
from lenswidget.survey.picture import MOST_CHARACTERS, NO_LAYER, Picture
from lenswidget.survey.survey_widget import curve_key
from lenswidget.survey.table import Survey

QUIET = {"progress": False}
ROWS = [
    {"prompt": "The Eiffel Tower is in", "target": " the", "kind": "tower"},
    {"prompt": "The Eiffel", "target": " Paris", "kind": "tower"},
    {"prompt": "Paris, the heart of", "target": " France", "kind": "heart"},
    {"prompt": "", "target": " France", "kind": "heart"},
]
EDIT = lw.Edit("zero", site="mlp_out", layers=1)


@pytest.fixture(scope="module")
def model():
    return tiny.language_model(tiny.llama)


@pytest.fixture
def found(model):
    return lw.survey(model, ROWS, group="kind", edits=EDIT, **QUIET)


@pytest.fixture
def shown(found):
    w = found.widget()
    yield w
    w.close()


def unpacked(w):
    header, buffers = w.survey["header"], w.survey["buffers"]
    strips = []
    for i, strip in enumerate(header["strips"]):
        ranks, holds, log_probs = (
            np.frombuffer(buffer, dtype)
            for buffer, dtype in zip(buffers[3 * i : 3 * i + 3], ("<u2", "<i2", "<f4"), strict=True)
        )
        strips.append((ranks.reshape(header["n"], len(strip["layers"])), holds, log_probs))
    return header, strips, np.frombuffer(buffers[-1], "<u2")


def test_the_page_has_each_prompts_ranks_and_its_layer_of_arrival(found, shown):
    header, strips, groups = unpacked(shown)
    assert (header["n"], header["n_failed"], header["rows"]) == (3, 1, [0, 1, 2])
    assert [(strip["model"], strip["condition"]) for strip in header["strips"]] == [
        ("LlamaForCausalLM", "plain"),
        ("LlamaForCausalLM", "edited"),
    ]
    assert [header["groups"][group] for group in groups] == ["tower", "tower", "heart"]
    assert header["prompts"] == [row["prompt"] for row in ROWS[:3]]
    for strip, condition in enumerate(("plain", "edited")):
        for column, row in enumerate(header["rows"]):
            each = next(m for m in found.measured if (m.row, m.condition) == (row, condition))
            ranks, holds, log_probs = (values[column] for values in strips[strip])
            assert ranks.tolist() == each.ranks.tolist()
            assert holds == (NO_LAYER if each.holds_from(1) is None else each.holds_from(1))
            assert log_probs == np.float32(each.log_probs[-1])


def test_a_column_opens_the_live_grid_of_its_prompt_with_its_edits_and_its_answer(shown):
    page = Page(shown)
    reply, _ = page.ask("open", column=1, strip=1, layer=2)
    assert reply["value"]["run_id"] == shown.run["id"]
    assert shown.opened == {"column": 1, "strip": 1}
    assert (shown.prompt, shown.edits) == ("The Eiffel", (EDIT,))
    seq = len(shown.run["tokens"])
    assert shown.selection == {"layer": 2, "position": seq - 1}
    paris = tiny.tokenizer().encode(" Paris")[0]
    assert [pin["ids"] for pin in shown.pins] == [[paris]]
    shown.open_row(2)
    assert (shown.prompt, shown.edits, shown.opened) == (ROWS[2]["prompt"], (), {"column": 2, "strip": 0})
    # a prompt that is typed is none of the survey's
    shown.prompt = "The Tower"
    assert shown.opened is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"column": 3, "strip": 0, "layer": None}, "column 3 of strip 0, which has no numbers"),
        ({"column": -1, "strip": 0, "layer": None}, "has no numbers"),
        ({"column": 0, "strip": 2, "layer": None}, "has no numbers"),
        ({"column": "0", "strip": 0, "layer": None}, "Send integers"),
        ({"column": 0, "layer": None}, "Send integers"),
    ],
)
def test_a_column_that_is_none_is_refused_and_the_grid_stays(shown, asked, message):
    before = shown.run["id"]
    reply, _ = Page(shown).ask("open", **asked)
    assert re.search(message, reply["error"]["message"])
    assert shown.run["id"] == before
    with pytest.raises(LensError, match="Asked to open row 3"):
        shown.open_row(3)


def test_curves_are_the_surveys_and_come_when_they_are_chosen(found, shown):
    for choice in (("pass", False, None), ("log_prob", False, "edits"), ("rank", True, None)):
        shown.curve, shown.only_right, shown.contrast = choice
        drawn = shown.curves[curve_key(*choice)]
        table = found.curves(choice[0], only_right=choice[1], contrast=choice[2])
        assert sum(len(curve["layers"]) for curve in drawn) == len(table)
        for curve in drawn:
            rows = table[(table["condition"] == curve["condition"]) & (table["group"] == curve["group"])]
            assert curve["layers"] == rows["layer"].tolist()
            for name in ("mean", "low", "high"):
                assert curve[name] == pytest.approx(rows[name].tolist(), rel=1e-5, abs=1e-9)
    for name, value in (("curve", "foil_difference"), ("contrast", "models")):
        with pytest.raises((LensError, traitlets.TraitError), match="this survey has"):
            setattr(shown, name, value)


def test_the_difference_of_an_edit_is_that_within_each_prompt(found):
    table = found.curves("log_prob", contrast="edits")
    assert set(table["condition"]) == {"edited − plain"}
    plain, edited = (
        {each.row: each.log_probs for each in found.measured if each.condition == name and not each.error}
        for name in ("plain", "edited")
    )
    tower = np.mean([edited[row] - plain[row] for row in (0, 1)], axis=0)
    assert table[table["group"] == "tower"]["mean"].to_numpy() == pytest.approx(tower)
    assert (table[(table["layer"] < 1)][["mean", "low", "high"]] == 0).all(axis=None)


def test_of_two_models_the_grid_is_that_of_the_one_that_was_clicked(model):
    other = tiny.language_model(tiny.gpt2)
    found = lw.survey({"one": model, "two": other}, ROWS[:3], **QUIET)
    table = found.curves("log_prob", contrast="models")
    assert set(table["model"]) == {"two − one"}
    w = found.widget(lens="logit")
    page = Page(w)
    page.ask("open", column=0, strip=1, layer=None)
    assert (w.run["model"], w.opened) == ("GPT2LMHeadModel", {"column": 0, "strip": 1})
    expected = other.hf_model(**other.tokenizer(ROWS[0]["prompt"], return_tensors="pt")).logits[0, -1]
    assert w.run["next"]["id"] == int(expected.argmax())
    page.ask("open", column=0, strip=0, layer=None)
    assert w.run["model"] == "LlamaForCausalLM"
    w.close()
    w.close()


def test_a_saved_file_has_the_picture_with_all_its_curves(shown, tmp_path):
    path = shown.save(tmp_path / "survey.html")
    text = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="lens-data">(.*?)</script>', text, re.DOTALL)
    state = json.loads(data[1])["state"]
    assert state["survey"]["header"]["n"] == 3
    assert all(isinstance(buffer, str) for buffer in state["survey"]["buffers"])
    # three metrics, all prompts or right ones, with and without the difference
    assert len(state["curves"]) == 3 * 2 * 2
    assert state["run"]["id"] == shown.run["id"]


def test_what_cannot_be_shown_is_refused_in_a_sentence(model):
    nothing = lw.survey(model, [{"prompt": "", "target": " a"}], **QUIET)
    with pytest.raises(LensError, match="every prompt failed"):
        nothing.widget()
    with pytest.raises(LensError, match="without its models"):
        Survey(1, "logit", "resid_post", nothing.measured).widget()
    found = lw.survey(model, ROWS[:1], **QUIET)
    with pytest.raises(LensError, match="The widget was given nonsense"):
        found.widget(nonsense=1)
    with pytest.raises(LensError, match="there was none"):
        found.widget(curve="foil_difference")


def test_a_hundred_thousand_prompts_are_a_few_bytes_each():
    layers, n = np.arange(-1, 3), 100_000
    ranks = np.array([70_000, 3, 0, 0])
    measured = [
        Measured(i, "", "a " * 80, "m", "plain", layers, np.zeros(4), ranks, targets=("x",)) for i in range(n)
    ]
    packed = Picture(Survey(1, "logit", "resid_post", measured)).packed()
    assert packed["header"]["n"] == n
    assert sum(map(len, packed["buffers"])) == n * (2 * 4 + 2 + 4 + 2)
    assert max(map(len, packed["header"]["prompts"])) == MOST_CHARACTERS
    assert np.frombuffer(packed["buffers"][0], "<u2")[:4].tolist() == [65_534, 3, 0, 0]


def test_opening_a_prompt_of_another_model_and_a_trace_of_that_do_not_wait_for_each_other(model):
    other = tiny.language_model()
    w = lw.survey({"one": model, "two": other}, ROWS[:2], **QUIET).widget()
    begun = threading.Event()

    def tracing():
        with other.trace(ROWS[0]["prompt"]):
            begun.set()
            time.sleep(0.3)  # by then the other thread wants this model
            w.curve = "log_prob"

    def opening():
        begun.wait()
        w.open_row(0, model="two")

    together(tracing, opening)
    assert (w.curve, w.opened) == ("log_prob", {"column": 0, "strip": 1})
    assert w.run["id"] == w.snapshot["header"]["run_id"]
    w.close()
