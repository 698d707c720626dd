"""What all engines do alike with a run that they gave: it knows itself where it is computed."""

from collections.abc import Generator
from typing import Any

from lenswidget.readout import reading
from lenswidget.readout.card import Card, decode_query
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout


class RunReader:
    """The part of an `Engine` that reads runs."""

    def read(self, query: Query, **limits: Any) -> Readout:
        """What some cells say, at once; limits as `lenswidget.readout.reading.read_query` takes them."""
        return reading.read_query(query, **limits)

    def read_slices(self, query: Query, **limits: Any) -> Generator[tuple[int, int], None, Readout]:
        """The same in slices: `lenswidget.readout.reading.read_slices`."""
        return reading.read_slices(query, **limits)

    def decode(self, query: Query, temperature: float = 1.0) -> Card:
        """One cell decoded again in full: `lenswidget.readout.card.decode`."""
        return decode_query(query, temperature)
