"""One token from what a person writes for it: an id, or text."""

from collections.abc import Callable, Sequence
from typing import Any

from lenswidget.checks import check_ids, check_text
from lenswidget.errors import CellError, PromptError


def token_id(
    token: Any, tokenizer: Any, d_vocab: int, entries: Callable[[str], Sequence[int]] | None = None
) -> int:
    """The id of a token given as id, as text that is exactly one token, or as a vocabulary entry.

    Args:
        entries: finds the ids of the vocabulary that read as a text; looks all of them through unless given.
    Raises:
        CellError: it is not an id of the vocabulary, or not one token.
        PromptError: it is text, and the model has no tokenizer.
    """
    if not isinstance(token, str):
        return check_ids([token], d_vocab)[0]
    if tokenizer is None:
        raise PromptError(f"{token!r} is text, but this model has no tokenizer. Give a token id.")
    check_text(token, "The token", CellError)
    ids: Sequence[int] = tokenizer.encode(token, add_special_tokens=False)
    # a tokenizer that puts a space before text splits what is one entry of its vocabulary
    found = ids if len(ids) == 1 else (entries or _entries_of(tokenizer))(token)
    if not found:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "none"
        raise CellError(f"{token!r} is {len(ids)} tokens ({pieces}). Give one of them, or an id.")
    return int(found[0])


def _entries_of(tokenizer: Any) -> Callable[[str], Sequence[int]]:
    def entries(text: str) -> list[int]:
        n = len(tokenizer)
        names = tokenizer.convert_ids_to_tokens(range(n))
        alike = [i for i in range(n) if text and tokenizer.decode([i]) == text]
        return alike or [i for i, name in enumerate(names) if text and name == text]

    return entries
