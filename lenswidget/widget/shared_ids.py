"""One set of token ids over two vocabularies, for a page that tells tokens apart by their ids."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.checks import check_ids
from lenswidget.models.token_ids import token_id
from lenswidget.widget.labels import Label, Labels

NONE = -1


class SharedIds:
    """The ids of two runs' vocabularies as a page has them: unchanged where both are one vocabulary.

    Else an id of the first is itself. An id of the second is the first's id of the same text, where exactly
    one token on each side has that text; otherwise it comes after all of the first's.

    Args:
        own: the labels of either vocabulary.
        is_one: whether an id is the same token in both.
    """

    def __init__(self, own: tuple[Labels, Labels], *, is_one: bool) -> None:
        self.own = own
        self.is_one = is_one
        self.labels = own[1] if is_one else _SharedLabels(self)

    def shown(self, side: int, ids: Iterable[int] | npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A vocabulary's ids as the page has them; negative numbers, which are no ids, stay."""
        found = ids if isinstance(ids, np.ndarray) else np.array(list(ids), np.int64)
        if self.is_one or not side or not found.size:
            return found
        return np.where(found < 0, found, self._of_second[np.maximum(found, 0)])

    def in_vocabulary(self, side: int, ids: Iterable[int]) -> list[int]:
        """The page's ids in a vocabulary; -1 where it has no such token."""
        listed = list(ids)
        if self.is_one:
            return listed
        if not side:
            return [i if i < self.own[0].d_vocab else NONE for i in listed]
        places = self._place_in_second
        return [places.get(i, NONE) for i in listed]

    def check(self, ids: Sequence[Any]) -> None:
        """Raise a CellError unless all are ids that the page may have."""
        check_ids(ids, self.labels.d_vocab)

    def token_id(self, token: Any) -> int:
        """The page's id of a token: of an id as it is, of a text by the second vocabulary or else the first.

        Raises:
            CellError: it is no id, or not one token in either.
        """
        if not isinstance(token, str):
            return check_ids([token], self.labels.d_vocab)[0]
        first, second = self.own
        if not self.is_one:
            encoded = second.tokenizer.encode(token, add_special_tokens=False)
            if len(encoded) != 1 and not second.entries(token):
                return token_id(token, first.tokenizer, first.d_vocab, first.entries)
        return int(self.shown(1, [token_id(token, second.tokenizer, second.d_vocab, second.entries)])[0])

    @cached_property
    def _of_second(self) -> npt.NDArray[np.int64]:
        """The page's id of each id of the second vocabulary."""
        first, second = _by_text(self.own[0]), _by_text(self.own[1])
        found = np.arange(self.own[1].d_vocab) + self.own[0].d_vocab
        for text, ids in second.items():
            alike = first.get(text, [])
            if len(ids) == len(alike) == 1:
                found[ids[0]] = alike[0]
        return found

    @cached_property
    def _place_in_second(self) -> dict[int, int]:
        return {shown: own for own, shown in enumerate(self._of_second.tolist())}


class _SharedLabels(Labels):
    """The labels of the ids that a page has."""

    def __init__(self, shared: SharedIds) -> None:
        first, second = shared.own
        super().__init__(second.tokenizer, first.d_vocab + second.d_vocab)
        self._own = shared.own
        self._shared = shared

    def _make(self, token_id: int) -> Label:
        first, second = self._own
        return first[token_id] if token_id < first.d_vocab else second[token_id - first.d_vocab]

    @cached_property
    def _vocabulary(self) -> list[tuple[str, str]]:
        entries = [(self[i].raw, self[i].raw.strip().casefold() or self[i].raw) for i in range(self.d_vocab)]
        # of a text that both have, the page has the first's id alone
        n_first = self._own[0].d_vocab
        is_moved = self._shared.shown(1, range(self._own[1].d_vocab)) < n_first
        return [
            ("", "") if i >= n_first and is_moved[i - n_first] else entry for i, entry in enumerate(entries)
        ]

    def is_special(self, token_id: int) -> bool:
        first, second = self._own
        at = token_id - first.d_vocab
        return first.is_special(token_id) if at < 0 else second.is_special(at)


def _by_text(labels: Labels) -> dict[tuple[str, str], list[int]]:
    """By kind and text, the ids that have it; ids without a token have none."""
    found: dict[tuple[str, str], list[int]] = {}
    for i in range(labels.d_vocab):
        label = labels[i]
        if label.kind != "none":
            kind = "text" if label.kind == "space" else label.kind
            found.setdefault((kind, label.raw), []).append(i)
    return found
