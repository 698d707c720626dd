"""Edits as plain JSON values, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lenswidget.errors import EditError
from lenswidget.interventions.recipe import Edit, RunSpec, Sampling
from lenswidget.lenses.lens import Lens, LogitLens
from lenswidget.models.encoded_prompt import EncodedPrompt, prompt_of_state, tensor_of_json, tensor_to_json

_PLACES = ("layers", "positions", "from_positions", "heads", "neurons")


def edits_to_state(edits: Sequence[Edit], lenses: Mapping[str, Lens]) -> list[dict[str, Any]]:
    """Edits as JSON; `edits_of_state` is the inverse.

    Args:
        lenses: by name, among which the edits' lenses are.
    Raises:
        EditError: an edit along a lens that has no name there.
        PromptError: a source whose inputs JSON cannot hold.
    """
    return [_to_state(edit, lenses) for edit in edits]


def edits_of_state(
    state: Any, lens: Callable[[str], Lens], encode: Callable[..., EncodedPrompt]
) -> tuple[Edit, ...]:
    """The edits in the recipe of a `w.state`; none where it has none.

    Args:
        lens: gives a lens by its name.
        encode: a prompt as the model takes it.
    Raises:
        EditError: it is anything but what `edits_to_state` wrote.
    """
    listed = state.get("edits", []) if isinstance(state, Mapping) else []
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise EditError(f"The state's edits are {listed!r:.60}. Pass w.state of another widget as it is.")
    return tuple(_of_state(each, lens, encode) for each in listed)


def sampling_of_state(state: Any) -> Sampling | None:
    """How the prompt in the recipe of a `w.state` was generated; None where it was given.

    Raises:
        EditError: it is anything but what a widget wrote.
    """
    written = state.get("sampling") if isinstance(state, Mapping) else None
    if written is None:
        return None
    try:
        return Sampling(**written)
    except TypeError:
        raise EditError(
            f"The state's sampling is {written!r:.60}. Pass w.state of another widget as it is."
        ) from None


def _to_state(edit: Edit, lenses: Mapping[str, Lens]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for field in fields(edit):
        value = getattr(edit, field.name)
        if value is field.default or value == () or field.name in ("lens", "source", "vector"):
            continue
        state[field.name] = _place(value) if field.name in _PLACES else value
    state["tokens"] = [token if isinstance(token, str) else int(token) for token in edit.tokens]
    state["texts"] = list(edit.texts)
    if edit.vector is not None:
        state["vector"] = tensor_to_json("vector", edit.vector)
    if edit.lens is not None and not isinstance(edit.lens, LogitLens):
        name = next((name for name, lens in lenses.items() if lens is edit.lens), None)
        if name is None:
            raise EditError("An edit goes along a lens that is not among the widget's. Pass it in lenses=.")
        state["lens"] = name
    if edit.source_spec is not None:
        spec = edit.source_spec
        state["source"] = {**spec.prompt.to_state(), "edits": edits_to_state(spec.edits, lenses)}
    return {name: value for name, value in state.items() if value != []}


def _of_state(state: Any, lens: Callable[[str], Lens], encode: Callable[..., EncodedPrompt]) -> Edit:
    known = {field.name for field in fields(Edit)}
    if not isinstance(state, Mapping) or "op" not in state or not known >= set(state):
        raise EditError(
            f"The state holds {state!r:.60} for an edit. Pass w.state of another widget as it is."
        )
    options: dict[str, Any] = dict(state)
    for name in _PLACES:
        if isinstance(options.get(name), Mapping):
            given: Mapping[str, Any] = options[name]
            options[name] = slice(given.get("start"), given.get("stop"), given.get("step"))
    if "vector" in options:
        options["vector"] = tensor_of_json(options["vector"])
    if "lens" in options:
        options["lens"] = lens(options["lens"])
    if "source" in options:
        prompt, told = prompt_of_state(options["source"])
        edits = edits_of_state(options["source"], lens, encode)
        options["source"] = RunSpec(encode(prompt, **told), edits=edits)
    return Edit(**options)


def _place(value: Any) -> Any:
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop, "step": value.step}
    return list(value) if isinstance(value, tuple) else value
