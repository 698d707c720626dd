"""Calls of a model in a Ray actor, with one answer or one sentence each."""

import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Generator
from typing import Any, Literal, TypeAlias

from lenswidget.engines.crossing import content_of, dumps, loads, rebuilt
from lenswidget.engines.host import run_again
from lenswidget.engines.named import Names, is_large, is_named
from lenswidget.engines.remote_run import Handle, RemoteLens, RemoteRun, handle_of, remote_run
from lenswidget.errors import EngineLostError, LensError
from lenswidget.lenses.lens import CallableLens
from lenswidget.lenses.lens_report import LensReport
from lenswidget.readout.run import Run
from lenswidget.versions import __version__, import_ray

EngineState: TypeAlias = Literal["live", "connecting", "lost"]
# A message that names what the actor lacks is sent again with it; each time it may lack something else.
MOST_TRIES = 20
LOOK_S = 0.2
# A message of more is put into the object store, which takes it in pieces.
LARGE_BYTES = 1 << 20


class RayCalls:
    """The actor that has a model, as one client sees it; an `Elsewhere`.

    Args:
        find: the actor, made where there is none.
        lease: the id of a placement group of this job.
        wait_s: seconds to wait for the model to be loaded.
    Attributes:
        info: what the model says of itself, with its tokenizer.
        lenses: those that come with the model, by name.
        logit_report: what was measured of the logit lens there.
    """

    def __init__(self, find: Callable[[], Any], lease: str, wait_s: float | int) -> None:
        self._find, self._lease, self._wait_s = find, lease, wait_s
        self._client = uuid.uuid4().hex
        self._names = Names()
        self._handles: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
        self._runs: weakref.WeakValueDictionary[str, RemoteRun] = weakref.WeakValueDictionary()
        self._sent: set[str] = set()
        self._ping: Any = None
        self._is_lost = self._is_closed = False
        self.engine: Any = None  # what stands for the actor's engine
        self._actor = find()
        self._greet()

    def _greet(self) -> None:
        ray = import_ray()

        try:
            found = self._actor.hello.remote(self._client, self._lease)
            ready, _ = ray.wait([found], timeout=self._wait_s)
            told = self._got(found) if ready else {}
        except (TypeError, RuntimeError) as error:  # of an actor whose class could not be loaded
            if isinstance(error, LensError):
                raise
            ray.kill(self._actor)
            raise LensError(
                f"The node that is to have the model has no lenswidget {__version__} that loads "
                f"({next(iter(str(error).splitlines()), '')!s:.120}). Install it on every node."
            ) from error
        if not ready:
            raise EngineLostError(
                f"The model was not loaded within {self._wait_s:.0f} s: no node may have what it needs, or "
                "loading takes longer. See `ray status`, or pass wait_s=."
            )
        if "error" in told:
            ray.kill(self._actor)
            raise told["error"]
        if told["version"] != __version__:
            raise LensError(
                f"The cluster has lenswidget {told['version']}, and this is {__version__}. Install the same "
                "on both sides."
            )
        self.info, self.lenses = told["info"], told["lenses"]
        self.logit_report: LensReport | None = told["logit_report"]

    # --- Elsewhere

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of this package returns in the actor."""
        kind, value = self._first(function, args, kwargs)[:2]
        assert kind == "value"
        return self._in(value)

    def slices(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        """What a generator function of this package yields and returns in the actor."""
        reply = self._first(function, args, kwargs)
        key: str | None = None
        try:
            while reply[0] == "slice":
                _, key, value = reply
                yield self._in(value)
                reply = self._reply(self._got(self._actor.step.remote(self._client, key)))
            key = None
            return self._in(reply[1])
        except LensError:
            key = None
            raise
        finally:
            if key is not None:
                self._actor.stop.remote(self._client, key)

    def state(self) -> EngineState:
        """Whether the actor answers: "live"; "connecting" while Ray starts it again; "lost" with its cluster.

        Does not wait.
        """
        ray = import_ray()

        if not self._is_lost:
            return "live"
        if not ray.is_initialized():
            return "lost"
        try:
            self._ping = self._ping or self._actor.is_there.remote()
            if not ray.wait([self._ping], timeout=0)[0]:
                return "connecting"
            found, self._ping = self._ping, None
            ray.get(found)
        except ray.exceptions.ActorUnavailableError:
            return "connecting"
        except ray.exceptions.RayActorError:
            self._actor = self._find()
            return "connecting"
        except Exception:
            return "lost"
        self._is_lost = False
        return "live"

    def flush(self) -> None:
        """Have the actor let go what nothing here refers to any more; does not wait."""
        released = self._names.take_released()
        if released and not self._is_lost and not self._is_closed:
            self._send(released, dumps((_nothing, (), {}), _no_name))

    def close(self) -> None:
        """Leave: the actor lets go all that this client had."""
        if not self._is_closed and not self._is_lost:
            self._actor.leave.remote(self._client)
        self._is_closed = True

    # --- messages

    def _first(self, function: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The reply to a call; what the actor lacks is given to it."""
        if self._is_closed:
            raise EngineLostError("This model was left: model.close(). Connect again: lw.connect(...).")
        if self._is_lost:
            self._wait()
        for _ in range(MOST_TRIES):
            message = dumps((function, args, kwargs), self._name_of)
            released = self._names.take_released()
            reply = self._got(self._send(released, message))
            match reply:
                case ("missing", "run", run_id):
                    self._run_again(run_id)
                case ("missing", "value", token):
                    self._sent.discard(token)
                case _:
                    return self._reply(reply)
        raise EngineLostError("The actor forgets what it is given. It may be short of memory: ask for less.")

    def _send(self, released: list[str], message: bytes) -> Any:
        ray = import_ray()

        with warnings.catch_warnings():
            # Ray Client warns of tasks once all their messages together exceed 10 MB, small as each may be
            warnings.simplefilter("ignore", UserWarning)
            sent: Any = message if len(message) < LARGE_BYTES else ray.put(message)
            return self._actor.call.remote(self._client, self._lease, released, sent)

    def _run_again(self, run_id: str) -> None:
        handle = self._handles.get(run_id)
        if handle is None:
            raise LensError("Asked for a run that is no longer kept. Run it again: model.run(prompt).")
        self.call(run_again, self.engine, handle.spec, run_id)

    def _reply(self, reply: tuple[Any, ...]) -> tuple[Any, ...]:
        match reply:
            case ("error", error, told):
                raised: Exception = self._in(error)
                if not isinstance(raised, LensError):
                    raised.add_note(f"In the actor:\n{told}")
                raise raised
            case ("missing", _, _):
                raise EngineLostError(
                    f"The actor of {self.info.name} was started again before this was done. Ask again."
                )
            case _:
                return reply

    def _got(self, reference: Any) -> Any:
        """What Ray gives; a lost actor is one sentence."""
        ray = import_ray()

        try:
            return ray.get(reference)
        except ray.exceptions.RayActorError:
            self._is_lost = True
            raise EngineLostError(
                f"The actor of {self._told_name} was lost while this was asked. Ray starts it again: what is "
                "shown stays, and what is asked then is answered."
            ) from None
        except ConnectionError as error:
            self._is_lost = True
            raise EngineLostError(
                f"The cluster that has {self._told_name} is not reached any more ({error!s:.80}). Connect "
                "again: ray.shutdown(), then lw.connect(...)."
            ) from None

    @property
    def _told_name(self) -> str:
        info: Any = getattr(self, "info", None)
        return "the model" if info is None else info.name

    def _wait(self) -> None:
        """Until the actor answers again."""
        end_s = time.monotonic() + self._wait_s
        while (state := self.state()) != "live":
            if state == "lost" or time.monotonic() > end_s:
                raise EngineLostError(
                    f"The actor of {self._told_name} does not come back. Connect again: lw.connect(...)."
                )
            time.sleep(LOOK_S)

    # --- what crosses

    def _in(self, data: bytes) -> Any:
        return loads(data, self._object_of)

    def _name_of(self, value: Any) -> tuple[Any, ...] | None:
        if value is None or type(value).__module__ == "builtins":
            return None
        if value is self.engine:
            return ("engine",)
        if value is self.info.tokenizer:
            return ("tokenizer",)
        if isinstance(value, RemoteLens):
            return "lens", value.key
        if isinstance(value, RemoteRun) and value.place is self:
            return "run", value.handle.run_id
        if isinstance(value, Run):
            raise LensError(
                f"Asked {self.info.name} to read a run that is not its own. Run it there: model.run(spec)."
            )
        if isinstance(value, CallableLens):
            raise LensError(
                f"Asked to read through the function {value.name!r}, which is in this process, and the model "
                "in another. Pass a fitted lens, or one that comes with the model."
            )
        if not is_named(value):
            return None
        token = self._names.name(value)
        if is_large(value) and token in self._sent:
            return "value", token, None
        self._sent.add(token)
        return "value", token, content_of(value)

    def _object_of(self, name: tuple[Any, ...]) -> Any:
        match name:
            case ("tokenizer",):
                return self.info.tokenizer
            case ("run", description):
                return self._run_of(description)
            case ("value", token, content):
                value = self._names.value(token)
                if value is None:
                    value = rebuilt(content)
                    self._names.name(value, token)
                    self._sent.add(token)
                return value
            case _:
                raise LensError(f"The actor named {name!r:.80}, which is not known here.")

    def _run_of(self, description: dict[str, Any]) -> RemoteRun:
        known = self._runs.get(description["id"])
        if known is None:
            handle = self._handles.get(description["id"]) or handle_of(
                description, self._names.released.append
            )
            known = remote_run(description, self, handle)
            self._runs[known.id], self._handles[known.id] = known, handle
        return known


def _nothing() -> None:
    """Called for what comes with a call."""


def _no_name(_value: Any) -> None:
    return None
