#!/usr/bin/env bash
# Moshi's sliding window exists in its cache only: a forward over a text sees everything, a decode the window.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: sliding_window limits what a token sees in every forward alike, as in Mistral and Gemma3.
# What happens: the mask of MoshiForCausalLM is the full causal one, so in a whole text the first token reaches the
#   last. The cache that is made from the same config keeps the last sliding_window - 1 keys. So past the window (3000
#   tokens as it comes, 8 here) generate's logits are not those of a forward over what it generated, and the first
#   token has no effect on a decoded one. Mistral and Gemma3 agree with themselves.
# Where: transformers/models/moshi/modeling_moshi.py, MoshiModel: create_causal_mask; transformers/cache_utils.py,
#   DynamicCache makes sliding layers wherever the config has a sliding_window.
# So: that a cached continuation equals the whole text has to be measured beyond every window in the config.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
WINDOW = 8
base = dict(vocab_size=211, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            head_dim=16, initializer_range=0.3, max_position_embeddings=64, sliding_window=WINDOW, pad_token_id=0)
TYPES = {
    "moshi": {**base, "ffn_dim": 64},
    "mistral": {**base, "intermediate_size": 64},
    "gemma3_text": {**base, "intermediate_size": 64, "layer_types": ["sliding_attention"]},
}
text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))
other = text.clone()
other[0, 0] = (text[0, 0] + 5) % 200 + 3


def gap(one, other):
    return (one - other).abs().max().item()


print("one block, window 8: last logits moved by the first token, decoded against whole")
for name, fields in TYPES.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    reach, decoded = {}, {}
    for label, n in (("7 tokens", 7), ("24 tokens", 24)):
        whole = model(text[:, :n]).logits[:, -1]
        reach[label, "whole"] = gap(model(other[:, :n]).logits[:, -1], whole)
        rows = []
        for ids in (text, other):
            cache = model(ids[:, : n - 1]).past_key_values
            rows.append(model(ids[:, n - 1 : n], past_key_values=cache).logits[:, -1])
        reach[label, "decoded"] = gap(*rows)
        decoded[label] = gap(rows[0], whole)
    print(f"{name:12}", {" ".join(key): f"{value:.1e}" for key, value in reach.items()},
          "; decoded against whole", {key: f"{value:.1e}" for key, value in decoded.items()})
    assert min(reach["7 tokens", "whole"], reach["7 tokens", "decoded"]) > 1e-3 and decoded["7 tokens"] < 1e-4
    assert reach["24 tokens", "decoded"] == 0
    assert (reach["24 tokens", "whole"] > 1e-3) == (decoded["24 tokens"] > 0.05) == (name == "moshi")
END
