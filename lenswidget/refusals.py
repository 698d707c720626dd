"""What a trace says when it cannot give or change what was asked."""

import threading

from torch import nn

from lenswidget.errors import NotReachedError, OutOfOrderError, TraceError
from lenswidget.order import Place, Point
from lenswidget.tracebacks import nearest_path, path_of


class Refusals:
    """The errors of one trace.

    Args:
        root: the model, whose paths name the modules.
        is_generation: whether a point is named with its step.
        places: of the modules that the user named, which may have other names as well.
    """

    def __init__(self, root: nn.Module, is_generation: bool, places: tuple[Place, ...]) -> None:
        self._root = root
        self._is_generation = is_generation
        self._paths = {place.module: place.path for place in reversed(places)}

    def name(self, point: Point) -> str:
        """A point as the user would write it, as `transformer.h.5.mlp.output`."""
        path = self._path(point.module) or type(point.module).__name__
        call = f" (call {point.call})" if point.call else ""
        step = f" in step {point.step}" if self._is_generation else ""
        return f"{path}.{point.kind}{call}{step}"

    def too_late(self, point: Point, at: Point | None) -> OutOfOrderError:
        """For a change where the forward, which stands at `at`, has been."""
        where = "its end" if at is None else self.name(at)
        return OutOfOrderError(
            f"Asked to change {self.name(point)}, but the forward has passed it and stands at {where}. "
            f"Change it before asking for {where}, or open another trace."
        )

    def too_late_to_read(self, point: Point) -> OutOfOrderError:
        """For a value that a generation has left behind."""
        return OutOfOrderError(
            f"Asked for {self.name(point)}, but the generation has passed it, and is not run again. "
            "Read it earlier in the step, in the order of the forward."
        )

    def not_reached(self, point: Point, called: list[nn.Module]) -> NotReachedError:
        """For a point that this forward, which calls the modules `called`, never comes to."""
        name, module = self.name(point), point.module
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            return NotReachedError(f"Asked for {name}, but a {type(module).__name__} never runs. Index it.")
        if point.call and module in called:
            return NotReachedError(f"Asked for {name}, but it is not called that often. Calls count from 0.")
        nearest = nearest_path(self._root, self._path(module) or "", called)
        return NotReachedError(
            f"Asked for {name}, but it does not run in this forward. The nearest module that does is "
            f"{nearest or 'the model itself'}."
        )

    def _path(self, module: nn.Module) -> str | None:
        return self._paths[module] if module in self._paths else path_of(self._root, module)


def unavailable(asked: str, state: str) -> TraceError:
    """For anything asked of a trace that is not open, or is open on another thread.

    Args:
        asked: what was asked for.
        state: "new", "open", "stopped" or "closed".
    """
    if state == "open":
        return TraceError(
            f"Asked for {asked} on thread {threading.current_thread().name!r}, but this trace was opened on "
            "another. Read it there and hand the value over."
        )
    found = "was stopped" if state == "stopped" else "is not open"
    return TraceError(
        f"Asked for {asked}, but this trace {found}. Read it inside the `with` block, before tracer.stop()."
    )
