"""Processes that have one model together, a part of every weight each. This file imports Ray.

What the first is asked, all are asked, in its order: each runs the same calls on the same runs and values,
under the same names, and the parts meet in the model's own sums. What they answer is compared, bit for bit.
Where one is lost, late or of another opinion, the first ends: with it go the others, and Ray starts it again
with new ones.
"""

import gc
import hashlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch

from lenswidget.engines.host import Host
from lenswidget.errors import EngineLostError, LensError, ModelError
from lenswidget.ids import draw_ids_from
from lenswidget.models.split import n_shards
from lenswidget.versions import import_ray

ray = import_ray()

# Beside the requests, which one thread answers one by one: one that looks after clients, and one for pings.
WATCH = "watch"
GROUPS = {WATCH: 2}
# A rank that says nothing for so long, or is done so long before or after the others, is lost.
SILENT_S = 60
LOOK_S = 0.5
# For torch, which would end a slow load; the watch is what ends a group that hangs.
COLLECTIVE_S = 7200


@dataclass(frozen=True)
class Place:
    """Which of the processes one is, and where they meet.

    Attributes:
        address: as torch takes it, "tcp://host:port" of the first.
        seed: what their ids are drawn from.
    """

    rank: int
    n_ranks: int
    address: str
    seed: int

    def join(self) -> None:
        """Meet the others; from here on all that is random or named is the same in each."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(
            backend,
            init_method=self.address,
            rank=self.rank,
            world_size=self.n_ranks,
            timeout=timedelta(seconds=COLLECTIVE_S),
        )
        draw_ids_from(self.seed)
        torch.manual_seed(0)


def loaded(load: Callable[..., Any], n_ranks: int, options: Mapping[str, Any]) -> Any:
    """This process's part of a model.

    Raises:
        ModelError: it is not split.
    """
    model = load(**options, distributed_config={"tp_size": n_ranks})
    if n_shards(model.hf_model) != n_ranks:
        raise ModelError(
            f"Asked to split a model over {n_ranks} processes, and the function that loads it gave a whole "
            "one. Have it take distributed_config= and hand that on to from_pretrained."
        )
    # Garbage is collected between requests, so that what is gone in one process is gone in all
    gc.collect()
    gc.freeze()
    gc.disable()
    return model


def digest(reply: Any) -> str:
    """The same for the same answer, bit for bit; of an error, its text alone is left out."""
    if isinstance(reply, Exception):
        return type(reply).__name__
    if isinstance(reply, tuple):
        parts = reply[:-1] if reply[:1] == ("error",) else reply
        return hashlib.sha256(repr([hash_of(each) for each in parts]).encode()).hexdigest()
    return repr(sorted(reply)) if isinstance(reply, dict) else ""


def hash_of(part: Any) -> str:
    return hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else repr(part)


class RayRank:
    """One of the processes behind the first: does what that does, and says what came out."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def enter(self, place: Place, load: Callable[..., Any], options: dict[str, Any]) -> Exception | None:
        """Meet the others and load a part of the model; why not, where it cannot be."""

        def join_and_load() -> Any:
            place.join()
            return loaded(load, place.n_ranks, options)

        self._host = Host(join_and_load, {}, keep_s=0)
        return self._host.failed

    def follow(self, name: str, *args: Any) -> str:
        """What a method of `Host` gives here, as its digest."""
        try:
            found = getattr(self._host, name)(*args)
        except Exception as error:  # which the first raises too
            found = error
        gc.collect()
        return digest(found)

    @ray.method(concurrency_group=WATCH)
    def pid(self) -> int:
        """Answered beside the requests, as long as the process is there."""
        return os.getpid()


class Group:
    """The other processes, as the first sees them.

    Args:
        n_ranks: all, the first included.
        needs: options of Ray for each: what it takes of its node.
        wait_s: seconds to wait until the cluster has room for them.
    """

    def __init__(self, n_ranks: int, needs: Mapping[str, Any], wait_s: float | int) -> None:
        self.n_ranks, self._wait_s = n_ranks, wait_s
        rank = ray.remote(concurrency_groups=GROUPS)(RayRank).options(**needs)
        self._ranks: list[Any] = [rank.remote() for _ in range(n_ranks - 1)]
        self._replies: list[Any] = []

    def load(self, load: Callable[..., Any], options: dict[str, Any]) -> Any:
        """This process's part of the model, once all have theirs.

        Raises:
            EngineLostError: there is no room for all.
            Exception: whatever one of them raised.
        """
        here = [rank.pid.remote() for rank in self._ranks]
        n_here = len(ray.wait(here, num_returns=len(here), timeout=self._wait_s)[0])
        if n_here < len(here):
            raise EngineLostError(
                f"Asked to split the model over {self.n_ranks} processes, and the cluster had room for "
                f"{n_here + 1} within {self._wait_s:.0f} s. See `ray status`, or ask for fewer."
            )
        ray.get(here)
        address, seed = f"tcp://{_free_address()}", secrets.randbits(128)
        places = [Place(i, self.n_ranks, address, seed) for i in range(self.n_ranks)]
        entering = [
            rank.enter.remote(place, load, options)
            for rank, place in zip(self._ranks, places[1:], strict=True)
        ]
        threading.Thread(target=self._watch, daemon=True).start()
        places[0].join()
        try:
            model = loaded(load, self.n_ranks, options)
        finally:
            failed = [error for error in self._all(entering) if error is not None]
        if failed:
            raise failed[0]
        return model

    def pids(self) -> list[int]:
        """Of the other processes, each on its node."""
        return ray.get([rank.pid.remote() for rank in self._ranks])

    def ask(self, name: str, args: Sequence[Any]) -> None:
        """Have all others do what this process is about to do."""
        self._replies = [rank.follow.remote(name, *args) for rank in self._ranks]

    def agree(self, reply: Any) -> None:
        """See that all others have done it, and got what this process got: its reply, or what it raised."""
        found, self._replies = self._all(self._replies), []
        if any(each != digest(reply) for each in found):
            self.end("the ranks gave different answers")
        gc.collect()

    def _all(self, replies: list[Any]) -> list[Any]:
        try:
            return ray.get(replies)
        except (ray.exceptions.RayError, LensError) as error:
            self.end(f"a rank was lost: {error}")

    def _watch(self) -> None:
        """End this process, and with it the group, where another is gone or hangs."""
        watched: tuple[list[Any], float] = [], 0.0
        while True:
            try:
                pings = [rank.pid.remote() for rank in self._ranks]
                if ray.wait(pings, num_returns=len(pings), timeout=SILENT_S)[1]:
                    self.end(f"a rank did not answer within {SILENT_S} s")
                ray.get(pings)
            except ray.exceptions.RayError as error:
                self.end(f"a rank was lost: {error}")
            replies = self._replies
            if replies is not watched[0] and replies and ray.wait(replies, num_returns=1, timeout=0)[0]:
                watched = replies, time.monotonic()
            if replies and replies is watched[0] and time.monotonic() - watched[1] > SILENT_S:
                self.end(f"some ranks were done {SILENT_S} s before others")
            time.sleep(LOOK_S)

    def end(self, why: str) -> NoReturn:
        """End this process: Ray ends the others, whose owner it is, and starts it again."""
        print(f"lenswidget: {why}", file=sys.stderr, flush=True)
        os._exit(1)


def _free_address() -> str:
    """Of this node, with a port that nothing listens on."""
    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        found.bind((host, 0))
        port = found.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
