"""Another token at one place of a prompt, and what came after it left out: a branch."""

from dataclasses import replace

from lenswidget.errors import CellError, PromptError
from lenswidget.interventions.places import covers_generated, positions_of
from lenswidget.interventions.recipe import Edit, RunSpec
from lenswidget.interventions.shared_prefix import is_ids_alone
from lenswidget.models.grown_prompt import first_columns_of, longer


def forked(spec: RunSpec, position: int, token: int) -> RunSpec:
    """A recipe's prompt up to a position, and then another token.

    Edits stay where they are; those that lie behind it go.

    Args:
        position: the last column that is kept; the token comes after it.
    Raises:
        CellError: there is no such column.
        PromptError: the prompt is more than token ids.
    """
    if not is_ids_alone(spec):
        raise PromptError(
            "Asked to fork a prompt that is more than token ids (pictures, padding, an encoder's text). "
            "Run the prompt that you mean."
        )
    n = spec.prompt.seq
    if not 0 <= position < n:
        raise CellError(f"Asked to fork after position {position} of {n} tokens. Use 0 to {n - 1}.")
    prompt = longer(first_columns_of(spec.prompt, position + 1), token)
    edits = [_kept(edit, n, position + 1) for edit in spec.edits]
    return RunSpec(prompt, spec.sites, tuple(edit for edit in edits if edit is not None))


def _kept(edit: Edit, seq: int, n: int) -> Edit | None:
    """An edit of a prompt of `seq` columns, of which `n` are left; None where none of these is edited."""
    if covers_generated(edit.positions):
        # an open slice goes on over the new token; what is made at generated ones alone has none here
        return edit if edit.positions is None or isinstance(edit.positions, slice) else None
    at = positions_of(edit.positions, seq)
    kept = tuple(position for position in at if position < n)
    if len(kept) == len(at) and isinstance(edit.positions, (int, tuple)) and edit.positions in (kept, *kept):
        return edit
    is_cut_patch = edit.op == "patch" and len(kept) < len(at)
    return None if not kept or is_cut_patch else replace(edit, positions=kept)
