#!/usr/bin/env bash
# With rope types "dynamic" and "longrope" the logits of a prefix depend on how long the text goes on.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a causal model's logits at a position depend on the tokens up to it, so the first 12 rows of a long
#   text are the rows of its first 12 tokens; and a row of a batch does not depend on the other rows.
# What happens: the rotary frequencies are chosen once per forward from the largest position in the whole batch. From
#   the first token past the original maximum on, every position turns otherwise, the first ones too: 16 tokens alone
#   and the same 16 in a text of 17 have other logits. A short text in a batch with a long one moves as well. A cached
#   decode over the border keeps keys of the old frequencies, and does not agree with the whole text at once. "default",
#   "linear", "llama3" and "yarn" hold.
# Where: transformers/modeling_rope_utils.py, dynamic_rope_update: `seq_len = torch.max(position_ids) + 1`.
# So: a prefix may be reused, a batch be formed and an edit be proved to touch nothing before it only while all stay
#   on one side of the original maximum.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
MAXIMUM = 16
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]},
}


def model(kind):
    torch.manual_seed(0)
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind]}
    if kind in ("llama3", "yarn", "longrope"):
        rope["original_max_position_embeddings"] = MAXIMUM
    config = LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=2, max_position_embeddings=MAXIMUM, initializer_range=0.3,
                         rope_parameters=rope)
    return LlamaForCausalLM(config).eval()


def gap(one, other):
    return (one - other).abs().max().item()


text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))
batch = torch.cat([torch.nn.functional.pad(text[:, :12], (0, 12)), text.flip(1)])
mask = torch.ones_like(batch)
mask[0, 12:] = 0
print("rope      15 in 16  16 in 17  12 beside a row of 24  cached 16 + 8 against 24 at once")
for kind in ROPES:
    # A new model for each forward: "dynamic" also remembers (rope_dynamic_remembers.sh).
    logits = {n: model(kind)(text[:, :n]).logits for n in (12, 15, 16, 17, 24)}
    beside = model(kind)(batch, attention_mask=mask).logits[:1, :12]
    hf = model(kind)
    cache = hf(text[:, :16]).past_key_values
    decoded = torch.cat([hf(text[:, i : i + 1], past_key_values=cache).logits for i in range(16, 24)], 1)
    below = gap(logits[15], logits[16][:, :15])
    across = gap(logits[16], logits[17][:, :16])
    batched = gap(logits[12], beside)
    cached = gap(decoded, logits[24][:, 16:])
    print(f"{kind:9} {below:8.1e}  {across:8.1e}  {batched:8.1e}               {cached:8.1e}")
    moves = kind in ("dynamic", "longrope")
    assert below < 1e-4
    assert all((value > 0.1) == moves and (value < 1e-4) != moves for value in (across, batched, cached)), kind
print("scale of the logits", round(logits[24].abs().max().item(), 1))
END
