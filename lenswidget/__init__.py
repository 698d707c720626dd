"""See what a language model would say at every layer and token."""

from lenswidget.demo import demo_model
from lenswidget.errors import LensError
from lenswidget.model import LanguageModel
from lenswidget.modules import TracedModel

__version__ = "0.1.0"
__all__ = ["LanguageModel", "LensError", "TracedModel", "demo_model"]
