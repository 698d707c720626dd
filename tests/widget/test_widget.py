"""The widget from Python: traits, messages, and what bad input leaves standing."""

import asyncio
import csv
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from ipywidgets.widgets.widget import _instances
from traitlets import TraitError
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import CellError, LensError, PromptError
from lenswidget.lenses.lens import LogitLens
from lenswidget.widget.packing import unpack
from lenswidget.widget.view_traits import as_state
from lenswidget.widget.widget import LensWidget

PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture
def widget(demo_model):
    return LensWidget(demo_model, PROMPT)


@pytest.fixture
def page(widget):
    return Page(widget)


def test_first_state_is_enough_to_draw(demo_model, widget):
    ids = demo_model.tokenizer.encode(PROMPT)
    assert widget.run["tokens"] == ids
    assert [widget.run["labels"][str(i)][2] for i in ids] == [demo_model.tokenizer.decode([i]) for i in ids]
    assert widget.run["fidelity"]["ok"]
    header = widget.snapshot["header"]
    assert header["layers"] == list(range(-1, 30))
    assert header["positions"] == list(range(len(ids)))
    arrays = unpack(header, widget.snapshot["buffers"])
    assert arrays["ids"].shape == (31, len(ids), 5)
    assert demo_model.tokenizer.decode(arrays["ids"][-1, -1, :1].tolist()) == " Paris"
    assert sum(map(len, widget.snapshot["buffers"])) <= 50_000


@pytest.mark.parametrize("n_pinned", [0, 30])
@pytest.mark.parametrize("k", [1, 20])
def test_the_snapshot_of_a_long_prompt_keeps_to_50_kb_whatever_is_pinned(demo_model, n_pinned, k):
    pins = [{"ids": list(range(100, 100 + n_pinned)), "label": "many", "color": 0}] if n_pinned else []
    snapshot = LensWidget(demo_model, "Tokyo 東京 and Paris, " * 20, pins=pins, k=k).snapshot
    n_bytes = len(json.dumps(snapshot["header"])) + sum(map(len, snapshot["buffers"]))
    assert 15_000 < n_bytes <= 50_000


@pytest.mark.parametrize("view", [{}, {"site": "mlp_out", "lens": "upper"}])
def test_a_run_tells_the_models_own_next_token_whatever_is_looked_at(demo_model, view):
    widget = LensWidget(demo_model, PROMPT, lenses=[UpperLayers()], **view)
    ids = torch.tensor([demo_model.tokenizer.encode(PROMPT)])
    with torch.no_grad():
        log_probs = demo_model.hf_model(ids).logits[0, -1].double().log_softmax(-1)
    found = widget.run["next"]
    assert found["id"] == log_probs.argmax()
    assert found["log_prob"] == pytest.approx(log_probs.max().item(), abs=1e-4)
    assert widget.run["labels"][str(found["id"])] == ["␣Paris", "text", " Paris"]


def test_grid_and_card_agree(widget, page):
    grid = unpack(widget.snapshot["header"], widget.snapshot["buffers"])
    card, _ = page.ask(
        "decode",
        run_id=widget.run["id"],
        layer=12,
        position=4,
        site="resid_post",
        lens="logit",
        k=5,
        temperature=1,
        select=False,
    )
    assert card["value"]["ids"] == grid["ids"][13, 4].tolist()
    torch.testing.assert_close(
        torch.tensor(card["value"]["log_probs"]), torch.tensor(grid["log_probs"][13, 4]), rtol=0, atol=2e-5
    )


def test_a_click_sets_selection_and_decoded(widget, page):
    seen = []
    widget.observe(lambda change: seen.append(change["name"]), ["selection", "decoded"])
    page.ask("decode", run_id=widget.run["id"], layer=3, position=2, site="resid_post", lens="logit", k=20)
    assert widget.selection == {"layer": 3, "position": 2}
    assert widget.decoded["layer"] == 3
    assert len(widget.decoded["ids"]) == 20
    assert sorted(seen) == ["decoded", "selection"]


