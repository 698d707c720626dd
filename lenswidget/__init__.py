"""See what a language model would say at every layer and token."""

from lenswidget.arrays import Readout
from lenswidget.card import Card, decode
from lenswidget.cells import Cells
from lenswidget.demo import demo_model
from lenswidget.errors import LensError
from lenswidget.jacobian import JacobianLens
from lenswidget.lenses import LogitLens, load_lens
from lenswidget.model import LanguageModel
from lenswidget.modules import TracedModel
from lenswidget.readout import read
from lenswidget.run import Run
from lenswidget.tuned import TunedLens
from lenswidget.widget import LensWidget

__version__ = "0.1.0"
__all__ = [
    "Card",
    "Cells",
    "JacobianLens",
    "LanguageModel",
    "LensError",
    "LensWidget",
    "LogitLens",
    "Readout",
    "Run",
    "TracedModel",
    "TunedLens",
    "decode",
    "demo_model",
    "load_lens",
    "read",
]
