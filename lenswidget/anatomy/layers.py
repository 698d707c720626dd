"""The sites of the residual stream under one name on every model, inside a trace."""

import operator
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.block_sites import BlockSites, edit_for, sum_of
from lenswidget.anatomy.decomposition import HookPoint, Part
from lenswidget.anatomy.layer_heads import LayerHeads
from lenswidget.anatomy.units import Units
from lenswidget.checks import is_integer
from lenswidget.errors import AnatomyError, CellError, ShapeError
from lenswidget.nested import Slot
from lenswidget.tracing.modules import TracedModule
from lenswidget.tracing.values import BlockOutput, plain

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


class HasModules(Protocol):
    """What `Layers` needs of a model: a `LanguageModel` has it."""

    @property
    def anatomy(self) -> Anatomy: ...
    def get(self, path: str) -> TracedModule: ...


class Layers:
    """The decoder blocks of a model: `len(layers)`, `layers[i]`, and `layers.embed`.

    Where blocks run in a loop, there is a layer for each call of each block, in the order of the forward.

    Args:
        model: a `LanguageModel`.
    """

    __slots__ = ("_anatomy", "_model")

    def __init__(self, model: HasModules) -> None:
        self._model = model
        self._anatomy: Anatomy = model.anatomy  # once: each look compares the model with what it was

    def __len__(self) -> int:
        return self._anatomy.n_layers

    @overload
    def __getitem__(self, index: int) -> "Layer": ...
    @overload
    def __getitem__(self, index: slice) -> "list[Layer]": ...
    def __getitem__(self, index: int | slice) -> "Layer | list[Layer]":
        """Layer `index`, from 0; with a slice, those layers in a list.

        Raises:
            CellError: there is no such layer. A negative number is refused, in a slice as well, since row -1
                of a lens grid is the embedding, where Python's habit would give the last layer.
        """
        if isinstance(index, slice):
            for bound in (index.start, index.stop):
                if bound is not None and not (is_integer(bound) and bound >= 0):
                    return [self[bound]]  # which refuses it
            return [Layer(self._model, self._anatomy, i) for i in range(len(self))[index]]
        n = len(self)
        if not is_integer(index) or not 0 <= index < n:
            raise CellError(
                f"Asked for layer {index!r} of {n}. Use 0 to {n - 1}; layers.embed is the stream below "
                "layer 0."
            )
        return Layer(self._model, self._anatomy, operator.index(index))

    def __iter__(self) -> "Iterator[Layer]":
        return (Layer(self._model, self._anatomy, i) for i in range(len(self)))

    @property
    def offered(self) -> tuple[str, ...]:
        """The sites that some layer offers, in the order of the stream."""
        offered = {site for sites in self._anatomy.sites for site in sites.offered}
        return tuple(site for site in SITES if site in offered)

    @property
    def embed(self) -> Tensor:
        """The stream that enters layer 0, `[batch, seq, d_model]`; assignable."""
        return self[0].resid_pre

    @embed.setter
    def embed(self, states: Tensor) -> None:
        self[0].resid_pre = states

    def __repr__(self) -> str:
        return f"<Layers of {self._anatomy.model_class}: 0 to {len(self) - 1}>"


