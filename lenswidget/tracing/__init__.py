"""Traces: the body of a `with` block and a model's forward, taking turns on one thread."""

from lenswidget.tracing.modules import TracedModel, TracedModule
from lenswidget.tracing.trace import Trace

__all__ = ["Trace", "TracedModel", "TracedModule"]
