"""A table as a CSV file that a spreadsheet may open: none of its cells is a formula."""

import csv
from pathlib import Path
from typing import Any

# How a cell begins that spreadsheets take for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(frame: Any, path: Path, *, raw: bool = False) -> None:
    """Write a pandas frame; text that begins like a formula gets a `'` before it, unless raw.

    Numbers stay as they are: a log-prob begins with a minus.
    """
    shown = frame if raw else frame.map(as_text)
    # all text in quotes: up to Python 3.12 a lone carriage return gets none, and ends the row for its reader
    shown.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def as_text(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
