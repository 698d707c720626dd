#!/usr/bin/env bash
# A hook on a compiled model is ignored unless the first compiled call of that class in the process had one there.
#
# Versions: torch 2.13.0, transformers 5.23.0, Python 3.11 (backend "eager", which traces and compiles nothing).
# One would guess: a forward hook that is set on a part of a compiled model either fires or makes dynamo trace anew.
# What happens: dynamo leaves hooks out of its guards. A hook that is set after the first call never fires, and an edit
#   in it is not made. Removing a hook that was traced does trace anew; but once a trace without hooks exists, that one
#   is taken for good. A *new* model of the same class, compiled after its hook was set, takes the first model's trace
#   as well: its hook is ignored although it was there before its own first call. Hooks on the compiled model itself do
#   fire, since they lie outside. With torch._dynamo.config.skip_nnmodule_hook_guards = False all fire.
# Where: torch/_dynamo/config.py, skip_nnmodule_hook_guards = True.
# So: read the eager model (compiled._orig_mod), or check that each hook was called before believing its absence.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def new():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                        num_attention_heads=2, initializer_range=0.3)).eval()


def call(model):
    return model(ids, use_cache=False).logits


class Zero:
    """Counts its calls, and zeroes what it is hooked to."""

    def __init__(self, model):
        self.calls = 0
        self.handle = model.model.layers[1].mlp.register_forward_hook(self)

    def __call__(self, module, inputs, output):
        self.calls += 1
        return output * 0


plain = call(new())
edited = new()
Zero(edited)
edited = call(edited)


def told(logits):
    """Which of the two it is, up to rounding."""
    known = {"plain": plain, "edited": edited}
    return next(name for name, value in known.items() if torch.allclose(logits, value, atol=1e-4))


def stories():
    torch._dynamo.reset()
    model = new()
    compiled = torch.compile(model, backend="eager")
    hook = Zero(model)
    yield "hook before the first call", told(call(compiled)), hook
    hook.handle.remove()
    yield "then removed", told(call(compiled)), hook
    hook = Zero(model)
    yield "then set again", told(call(compiled)), hook

    torch._dynamo.reset()
    model = new()
    compiled = torch.compile(model, backend="eager")
    call(compiled)
    hook = Zero(model)
    yield "hook after the first call", told(call(compiled)), hook
    second = new()
    hook = Zero(second)
    yield "a second model, hook before its first call", told(call(torch.compile(second, backend="eager"))), hook
    outer = []
    compiled.register_forward_hook(lambda *given: outer.append(given))
    call(compiled)
    print(f"    {'hook on the compiled model itself':44} {len(outer)} call")
    assert len(outer) == 1


for skip in (True, False):
    torch._dynamo.config.skip_nnmodule_hook_guards = skip
    print("skip_nnmodule_hook_guards =", skip)
    found = {}
    for story, logits, hook in stories():
        found[story] = (logits, hook.calls)
        print(f"    {story:44} logits {logits}, hook called {hook.calls} times")
    assert found["hook before the first call"] == ("edited", 1) and found["then removed"] == ("plain", 1)
    rest = [value for story, value in found.items() if story not in ("hook before the first call", "then removed")]
    assert len(rest) == 3 and rest == [("plain", 0) if skip else ("edited", 1)] * 3
END
