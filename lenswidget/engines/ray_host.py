"""A host in a Ray actor. This file imports Ray, and so is imported only where a cluster is asked for."""

from collections.abc import Callable
from typing import Any

import ray
import ray.util

from lenswidget.engines.host import Host

# Beside the requests, which one thread answers one by one: one that looks after clients, and one for pings.
WATCH = "watch"
GROUPS = {WATCH: 2}


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
