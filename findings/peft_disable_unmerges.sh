#!/usr/bin/env bash
# `with model.disable_adapter()` on a merged model rewrites the base weights, and leaves them unmerged.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: the block shows the base model for its length, and afterwards all is as before; and merge followed by
#   unmerge gives the base back.
# What happens: to show the base, the update is subtracted from the merged weights at the first forward in the block. It
#   is not added again when the block ends: `merged` stays False. The subtraction rounds, so what the block shows is
#   not the base: about a quarter of the touched weights are changed for good, in bfloat16 enough to see it in the
#   logits. merge_adapter(safe_merge=True) is no different. Without a merge the block shows the base bit for bit.
# Where: peft/tuners/lora/layer.py, Linear.forward: `if self.disable_adapters: if self.merged: self.unmerge()`.
# So: keep a copy of the base weights of a merged model before comparing with and without the adapter.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 peft==0.21.2
python <<'END'
import peft, torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 12), generator=torch.Generator().manual_seed(1))


def gap(one, other):
    return (one.float() - other.float()).abs().max().item()


for dtype in (torch.float32, torch.bfloat16):
    for safe in (False, True):
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                            num_attention_heads=2, initializer_range=0.3)).eval().to(dtype)
        plain, weight = base(ids).logits, base.model.layers[0].self_attn.q_proj.weight.clone()
        model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        model.eval()
        layer = base.model.layers[0].self_attn.q_proj
        with model.disable_adapter():
            unmerged = gap(model(ids).logits, plain)
        changed, shown = [], []
        for _ in range(3):
            model.merge_adapter(safe_merge=safe)
            assert layer.merged
            with model.disable_adapter():
                shown.append(gap(model(ids).logits, plain))
            merged_after = layer.merged
            changed.append((layer.base_layer.weight != weight).float().mean().item())
        print(f"{str(dtype)[6:]:9} safe_merge={safe!s:5}: off the base in the block: never merged {unmerged}, merged",
              [f"{value:.1e}" for value in shown], "; weights changed", [f"{value:.0%}" for value in changed],
              "; merged afterwards:", merged_after)
        assert unmerged == 0 and not merged_after and changed[0] > 0.2
        assert shown[0] > 0.02 if dtype == torch.bfloat16 else 0 < shown[0] < 1e-4
END
