#!/usr/bin/env bash
# Bamba and MiniMax number the tokens after a cache from 0 again unless they are given position_ids.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: model(next_ids, past_key_values=cache) goes on at the position after the cache, as in Llama; and a
#   cache that holds 16 tokens reports a length of 16.
# What happens: Bamba numbers from 0 without looking at the cache. MiniMax looks, and its cache reports 0, since its
#   first layer is linear attention and keeps a state of no length. With position_ids both are exact, so generate, which
#   passes them, is right where the forward is wrong. Jamba, FalconH1, GraniteMoeHybrid (with "rope") are right alone.
# Where: transformers/models/bamba/modeling_bamba.py: `position_ids = torch.arange(hidden_states.shape[1])`;
#   transformers/models/minimax/modeling_minimax.py: past_key_values.get_seq_length().
# So: always pass position_ids with a cache, and take the length of the prefix from the prefix, not from the cache.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
base = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
mamba = dict(mamba_d_state=8, mamba_n_heads=4, mamba_d_head=16, mamba_expand=2, mamba_n_groups=1)
TYPES = {
    "bamba": {**base, **mamba, "attn_layer_indices": [1]},
    "minimax": {**base, "num_hidden_layers": 4, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1,
                "block_size": 8, "layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {**base, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8},
    "falcon_h1": {**base, **mamba, "head_dim": 16, "mamba_d_ssm": 64},
    "granitemoehybrid": {**base, **mamba, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2,
                         "num_experts_per_tok": 1, "shared_intermediate_size": 32, "position_embedding_type": "rope"},
}
text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))


def gap(one, other):
    return (one - other).abs().max().item()


print("16 tokens, then 8 one by one   without position_ids  with them  cache says  generate against forward")
for name, fields in TYPES.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    whole = model(text).logits[:, 16:]
    off = []
    for placed in (False, True):
        cache = model(text[:, :16], use_cache=True).past_key_values
        length = cache.get_seq_length()
        rows = [model(text[:, i : i + 1], past_key_values=cache,
                      position_ids=torch.tensor([[i]]) if placed else None).logits for i in range(16, 24)]
        off.append(gap(torch.cat(rows, 1), whole))
    made = model.generate(text[:, :16], max_new_tokens=8, do_sample=False, eos_token_id=None, output_logits=True,
                          return_dict_in_generate=True)
    generated = gap(torch.cat(made.logits), model(made.sequences).logits[0, 15:-1])
    print(f"{name:30} {off[0]:.1e}               {off[1]:.1e}    {length:2}          {generated:.1e}")
    assert (off[0] > 1) == (name in ("bamba", "minimax")) and off[1] < 1e-3 and generated < 1e-3
    assert length == (0 if name == "minimax" else 16)
END