def test_python_sets_the_selection(widget):
    widget.selection = {"layer": 29, "position": 8}
    assert widget.decoded["labels"][0][2] == " Paris"
    widget.selection = None
    assert widget.decoded is None


@pytest.mark.parametrize(
    "cell",
    [
        {"layer": 30, "position": 0},
        {"layer": 0, "position": -1},
        {"layer": 1.7, "position": 0},
        {"layer": "1", "position": 0},
        {"layer": 1},
    ],
)
def test_a_bad_selection_raises_and_loses_nothing(widget, cell):
    widget.selection = {"layer": 1, "position": 1}
    card = widget.decoded
    with pytest.raises(CellError):
        widget.selection = cell
    assert widget.selection == {"layer": 1, "position": 1}
    assert widget.decoded == card


@pytest.mark.parametrize("prompt", ["", "word " * 9000])
def test_a_bad_prompt_raises_and_loses_nothing(widget, page, prompt):
    before = (widget.prompt, widget.run, widget.snapshot)
    with pytest.raises(PromptError):
        widget.prompt = prompt
    reply, _ = page.ask("run", prompt=prompt)
    assert reply["error"]["type"] == "PromptError"
    assert (widget.prompt, widget.run, widget.snapshot) == before
    assert widget.status["state"] == "idle"


def test_another_number_of_tokens_decodes_the_open_card_again(widget, page):
    widget.card_k = 30
    assert widget.decoded is None
    asked = {"layer": 12, "position": 4, "site": "attn_out", "lens": "logit", "temperature": 2.0}
    page.ask("decode", run_id=widget.run["id"], k=30, track=[7042], **asked)
    before = widget.decoded
    widget.card_k = 7
    assert len(widget.decoded["ids"]) == 7
    kept = ("layer", "position", "site", "lens", "temperature", "entropy_nats", "tracked")
    assert {name: widget.decoded[name] for name in kept} == {name: before[name] for name in kept}
    assert widget.decoded["ids"] == before["ids"][:7]
    assert [token["id"] for token in before["tracked"]] == [7042]


async def replied(widget):
    """Lets the loop turn until every request has its reply."""

    async def turns():
        while widget._tasks._open:
            await asyncio.sleep(0.001)

    await asyncio.wait_for(turns(), 60)


def test_a_stop_during_the_forward_discards_the_run(widget, page):
    before = (widget.prompt, widget.run, widget.snapshot)

    async def main():
        # what a kernel's loop does with messages that arrived during the forward: they come after it, in turn
        widget._receive(widget, {"id": "stopped", "kind": "run", "prompt": "One two"}, [])
        widget._receive(widget, {"id": "stop", "kind": "cancel", "target": "stopped"}, [])
        await replied(widget)

    asyncio.run(main())
    replies = {c["id"]: c for c, _ in page.sent if "kind" not in c}
    assert replies["stopped"]["error"]["type"] == "Cancelled"
    assert (widget.prompt, widget.run, widget.snapshot) == before
    assert widget.status["state"] == "idle"
    widget.prompt = "Three four five"
    assert widget.run["prompt"] == "Three four five"
    widget.prompt = "One two"
    assert widget.run["prompt"] == "One two"


def test_of_two_runs_the_later_is_shown_and_the_earlier_is_told(widget, page):
    async def main():
        widget._receive(widget, {"id": "a", "kind": "run", "prompt": "One two"}, [])
        widget._receive(widget, {"id": "b", "kind": "run", "prompt": "Three four"}, [])
        await replied(widget)
        widget._receive(widget, {"id": "c", "kind": "run", "prompt": "Five six"}, [])
        widget.prompt = "Seven eight"
        await replied(widget)
        widget._receive(widget, {"id": "d", "kind": "run", "prompt": "Nine ten"}, [])
        widget.close()
        await replied(widget)

    asyncio.run(main())
    replies = {c["id"]: c for c, _ in page.sent if "kind" not in c}
    assert "Another run or comparison came" in replies["a"]["error"]["message"]
    assert "value" in replies["b"]
    assert replies["c"]["error"]["type"] == replies["d"]["error"]["type"] == "Cancelled"
    assert widget.run["prompt"] == "Seven eight"
    assert widget._session._runs == {}


