#!/usr/bin/env bash
# A Mamba cache takes one token at a time: several at once forget what came before, and say nothing.
#
# Versions: transformers 5.23.0, torch 2.13.0 (the plain torch path, no fused kernels), Python 3.11.
# One would guess: a text may go on from a cache in pieces of any length, as with attention; what cannot is refused.
# What happens: in Mamba, FalconMamba, Jamba and MiniMax one token goes on from the state, two or more do not. The first
#   three begin their scan at zero, while the convolution goes on from its cache, and Jamba's attention from its keys.
#   MiniMax's cache reports the length 0. Mamba2, GraniteMoeHybrid, FalconH1, Lfm2 and OlmoHybrid are exact either way.
#   generate with a cache of the first 12 of 16 tokens is off for Mamba, FalconMamba and Jamba too. For Mamba2 it is off
#   for another reason: it reads the 12 again (its logits are those of the 12 and then the 16).
# Where: transformers/models/mamba/modeling_mamba.py, mamba_selective_scan: "Initial hidden state is not supported by
#   the kernel path", so ssm_state starts as zeros; the one-token path has the state.
# So: prefixes can be reused on these models only token by token; check a cached continuation against the whole text.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ssm = dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3)
mixed = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
             num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
heads = dict(mamba_d_state=8, mamba_n_heads=4, mamba_d_head=16, mamba_expand=2)
TYPES = {
    "mamba": ssm,
    "falcon_mamba": ssm,
    "jamba": {**mixed, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8},
    "minimax": {**mixed, "num_hidden_layers": 4, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1,
                "block_size": 8, "layer_types": ["linear_attention", "full_attention"] * 2},
    "mamba2": {**ssm, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2},
    "granitemoehybrid": {**mixed, **heads, "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2,
                         "num_experts_per_tok": 1, "shared_intermediate_size": 32},
    "falcon_h1": {**mixed, **heads, "head_dim": 16, "mamba_d_ssm": 64, "mamba_n_groups": 1},
    "lfm2": {**mixed, "layer_types": ["conv", "conv", "full_attention"]},
    "olmo_hybrid": {**mixed, "num_hidden_layers": 4},
}
FORGETS = ("mamba", "falcon_mamba", "jamba", "minimax")
text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))


def build(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TYPES[name])).eval()


def cached(model, n):
    """The cache of the first n tokens, under the name that this model has for it."""
    out = model(text[:, :n], use_cache=True)
    return {key: out[key] for key in ("past_key_values", "cache_params") if out.get(key) is not None}


def gap(one, other):
    return (one - other).abs().max().item()


def continued(model, step):
    cache = cached(model, 16)
    # MiniMax takes its positions from the length of the cache, which it reports as 0: they are given.
    rows = [model(text[:, i : i + step], position_ids=torch.arange(i, i + step)[None], **cache).logits
            for i in range(16, 24, step)]
    return gap(torch.cat(rows, 1), model(text).logits[:, 16:])


print(f"{'16 tokens and 8 against 24':26} by 1     by 2     by 4")
for name in TYPES:
    one, two, four = (continued(build(name), step) for step in (1, 2, 4))
    print(f"{name:26} {one:.1e}  {two:.1e}  {four:.1e}")
    assert one < 1e-3
    assert (two > 0.5) == (four > 0.5) == (name in FORGETS) and (two < 1e-3) != (name in FORGETS), name

print("generate's first logits from the cache of 12 of 16 tokens")
for name in ("mamba", "falcon_mamba", "jamba", "mamba2"):
    model = build(name)
    step = model.generate(text[:, :16], **cached(model, 12), max_new_tokens=1, do_sample=False, pad_token_id=0,
                          output_logits=True, return_dict_in_generate=True).logits[0]
    right = gap(step, model(text[:, :16]).logits[:, -1])
    twice = gap(step, model(torch.cat([text[:, :12], text[:, :16]], 1)).logits[:, -1])
    print(f"{name:26} off by {right:.2f}; against the 12 and then the 16: {twice:.1e}")
    assert right > 0.1 and (twice < 1e-4) == (name == "mamba2")
END
