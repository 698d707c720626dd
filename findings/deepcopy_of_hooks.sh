#!/usr/bin/env bash
# copy.deepcopy of a hooked model copies what bound-method hooks record into, and shares what closures do.
#
# Versions: torch 2.13.0, Python 3.11.
# One would guess: a copy starts without hooks, or shares them; and handle.remove() is the end of a hook.
# What happens: the hooks are copied by the rules for functions and methods. A closure or lambda is the same function
#   afterwards, so a forward of the copy writes into the original's list. A bound method is copied with the object that
#   it belongs to: the copy records into a recorder that nothing else refers to, and the original stays empty. If that
#   object refers to the model, its copy refers to the copied model. handle.remove() takes the hook off the original
#   only; there is no handle for the copy's.
# Where: Python's copy module: functions are atomic, methods are rebuilt; torch.nn.Module has no __deepcopy__.
# So: copy a model before hooks are set: a copy may carry hooks that no handle removes, and record for somebody else.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0
python <<'END'
import copy
import torch

print("torch", torch.__version__)


class Recorder:
    def __init__(self, model):
        self.model, self.states = model, []

    def hook(self, module, inputs, output):
        self.states.append(output)


model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
recorder, listed = Recorder(model), []
handles = [model[0].register_forward_hook(recorder.hook),
           model[0].register_forward_hook(lambda module, inputs, output: listed.append(output))]
copied = copy.deepcopy(model)
copied(torch.randn(1, 3))
theirs = next(iter(copied[0]._forward_hooks.values())).__self__
print("forward of the copy: closure's list", len(listed), ", recorder", len(recorder.states), ", its copy",
      len(theirs.states), "; the copied recorder refers to the copied model:", theirs.model is copied)
assert (len(listed), len(recorder.states), len(theirs.states)) == (1, 0, 1)
assert theirs is not recorder and theirs.model is copied

for handle in handles:
    handle.remove()
model(torch.randn(1, 3)), copied(torch.randn(1, 3))
print("handles removed, forward of both: closure's list", len(listed), ", recorder", len(recorder.states), ", its copy",
      len(theirs.states), "; hooks left", len(model[0]._forward_hooks), "and", len(copied[0]._forward_hooks))
assert (len(listed), len(recorder.states), len(theirs.states)) == (2, 0, 2)
assert not model[0]._forward_hooks and len(copied[0]._forward_hooks) == 2
END
