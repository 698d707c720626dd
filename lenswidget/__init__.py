"""See what a language model would say at every layer and token."""

from lenswidget.demo import demo_model
from lenswidget.errors import LensError

__version__ = "0.1.0"
__all__ = ["LensError", "demo_model"]
