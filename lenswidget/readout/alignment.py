"""Which column, and which row, of one run stands beside which of another."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.errors import PromptError
from lenswidget.readout.run import Run

Array = npt.NDArray[Any]
MISSING = -1


@dataclass(frozen=True, eq=False)
class Alignment:
    """Columns and rows of two runs, side by side.

    Attributes:
        columns: `[c, 2]` int64, in reading order: the position in either run, -1 where one lacks it.
        is_same_token: `[c]` bool, whether both have the column, with the same token (the same text, where
            the columns are aligned by characters).
        rows: `[r, 2]` int64, lowest first: the layer in either run; -1 is the embedding.
        by: "ids" or "characters".
    """

    columns: Array
    is_same_token: Array
    rows: Array
    by: str

    @property
    def missing_a(self) -> list[int]:
        """Positions of the second run that the first lacks."""
        return self.columns[self.columns[:, 0] == MISSING, 1].tolist()

    @property
    def missing_b(self) -> list[int]:
        """Positions of the first run that the second lacks."""
        return self.columns[self.columns[:, 1] == MISSING, 0].tolist()


def align(a: Run, b: Run, site: str, *, by_ids: bool) -> Alignment:
    """Two runs side by side; a site without an embedding row has none here.

    Args:
        by_ids: whether an id is the same token in both; else columns that end at the same character of the
            same text go together.
    Raises:
        PromptError: columns that can be aligned by neither.
    """
    columns, is_same = _by_ids(a, b) if by_ids else _by_characters(a, b)
    rows = align_rows(a.n_layers, b.n_layers, a.lowest_layer(site))
    return Alignment(columns, is_same, rows, "ids" if by_ids else "characters")


def align_rows(n_a: int, n_b: int, lowest: int) -> Array:
    """`[rows, 2]`: each layer of the first model, and that of the second at the nearest relative depth.

    The embedding goes with the embedding and the last layer with the last.
    """
    rows = np.arange(lowest, n_a)
    # after i + 1 of n layers; rounded half up
    depths = np.floor((rows + 1) * n_b / n_a + 0.5).astype(np.int64) - 1
    return np.stack([rows, np.maximum(depths, lowest)], axis=1)


def _by_ids(a: Run, b: Run) -> tuple[Array, Array]:
    """Columns of equal ids together; of a stretch that was replaced by as many tokens, place by place."""
    one, other = a.token_ids.tolist(), b.token_ids.tolist()
    pairs: list[tuple[int, int]] = []
    for what, i, i_end, j, j_end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if what == "equal" or i_end - i == j_end - j:
            pairs += zip(range(i, i_end), range(j, j_end), strict=True)
        else:
            pairs += [(at, MISSING) for at in range(i, i_end)]
            pairs += [(MISSING, at) for at in range(j, j_end)]
    same = [MISSING not in pair and one[pair[0]] == other[pair[1]] for pair in pairs]
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(same, bool)


def _by_characters(a: Run, b: Run) -> tuple[Array, Array]:
    """Columns together whose tokens end at the same character: what both have read by then is the same."""
    if a.spec.prompt.text is None or a.spec.prompt.text != b.spec.prompt.text:
        raise PromptError(
            f"Asked to compare {a.model.name} with {b.model.name}, whose vocabularies differ, on prompts "
            "that are not one text. Give one text, so that columns can be aligned by its characters."
        )
    spans = [_spans(run) for run in (a, b)]
    ends: list[dict[int, int]] = []
    for own in spans:
        # special tokens have no characters; of several tokens of one character the last has it whole
        ends.append({end: column for column, (start, end) in enumerate(own) if end > start})
    pairs = [(ends[0][end], ends[1][end]) for end in sorted(ends[0].keys() & ends[1].keys())]
    merged: list[tuple[int, int]] = []
    i = j = 0
    for one, other in [*pairs, (a.seq, b.seq)]:
        merged += [(at, MISSING) for at in range(i, one)] + [(MISSING, at) for at in range(j, other)]
        if (one, other) != (a.seq, b.seq):
            merged.append((one, other))
        i, j = one + 1, other + 1
    same = [MISSING not in pair and spans[0][pair[0]] == spans[1][pair[1]] for pair in merged]
    return np.array(merged, np.int64).reshape(-1, 2), np.array(same, bool)


def _spans(run: Run) -> list[tuple[int, int]]:
    """Of each column, where it starts and ends in the text, in characters; empty for special tokens."""
    text, options = run.spec.prompt.text, run.spec.prompt.options
    try:
        found = run.tokenizer(text, return_offsets_mapping=True, **options)
        spans = [(int(start), int(end)) for start, end in found["offset_mapping"]]
    except (NotImplementedError, TypeError, KeyError):
        spans = []
    if len(spans) != run.seq:
        raise PromptError(
            f"Asked to compare {run.model.name} with a model of another vocabulary, and its tokenizer does "
            "not tell which characters a token stands for. Use a fast tokenizer (use_fast=True)."
        )
    return spans
