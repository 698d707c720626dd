#!/usr/bin/env bash
# With rope type "dynamic" a forward depends on the texts that the model was run on before.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: in eval mode, without a cache, the same ids give the same logits, whatever ran before.
# What happens: the frequencies of the longest text so far are kept. They are put back only by a text that is shorter
#   than the original maximum. So a text of exactly the maximum, or of more, gives other logits after a longer one,
#   until something shorter has run: then the old logits come back, bit for bit. A deep copy takes the state along.
#   "longrope" chooses anew each time and holds.
# Where: transformers/modeling_rope_utils.py, dynamic_frequency_update: max_seq_len_cached grows, and is reset when
#   `seq_len < self.original_max_seq_len`.
# So: two runs of one prompt can differ with nothing edited in between; run a text below the maximum before each.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import copy
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)


def model(**rope):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=2, max_position_embeddings=16, initializer_range=0.3,
                         rope_parameters={"rope_theta": 1e4, "factor": 4.0, **rope})
    return LlamaForCausalLM(config).eval()


def gap(one, other):
    return (one - other).abs().max().item()


text = torch.randint(3, 211, (1, 40), generator=torch.Generator().manual_seed(1))
longrope = {"rope_type": "longrope", "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]}
for rope in ({"rope_type": "dynamic"}, longrope):
    hf = model(**rope)
    fresh = {n: hf(text[:, :n]).logits for n in (15, 16, 20)}  # ascending: each grows from the one before
    hf(text)
    copied = gap(copy.deepcopy(hf)(text[:, :20]).logits, fresh[20])
    after = {n: gap(hf(text[:, :n]).logits, fresh[n]) for n in (20, 16, 15)}
    healed = {n: gap(hf(text[:, :n]).logits, fresh[n]) for n in (16, 20)}
    print(rope["rope_type"], "after a text of 40:", {n: round(value, 3) for n, value in after.items()},
          "; after the one of 15:", healed, "; a copy made between:", round(copied, 3))
    remembers = rope["rope_type"] == "dynamic"
    assert (after[20] > 0.5) == (after[16] > 0.5) == (copied > 0.5) == remembers
    assert after[15] == healed[16] == healed[20] == 0
    if not remembers:
        assert after[20] == after[16] == copied == 0
END
