#!/usr/bin/env bash
# get_peft_model leaves a model that says training=False and whose adapters drop out.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: an adapter on a model in eval mode is in eval mode; at least model.training tells.
# What happens: the new LoRA layers and the wrapper are in train mode, the model inside keeps training=False, and so
#   do all blocks around. With lora_dropout two forwards of the same ids differ. The handle that the caller holds, the
#   base model, says False, because `training` is a flag of each module and not of the tree. A PeftModel that is loaded
#   with from_pretrained is in eval mode throughout. eval() on the base is enough; the flag of the wrapper stays True.
# Where: peft/tuners/tuners_utils.py, inject_adapter replaces layers with new ones; new modules start in train mode.
# So: look at all modules (any(m.training for m in model.modules())) before taking a model for deterministic.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 peft==0.21.2
python <<'END'
import peft, torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 12), generator=torch.Generator().manual_seed(1))


def new():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                        num_attention_heads=2, initializer_range=0.3)).eval()


def state(label, base, wrapper):
    found = dict(base=base.training, wrapper=wrapper.training, block=base.model.layers[0].training,
                 adapter=base.model.layers[0].self_attn.q_proj.lora_dropout["default"].training)
    differ = (base(ids).logits - base(ids).logits).abs().max().item()
    print(f"{label:24} training: {found}; two forwards differ by {differ:.2f}")
    return found, differ


base = new()
config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
wrapper = peft.get_peft_model(base, config)
wrapper.save_pretrained("adapter")
found, differ = state("get_peft_model", base, wrapper)
assert found == dict(base=False, wrapper=True, block=False, adapter=True) and differ > 0.5
assert sum(module.training for module in base.modules()) > 10

base.eval()
found, differ = state("then base.eval()", base, wrapper)
assert found == dict(base=False, wrapper=True, block=False, adapter=False) and differ == 0

base = new()
found, differ = state("PeftModel.from_pretrained", base, peft.PeftModel.from_pretrained(base, "adapter"))
assert not any(found.values()) and differ == 0
END
