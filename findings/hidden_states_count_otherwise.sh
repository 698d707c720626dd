#!/usr/bin/env bash
# hidden_states has n_layers + 1 entries in Mamba and RWKV too, but they start one block later.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: with n_layers + 1 entries, entry i is what goes into block i, entry 0 the embeddings, and the last
#   one is past the final norm.
# What happens: Mamba, Mamba2, FalconMamba and RWKV return n_layers + 1 entries as well, but entry i is what comes
#   *out* of block i: the embeddings are missing, and the last block is there twice, before and after the final norm.
#   So the same index is one block later than in Llama, and no length gives it away.
# Where: transformers/models/mamba/modeling_mamba.py, MambaModel.forward: all_hidden_states grows after each block.
# So: line the states up with the blocks by what the blocks return, never by their number.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ssm = dict(vocab_size=211, hidden_size=32, num_hidden_layers=3, state_size=8, initializer_range=0.3)
TYPES = {
    "llama": ("model.layers", dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                   num_attention_heads=2, initializer_range=0.3)),
    "gpt2": ("transformer.h", dict(vocab_size=211, n_embd=32, n_layer=3, n_head=2, n_positions=64)),
    "mamba": ("backbone.layers", ssm),
    "falcon_mamba": ("backbone.layers", ssm),
    "mamba2": ("backbone.layers", {**ssm, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2}),
    "rwkv": ("rwkv.blocks", dict(vocab_size=211, hidden_size=32, num_hidden_layers=3, attention_hidden_size=32)),
}
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def first(value):
    return value[0] if isinstance(value, tuple) else value


for name, (blocks, fields) in TYPES.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    flow = {}
    for i, block in enumerate(model.get_submodule(blocks)):
        if i == 0:
            block.register_forward_pre_hook(lambda module, inputs: flow.update({"into block 0": inputs[0].clone()}))
        block.register_forward_hook(
            lambda module, inputs, output, i=i: flow.update({f"out of block {i}": first(output).clone()}))
    states = model(ids, output_hidden_states=True).hidden_states
    found = [[label for label, value in flow.items() if torch.allclose(value, state, atol=1e-6)] for state in states]
    logits = model(ids).logits
    reads = [i for i, state in enumerate(states)
             if torch.allclose(model.get_output_embeddings()(state), logits, atol=1e-5)]
    print(f"{name:13}", [labels[0] if labels else "other" for labels in found], "; the head reads entry", reads)
    assert len(states) == 4 and reads == [3]
    outputs = [[f"out of block {i}"] for i in range(3)]
    if name in ("llama", "gpt2"):
        assert found[0] == ["into block 0"] and found[1:3] == outputs[:2]
    else:
        assert found[:3] == outputs
END