def test_a_comparison_that_comes_while_the_page_runs_is_what_is_shown(widget, page):
    first = widget.run["id"]
    widget.fork(0, 9)

    async def main():
        widget._receive(widget, {"id": "a", "kind": "run", "prompt": "One two"}, [])
        widget.compare_with(first)
        await replied(widget)
        assert widget._session.is_paired
        widget._receive(widget, {"id": "b", "kind": "run", "prompt": "Five six"}, [])
        widget.compare_with(first)
        widget.compare_with(None)
        await replied(widget)

    forked = widget.run["id"]
    asyncio.run(main())
    replies = {c["id"]: c for c, _ in page.sent if "kind" not in c}
    assert [replies[name]["error"]["type"] for name in "ab"] == ["Cancelled", "Cancelled"]
    assert widget.run["id"] == forked


def test_a_new_prompt_runs_and_keeps_the_selected_cell(widget):
    widget.selection = {"layer": 29, "position": 3}
    first = widget.decoded
    widget.prompt = "One two three four five"
    assert widget.run["prompt"] == "One two three four five"
    assert widget.snapshot["header"]["run_id"] == widget.run["id"]
    assert widget.selection == {"layer": 29, "position": 3}
    assert widget.decoded["run_id"] != first["run_id"]
    widget.prompt = "One"
    assert widget.selection is None


def test_read_gives_a_rectangle_with_tracked_tokens(demo_model, widget, page):
    paris = demo_model.tokenizer.encode(" Paris")[0]
    reply, buffers = page.ask(
        "read",
        run_id=widget.run["id"],
        layers=[29, 0],
        positions=[8, 7, 6],
        site="resid_post",
        lens="logit",
        k=3,
        track=[paris],
        metrics=["entropy", "kl", "agrees"],
    )
    arrays = unpack(reply["value"], buffers)
    assert arrays["ids"].shape == (2, 3, 3)
    assert arrays["tracked_ranks"][0, 0, 0] == 0
    assert arrays["tracked_log_probs"].shape == (2, 3, 1)
    assert arrays["kl_from_final"][0].max() < 1e-5
    assert arrays["agrees"][0].all()
    assert str(paris) in reply["value"]["labels"]


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("read", {"layers": [30]}, "30"),
        ("read", {"run_id": "gone"}, "no longer kept"),
        ("read", {"lens": "none"}, "No lens"),
        ("decode", {"layer": -5}, "layer -5"),
        ("decode", {"temperature": 0}, "temperature"),
        ("unheard", {}, "unheard"),
    ],
)
def test_a_bad_message_gets_the_kernels_words(widget, page, kind, fields, said):
    good = {"run_id": widget.run["id"], "site": "resid_post", "lens": "logit", "k": 3}
    good |= {"layer": 0, "position": 0} if kind == "decode" else {"layers": [0], "positions": [0]}
    reply, _ = page.ask(kind, **{**good, **fields})
    assert said in reply["error"]["message"]


