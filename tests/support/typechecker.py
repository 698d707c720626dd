"""What checks the package's annotations while the tests run: beartype, but not on what people hand in.

The package refuses a wrong model, lens or prompt itself, in a sentence that the tests read.
"""

from beartype import beartype

HANDED_IN = frozenset(
    {"model", "lens", "lenses", "run", "against", "prompt", "texts", "cells", "progress", "path", "state"}
    | {"site", "k", "track", "metrics", "temperature", "edits", "layers", "positions", "strength"}
    | {"cancelled", "clean", "corrupt", "metric", "ablate", "measure", "rows", "unembed"}
)


def check(function):
    """The function with its annotations checked at each call."""
    hints = getattr(function, "__annotations__", None)
    if isinstance(hints, dict) and HANDED_IN & hints.keys():
        function.__annotations__ = {name: hint for name, hint in hints.items() if name not in HANDED_IN}
    return beartype(function)
