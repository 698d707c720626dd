"""Edits along a Jacobian lens give what TransformerLens 4.3.0's own interventions give on the same lens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lenswidget as lw

LENSES = Path(__file__).parent.parent / "lenses" / "published"
NUMBERS = Path(__file__).parent / "published" / "numbers.safetensors"
EDITS = {
    "steer": {"op": "steer", "tokens": 7, "layers": [0, 1], "strength": 0.7},
    "steer_some": {"op": "steer", "tokens": 9, "layers": 1, "positions": [2, 5, -1], "strength": -0.5},
    "project_out": {"op": "project_out", "tokens": [7, 9], "layers": [0, 1], "positions": [1, 4]},
    "swap_live": {"op": "swap", "tokens": [7, 9], "layers": 1, "is_live": True},
    "swap_clamped": {"op": "swap", "tokens": [7, 9], "layers": [0, 1], "positions": [3, -1]},
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_that_of_transformerlens_on_the_same_lens(name):
    expected = load_file(NUMBERS)[name]
    model = lw.LanguageModel(AutoModelForCausalLM.from_pretrained(LENSES / "model").eval())
    ids = load_file(LENSES / "numbers.safetensors")["text_0"].tolist()
    lens = lw.load_lens(LENSES / "jacobian.pt", model)
    fields = dict(EDITS[name])
    edit = lw.Edit(fields.pop("op"), lens=lens, **fields)
    with torch.no_grad():
        with model.trace([ids], edits=[edit]) as tracer:
            found = tracer.result.logits[0]
        with model.trace([ids]) as tracer:
            plain = tracer.result.logits[0]
    # both round in float32, in other orders; the effect itself is far larger
    assert (found - expected).abs().max() < 1e-4
    assert (expected - plain).abs().max() > 0.05
