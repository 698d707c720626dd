"""What runs keep for later ones: the keys of their columns and what was decoded, in bounded memory."""

import weakref

from torch import nn

from lenswidget.models.facts import facts_of
from lenswidget.models.split_forward import KeyPart
from lenswidget.readout.decoded import DecodedCells

# Of all runs of one model; beyond it, the oldest keep nothing.
MOST_BYTES = 512 << 20


class Kept:
    """What one run keeps for later ones, until there is no room for it.

    Attributes:
        keys: of all its columns; empty once they were given up, or where there is nothing to go on from.
        decoded: its cells that were decoded.
        is_forgotten: whether it keeps nothing any more.
    """

    def __init__(self, keys: tuple[KeyPart, ...], decoded: DecodedCells) -> None:
        self.keys = keys
        self.decoded = decoded
        self.is_forgotten = False

    @property
    def n_columns(self) -> int:
        """How many columns the keys are of."""
        return sum(part.n_columns for part in self.keys)

    def forget(self) -> None:
        """Give the memory back."""
        self.keys = ()
        self.is_forgotten = True
        self.decoded.forget()


class KeptRuns:
    """What the runs of one model keep, the newest last."""

    def __init__(self) -> None:
        self._kept: list[weakref.ref[Kept]] = []

    def add(self, kept: Kept) -> None:
        """Take note of what a new run keeps; the oldest give up theirs while there is too much."""
        alive = [found for refer in self._kept if (found := refer()) is not None and found.keys]
        alive.append(kept)
        while alive and _nbytes(alive) > MOST_BYTES:
            alive.pop(0).forget()
        self._kept = [weakref.ref(each) for each in alive]


def _nbytes(all_kept: list[Kept]) -> int:
    """Bytes of all together; what several share counts once."""
    tensors = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for kept in all_kept
        for part in kept.keys
        for pair in part.pairs
        if pair
        for tensor in pair
    }
    arrays: dict[int, int] = {}
    for kept in all_kept:
        arrays |= kept.decoded.sizes()
    return sum(tensors.values()) + sum(arrays.values())


def kept_runs(hf_model: nn.Module) -> KeptRuns:
    """Of a model as it is now: what a model that has changed kept is of no use."""
    return facts_of(hf_model).get("kept runs", KeptRuns)
