#!/usr/bin/env bash
# model.to(bfloat16) is another model than the same weights loaded in bfloat16, and .float() does not undo it.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: casting a float32 model and loading its checkpoint with dtype=bfloat16 round the same weights, so
#   the two agree; and casting back, with the float32 weights loaded again, restores the model.
# What happens: `to` rounds the buffers as well, and the rotary frequencies are one (inv_freq, not in the state dict).
#   Loading leaves them in float32. Eight bits of a frequency times a position of some thousand is off by whole
#   radians: the next tokens differ more the longer the text is. Loading the float32 weights again does not bring the
#   frequencies back, because no checkpoint holds them.
# Where: transformers/models/llama/modeling_llama.py, LlamaRotaryEmbedding: register_buffer(..., persistent=False).
# So: a model that was ever cast stays rounded; compare `inv_freq` with a newly computed one, or load in the dtype.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)


def new():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                        num_attention_heads=2, max_position_embeddings=4096,
                                        initializer_range=0.3)).eval()


new().save_pretrained("saved")
loaded = LlamaForCausalLM.from_pretrained("saved", dtype=torch.bfloat16)
cast = new().to(torch.bfloat16)
print("inv_freq: loaded", loaded.model.rotary_emb.inv_freq.dtype, "; cast", cast.model.rotary_emb.inv_freq.dtype)
assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), cast.parameters(), strict=True))
text = torch.randint(3, 211, (1, 2048), generator=torch.Generator().manual_seed(1))
changed = {}
for n in (64, 2048):
    first, second = loaded(text[:, :n]).logits, cast(text[:, :n]).logits
    changed[n] = (first.argmax(-1) != second.argmax(-1)).float().mean().item()
    print(f"{n} tokens, equal weights: next token differs at {changed[n]:.1%} of positions,",
          f"logits by {(first - second).abs().max().item():.2f}")

back = new().to(torch.bfloat16).to(torch.float32)
missing = back.load_state_dict(new().state_dict())
gap = (back(text).logits - new()(text).logits).abs().max().item()
print("to bfloat16 and back, float32 weights loaded again:", missing, f"logits off by {gap:.2f}")
assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
assert cast.model.rotary_emb.inv_freq.dtype == torch.bfloat16
assert changed[2048] > 0.1 > changed[64]
assert gap > 1 and not any("rotary" in key for key in back.state_dict())
END
