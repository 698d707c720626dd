#!/usr/bin/env bash
# A step in position_ids cuts a text in two, but only without a mask and without a cache.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: position_ids say where tokens are, attention_mask says what they see; and use_cache=False changes
#   what is returned, not the logits.
# What happens: where two neighbouring positions differ by anything but 1, the mask is made as for two packed
#   documents, and the second part does not see the first. This holds for positions that begin again at 0 and for a gap
#   (0..9, 15..24) alike. It is off when an attention_mask is passed, even one of all ones, and when the forward makes
#   a cache, as it does unless use_cache=False. So the same ids and positions have two sets of logits. Llama, GPT-2,
#   NeoX, Mistral, Qwen3, GPT-J, CodeGen and GPT-Neo do it under sdpa and eager; Falcon and OPT do not.
# Where: transformers/masking_utils.py, find_packed_sequence_indices and its caller.
# So: pass a mask of ones with every position_ids that are not 0, 1, 2, ...
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0)
gpt = dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
TYPES = {
    "llama": llama,
    "mistral": llama,
    "qwen3": {**llama, "head_dim": 16},
    "gpt_neox": {key: value for key, value in llama.items() if key != "num_key_value_heads"},
    "gpt2": gpt,
    "gptj": {**gpt, "rotary_dim": 8},
    "codegen": {**gpt, "n_head": 4, "rotary_dim": 4},
    "gpt_neo": dict(vocab_size=211, hidden_size=32, num_layers=2, attention_types=[[["global"], 2]], num_heads=2,
                    max_position_embeddings=64, initializer_range=0.3),
    "falcon": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3),
    "opt": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.3),
}
WHOLE = ("falcon", "opt")
EAGER_ONLY = ("gptj", "codegen", "gpt_neo")
text = torch.randint(3, 211, (1, 20), generator=torch.Generator().manual_seed(1))
begun_again = torch.arange(10).repeat(2)[None]
with_gap = torch.cat([torch.arange(10), torch.arange(15, 25)])[None]


def gap(one, other):
    return (one - other).abs().max().item()


print("last 10 of 20 tokens against those 10 alone: use_cache=False; True; False with a mask of ones;",
      "False against True")
for name, fields in TYPES.items():
    for attention in ("eager",) if name in EAGER_ONLY else ("sdpa", "eager"):
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **fields)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        for label, positions in (("0..9, 0..9", begun_again), ("0..9, 15..24", with_gap)):
            alone = model(text[:, 10:], position_ids=positions[:, 10:]).logits
            bare, cached, masked = (
                model(text, position_ids=positions, **kinds).logits[:, 10:]
                for kinds in (dict(use_cache=False), dict(use_cache=True),
                              dict(use_cache=False, attention_mask=torch.ones_like(text)))
            )
            off = [gap(bare, alone), gap(cached, alone), gap(masked, alone), gap(bare, cached)]
            print(f"{name:9} {attention:6} {label:13}", *(f"{value:8.1e}" for value in off))
            assert (off[0] < 1e-4) == (off[3] > 1) == (name not in WHOLE)
            assert off[1] > 1 and off[2] > 1 and gap(cached, masked) < 1e-4
END
