#!/usr/bin/env bash
# Zamba2 and NemotronH decode one token by another formula than a text: the time step is not clamped.
#
# Versions: transformers 5.23.0, torch 2.13.0 (the plain torch path, no fused kernels), Python 3.11.
# One would guess: a cached decode gives the logits of the whole text up to rounding, 1e-5 here.
# What happens: over several tokens the scan clamps the time step from below at time_step_min (0.001 in the config).
#   The update for a single token, which is what generate decodes with, has no clamp. So decoding one by one drifts from
#   the whole text, and in pieces of two it does not. The drift grows with the bound, and is gone with a bound of 0.
#   Mamba2 does the same once its time_step_limit is set (it is open as it comes).
# Where: transformers/models/zamba2/modeling_zamba2.py and nemotron_h: mamba2_chunk_scan takes dt_limit,
#   mamba2_selective_state_update does not.
# So: on these models "logits of a generated token" and "logits of the text up to it" are two different things.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
base = dict(vocab_size=211, hidden_size=32, num_hidden_layers=3, initializer_range=0.3, pad_token_id=0,
            bos_token_id=1, eos_token_id=2)
mixed = dict(**base, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2)
TYPES = {
    "zamba2": {**mixed, "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_ngroups": 1, "num_mem_blocks": 1,
               "layers_block_type": ["mamba", "hybrid", "mamba"], "use_mem_rope": True},
    "nemotron_h": {**mixed, "hybrid_override_pattern": "M*M", "head_dim": 16, "mamba_num_heads": 4,
                   "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "expand": 2},
    "mamba2": {**base, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2, "state_size": 8},
}
text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))


def gap(one, other):
    return (one - other).abs().max().item()


def drift(name, step, lowest=None):
    """How far 16 tokens and then 8 in pieces of `step` are from the 24 at once."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TYPES[name])).eval()
    for module in model.modules():
        if lowest is not None and hasattr(module, "time_step_limit"):
            module.time_step_limit = (lowest, float("inf"))
    out = model(text[:, :16], use_cache=True)
    cache = {key: out[key] for key in ("past_key_values", "cache_params") if out.get(key) is not None}
    rows = [model(text[:, i : i + step], **cache).logits for i in range(16, 24, step)]
    return gap(torch.cat(rows, 1), model(text).logits[:, 16:])


print("time step at least   as it comes          0                    0.1")
print("in pieces of         1         2          1         2          1         2")
for name in TYPES:
    found = {(lowest, step): drift(name, step, lowest) for lowest in (None, 0.0, 0.1) for step in (1, 2)}
    print(f"{name:18}   " + "    ".join(f"{found[low, 1]:.1e}  {found[low, 2]:.1e}" for low in (None, 0.0, 0.1)))
    assert (found[None, 1] > 5e-4) == (name != "mamba2")
    assert found[0.1, 1] > 0.05
    assert max(found[None, 2], found[0.0, 1], found[0.0, 2], found[0.1, 2]) < 1e-4
END