class Layer:
    """One decoder block's sites, each `[batch, seq, d_model]`, to be read and assigned inside a trace.

    `resid_pre + attn_out + mlp_out == resid_post` in the blocks of most models; `print(model.anatomy)`
    says which sites a model offers and where they are. Reading gives the model's own tensor where that is
    the value itself, so that changing it in place changes the run.

    Attributes:
        index: of the layer, from 0.
        block: index of its block; the same as `index` unless blocks run in a loop.
        call: which of the block's calls in one forward, from 0.

    Raises (all sites):
        AnatomyError: the site did not verify on this model.
        TraceError: no trace is open; and what else reading and writing a module's output raises.
    """

    __slots__ = ("_anatomy", "_model", "_node", "block", "call", "index")

    def __init__(self, model: HasModules, anatomy: Anatomy, index: int) -> None:
        self._model, self._anatomy, self.index = model, anatomy, index
        self.block, self.call, path = self._anatomy.rows[index]
        self._node = model.get(path)
        if self._anatomy.n_calls[self.block] > 1:
            self._node = self._node.calls[self.call]

    @property
    def calls(self) -> "list[Layer]":
        """The layers of the same block, in the order of its calls: one, unless blocks run in a loop."""
        rows = self._anatomy.rows
        return [Layer(self._model, self._anatomy, i) for i, row in enumerate(rows) if row.block == self.block]

    @property
    def resid_pre(self) -> Tensor:
        """The stream that enters the block."""
        return plain(self._stream.entering(*self._node.inputs))

    @resid_pre.setter
    def resid_pre(self, states: Tensor) -> None:
        self._node.inputs = self._stream.with_entering(*self._node.inputs, states)

    @property
    def resid_post(self) -> Tensor:
        """The stream that leaves the block."""
        return plain(self._stream.leaving(_whole(self._node.output, self._stream.target)))

    @resid_post.setter
    def resid_post(self, states: Tensor) -> None:
        output = _whole(self._node.output, self._stream.target)
        self._node.output = self._stream.with_leaving(output, states)

    @property
    def attn_out(self) -> Tensor:
        """What the block's attention, or what stands in its place, adds to the stream."""
        return self._added(self._part("attn_out", self._sites.attn))

    @attn_out.setter
    def attn_out(self, states: Tensor) -> None:
        self._add(self._part("attn_out", self._sites.attn), states)

    @property
    def mlp_out(self) -> Tensor:
        """What the block's MLP, experts or what stands in their place adds to the stream."""
        return self._added(self._part("mlp_out", self._sites.mlp))

    @mlp_out.setter
    def mlp_out(self, states: Tensor) -> None:
        self._add(self._part("mlp_out", self._sites.mlp), states)

    @property
    def resid_mid(self) -> Tensor:
        """The stream between attention and MLP."""
        return self._read(self._part("resid_mid", self._sites.mid))

    @resid_mid.setter
    def resid_mid(self, states: Tensor) -> None:
        point = self._part("resid_mid", self._sites.mid)
        node, value = self._at(point)
        there = point.slot.get(value)
        if there.shape != states.shape or there.dtype != states.dtype:
            raise ShapeError(
                f"Asked to set resid_mid of layer {self.index} to {list(states.shape)} {states.dtype}, "
                f"found {list(there.shape)} {there.dtype} there. Give it the same shape and dtype."
            )
        self._replace(node, point, value, there)  # raises where the forward has passed it
        # in place: the block adds what follows to this very tensor, and not only to what the MLP reads
        there.copy_(states)

    @property
    def heads(self) -> LayerHeads:
        """What each attention head gives before the output projection: `heads[h]`, `[batch, seq, d_head]`."""
        units = self._units("heads")
        return LayerHeads(self.index, units, lambda: self._read(units.point), partial(self._set_units, units))

    @property
    def neurons(self) -> Tensor:
        """What each neuron of the MLP gives before the last projection, `[batch, seq, neurons]`."""
        return self._read(self._units("neurons").point)

    @neurons.setter
    def neurons(self, states: Tensor) -> None:
        self._set_units(self._units("neurons"), states)

    def unit_inputs(self, kind: str) -> Tensor:
        """What the last projection of a part takes, `[batch, seq, n * d]`: all "heads", or all "neurons"."""
        return self._read(self._units(kind).point)

    def _units(self, kind: str) -> Units:
        units = self._anatomy.units[self.index]
        found = units.get(kind)
        if found is None:
            raise AnatomyError(
                f"Asked for the {kind} of layer {self.index} of {self._anatomy.model_class}, which are not "
                f"offered: {units.refused.get(kind, 'not found')}. Use one of {', '.join(self.offered)}."
            )
        return found

    def _set_units(self, units: Units, states: Tensor) -> None:
        node, value = self._at(units.point)
        self._replace(node, units.point, value, states)

    @property
    def offered(self) -> tuple[str, ...]:
        """The names of the sites that verified for this layer."""
        return self._sites.offered

    @property
    def _sites(self) -> BlockSites:
        return self._anatomy.sites[self.index]

    @property
    def _stream(self) -> Any:
        return self._anatomy.streams[self.index]

    def _part(self, site: str, found: Any) -> Any:
        refused = self._sites.refused.get(site)
        if refused is not None or found is None:
            raise AnatomyError(
                f"Asked for {site} of layer {self.index} of {self._anatomy.model_class}, which is not "
                f"offered: {refused or 'not found'}. Use one of {', '.join(self.offered)}."
            )
        return found

    def _added(self, part: Part) -> Tensor:
        overwritten = {addend.point for addend in part.addends if addend.is_overwritten}
        return sum_of(
            part, lambda point: self._read(point).clone() if point in overwritten else self._read(point)
        )

    def _add(self, part: Part, states: Tensor) -> None:
        point, new = edit_for(part, states, self._read)
        node, value = self._at(point)
        # a copy where the model goes on to change that very tensor
        self._replace(node, point, value, new.clone() if part.addends[-1].is_overwritten else new)

    def _read(self, point: HookPoint) -> Tensor:
        _, value = self._at(point)
        shape = torch.Size() if point.layout is not None else self.resid_pre.shape[:2]
        return plain(point.read(value, shape))

    def _at(self, point: HookPoint) -> tuple[Any, Any]:
        """A submodule, and what it took or gave in this trace."""
        node = self._model.get(f"{self._anatomy.rows[self.index].path}.{point.path}")
        if self._anatomy.n_calls[self.block] > 1:
            node = node.calls[self.call]
        return node, _whole(node.output, point.slot) if point.is_output else node.inputs

    def _replace(self, node: Any, point: HookPoint, value: Any, states: Tensor) -> None:
        new = point.write(value, states)
        if point.is_output:
            node.output = new
        else:
            node.inputs = new

    def __repr__(self) -> str:
        return f"<Layer {self.index}: {', '.join(self.offered)}>"


def _whole(output: Any, slot: Slot) -> Any:
    """A module's output as the model has it: a tuple where the stream is in a tuple, else the very tensor.

    Not a view made afresh: gradients with respect to that would be of something the forward never used.
    """
    if not isinstance(output, BlockOutput):
        return output
    return tuple(output) if slot.keys else output[0]