def test_an_interrupt_before_a_request_is_begun_is_its_reply(widget, page, monkeypatch):
    """Python may deliver one at any place, also outside of the slices that take care of theirs."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(widget._tasks, "start", interrupted)
        content, _ = page.ask("ping")
    assert content["error"]["type"] == "Cancelled"
    content, _ = page.ask("ping")
    assert content["value"] == {}


@pytest.mark.parametrize("layer", [-1, 0, 1, 20, 29])
def test_copied_code_reproduces_the_card(widget, page, layer):
    asked = {"layer": layer, "position": 8, "site": "resid_post", "lens": "logit", "k": 7, "temperature": 0.5}
    code, _ = page.ask("code", run_id=widget.run["id"], **asked)
    card, _ = page.ask("decode", run_id=widget.run["id"], select=False, **asked)
    assert "    model = lw.demo_model()\n" in code["value"]["code"]
    names = {}
    exec(code["value"]["code"], names)
    top = names["top"]
    # a probability of float32 that is 0 has no place and no log-prob: those of the embedding's best but one
    seen = top.values > 0
    assert top.indices[seen].tolist() == torch.tensor(card["value"]["ids"])[seen].tolist()
    assert seen.all() or layer < 0
    # the card sums its best logits in float64, the trace in float32: up to 1e-4 apart, twice that at 0.5
    expected = torch.tensor(card["value"]["log_probs"])[seen]
    torch.testing.assert_close(top.values.log()[seen], expected, rtol=0, atol=2e-3 if layer < 0 else 2e-4)


def test_copied_code_says_what_it_cannot_load(demo_model):
    asked = {"layer": 20, "position": 2, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    own = lw.LanguageModel(demo_model.hf_model, demo_model.tokenizer)
    page = Page(LensWidget(own, "One two three"))
    reply, _ = page.ask("code", run_id=page.widget.run["id"], **asked)
    code = reply["value"]["code"]
    assert "# model: your LanguageModel of a LlamaForCausalLM that you loaded yourself\n" in code
    names = {"model": own}
    exec(code, names)
    assert len(names["top"].indices) == 3


@pytest.mark.parametrize("lens", [lambda layer, states: 2 * states, LogitLens("plain")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copied_code_goes_through_the_lens_and_says_what_is_rounded(lens, dtype):
    model = lw.LanguageModel(tiny.llama().to(dtype), tiny.tokenizer())
    page = Page(LensWidget(model, "One two three", lenses={"mine": lens}))
    asked = {"layer": 2, "position": 1, "site": "resid_post", "lens": "mine", "k": 3, "temperature": 1}
    code = page.ask("code", run_id=page.widget.run["id"], **asked)[0]["value"]["code"]
    assert ("modules round to bfloat16" in code) == (dtype is torch.bfloat16)
    names = {"model": model, "lens": lens}
    exec(code, names)
    card = page.ask("decode", run_id=page.widget.run["id"], select=False, **asked)[0]["value"]
    found = names["probs"][card["ids"]].log()
    # the tail in 16 bits: 8 significant bits of logits near 1
    atol = 2e-2 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, torch.tensor(card["log_probs"]), rtol=0, atol=atol)


def test_state_begins_another_widget(demo_model, widget):
    widget.k, widget.metric, widget.selection = 3, "entropy", {"layer": 2, "position": 1}
    widget.track(" Paris")
    again = LensWidget(demo_model, PROMPT, state=widget.state)
    assert again.state == widget.state
    assert again.decoded["ids"] == widget.decoded["ids"]


def test_what_a_shorter_prompt_does_not_have_is_left_out_of_a_state(demo_model, widget):
    widget.selection = {"layer": 2, "position": 8}
    widget.trajectory = {"metric": "prob", "positions": [8]}
    widget.cards = [{"layer": 2, "position": 8, "site": "resid_post", "lens": "logit"}]
    again = LensWidget(demo_model, "Hi", state=widget.state)
    assert again.selection is again.decoded is None
    assert again.trajectory == widget.trajectory
    assert again.cards == widget.cards
    for chosen in ({}, {"state": widget.state}):
        with pytest.raises(CellError, match="position 8"):
            LensWidget(demo_model, "Hi", selection=widget.selection, **chosen)
    with pytest.raises(CellError, match="selection must be"):
        LensWidget(demo_model, "Hi", state={"selection": {"layer": 2}})


def test_track_pins_and_reads_every_cell(demo_model, widget):
    readout = widget.track(" Paris")
    assert widget.pins == [{"ids": demo_model.tokenizer.encode(" Paris"), "label": "␣Paris", "color": 0}]
    assert readout.tracked_ranks.shape == (31 * 9, 1)
    assert readout.tracked_ranks[-1, 0] == 0
    widget.track(" London")
    assert [pin["color"] for pin in widget.pins] == [0, 1]
    assert widget.track(np.int32(readout.tracked_ids[0])).tracked_ids.tolist() == readout.tracked_ids.tolist()
    for token, said in (("Supercalifragilistic", "tokens"), (10**6, "token 1000000"), (True, "token True")):
        with pytest.raises(CellError, match=said):
            widget.track(token)
    assert len(widget.pins) == 2


PIN, CARD = {"ids": [5], "label": "five", "color": 0}, {"layer": 3, "position": 1, "site": "resid_post"}
KEPT = {**CARD, "lens": "logit"}


@pytest.mark.parametrize(
    ("name", "good", "bad", "said"),
    [
        ("pins", [PIN], [{**PIN, "ids": []}], "Each pin must be"),
        ("pins", [PIN], [{**PIN, "ids": [10**6]}], "token 1000000"),
        ("pins", [PIN], [{"ids": [5]}], "Each pin must be"),
        ("cards", [KEPT], [CARD], "Each card must be"),
        (
            "cards",
            [{**KEPT, "k": 1000, "temperature": 0.5}],
            [{**KEPT, "k": 1001}],
            "1 to 1000 .* asked for 1001",
        ),
        ("cards", [{**KEPT, "k": 1}], [{**KEPT, "k": 0}], "asked for 0"),
        ("cards", [{**KEPT, "temperature": 2.0}], [{**KEPT, "temperature": 0}], "temperature is 0"),
        ("cards", [KEPT], [{**KEPT, "k": "5"}], "Each card must be"),
        ("trajectory", {"metric": "rank", "positions": [1]}, {"metric": "kl", "positions": []}, "trajectory"),
        ("trajectory", {"metric": "rank", "positions": [1]}, {"metric": "rank"}, "trajectory must be"),
        ("rank_token", 5, 10**6, "token 1000000"),
        ("site", "resid_mid", "middle", "No site .* name one of resid_pre"),
    ],
)
def test_a_choice_of_another_form_is_refused_and_loses_nothing(widget, name, good, bad, said):
    setattr(widget, name, good)
    with pytest.raises(LensError, match=said):
        setattr(widget, name, bad)
    assert getattr(widget, name) == good


def test_an_id_that_is_in_a_pin_twice_is_summed_once(widget):
    widget.pins = [{**PIN, "ids": [5, 7, 5]}]
    assert widget.pins[0]["ids"] == [5, 7]


def test_what_a_widget_does_not_have_is_refused_at_its_making(demo_model):
    for options, said in (
        ({"metrc": "kl"}, "given metrc, but what can be chosen is card_k, cards"),
        ({"state": {"colour": "red"}}, "given colour"),
        ({"state": {"prompt": "Two"}}, "given prompt, but what can be chosen"),
        ({"state": {"lens": "tuned"}}, "No lens is called 'tuned' here: name one of logit"),
        ({"lens": "tuned"}, "is no lens"),
    ):
        with pytest.raises(LensError, match=said):
            LensWidget(demo_model, "One", **options)
    with pytest.raises(LensError, match=r"Pass the state of another widget, w\.state"):
        as_state(demo_model)
    with pytest.raises(LensError, match=r"a LlamaForCausalLM. Give it a LanguageModel: lw\.LanguageModel\("):
        LensWidget(demo_model.hf_model, "One")


def test_two_widgets_on_one_model_do_not_disturb_each_other(demo_model, widget):
    other = LensWidget(demo_model, "Two and two make")
    widget.selection = {"layer": 29, "position": 8}
    other.selection = {"layer": 29, "position": 3}
    assert other.decoded["run_id"] == other.run["id"] != widget.decoded["run_id"]


def test_ids_without_a_tokenizer_are_shown_as_numbers(demo_model):
    bare = lw.LanguageModel(demo_model.hf_model, None)
    widget = LensWidget(bare, [504, 414, 46682])
    assert widget.run["labels"]["504"][0] == "#504"
    assert widget.prompt == [504, 414, 46682]
    with pytest.raises(LensError, match="tokenizer"):
        widget.prompt = "text"


class UpperLayers:
    """A lens that carries only the layers from 10 on."""

    name = "upper"
    layers = range(10, 30)

    def transport(self, layer, states):
        assert layer in self.layers
        return states


def test_rows_that_a_lens_cannot_carry_are_not_computed(demo_model):
    widget = LensWidget(demo_model, "One two", lenses=[UpperLayers()], lens="upper")
    assert widget.snapshot["header"]["layers"] == list(range(10, 30))
    page = Page(widget)
    asked = {
        "positions": [0, 1],
        "site": "resid_post",
        "lens": "upper",
        "k": 2,
        "track": [5],
        "metrics": ["agrees"],
    }
    reply, buffers = page.ask("read", run_id=widget.run["id"], layers=[9, 10, 29], **asked)
    arrays = unpack(reply["value"], buffers)
    assert arrays["ids"][0].tolist() == [[-2, -2], [-2, -2]]
    assert arrays["tracked_ranks"][0].tolist() == [[-1], [-1]]
    assert np.isnan(arrays["log_probs"][0]).all()
    assert np.isfinite(arrays["log_probs"][1:]).all()
    cell = {"run_id": widget.run["id"], "position": 0, "site": "resid_post", "lens": "upper", "k": 3}
    page.ask("decode", layer=10, **cell)
    assert widget.decoded["layer_below"] is None
    refused, _ = page.ask("decode", layer=9, **cell)
    assert "the lens 'upper', which carries 20 layers from 10 to 29" in refused["error"]["message"]
    with pytest.raises(CellError, match="Asked for layer 9"):
        widget.selection = {"layer": 9, "position": 0}
    assert widget.selection == {"layer": 10, "position": 0}
    widget.lens = "logit"
    assert len(widget.snapshot["header"]["layers"]) == 31
    with pytest.raises(LensError, match="No lens is called"):
        widget.lens = "tuned"


def test_to_dataframe_and_csv_hold_every_cell(demo_model, widget, tmp_path):
    frame = widget.to_dataframe(k=2)
    assert len(frame) == 31 * 9 * 2
    with widget.to_csv(tmp_path / "grid.csv", k=2).open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 31 * 9 * 2 + 1


def test_the_same_prompt_again_is_no_change_and_leaves_nothing_behind(widget):
    before = widget.run["id"]
    widget.prompt = PROMPT
    assert widget.run["id"] == before
    widget.prompt = "Something else"
    assert widget.run["prompt"] == "Something else"


def test_a_widget_that_is_refused_leaves_nothing_behind(demo_model, recwarn):
    known = len(_instances)
    with pytest.raises(PromptError):
        LensWidget(demo_model, "")
    with pytest.raises(LensError):
        LensWidget(demo_model, "One", lens=3)
    gc.collect()
    assert len(_instances) == known
    assert not [w for w in recwarn if "ignored" in str(w.message)]


def test_a_closed_widget_answers_while_its_model_is_kept_and_does_not_keep_it():
    model = lw.LanguageModel(tiny.llama(), tiny.tokenizer())
    widget = LensWidget(model, "One two three")
    before = widget.readout()
    widget.close()
    assert np.array_equal(widget.readout().ids, before.ids)
    widget.close()
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None
    with pytest.raises(LensError, match=r"its model is gone. Show another: model\.lens\(prompt\)"):
        widget.readout()


def test_columns_are_as_wide_as_the_page_draws_them():
    widget = tiny.language_model().lens(tiny.PROMPT)
    layout = (Path(__file__).parents[2] / "js/src/look/layout.ts").read_text()
    for name, allowed, refused in (("MIN", 24, 23), ("MAX", 400, 401)):
        widget.column_width_px = allowed
        with pytest.raises(TraitError):
            widget.column_width_px = refused
        assert widget.column_width_px == allowed
        assert f"{name}_COL_PX = {allowed};" in layout
