"""The process that has a model: answers its clients one after the other, keeps what each has."""

import contextlib
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from torch import Tensor

from lenswidget.engines.crossing import content_of, dumps, loads, rebuilt
from lenswidget.engines.named import is_named
from lenswidget.engines.remote_run import RemoteLens, described
from lenswidget.errors import LensError
from lenswidget.ids import new_id
from lenswidget.lenses.lens import LogitLens, as_lens
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import Run, RunSpec
from lenswidget.versions import __version__

# Of one client's runs; beyond it the oldest are let go, and made again from their recipes if asked for.
MOST_BYTES = 1 << 30
# Seconds between two looks at whether clients are still there.
LOOK_S = 0.5


class MissingError(Exception):
    """A client named something that this process does not have, or no longer.

    Args:
        kind: "run" or "value".
        name: of it.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name


class Guest:
    """What one client has here: its runs and values by name, and the work that it takes in slices.

    Args:
        lease: the id of a placement group of the client's job, which is removed when the job ends.
    """

    def __init__(self, lease: str) -> None:
        self.lease = lease
        self.runs: dict[str, Run] = {}
        self.values: dict[str, Any] = {}
        self.tokens: dict[int, str] = {}
        self.works: dict[str, Generator[Any, None, Any]] = {}

    def keep(self, token: str, value: Any) -> None:
        self.values[token] = value
        self.tokens[id(value)] = token

    def release(self, names: Any) -> None:
        for name in names:
            self.runs.pop(name, None)
            value = self.values.pop(name, None)
            self.tokens.pop(id(value), None)

    def keep_run(self, run: Run) -> None:
        self.runs.pop(run.id, None)
        self.runs[run.id] = run
        while len(self.runs) > 1 and sum(each.nbytes for each in self.runs.values()) > MOST_BYTES:
            del self.runs[next(iter(self.runs))]


class Host:
    """A model and its clients. One thread at a time is in here, so that no two clients interleave.

    Args:
        load: gives a `LanguageModel`.
        options: of that.
        keep_s: seconds that the model is kept after the last client left.
    Attributes:
        failed: why there is no model, or None.
    """

    def __init__(self, load: Callable[..., Any], options: dict[str, Any], keep_s: float | int) -> None:
        self._guests: dict[str, Guest] = {}
        self._keep_s, self._alone_since = keep_s, time.monotonic()
        self.failed: Exception | None = None
        try:
            self._model: Any = load(**options)
            self._engine = LocalEngine(self._model)
        except Exception as error:  # told to the client, who would else see an actor that died
            self.failed = error

    def hello(self, name: str, lease: str) -> dict[str, Any]:
        """What a client must know of the model.

        Raises:
            Exception: whatever loading the model raised.
        """
        self._guest(name, lease)
        if self.failed is not None:
            return {"error": self.failed}
        lenses = {key: as_lens(lens) for key, lens in self._model.lenses.items()}
        stubs = {
            key: RemoteLens(
                lens.name,
                key,
                None if layers is None else frozenset(layers),
                self._engine.report_of(lens),
            )
            for key, lens in lenses.items()
            for layers in [getattr(lens, "layers", None)]
        }
        logit_report = self._engine.report_of(LogitLens())
        info = self._engine.info()
        return {"version": __version__, "info": info, "lenses": stubs, "logit_report": logit_report}

    def call(self, name: str, lease: str, released: list[str], message: bytes) -> tuple[Any, ...]:
        """Call a function of this package; the reply of it, or of its first slice.

        Args:
            name, lease: of the client.
            released: names that the client does not refer to any more.
            message: `(function, args, kwargs)`, as `dumps` writes it.
        """
        guest = self._guest(name, lease)
        guest.release(released)

        def work() -> tuple[Any, ...]:
            function, args, kwargs = loads(message, lambda each: self._object_of(guest, each))
            found = function(*args, **kwargs)
            if not isinstance(found, Generator):
                return "value", self._out(guest, found)
            key = new_id()
            guest.works[key] = found
            return self._next(guest, key)

        return self._told(guest, work)

    def step(self, name: str, key: str) -> tuple[Any, ...]:
        """The next slice of a client's work."""
        guest = self._guests.get(name)
        if guest is None or key not in guest.works:
            return "missing", "work", key
        return self._told(guest, lambda: self._next(guest, key))

    def stop(self, name: str, key: str) -> None:
        """End a client's work before its end."""
        guest = self._guests.get(name)
        if guest is not None and (work := guest.works.pop(key, None)) is not None:
            work.close()

    def leave(self, name: str) -> None:
        """A client has ended: all that it had is let go."""
        guest = self._guests.pop(name, None)
        if not self._guests:
            self._alone_since = time.monotonic()
        for work in list(guest.works.values()) if guest is not None else ():
            work.close()

    def kept(self) -> dict[str, int]:
        """How much is kept for all clients together."""
        guests = list(self._guests.values())
        return {
            "clients": len(guests),
            "runs": sum(len(guest.runs) for guest in guests),
            "values": sum(len(guest.values) for guest in guests),
            "works": sum(len(guest.works) for guest in guests),
        }

    @property
    def is_loaded(self) -> bool:
        """Whether there is a model."""
        return self.failed is None

    # --- the life of clients

    def tend(self, is_there: Callable[[str], bool], leave: Callable[[str], Any]) -> None:
        """Look after clients that ended without a word; returns once there was none for long enough.

        Args:
            is_there: whether a lease still is.
            leave: has a client's things let go, in its turn among the requests.
        """
        while self._guests or time.monotonic() - self._alone_since < self._keep_s:
            for name, guest in list(self._guests.items()):
                with contextlib.suppress(Exception):  # whatever cannot be told now is looked at again
                    if not is_there(guest.lease):
                        leave(name)
            time.sleep(LOOK_S)

    def _guest(self, name: str, lease: str) -> Guest:
        return self._guests.setdefault(name, Guest(lease))

    # --- what crosses

    def _told(self, guest: Guest, work: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """The reply of some work, or why there is none."""
        try:
            return work()
        except MissingError as missing:
            return "missing", missing.kind, missing.name
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            try:
                return "error", dumps(error, lambda each: self._name_of(guest, each)), told
            except Exception:  # an error of a kind that the client does not have
                plain = RuntimeError(f"{type(error).__name__}: {error}")
                return "error", dumps(plain, lambda _each: None), told

    def _next(self, guest: Guest, key: str) -> tuple[Any, ...]:
        try:
            found = next(guest.works[key])
        except StopIteration as stop:
            guest.works.pop(key, None)
            return "value", self._out(guest, stop.value)
        except BaseException:
            guest.works.pop(key, None)
            raise
        return "slice", key, self._out(guest, found)

    def _out(self, guest: Guest, value: Any) -> bytes:
        return dumps(value, lambda each: self._name_of(guest, each))

    def _name_of(self, guest: Guest, value: Any) -> tuple[Any, ...] | None:
        if value is None or type(value).__module__ == "builtins":
            return None
        if value is self._model.tokenizer:
            return ("tokenizer",)
        if isinstance(value, Run):
            guest.keep_run(value)
            return "run", described(value)
        if is_named(value):
            token = guest.tokens.get(id(value))
            if token is None:
                guest.keep(token := new_id(), value)
            return "value", token, content_of(value)
        return None

    def _object_of(self, guest: Guest, name: tuple[Any, ...]) -> Any:
        match name:
            case ("engine",):
                return self._engine
            case ("model",):
                return self._model
            case ("tokenizer",):
                return self._model.tokenizer
            case ("lens", key):
                return as_lens(self._model.lenses[key])
            case ("run", run_id):
                if run_id not in guest.runs:
                    raise MissingError("run", run_id)
                return guest.runs[run_id]
            case ("value", token, content):
                if token not in guest.values:
                    if content is None:
                        raise MissingError("value", token)
                    guest.keep(token, self._at_home(rebuilt(content)))
                return guest.values[token]
            case _:
                raise LensError(f"A client named {name!r:.80}, which this process does not know.")

    def _at_home(self, value: Any) -> Any:
        """A value of a client, on this model's device where the model takes it as it is."""
        if not isinstance(value, EncodedPrompt):
            return value
        device = self._model.device
        inputs = {
            name: each.to(device) if isinstance(each, Tensor) else each
            for name, each in value.model_inputs.items()
        }
        return replace(value, model_inputs=inputs)


def run_again(engine: LocalEngine, spec: RunSpec, run_id: str) -> Run:
    """A run that is not kept any more, made from its recipe under the same id."""
    return replace(engine.run(spec), id=run_id)
