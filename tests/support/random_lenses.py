"""Two lenses of a tiny model with four layers, `d_model` 32, and how long the texts are that they read."""

import torch

from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.tuned import TunedLens

LENGTHS = (9, 12, 7)


def random_lenses():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, 32, 32, generator=generator) * 0.1
    tuned = TunedLens(weight, weight[:, 0])
    return tuned, JacobianLens({0: torch.eye(32) + weight[0], 2: torch.eye(32) + weight[1]}, 1, 4)
