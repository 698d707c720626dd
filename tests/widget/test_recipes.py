"""A widget runs the very inputs that it was given, whatever they are: again, as state, as code."""

import itertools
import json

import pytest
import torch
from tiny import IDS, PROMPT, gpt2, language_model, llama
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import PromptError
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.widget.kept_runs import MOST_RUNS
from lenswidget.widget.widget import LensWidget

POSITIONS = {"input_ids": torch.tensor([IDS]), "position_ids": torch.arange(len(IDS))[None] * 3}
PADDED = {
    "input_ids": torch.tensor([[0, 0, 0, *IDS]]),
    "attention_mask": torch.tensor([[0, 0, 0, *[1] * len(IDS)]]),
}


@pytest.fixture(scope="module", params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request):
    return language_model(request.param)


def card_of(page, **fields):
    asked = {
        "layer": 2,
        "position": 5,
        "site": "resid_post",
        "lens": "logit",
        "k": 3,
        "temperature": 1,
        **fields,
    }
    return page.ask("decode", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]


@pytest.mark.parametrize(
    "prompt", [PROMPT, IDS, POSITIONS, PADDED], ids=["text", "ids", "positions", "padded"]
)
def test_copied_code_gives_the_cards_own_numbers(model, prompt):
    page = Page(LensWidget(model, prompt))
    card = card_of(page)
    asked = {"layer": 2, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    code = page.ask("code", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]["code"]
    names = {"model": model, "torch": torch}
    exec(code, names)
    assert names["top"].indices.tolist() == card["ids"]
    torch.testing.assert_close(names["top"].values.log(), torch.tensor(card["log_probs"]), rtol=0, atol=1e-5)


SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out")


@pytest.mark.parametrize(("layer", "site"), [(-1, "resid_post"), *itertools.product([0, 1, 3], SITES)])
def test_copied_code_reads_the_cards_own_layer_and_site(model, layer, site):
    page = Page(LensWidget(model, IDS))
    asked = {"layer": layer, "position": 3, "site": site, "lens": "logit", "k": 3, "temperature": 1}
    code = page.ask("code", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]["code"]
    names = {"model": model, "torch": torch}
    exec(code, names)
    card = card_of(page, layer=layer, position=3, site=site)
    assert names["top"].indices.tolist() == card["ids"]
    torch.testing.assert_close(names["top"].values.log(), torch.tensor(card["log_probs"]), rtol=0, atol=1e-5)


def test_code_of_inputs_that_cannot_be_written_down_asks_for_the_persons_own(model):
    embeddings = model.hf_model.get_input_embeddings()(torch.tensor([IDS])).detach()
    mask = torch.zeros(1, 1, len(IDS), len(IDS)).masked_fill(
        torch.ones(len(IDS), len(IDS)).triu(1).bool(), -1e9
    )
    page = Page(LensWidget(model, {"input_ids": torch.tensor([IDS]), "attention_mask": mask}))
    assert page.widget.run["extras"] == ["attention_mask"]
    asked = {"layer": 1, "position": 2, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    code = page.ask("code", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]["code"]
    assert "# prompt: the encoding that you gave, with input_ids, attention_mask\n" in code
    with pytest.raises(NameError, match="prompt"):
        exec(code, {"model": model})
    names = {"model": model, "prompt": {"input_ids": torch.tensor([IDS]), "attention_mask": mask}}
    exec(code, names)
    assert names["top"].indices.tolist() == card_of(page, layer=1, position=2)["ids"]
    with pytest.raises(PromptError, match="Asked to run embeddings"):
        LensWidget(model, embeddings)


@pytest.mark.parametrize(
    "prompt", [PROMPT, IDS, POSITIONS, PADDED], ids=["text", "ids", "positions", "padded"]
)
def test_an_unedited_prompt_runs_the_very_same_inputs_again(model, prompt):
    page = Page(LensWidget(model, prompt))
    page.widget.reuse = False  # else only its last column is run
    before, cells = page.widget.run, page.widget.readout().log_probs
    reply, _ = page.ask("run", again=before["id"])
    assert reply["value"]["run_id"] == page.widget.run["id"] != before["id"]
    assert {**page.widget.run, "id": ""} == {**before, "id": ""}
    assert (page.widget.readout().log_probs == cells).all()


def test_edited_text_is_told_what_it_would_drop(model):
    page = Page(LensWidget(model, POSITIONS))
    assert page.widget.run["extras"] == ["position_ids"]
    assert not page.widget.run["is_text"]
    page.ask("run", prompt="The city of")
    assert page.widget.run["extras"] == []
    assert page.widget.run["is_text"]
    assert page.widget.prompt == "The city of"


@pytest.mark.parametrize(
    "prompt", [PROMPT, IDS, POSITIONS, PADDED], ids=["text", "ids", "positions", "padded"]
)
def test_state_holds_the_recipe(model, prompt):
    widget = LensWidget(model, prompt, k=3, metric="entropy")
    widget.selection = {"layer": 2, "position": 4}
    again = model.lens(state=json.loads(json.dumps(widget.state)))
    assert again.state == widget.state
    assert again.decoded["log_probs"] == widget.decoded["log_probs"]
    assert (again.readout().ids == widget.readout().ids).all()
    other = model.lens("The city", state=widget.state)
    assert (other.prompt, other.k) == ("The city", 3)


def test_a_widget_needs_a_prompt_or_a_state_with_one(model):
    with pytest.raises(PromptError, match="No prompt was given"):
        model.lens()


def test_the_prompt_takes_all_that_lens_takes(demo_model):
    widget = demo_model.lens("One")
    chat = [{"role": "user", "content": "Name a city."}]
    widget.prompt = chat
    assert widget.prompt == demo_model.lens(chat).prompt
    widget.prompt = demo_model.tokenizer("One two", return_tensors="np")
    assert widget.prompt == demo_model.tokenizer("One two")["input_ids"]


def test_a_widget_closed_with_a_mask_runs_with_it_again(model):
    widget = LensWidget(model, PADDED)
    before = widget.readout().log_probs
    run_id = widget.run["id"]
    widget.close()
    assert (widget.readout().log_probs == before).all()
    assert widget.run["id"] == run_id == widget._session.run.id


def test_a_late_request_for_an_earlier_run_is_answered_with_that_run(model):
    page = Page(LensWidget(model, PROMPT))
    first = page.widget.run["id"]
    expected = card_of(page)
    page.widget.prompt = "The heart of France is in Paris"
    asked = {"layer": 2, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    found = page.ask("decode", run_id=first, select=False, track=[], **asked)[0]["value"]
    assert found == expected
    for i in range(MOST_RUNS + 3):
        page.widget.prompt = f"The city of {i}"
    assert len(page.widget._session._runs) <= 1 + MOST_RUNS
    reply, _ = page.ask("decode", run_id=first, select=False, track=[], **asked)
    assert "no longer kept" in reply["error"]["message"]


def test_a_run_of_a_model_that_has_changed_is_refused_and_can_be_run_again():
    model = language_model(gpt2)
    run, page = model.run(PROMPT), Page(LensWidget(model, PROMPT))
    asked = {"layer": 2, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    with torch.no_grad():
        model.hf_model.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    reply, _ = page.ask("decode", run_id=page.widget.run["id"], track=[], **asked)
    assert "has changed since this run" in reply["error"]["message"]
    with pytest.raises(lw.LensError, match=r"model\.run\(run\.spec\)"):
        lw.read(run)
    page.ask("run", again=page.widget.run["id"])
    assert card_of(page)["ids"] == lw.decode(model.run(run.spec), 2, 5, k=3).ids
    model.hf_model.lm_head.weight.data[7] += 3
    with pytest.raises(lw.LensError, match="has changed since this run"):
        page.widget.readout()
    page.widget.prompt = PROMPT
    page.ask("run", again=page.widget.run["id"])
    assert (page.widget.readout().ids == lw.read(model.run(PROMPT)).ids).all()


def test_a_chat_is_rendered_by_the_tokenizers_own_template(demo_model):
    messages = [{"role": "user", "content": "Name a city."}]
    expected = demo_model.tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert LocalEngine(demo_model).encode(messages).as_given == expected
    shorter = LocalEngine(demo_model).encode(messages, add_generation_prompt=False)
    assert shorter.as_given == expected[: shorter.seq] != expected
    with pytest.raises(PromptError, match="has no chat template"):
        language_model(gpt2).run(messages)
    with pytest.raises(PromptError, match="with a prompt that is not a chat"):
        demo_model.run("One", add_generation_prompt=True)
