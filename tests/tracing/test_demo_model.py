"""The trace on the real model."""

import torch
from seed import LOGIT_LENS, run
from tiny import PROMPT


def test_the_fragments_run_on_the_real_model(demo_model):
    inputs = demo_model.tokenizer(PROMPT, return_tensors="pt")
    fragment = LOGIT_LENS.replace("transformer.h", "model.layers").replace("transformer.ln_f", "model.norm")
    with torch.no_grad():
        names = run(fragment, model=demo_model, prompt=PROMPT, torch=torch)
        assert torch.equal(names["hidden_states"], demo_model.hf_model(**inputs).logits)
    assert demo_model.tokenizer.decode(names["tokens"][0, -1]) == " Paris"
