"""A run whose states are in another process, and a lens that is there: what stands for them here."""

import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity
from lenswidget.errors import ModelError
from lenswidget.lenses.lens_report import LensReport
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import Elsewhere
from lenswidget.readout.run import Run, RunSpec
from lenswidget.readout.streams import Streams
from lenswidget.tracing.locks import ModelLock


class NotHere:
    """Stands for a part of a model that is in another process; whatever is asked of it is refused.

    Args:
        what: it is.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(
            f"Asked for {name} of {self._what}, which is not in this process. Ask its runs: lw.read(run), "
            "lw.decode(run, layer, position)."
        )


class Handle:
    """One run there: once nothing here refers to it, it is let go there too."""

    def __init__(self, run_id: str, spec: RunSpec) -> None:
        self.run_id, self.spec = run_id, spec


@dataclass(frozen=True)
class RemoteKept:
    """Whether a run there has kept something that a later run may take over."""

    keys: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class RemoteLens:
    """A lens that comes with a model there.

    Attributes:
        name: its own.
        key: its name among the model's lenses.
        layers: those that it carries; None is all.
        measured: what was measured of it.
    """

    name: str
    key: str
    layers: frozenset[int] | None
    measured: LensReport | None = None

    def transport(self, layer: int, states: Any) -> Any:
        """Refuses.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"Asked the lens {self.name!r} for its arithmetic, which is where its model is. Ask the model's "
            "runs: lw.read(run, lens=...)."
        )


@dataclass(frozen=True, eq=False, repr=False)
class RemoteRun(Run):
    """A run of a model in another process: its recipe and what it says of itself are here, its states there.

    Attributes:
        place: the process.
        handle: names the run there.
        n_bytes: that its streams take there.
    """

    tail: Any = None
    lock: Any = field(default_factory=ModelLock)
    _changes: Any = None
    _has_stale_unembed: Any = None
    _n_changes: int = 0
    _streams: Any = field(default_factory=dict[str, Any])
    _capture: Any = None
    _own: Any = None
    _check: Any = None
    kept: Any = None
    place: Any = None
    handle: Any = None
    n_bytes: int = 0

    @property
    def elsewhere(self) -> Elsewhere | None:
        return self.place

    @functools.cached_property
    def fidelity(self) -> Fidelity:
        """As of a run in this process; found there when it is first asked for."""
        return self.place.call(attribute_of, self, "fidelity")

    @property
    def last_logits(self) -> Float[Tensor, " d_vocab"]:
        """As of a run in this process, on the CPU."""
        return self.place.call(attribute_of, self, "last_logits")

    def held(self) -> AbstractContextManager[None]:
        """Nothing: no model here is used."""
        return nullcontext()

    def states_of(self, site: str, cells: Cells) -> Float[Tensor, "cells d_model"]:
        """The states of some cells, sent here: on the CPU."""
        return self.place.call(_states_of, self, site, cells)

    def stream(self, site: str) -> Tensor | Streams:
        """A whole site's states, sent here: on the CPU."""
        return self.place.call(_stream_of, self, site)

    @property
    def is_current(self) -> bool:
        """True: a run of a model that was loaded again is made again when it is asked for."""
        return True

    def check_model(self, *, values: bool = False) -> None:
        """Nothing: it is checked there, at each read."""

    @property
    def nbytes(self) -> int:
        return self.n_bytes


def attribute_of(run: Run, name: str) -> Any:
    """What a run says of itself; computed where it is."""
    return getattr(run, name)


def described(run: Run) -> dict[str, Any]:
    """What a `RemoteRun` is made of."""
    kept = run.kept
    return {
        "id": run.id,
        "spec": run.spec,
        "model": run.model,
        "reuse": run.reuse,
        "n_bytes": run.nbytes,
        "kept": RemoteKept((True,) if kept is not None and kept.keys else ()),
    }


def handle_of(description: dict[str, Any], on_release: Callable[[str], None]) -> Handle:
    """What names a run there.

    Args:
        on_release: is told the run's id once nothing here refers to it.
    """
    handle = Handle(description["id"], description["spec"])
    weakref.finalize(handle, on_release, handle.run_id).atexit = False
    return handle


def remote_run(description: dict[str, Any], place: Elsewhere, handle: Handle) -> RemoteRun:
    """The run of a description."""
    return RemoteRun(**description, tail=NotHere(description["model"].name), place=place, handle=handle)


def _states_of(run: Run, site: str, cells: Cells) -> Tensor:
    return run.states_of(site, cells)


def _stream_of(run: Run, site: str) -> Tensor:
    stream = run.stream(site)
    if isinstance(stream, Tensor):
        return stream
    return torch.cat([part.to(stream.device) for part in stream.parts], dim=1)
