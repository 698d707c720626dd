"""What a widget and a model say of themselves where nothing is drawn: terminals, logs, `print`."""

import math

import pytest

import lenswidget as lw
from lenswidget.widget.summary import one_line, quoted_prompt

PROMPT = "The Eiffel Tower is in the city of"


def test_a_widget_says_its_model_its_prompt_and_the_models_own_answer(demo_model):
    widget = demo_model.lens(PROMPT)
    logits = demo_model.hf_model(**demo_model.tokenizer(PROMPT, return_tensors="pt")).logits[0, -1].double()
    p, token_id = logits.softmax(-1).max(-1)
    p, token_id = p.item(), token_id.item()
    assert demo_model.tokenizer.decode(token_id) == " Paris"
    expected = f"<LensWidget SmolLM2-135M-Instruct, “{PROMPT}” predicts “␣Paris” {p:.1%}>"
    assert repr(widget) == expected == str(widget)
    assert widget._repr_mimebundle_()[0]["text/plain"] == expected
    widget.close()
    assert repr(widget) == expected


def test_a_long_prompt_is_one_line_that_ends_as_it_does():
    quoted = quoted_prompt({"prompt": "first\n\nline " + "word " * 40 + "end"})
    assert (quoted[:2], quoted[-9:]) == ("“…", "word end”")
    assert len(quoted) <= 64
    assert "\n" not in quoted


def test_a_number_that_json_does_not_have_and_a_widget_without_a_run_are_said_too():
    run = {
        "model": "m",
        "prompt": "p",
        "next": {"id": 3, "log_prob": "NaN"},
        "labels": {"3": ["a", "text", "a"]},
    }
    assert one_line(run) == "m, “p” predicts “a” nan%"
    masked = {**run, "predicts": "same", "next": {"id": 3, "log_prob": math.log(0.5), "position": 2}}
    assert one_line(masked) == "m, “p” at position 2 says “a” 50.0%"
    assert one_line({}) == "no run yet"


@pytest.mark.parametrize("has_name", [True, False])
def test_a_model_says_its_name_and_its_class(demo_model, has_name, monkeypatch):
    if not has_name:
        monkeypatch.setattr(demo_model.hf_model.config, "name_or_path", "")
    named = "<LanguageModel SmolLM2-135M-Instruct: LlamaForCausalLM>"
    assert repr(demo_model) == (named if has_name else "<LanguageModel LlamaForCausalLM>")
    assert repr(demo_model.model.norm) == "<TracedModule model.norm: LlamaRMSNorm>"
    assert isinstance(demo_model, lw.LanguageModel)
