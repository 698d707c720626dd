#!/usr/bin/env bash
# A config's dtype is heeded by AutoModel.from_config and from_pretrained, and not by the class; it wins over weights.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: LlamaForCausalLM(config) and AutoModelForCausalLM.from_config(config) build the same model; and a
#   checkpoint is loaded in the dtype that its weights have.
# What happens: from a bfloat16 config the class is float32, from_config bfloat16. float32 weights beside a config that
#   says bfloat16 are rounded while loading, without a word (strict comparisons with the file then fail); taken out of
#   the config, they are float32. The old key torch_dtype counts like the new one. model.to(bfloat16) leaves
#   config.dtype as it was, and save_pretrained writes what the weights have.
# Where: transformers/modeling_utils.py, _from_config and from_pretrained.
# So: name the dtype wherever a model is built or loaded, and read it off the weights.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import json
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
sizes = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def dtypes(model):
    found = {weight.dtype for weight in model.parameters()}
    assert len(found) == 1
    return found.pop()


config = LlamaConfig(**sizes, dtype=torch.bfloat16)
by_class, by_auto = dtypes(LlamaForCausalLM(config)), dtypes(AutoModelForCausalLM.from_config(config))
print("from a bfloat16 config: the class", by_class, ", from_config", by_auto)
assert by_class == torch.float32 and by_auto == torch.bfloat16

model = LlamaForCausalLM(LlamaConfig(**sizes))
model.save_pretrained("saved")
stored = load_file("saved/model.safetensors")
assert {weight.dtype for weight in stored.values()} == {torch.float32}
for key in ("dtype", "torch_dtype", None):
    fields = json.load(open("saved/config.json"))
    fields.pop("dtype", None), fields.pop("torch_dtype", None)
    json.dump({**fields, **({key: "bfloat16"} if key else {})}, open("saved/config.json", "w"))
    loaded = AutoModelForCausalLM.from_pretrained("saved")
    print("float32 weights, config with", f"{key}=bfloat16:" if key else "no dtype:", dtypes(loaded))
    equal = all(torch.equal(loaded.state_dict()[name].float(), weight) for name, weight in stored.items())
    assert dtypes(loaded) == (torch.bfloat16 if key else torch.float32) and equal == (key is None)

model.to(torch.bfloat16)
in_config = model.config.dtype
model.save_pretrained("cast")
written = json.load(open("cast/config.json"))["dtype"]
print("after model.to(bfloat16): config.dtype", in_config, "; saved as", written)
assert in_config != torch.bfloat16 and written == "bfloat16"
END
