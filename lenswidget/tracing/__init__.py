"""Traces: the body of a `with` block and a model's forward, taking turns on one thread."""

from lenswidget.tracing.modules import TracedModule
from lenswidget.tracing.trace import Trace
from lenswidget.tracing.traced_model import TracedModel

__all__ = ["Trace", "TracedModel", "TracedModule"]
