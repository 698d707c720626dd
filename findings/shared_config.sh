#!/usr/bin/env bash
# Two models that are built from one config object share it: what one is told, the other does.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a model takes a copy of its config, so that two models from one config are independent.
# What happens: both hold the caller's object. set_attn_implementation("eager") on one switches the other as well;
#   resize_token_embeddings on one changes the other's config.vocab_size and leaves its weights, so that its loss raises
#   an error about shapes; a field that the forward reads (output_hidden_states) acts on both. A deep copy of the model
#   has a config of its own. The class and AutoModelForCausalLM.from_config share, from_pretrained(config=...) copies.
# Where: transformers/modeling_utils.py, PreTrainedModel.__init__: self.config = config.
# So: do not change a model's config for the length of a reading where another model may hold it; and read widths off
#   the weights, not the config.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import copy
import torch, transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def load(config):
    return LlamaForCausalLM.from_pretrained("saved", config=config)


builders = {
    "LlamaForCausalLM(config)": LlamaForCausalLM,
    "AutoModelForCausalLM.from_config(config)": AutoModelForCausalLM.from_config,
    "LlamaForCausalLM.from_pretrained(..., config=config)": load,
}
for label, build in builders.items():
    config = LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2)
    LlamaForCausalLM(copy.deepcopy(config)).save_pretrained("saved")
    one, other = build(config).eval(), build(config).eval()
    copied = copy.deepcopy(one)
    shared = one.config is other.config
    one.set_attn_implementation("eager")
    attention = other.config._attn_implementation
    one.config.output_hidden_states = True
    states = other(ids).get("hidden_states")
    one.resize_token_embeddings(230, mean_resizing=False)
    try:
        other(ids, labels=ids)
        loss = "works"
    except RuntimeError as error:
        loss = f"RuntimeError: {error}"
    print(f"{label}: one object: {shared}; the other's attention: {attention}, hidden_states:",
          None if states is None else len(states), f", vocab_size {other.config.vocab_size} and head",
          tuple(other.lm_head.weight.shape), ", loss:", loss)
    assert copied.config is not one.config and copied.config._attn_implementation == "sdpa"
    if build is not load:
        assert shared and attention == "eager" and len(states) == 3 and other.config.vocab_size == 230
        assert other.lm_head.weight.shape == (211, 32) and loss != "works"
    else:
        assert not shared and attention == "sdpa" and states is None and loss == "works"
END
