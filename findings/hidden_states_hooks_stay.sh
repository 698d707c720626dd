#!/usr/bin/env bash
# output_hidden_states is recorded by hooks that are set once: later edits are hidden, later blocks left out.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: hidden_states are what flows between the blocks in this forward, in order, n_layers + 1 of them.
# What happens: the first call that asks sets a forward hook on each block and keeps it for good.
#   - A hook that is set afterwards and changes a block's output runs second: the next block gets the edit,
#     hidden_states has the value before it. Set before the first such call, or with prepend=True, the edit is shown.
#   - A block that is put in afterwards has no hook: of 4 blocks the one replaced is missing, hidden_states has 4
#     entries, and those above it sit one index too low. The last is right, since it is taken from the final norm.
#     With a block appended it is the block before that is lost. A deep copy of a block takes the hook along.
#   - A wrapper around a block never shows what it adds: the hook sits on the block inside, before and after the first
#     call alike.
# Where: transformers/utils/output_capturing.py, maybe_install_capturing_hooks: once per model, by class.
# So: record with hooks of your own, count other hooks as a difference, and do not take the states of an edited run
#   from output_hidden_states.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import copy
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def new():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                                        num_attention_heads=2, initializer_range=0.3)).eval()


def states(model):
    return model(ids, output_hidden_states=True).hidden_states


def double(module, inputs, output):
    return output * 2


plain = states(new())
for label, asked_first, prepend, is_shown in (
    ("hook, then asked", False, False, True),
    ("asked, then hook", True, False, False),
    ("asked, then hook with prepend", True, True, True),
):
    model = new()
    if asked_first:
        states(model)
    model.model.layers[1].register_forward_hook(double, prepend=prepend)
    found = states(model)
    shown = torch.equal(found[2], 2 * plain[2])
    reached = not torch.equal(found[3], plain[3])
    print(f"{label:32} edit shown in hidden_states[2]: {shown}; next block got it: {reached}")
    assert shown == is_shown and reached and (shown or torch.equal(found[2], plain[2]))

changed = {
    "block 1 replaced": lambda layers: layers.__setitem__(1, LlamaDecoderLayer(model.config, 1).eval()),
    "block 1 replaced by its deep copy": lambda layers: layers.__setitem__(1, copy.deepcopy(layers[1])),
    "a fifth block appended": lambda layers: layers.append(LlamaDecoderLayer(model.config, 4).eval()),
}
for label, change in changed.items():
    for asked_first in (False, True):
        model = new()
        if asked_first:
            states(model)
        torch.manual_seed(1)
        change(model.model.layers)
        model.config.num_hidden_layers = len(model.model.layers)
        own = []  # what the blocks really return
        for block in model.model.layers:
            block.register_forward_hook(lambda module, inputs, output: own.append(output))
        found = states(model)
        where = [next((i for i, state in enumerate(own) if torch.equal(state, entry)), None) for entry in found[1:-1]]
        print(f"{label:34} asked before: {asked_first!s:5} {len(found)} states for {len(own)} blocks;",
              "the inner ones are the outputs of blocks", where)
        missing = asked_first and "deep copy" not in label
        assert len(found) == len(own) + 1 - missing
        assert where == ([0, 2] if "block 1" in label and missing else list(range(len(found) - 2)))


class Wrapper(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return self.block(*args, **kwargs) * 2

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


for asked_first in (False, True):
    model = new()
    if asked_first:
        states(model)
    model.model.layers[1] = Wrapper(model.model.layers[1])
    found = states(model)
    print(f"block 1 in a wrapper that doubles, asked before: {asked_first}; hidden_states[2] is the undoubled one:",
          torch.equal(found[2], plain[2]), "; the next block got the double:", not torch.equal(found[3], plain[3]))
    assert len(found) == 5 and torch.equal(found[2], plain[2]) and not torch.equal(found[3], plain[3])
END
