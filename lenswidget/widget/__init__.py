"""The widget: traits and messages between the kernel and the page."""

from lenswidget.widget.export import save
from lenswidget.widget.widget import LensWidget

__all__ = ["LensWidget", "save"]
