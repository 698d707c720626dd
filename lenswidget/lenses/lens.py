"""How a mid-layer stream is carried to the model's tail: the protocol, and the lenses with nothing to fit.

A readout through a lens is `tail(lens.transport(layer, states))`. Layer -1 is the embedding row, layer
`i >= 0` the residual stream after block `i`; the last layer needs no carrying, so every lens here is the
identity there.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.checks import check_text
from lenswidget.errors import CellError, ShapeError, UnknownLensError

States: TypeAlias = Float[Tensor, "cells d_model"]
Transport: TypeAlias = Callable[[int, Tensor], Tensor]


@runtime_checkable
class Lens(Protocol):
    """Anything with a `name` and a `transport`. A lens that cannot carry every layer also has `layers`."""

    @property
    def name(self) -> str:
        """Short and unique among the lenses of one widget; shown in its switch."""
        ...

    def transport(self, layer: int, states: States) -> States:
        """Carry states `[cells, d_model]` of one layer to where the last block's output lives.

        Args:
            layer: -1 for the embedding, `i` for the stream after block `i`.
            states: `[cells, d_model]`, any float dtype; not changed.
        Returns:
            `[cells, d_model]`, on the same device; float32 where any arithmetic was done.
        """
        ...


# What `lens=` takes: a lens, a function of (layer, states), or None for the logit lens.
LensLike: TypeAlias = Lens | Transport | None


@dataclass(frozen=True)
class LogitLens:
    """Every layer read as if it were the last: `transport` is the identity.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """

    name: str = "logit"

    def transport(self, layer: int, states: States) -> States:
        """The states themselves, `[cells, d_model]`, in their own dtype."""
        return states


@dataclass(frozen=True)
class CallableLens:
    """A function `(layer, states) -> states` as a lens; it is given, and must return, `[cells, d_model]`."""

    function: Transport = field(repr=False)
    name: str

    def transport(self, layer: int, states: States) -> Any:
        """`function(layer, states)` on float32 states."""
        return self.function(layer, states.float())


def carry(lens: Lens, layer: int, states: States) -> States:
    """`lens.transport(layer, states)`, `[cells, d_model]`.

    Raises:
        ShapeError: the lens returned anything but a float tensor of that shape and on that device.
    """
    carried: Any = lens.transport(layer, states)
    if isinstance(carried, Tensor):
        same = (carried.shape, carried.device) == (states.shape, states.device)
        if same and carried.is_floating_point():
            return carried
        found = f"{carried.dtype} {list(carried.shape)} on {carried.device}"
    else:
        found = f"a {type(carried).__name__}"
    raise ShapeError(
        f"Lens {lens.name!r} was given states {list(states.shape)} of layer {layer} on {states.device} and "
        f"returned {found}; return a float tensor of that shape, on that device."
    )


def as_lens(lens: LensLike) -> Lens:
    """A lens from what `lens=` accepts: None (the logit lens), a lens, or a function of (layer, states).

    Raises:
        UnknownLensError: it is none of these.
    """
    if lens is None:
        return LogitLens()
    is_class = isinstance(lens, type)  # which has a transport as its instances do, and can be called
    if isinstance(lens, Lens) and not is_class:
        return lens
    if callable(lens) and not is_class:
        return CallableLens(lens, getattr(lens, "__name__", type(lens).__name__))
    raise UnknownLensError(
        f"lens={lens!r} is no lens. Pass None, a lens (lw.load_lens(path) gives a saved one), or a function "
        "(layer, states) -> states."
    )


def lenses_by_name(lenses: Mapping[str, LensLike] | Iterable[LensLike] | None = None) -> dict[str, Lens]:
    """The lenses that a switch offers, by name, the logit lens always first.

    Args:
        lenses: lenses or functions, in a list or the like; with a mapping, its keys are the names.
    Raises:
        UnknownLensError: an element is no lens, two share a name, or it is no collection at all.
    """
    given: Any = lenses
    if given is not None and not isinstance(given, Iterable):
        raise UnknownLensError(
            f"lenses={lenses!r:.80} is no collection. Pass a list of lenses, or {{name: lens}}."
        )
    named: dict[str, Lens] = {"logit": LogitLens()}
    pairs: Any = given.items() if isinstance(given, Mapping) else ((None, lens) for lens in given or ())
    for key, value in pairs:
        lens = as_lens(value)
        name = lens.name if key is None else key
        check_text(str(name), "The name of a lens", UnknownLensError)
        if isinstance(lens, LogitLens) and name == "logit":
            continue
        if name in named:
            raise UnknownLensError(
                f"Two lenses are called {name!r}, so a switch could not tell them apart. Pass a mapping "
                f"{{name: lens}} with another name for one."
            )
        named[name] = lens
    return named


def covered_layers(lens: Lens, n_layers: int) -> frozenset[int]:
    """The layers of `-1 .. n_layers - 1` that a lens can carry: its own `layers`, or all if it has none."""
    every = range(-1, n_layers)
    own = getattr(lens, "layers", None)
    return frozenset(every) if own is None else frozenset(own) & frozenset(every)


def check_carried(lens: Lens, layers: Iterable[int], n_layers: int, name: str | None = None) -> None:
    """Refuses layers that a lens cannot carry.

    Args:
        name: what the lens is called, where that is not its own name.
    Raises:
        CellError: says which, and what it carries.
    """
    carried = sorted(covered_layers(lens, n_layers))
    beyond = sorted(set(layers).difference(carried))
    if beyond:
        have = f"{len(carried)} layers from {carried[0]} to {carried[-1]}" if carried else "no layer"
        raise CellError(
            f"Asked for layer {beyond[0]} through the lens {name or lens.name!r}, which carries {have} here: "
            "choose one of those, or another lens."
        )


# Which lenses were found to fit which models: to compare unembeds takes milliseconds, at every read.
_fitting: "weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]]" = weakref.WeakKeyDictionary()


def check_lens(lens: Lens, model: ReadableModel | Tail) -> None:
    """Refuses a lens that was fitted to another model; a lens that cannot tell passes. Looks once.

    Args:
        model: a `LanguageModel`, or its `Tail`.
    Raises:
        LensMismatchError: width, number of layers or unembed differ.
    """
    check = getattr(lens, "check", None)
    if check is None:
        return
    # a model that has changed has another tail
    known = _fitting.setdefault(getattr(model, "tail", model), weakref.WeakSet())
    # a lens of your own may be nothing that a set can hold: it is checked each time
    with contextlib.suppress(TypeError):
        if lens in known:
            return
    check(model)
    with contextlib.suppress(TypeError):
        known.add(lens)
