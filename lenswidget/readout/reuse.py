"""What a run took over from an earlier one, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reuse:
    """Which columns a run took over, and how closely the two agree where both have been run.

    Attributes:
        run_id: the run that the columns are of; None where the run was run whole.
        n_columns: so many of the first columns were taken over, their numbers as they were.
        gap: how far columns that were run again are from what was taken over, as a share of a state's norm.
        bound: how far they may be: rounding of a forward in two parts.
        why_whole: why no columns were taken over though that was asked for; empty where they were, or were
            not to be.
        is_step: whether this is a step of a generation, in which nothing is run again; `gap` is then that
            of a few tokens, tried once.
    """

    run_id: str | None = None
    n_columns: int = 0
    gap: float = 0.0
    bound: float = 0.0
    why_whole: str = ""
    is_step: bool = False

    @property
    def text(self) -> str:
        """One plain line for the badge."""
        if not self.n_columns:
            return f"Run whole{f': {self.why_whole}' if self.why_whole else ''}."
        columns = "column 0 was" if self.n_columns == 1 else f"columns 0 to {self.n_columns - 1} were"
        if self.is_step:
            return (
                f"Continued from a cache, as generate does: {columns} taken over. On a few tokens, that is "
                f"off by {self.gap:.0e} of a state's norm, where rounding explains {self.bound:.0e}."
            )
        return (
            f"Run in part: {columns} taken over. What was run again of them is off by {self.gap:.0e} of its "
            f"norm, where rounding explains {self.bound:.0e}."
        )


WHOLE = Reuse()
