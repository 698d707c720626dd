#!/usr/bin/env bash
# With gradient checkpointing a hook that is removed before backward edits the logits, and not the gradient.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: once the logits are there, the graph holds what was computed: backward through an edited forward
#   gives the gradient of the edited forward, whether or not the hooks are still set.
# What happens: a checkpointed block runs its forward again during backward, with the hooks that are set *then*. After
#   `with hooks: loss = ...` and loss.backward() outside, the recomputed activations are the unedited ones; the shapes
#   agree, so the check of torch.utils.checkpoint passes. The gradient belongs to neither model. What is recomputed
#   also depends on the place: the repetition stops as soon as it has all it needs, so hooks on attention fire
#   twice, those on the MLP's last linear layer and on the whole MLP once, and an edit there is right (with
#   use_reentrant=True these fire twice as well, and the edit is lost). A hook on the block itself lies outside, and
#   fires once.
# Where: transformers/modeling_layers.py, GradientCheckpointingLayer checkpoints `forward`, not `__call__`;
#   torch/utils/checkpoint.py, early stop.
# So: run backward before the hooks go, or switch checkpointing off for attributions; count hook calls by forward.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def run(site, checkpointing, keep):
    """Logits, gradient of all weights and number of hook calls of a forward with the site's output tripled."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                         num_attention_heads=2, initializer_range=0.3)).train()
    if checkpointing is not None:
        model.activation_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        model.enable_input_require_grads()
    calls = []

    def triple(module, inputs, output):
        calls.append(module)
        return (output[0] * 3, *output[1:]) if isinstance(output, tuple) else output * 3

    handle = model.get_submodule(f"model.layers.1{site}").register_forward_hook(triple)
    logits = model(ids, use_cache=False).logits
    if not keep:
        handle.remove()
    logits[0, -1, 7].backward()
    return logits, torch.cat([weight.grad.flatten() for weight in model.parameters()]), len(calls)


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


print(f"{'':24} hook kept: calls, gradient off by   hook removed before backward: gradient off by")
LAST = (".mlp.down_proj", ".mlp")
for site in (".input_layernorm", ".self_attn.v_proj", ".self_attn", ".mlp.gate_proj", *LAST, ""):
    logits, right, _ = run(site, None, keep=True)
    assert relative(run(site, None, keep=False)[1], right) == 0
    for checkpointing in ("non-reentrant", "reentrant"):
        kept_logits, kept, calls = run(site, checkpointing, keep=True)
        removed_logits, removed, _ = run(site, checkpointing, keep=False)
        assert torch.equal(kept_logits, logits) and torch.equal(removed_logits, logits)
        off = relative(removed, right)
        print(f"{site or 'the block':17} {checkpointing:13} {calls}, {relative(kept, right):.2f}"
              f"                                 {off:.2f}")
        once = site == "" or (site in LAST and checkpointing == "non-reentrant")
        assert relative(kept, right) < 1e-5 and calls == (1 if once else 2) and (off > 0.1) != once
END
