"""Runs that were forked from one another, as a tree: what two of them share follows from their token ids."""

from dataclasses import dataclass
from typing import Any

from lenswidget.interventions.recipe import RunSpec
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import label_to_list

# A tree keeps so many; the oldest that is not shown goes first. A recipe is small, its run is made again.
MOST_BRANCHES = 24
# Of what follows the token that differs, as text.
N_TOKENS_SHOWN = 12


@dataclass(frozen=True)
class Branch:
    """A run of a tree: its id when it was shown last, and its recipe."""

    id: str
    spec: RunSpec

    @property
    def ids(self) -> list[int]:
        """The tokens."""
        return self.spec.prompt.column_ids.tolist()


class Branches:
    """The tree, in the order in which its runs were first shown; empty until one is forked."""

    def __init__(self) -> None:
        self.all: list[Branch] = []
        self._shown = ""

    def fork(self, source: Branch, branch: Branch) -> None:
        """A run was forked from another; one that is not in the tree begins another tree."""
        if self._place_of(source) is None:
            self.all = [source]
        self._put(branch)

    def show(self, run: Branch) -> None:
        """A run is shown: one of the tree, one of the tree that was continued or edited, or none of it."""
        place = next((i for i, each in enumerate(self.all) if each.id == run.id), None)
        if place is None and self._place_of(run) is None:
            ids = run.ids
            place = next((i for i, each in enumerate(self.all) if each.id == self._shown), None)
            if place is None or ids[: len(self.all[place].ids)] != self.all[place].ids:
                self.all, self._shown = [], ""
                return
            self.all[place] = run
            self._shown = run.id
            return
        self._put(run)

    def restore(self, branches: list[Branch]) -> None:
        """The tree of an earlier widget."""
        self.all = branches[:MOST_BRANCHES]

    def copy(self) -> "Branches":
        """The tree as it is now, which later forks leave as it is."""
        found = Branches()
        found.all, found._shown = [*self.all], self._shown
        return found

    def _put(self, run: Branch) -> None:
        place = self._place_of(run)
        if place is None:
            self.all.append(run)
        else:
            self.all[place] = run
        self._shown = run.id
        while len(self.all) > MOST_BRANCHES:
            self.all.remove(next(each for each in self.all if each.id != run.id))

    def _place_of(self, run: Branch) -> int | None:
        """Where the tree has these tokens."""
        ids = run.ids
        return next((i for i, each in enumerate(self.all) if each.id == run.id or each.ids == ids), None)

    def message(self, labels: Labels) -> list[dict[str, Any]]:
        """The tree as the page takes it; `BranchInfo` in `protocol.ts`."""
        return [self._message(i, labels) for i in range(len(self.all))]

    def _message(self, i: int, labels: Labels) -> dict[str, Any]:
        branch, ids = self.all[i], self.all[i].ids
        # its parent is the earlier one that it shares most with
        shared = [n_shared(ids, earlier.ids) for earlier in self.all[:i]]
        at = max(shared, default=0)
        is_longer = at < len(ids)
        return {
            "id": branch.id,
            "parent": self.all[shared.index(at)].id if shared else None,
            "at": at,
            "label": label_to_list(labels[ids[at]]) if is_longer else None,
            "text": labels.text(ids[at : at + N_TOKENS_SHOWN]),
            "n_tokens": len(ids),
        }


def n_shared(a: list[int], b: list[int]) -> int:
    """How many of the first tokens two prompts share."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
