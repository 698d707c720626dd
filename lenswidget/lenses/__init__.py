"""Lenses: how a stream in the middle of a model is carried to its tail."""

from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import Lens, LogitLens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.tuned import TunedLens

__all__ = ["JacobianLens", "Lens", "LogitLens", "TunedLens", "load_lens"]
