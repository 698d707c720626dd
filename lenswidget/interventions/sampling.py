"""How a prompt is continued: which token comes next, and which edits its column has."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lenswidget.checks import is_integer
from lenswidget.errors import EditError, LensError
from lenswidget.interventions.places import covers_generated, positions_of
from lenswidget.interventions.recipe import Edit, Sampling

# Draws of neighbouring positions are unlike, and those of a position do not depend on where one began.
_SEED_STEP = 1_000_003


def check_sampling(n_prompt: int, temperature: Any, top_p: Any, seed: Any) -> Sampling:
    """How to continue a prompt of so many columns.

    Raises:
        LensError: a temperature below 0, a top_p outside 0 to 1, or a seed that is no integer.
    """

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    if not (is_number(temperature) and temperature >= 0):
        raise LensError(
            f"Asked to generate with temperature={temperature!r}. Pass a number, 0 (the most probable token "
            "each time) or more."
        )
    if not (is_number(top_p) and 0 < top_p <= 1):
        raise LensError(f"Asked to generate with top_p={top_p!r}. Pass a number above 0 and at most 1.")
    if not is_integer(seed) or not 0 <= seed < 2**31:
        raise LensError(f"Asked to generate with seed={seed!r}. Pass an integer from 0 to {2**31 - 1}.")
    return Sampling(n_prompt, float(temperature), float(top_p), int(seed))


def next_token(logits: Tensor, sampling: Sampling, position: int) -> int:
    """The token that stands at a position, from the model's own logits `[d_vocab]` of the one before.

    At temperature 0 the most probable one. Else it is drawn from the most probable tokens that together have
    `top_p`, by a generator that is seeded with the seed and the position: where a prompt is continued from
    makes no difference.
    """
    scores = logits.detach().float().cpu()
    if sampling.temperature == 0:
        return int(scores.argmax())
    probs = (scores / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, ids = probs.sort(descending=True, stable=True)
        # a token is kept while those before it do not make up top_p
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        probs = torch.zeros_like(probs).scatter_(0, ids, ordered)
    generator = torch.Generator("cpu").manual_seed(sampling.seed * _SEED_STEP + position)
    return int(torch.multinomial(probs, 1, generator=generator))


class ContinuedEdits:
    """The edits of a run that is continued, as those of a prompt that has the new columns.

    Those of the prompt stay where they are, and those that cover generated positions are made at each new
    one, as `model.generate(edits=...)` makes them.

    Args:
        edits: of the run that is continued.
        n_prompt: how many columns it has.
    Raises:
        EditError: one that covers generated positions and depends on the states of others.
    """

    def __init__(self, edits: Sequence[Edit], n_prompt: int) -> None:
        self._n_prompt = n_prompt
        self._anchored = [self._at_prompt(edit) for edit in edits]
        self._each = [edit for edit in edits if _is_made_alone(edit) and covers_generated(edit.positions)]
        self._of_column: dict[tuple[int, int], Edit] = {}

    def of(self, seq: int) -> tuple[Edit, ...]:
        """The edits of a prompt of `seq` columns; the same objects each time."""
        found = [edit for anchored in self._anchored for edit in anchored]
        for column in range(self._n_prompt, seq):
            for i, edit in enumerate(self._each):
                if (i, column) not in self._of_column:
                    self._of_column[i, column] = replace(edit, positions=column)
                found.append(self._of_column[i, column])
        return tuple(found)

    @property
    def at_new_columns(self) -> tuple[Edit, ...]:
        """Those that are made at each new column, as edits of a prompt of one token."""
        everywhere = [edit for anchored in self._anchored for edit in anchored]
        covering = [edit for edit in everywhere if covers_generated(edit.positions)]
        return tuple(replace(edit, positions=0) for edit in (*covering, *self._each) if edit.is_on)

    def _at_prompt(self, edit: Edit) -> list[Edit]:
        n = self._n_prompt
        if edit.op == "mean" and not edit.texts:
            raise EditError(
                "The mean over the positions of a prompt would be another one once the prompt is longer. "
                "Pass texts= for the mean."
            )
        if not covers_generated(edit.positions):
            at = positions_of(edit.positions, n)
            is_named = edit.positions is not None and edit.positions != "prompt"
            is_fixed = isinstance(edit.positions, (int, tuple)) and edit.positions == _as_given(edit, at)
            if is_fixed:
                return [edit]
            return [replace(edit, positions=tuple(at) if is_named else slice(0, n))]
        if edit.op == "patch":
            raise EditError(
                'A patch has nothing to put at generated positions. Pass positions="prompt", or name some.'
            )
        if edit.op == "swap" and not edit.is_live:
            raise EditError(
                "A swap is held at the coordinates of the run without edits, which has no generated "
                'positions. Pass positions="prompt", or is_live=True.'
            )
        if edit.positions == "generated":
            return [] if _is_made_alone(edit) else [replace(edit, positions=slice(n, None))]
        if _is_made_alone(edit):
            at = positions_of(edit.positions, n)
            return [replace(edit, positions=tuple(at))] if at else []
        return [edit]


def _is_made_alone(edit: Edit) -> bool:
    """Whether an edit goes by all states that it is made to, so that each new column needs one of its own."""
    return edit.op == "steer"


def _as_given(edit: Edit, at: Sequence[int]) -> Any:
    return at[0] if isinstance(edit.positions, int) else tuple(at)
