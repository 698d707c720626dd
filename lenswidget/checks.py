"""Arguments that several functions take, checked in one place: integers, token ids, a temperature."""

import contextlib
import math
import operator
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lenswidget.errors import CellError, LensError

Ints: TypeAlias = npt.NDArray[np.int64]


def integers(name: str, values: Any) -> Ints:
    """Integers in whatever holds them, `[n]` int64; one alone is a list of one.

    Args:
        name: what they are, for the message.
    Raises:
        CellError: anything else.
    """
    array = None
    try:
        listed = (
            values if isinstance(values, np.ndarray) else [values] if is_integer(values) else list(values)
        )
        array = np.atleast_1d(np.asarray(listed))
    except (TypeError, ValueError):  # nothing that can be listed, or rows of unlike length
        pass
    if array is None or array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise CellError(f"Asked for {name} {values!r:.80}. Pass an integer, or a list of integers.")
    return array.astype(np.int64)


def is_integer(value: Any) -> bool:
    """Whether a value is one whole number, of whichever library; True and False are none."""
    if isinstance(value, (bool, np.ndarray)):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def check_ids(ids: Any, d_vocab: int) -> list[int]:
    """Token ids as plain integers; refuses those that a vocabulary does not have.

    Raises:
        CellError: says which is not.
    """
    try:
        listed = None if isinstance(ids, str) else list(ids)  # once: a generator has no second time
    except TypeError:
        listed = None
    if listed is None:
        raise CellError(f"Asked for tokens {ids!r:.80}: pass a list of token ids.")
    for token_id in listed:
        if not is_integer(token_id) or not 0 <= token_id < d_vocab:
            raise CellError(f"Asked for token {token_id!r}: pass ids, integers from 0 to {d_vocab - 1}.")
    return [int(token_id) for token_id in listed]


def is_text(value: str) -> bool:
    """Whether a message can carry this text: no half of a character (a lone surrogate) is in it."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def check_text(text: str, what: str, error: type[LensError] = LensError) -> str:
    """Text that every tokenizer, file and message can carry; returns it.

    Args:
        what: it is, as the message begins: "The prompt".
        error: the class to refuse with.
    Raises:
        LensError: of that class; half a character (a lone surrogate) is in it.
    """
    for place, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise error(
                f"{what} has half a character at {place}, {character!r}, which is no text. Write the whole "
                "character, or leave it out."
            )
    return text


def check_temperature(value: Any) -> float:
    """A sampling temperature.

    Raises:
        LensError: not a finite number above 0.
    """
    if isinstance(value, Real) and value is not True:
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            if math.isfinite(value) and float(value) > 0:
                return float(value)
    raise LensError(
        f"The temperature is {value!r}. It must be a finite number above 0; 1 leaves logits as is."
    )
