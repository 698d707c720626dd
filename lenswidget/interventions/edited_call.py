"""A model's call with edits in it: hooks that are there while it runs, whoever calls it.

Hooks and not a trace's own writes: a trace that is edited, its replays, each step of a generation and the
forwards of a readout all carry the same edits, and none of them needs to know.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from greenlet import getcurrent
from torch import Tensor, nn

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.decomposition import HookPoint, Part
from lenswidget.anatomy.units import Units
from lenswidget.interventions.changes import Change, Moment
from lenswidget.interventions.places import token_positions

Handle = Any


class EditedCall:
    """A function that runs the model, with changes made on the way.

    Args:
        function: the model, or its `generate`.
        hf_model: the model that it calls, whose each call is a step.
        anatomy: of that model.
        changes: in the order in which they are made where several meet.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        hf_model: nn.Module,
        anatomy: Anatomy,
        changes: Sequence[Change],
    ) -> None:
        self._function = function
        self._hf_model = hf_model
        self._anatomy = anatomy
        self._changes = changes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks = _ForwardHooks(self._hf_model, self._anatomy, self._changes, kwargs)
        try:
            hooks.set()
            return self._function(*args, **kwargs)
        finally:
            hooks.remove()


class _ForwardHooks:
    """The hooks of one call of `EditedCall`."""

    def __init__(
        self, root: nn.Module, anatomy: Anatomy, changes: Sequence[Change], kwargs: dict[str, Any]
    ) -> None:
        self._root = root
        self._anatomy = anatomy
        self._changes = changes
        # modules that a trace's body calls in between are not this forward's
        self._greenlet = getcurrent()
        self._handles: list[Handle] = []
        self._n_calls: dict[Any, int] = {}
        tokens = token_positions(kwargs) if changes else []
        n_prompt = _length(kwargs) if changes else 0
        mask = torch.zeros(len(tokens), n_prompt, dtype=torch.bool)
        for row, at in enumerate(tokens):
            mask[row, at] = True
        self._moment = Moment(step=-1, tokens=mask, kept={})

    def set(self) -> None:
        """Set all hooks, each before those that are there: a trace's own then see what was changed."""
        if not self._changes:
            return
        self._handles.append(self._root.register_forward_pre_hook(self._begin, prepend=True))
        by_layer = sorted(self._changes, key=lambda change: change.layer)
        for layer, group in groupby(by_layer, key=lambda change: change.layer):
            of_layer = list(group)
            for site in dict.fromkeys(change.edit.site for change in of_layer):
                at_site = [c for c in of_layer if c.edit.site == site and c.units is None]
                if at_site:
                    self._set_at(layer, site, at_site)
            for units in dict.fromkeys(change.units for change in of_layer):
                if units is not None:
                    self._set_units(layer, units, [c for c in of_layer if c.units == units])

    def remove(self) -> None:
        """Remove all hooks; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        if getcurrent() is self._greenlet:
            self._moment.step += 1
            self._n_calls.clear()

    def _changed(self, states: Tensor, changes: Iterable[Change]) -> Tensor:
        for change in changes:
            states = change(states, self._moment)
        return states

    # --- one site

    def _set_at(self, layer: int, site: str, changes: list[Change]) -> None:
        row = max(layer, 0)
        stream = self._anatomy.streams[row]
        block = self._root.get_submodule(self._anatomy.rows[row].path)
        if site == "resid_pre" or layer < 0:

            def entering(args: Any, kwargs: Any) -> Any:
                states = stream.entering(args, kwargs)
                changed = self._changed(states, changes)
                return None if changed is states else stream.with_entering(args, kwargs, changed)

            self._on_input(block, row, entering)
        elif site == "resid_post":

            def leaving(output: Any) -> Any:
                states = stream.leaving(output)
                changed = self._changed(states, changes)
                return None if changed is states else stream.with_leaving(output, changed)

            self._on_output(block, row, leaving)
        else:
            shape: list[torch.Size] = []

            def measure(args: Any, kwargs: Any) -> None:
                shape[:] = [stream.entering(args, kwargs).shape[:2]]

            self._on_input(block, row, measure)
            sites = self._anatomy.sites[row]
            if site == "resid_mid":
                assert sites.mid is not None
                self._set_mid(block, row, sites.mid, shape, changes)
            else:
                part = sites.attn if site == "attn_out" else sites.mlp
                assert part is not None
                self._set_part(block, row, part, shape, changes)

    def _set_units(self, layer: int, units: Units, changes: list[Change]) -> None:
        stream = self._anatomy.streams[layer]
        block = self._root.get_submodule(self._anatomy.rows[layer].path)
        shape: list[torch.Size] = []

        def measure(args: Any, kwargs: Any) -> None:
            shape[:] = [stream.entering(args, kwargs).shape[:2]]

        def change(args: Any, kwargs: Any) -> Any:
            states = units.point.read((args, kwargs), shape[0])
            changed = self._changed(states, changes)
            return None if changed is states else units.point.write((args, kwargs), changed)

        self._on_input(block, layer, measure)
        self._on_input(block.get_submodule(units.point.path), layer, change)

    def _set_mid(
        self, block: nn.Module, row: int, point: HookPoint, shape: list[torch.Size], changes: list[Change]
    ) -> None:
        def change(value: Any) -> None:
            states = point.read(value, shape[0])
            changed = self._changed(states, changes)
            if changed is not states:
                # in place: the block adds what follows to this very tensor, the MLP's input or not
                point.slot.get(value).copy_(point.slot.get(point.write(value, changed)))

        module = block.get_submodule(point.path)
        if point.is_output:
            self._on_output(module, row, change)
        else:
            self._on_input(module, row, lambda args, kwargs: change((args, kwargs)))

    def _set_part(
        self, block: nn.Module, row: int, part: Part, shape: list[torch.Size], changes: list[Change]
    ) -> None:
        *others, last = part.addends
        added: dict[HookPoint, Tensor] = {}
        for addend in others:

            def note(output: Any, point: HookPoint = addend.point, scale: float = addend.scale) -> None:
                added[point] = scale * point.read(output, shape[0])

            self._on_output(block.get_submodule(addend.point.path), row, note)

        def change(output: Any) -> Any:
            states = last.point.read(output, shape[0])
            rest = sum(added.values()) if others else None
            whole = states if last.scale == 1.0 else last.scale * states
            whole = whole if rest is None else whole + rest
            changed = self._changed(whole, changes)
            if changed is whole:
                return None
            new = changed if rest is None else changed - rest
            return last.point.write(output, new if last.scale == 1.0 else new / last.scale)

        self._on_output(block.get_submodule(last.point.path), row, change)

    # --- hooks of one call of a module

    def _on_input(self, module: nn.Module, row: int, act: Callable[[Any, Any], Any]) -> None:
        is_called = self._counter(row)

        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return act(args, kwargs) if is_called() else None

        self._handles.append(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))

    def _on_output(self, module: nn.Module, row: int, act: Callable[[Any], Any]) -> None:
        is_called = self._counter(row)

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            return act(output) if is_called() else None

        self._handles.append(module.register_forward_hook(hook, prepend=True))

    def _counter(self, row: int) -> Callable[[], bool]:
        """Says, at each call of a hook, whether it is the call of this row: blocks may run in a loop."""
        wanted, key = self._anatomy.rows[row].call, object()

        def is_called() -> bool:
            if getcurrent() is not self._greenlet or self._moment.step < 0:
                return False
            call = self._n_calls.get(key, 0)
            self._n_calls[key] = call + 1
            return call == wanted

        return is_called


def _length(kwargs: dict[str, Any]) -> int:
    """How many positions the model's sequence has at first."""
    for name in ("decoder_input_ids", "input_ids", "inputs_embeds"):
        if isinstance(kwargs.get(name), Tensor):
            return int(kwargs[name].shape[1])
    raise AssertionError("token_positions refuses such inputs")
