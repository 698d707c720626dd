"""Runs, and what their cells say: exact numbers in bounded memory."""

from lenswidget.readout.card import Card, decode
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.reading import read, read_slices
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import Run

__all__ = ["Card", "Cells", "LocalEngine", "Readout", "Run", "decode", "read", "read_slices"]
