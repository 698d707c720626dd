"""Which token stands in a cell: the top one, the top one that is a word, or the one most above its usual.

What stands in a cell is a choice for the eye: ids, log-probs and ranks stay those of the whole vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lenswidget.readout.top_k import BLOCK, best_places, top_k

SHOWS = ("top", "words", "lift")
# The lift is looked for among so many of the most probable words: further down, a token that is merely rare
# in the background wins.
N_LIFTED = 16
# So many words at least are compared in float64: a float32 product may turn near ties round.
N_EXACT_WORDS = 4
# Blocks of a row in which its best words are looked for first; and rows whose copy stays in the caches.
N_BLOCKS, ROWS_AT_ONCE = 32, 16

# Some logits of some rows again: `(ids [n, m], rows [n])` to float64 `[n, m]`.
ExactRows: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Best:
    """The best tokens of each row, best first: ids and float64 logits `[rows, m]`."""

    ids: Int[Tensor, "rows m"]
    logits: Float[Tensor, "rows m"]


@dataclass(frozen=True)
class Chosen:
    """What stands in some cells.

    Attributes:
        ids: `[cells]`.
        logits: `[cells]` float64, of those.
        ranks: `[cells]`, how many of the whole vocabulary score strictly higher.
        usual: `[cells]` float32, the mean log-prob of that token at that layer; None unless lift is shown.
    """

    ids: Int[Tensor, " cells"]
    logits: Float[Tensor, " cells"]
    ranks: Int[Tensor, " cells"]
    usual: Float[Tensor, " cells"] | None = None


@dataclass(frozen=True)
class Chooser:
    """Chooses what stands in a cell.

    Attributes:
        is_word: `[d_vocab]`, which ids may stand there.
        usual: `[rows, d_vocab]` mean log-probs of the background, where lift is shown; else None.
        row_of: `[n_layers + 1]`, the row of `usual` for each layer from -1 on.
    """

    is_word: Bool[Tensor, " d_vocab"]
    usual: Float[Tensor, "rows d_vocab"] | None = None
    row_of: Int[Tensor, " layers"] | None = None

    @cached_property
    def n_words(self) -> int:
        """How many ids are words."""
        return int(self.is_word.sum())

    def to(self, device: "str | torch.device") -> "Chooser":
        """The same on a device."""
        usual = None if self.usual is None else self.usual.to(device)
        row_of = None if self.row_of is None else self.row_of.to(device)
        return Chooser(self.is_word.to(device), usual, row_of)

    def choose(
        self,
        x: Float[Tensor, "cells d_vocab"],
        best: Best,
        layers: Int[Tensor, " cells"] | None,
        exact: ExactRows | None,
    ) -> Chosen:
        """What stands in each cell.

        Args:
            x: float32 logits; not changed. A row that is not finite gets whatever.
            best: the best of all of each row, exactly.
            layers: of each cell, where lift is shown.
            exact: of `x`'s rows.
        """
        if self.usual is None:
            return self._word(x, best, exact)
        assert layers is not None
        assert self.row_of is not None
        usual, rows = self.usual, self.row_of[layers + 1]

        def lift(words: Tensor, values: Tensor, cells: Tensor) -> Tensor:
            return (values - usual[rows[cells, None], words]).masked_fill(values.isinf(), -torch.inf)

        ids, values, ranks = self._among_words(x, N_LIFTED, lift)
        logits = values.double() if exact is None else exact(ids[:, None], _all(x))[:, 0]
        return Chosen(ids, logits, ranks, usual[rows, ids])

    def _word(self, x: Tensor, best: Best, exact: ExactRows | None) -> Chosen:
        """The top word of each row: mostly it is among the best, which are known."""
        among = self.is_word[best.ids]
        at = among.int().argmax(-1, keepdim=True)
        ids, logits = best.ids.gather(1, at)[:, 0], best.logits.gather(1, at)[:, 0]
        ranks = (best.logits > logits[:, None]).sum(-1)
        rest = (~among.any(-1)).nonzero()[:, 0]
        if len(rest):

            def score(words: Tensor, values: Tensor, cells: Tensor) -> Tensor:
                return values if exact is None else exact(words, rest[cells])

            ids[rest], values, ranks[rest] = self._among_words(x[rest], N_EXACT_WORDS, score)
            logits[rest] = (
                values.double() if exact is None else exact(ids[rest, None], rest)[:, 0].to(logits.dtype)
            )
        return Chosen(ids, logits, ranks)

    def _among_words(self, x: Tensor, k: int, score: "Score") -> tuple[Tensor, Tensor, Tensor]:
        """Of the k best words of each row the one with the highest score: id, logit and rank, `[rows]`."""
        k = min(k, self.n_words)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(x), ROWS_AT_ONCE):
            part = x[start : start + ROWS_AT_ONCE]
            cells = torch.arange(start, start + len(part), device=x.device)
            words, values, seen, short = self._words(part, k)
            at = best_places(score(words, values, cells), 1, words)
            value = values.gather(1, at)
            ranks = _n_above(seen, value)
            if len(short):
                ranks[short] = _n_above(part[short], value[short])
            found.append((words.gather(1, at)[:, 0], value[:, 0], ranks))
        ids, values, ranks = (torch.cat(each) for each in zip(*found, strict=True))
        return ids, values, ranks

    def _words(self, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids and logits of the k best words of each row, ties by the lower id.

        Looked for in the blocks with the largest maxima; where that may miss some, in the whole row.

        Returns:
            Ids and logits `[rows, k]`; the logits that were looked at, which hold all that are above these;
            and the rows of which they do not.
        """
        whole = x.shape[1] // BLOCK * BLOCK
        if whole // BLOCK <= 2 * N_BLOCKS:
            return *self._words_of_all(x, k), x, _all(x[:0])
        maxima = x[:, :whole].view(len(x), -1, BLOCK).amax(-1)
        highest = maxima.topk(N_BLOCKS + 1)
        blocks = highest.indices[:, :N_BLOCKS]
        ids = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=x.device)).flatten(1)
        seen = x.gather(1, ids)
        words = seen.masked_fill(~self.is_word[ids], -torch.inf)
        at = best_places(words, k, ids)
        found, values = ids.gather(1, at), words.gather(1, at)
        # whatever lies in none of these blocks is no larger than this
        beyond = highest.values[:, -1]
        if whole < x.shape[1]:
            beyond = torch.maximum(beyond, x[:, whole:].amax(-1))
        short = (~(values[:, -1] > beyond)).nonzero()[:, 0]
        if len(short):
            found[short], values[short] = self._words_of_all(x[short], k)
        return found, values, seen, short

    def _words_of_all(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        words = x.masked_fill(~self.is_word, -torch.inf)
        # NaN has no place in the order; such a row is not shown
        ids = top_k(words.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), k)
        return ids, words.gather(1, ids)


# Scores of some words of some cells: `(ids [n, k], logits [n, k], cells [n])` to `[n, k]`.
Score: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


def _n_above(x: Tensor, value: Tensor) -> Tensor:
    """How many of `[rows, n]` are above `[rows, 1]`."""
    # as float: a sum of booleans is ten times slower, and counts below 2**24 are exact
    return torch.gt(x, value, out=torch.empty_like(x)).sum(-1).long()


def _all(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)
