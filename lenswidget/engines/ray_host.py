"""A host in a Ray actor. This file imports Ray, and so is imported only where a cluster is asked for."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
import ray.util

from lenswidget.engines.host import Host
from lenswidget.engines.ray_group import GROUPS, WATCH, Group

__all__ = ["GROUPS", "RayGroupHost", "RayHost"]


class RayHost(Host):
    """A `Host` in an actor: Ray tells it whose jobs have ended, and ends it."""

    def __init__(self, load: Callable[..., Any], options: dict[str, Any], keep_s: float | int) -> None:
        super().__init__(load, options, keep_s)
        self._me: Any = ray.get_runtime_context().current_actor
        self._me.tend_by_ray.remote()

    @ray.method(concurrency_group=WATCH)
    def tend_by_ray(self) -> None:
        """`tend` until there is no client any more; then the actor ends."""

        def has_job(lease: str) -> bool:
            found = ray.util.placement_group_table().get(lease)
            return found is not None and found["state"] != "REMOVED"

        self.tend(has_job, self._me.leave.remote)
        ray.kill(self._me)

    @ray.method(concurrency_group=WATCH)
    def is_there(self) -> bool:
        """Whether the model is; answered beside the requests."""
        return self.is_loaded


class RayGroupHost(RayHost):
    """The first of several processes that have a model together: the one that clients ask.

    Args:
        load, options, keep_s: as of a `Host`; `load` is given `distributed_config` too.
        n_ranks, needs, wait_s: see `Group`.
    """

    def __init__(
        self,
        load: Callable[..., Any],
        options: dict[str, Any],
        keep_s: float | int,
        n_ranks: int,
        needs: Mapping[str, Any],
        wait_s: float | int,
    ) -> None:
        self._group = Group(n_ranks, needs, wait_s)
        super().__init__(partial(self._group.load, load, options), {}, keep_s)

    def hello(self, name: str, lease: str) -> dict[str, Any]:
        """As of a `Host`, by all: looking at the model for the first time runs it."""
        return (
            self._by_all("hello", super().hello, name, lease)
            if self.is_loaded
            else super().hello(name, lease)
        )

    def call(self, name: str, lease: str, released: list[str], message: bytes) -> tuple[Any, ...]:
        """As of a `Host`, by all."""
        return self._by_all("call", super().call, name, lease, released, message)

    def step(self, name: str, key: str) -> tuple[Any, ...]:
        """As of a `Host`, by all."""
        return self._by_all("step", super().step, name, key)

    def stop(self, name: str, key: str) -> None:
        """As of a `Host`, by all."""
        self._by_all("stop", super().stop, name, key)

    def leave(self, name: str) -> None:
        """As of a `Host`, by all."""
        self._by_all("leave", super().leave, name)

    @ray.method(concurrency_group=WATCH)
    def pids(self) -> list[int]:
        """The processes that have the model together, each on its node; this one first."""
        return [os.getpid(), *self._group.pids()]

    def _by_all(self, name: str, own: Callable[..., Any], *args: Any) -> Any:
        self._group.ask(name, args)
        try:
            found = own(*args)
        except Exception as error:
            self._group.agree(error)
            raise
        self._group.agree(found)
        return found
