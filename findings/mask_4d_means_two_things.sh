#!/usr/bin/env bash
# The same four-dimensional boolean mask is a mask under sdpa and a bias of 0 and 1 under eager attention.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: attn_implementation changes how attention is computed, not what a mask means; a mask of True and
#   False says what is seen; and a causal model stays causal whatever mask is passed.
# What happens: a mask of shape [batch, 1, queries, keys] replaces the model's own. Under sdpa True is seen and False is
#   not. Eager attention adds the tensor to the scores, so True is +1 and False +0: nothing is hidden, and the model
#   looks ahead. Float masks of 0 and the lowest number are right under both; floats of 0 and 1 hide nothing under
#   both; whole numbers raise under sdpa and hide nothing under eager. Switching to eager "to see the attentions"
#   changes the model wherever such a mask is passed.
# Where: transformers/models/llama/modeling_llama.py, eager_attention_forward: `attn_weights + attention_mask`.
# So: pass 4-D masks as floats of 0 and torch.finfo(dtype).min, and check the last row after a switch.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
TYPES = {
    "llama": dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                  max_position_embeddings=64, initializer_range=0.3),
    "gpt2": dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3),
}
text = torch.randint(3, 211, (1, 12), generator=torch.Generator().manual_seed(1))
causal = torch.ones(12, 12).tril()[None, None]
MASKS = {
    "bool": causal.bool(),
    "0 and lowest": (1 - causal) * torch.finfo(torch.float32).min,
    "0.0 and 1.0": causal,
    "0 and 1": causal.long(),
}


def off(model, mask, expected):
    try:
        return (model(text, attention_mask=mask).logits - expected).abs().max().item()
    except RuntimeError as error:
        return type(error).__name__


print(f"causal mask as {'':8}", *(f"{label:13}" for label in MASKS))
for name, fields in TYPES.items():
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **fields)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        expected = model(text).logits
        found = {label: off(model, mask, expected) for label, mask in MASKS.items()}
        shown = [value if isinstance(value, str) else f"{value:.1e}" for value in found.values()]
        print(f"{name:6} {attention:16}", *(f"{value:13}" for value in shown))
        assert found["0 and lowest"] < 1e-4 and found["0.0 and 1.0"] > 1
        if attention == "sdpa":
            assert found["bool"] < 1e-4 and found["0 and 1"] == "RuntimeError"
        else:
            assert found["bool"] > 1 and found["0 and 1"] > 1
END
