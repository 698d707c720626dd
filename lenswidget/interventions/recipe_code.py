"""Edits as Python source that makes them again."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from lenswidget.interventions.recipe import Edit
from lenswidget.lenses.lens import Lens, LogitLens

_PLAIN = (
    "site",
    "layers",
    "positions",
    "strength",
    "tokens",
    "texts",
    "from_layer",
    "from_positions",
    "is_live",
    "control_seed",
    "heads",
    "neurons",
)


def edits_code(edits: Sequence[Edit], lenses: Mapping[str, Lens]) -> str | None:
    """A list of the edits that are on, as source; `lw`, `model` and the lenses' variables must be there.

    Args:
        lenses: by the name of the variable that holds each.
    Returns:
        The source; None where an edit has a vector, a lens without a variable, or a source that cannot be
        written down.
    """
    written = [_code(edit, lenses) for edit in edits if edit.is_on]
    return None if None in written else f"[{', '.join(map(str, written))}]"


def _code(edit: Edit, lenses: Mapping[str, Lens]) -> str | None:
    if edit.vector is not None:
        return None
    parts = [repr(edit.op)]
    defaults = {field.name: field.default for field in fields(Edit)}
    for name in _PLAIN:
        value = getattr(edit, name)
        if value != defaults[name]:
            value = list(value) if isinstance(value, tuple) else value
            parts.append(f"{name}={value!r}")
    if edit.lens is not None and not isinstance(edit.lens, LogitLens):
        variable = next((name for name, lens in lenses.items() if lens is edit.lens), None)
        if variable is None:
            return None
        parts.append(f"lens={variable}")
    spec = edit.source_spec
    if spec is not None:
        prompt, inner = spec.prompt.code, edits_code(spec.edits, lenses)
        if prompt is None or inner is None:
            return None
        parts.append(f"source=model.run({prompt}{'' if inner == '[]' else f', edits={inner}'})")
    return f"lw.Edit({', '.join(parts)})"
