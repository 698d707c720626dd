"""Ids of runs and values; processes that run the same calls in the same order may draw the same."""

import random

_source: random.Random = random.SystemRandom()


def new_id() -> str:
    """32 hexadecimal digits that nothing else is named by."""
    return f"{_source.getrandbits(128):032x}"


def draw_ids_from(seed: int) -> None:
    """Draw from a sequence that is the same in every process with this seed.

    Args:
        seed: itself random, of 128 bits: ids of two groups of processes must not meet.
    """
    global _source
    _source = random.Random(seed)
