"""An error that torch makes inside a forward, caught or not, is an error and not the end of the process.

Torch follows the C stack when it makes one. Beneath a forward's first frame the stack is the body's, which
has moved on: each trial begins and resumes the forward from another depth, and runs something in between.
"""

import subprocess
import sys

import pytest

SCRIPT = """
import functools, random, sys
import torch
from torch import nn
import lenswidget as lw

class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, x):
        for part in self.parts:
            try:
                torch.mm(part(x), torch.ones(7, 7))
            except RuntimeError:
                pass
        return x

def deep(n, go):  # through C, so that the C stack is deeper too
    return go() if n == 0 else functools.reduce(lambda a, b: deep(n - 1, go), (0, 0))

model, rng = lw.TracedModel(Failing()), random.Random(int(sys.argv[1]))
for _ in range(300):
    with model.trace(torch.ones(1, 3)) as tracer:
        for part in model.parts:
            deep(rng.randrange(40), lambda: part.output)
            deep(rng.randrange(60), lambda: sorted(range(20), key=lambda i: -i))
        deep(rng.randrange(40), lambda: tracer.result)
print("fine")
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_an_error_of_torch_in_the_forward_does_not_end_the_process(seed):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(seed)], capture_output=True, text=True
    )
    assert done.stdout == "fine\n", done.stderr[:500]
