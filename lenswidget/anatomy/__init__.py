"""What a model is made of, found by watching it run, and verified."""

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.discovery import discover
from lenswidget.anatomy.fidelity import Fidelity

__all__ = ["Anatomy", "Fidelity", "discover"]
