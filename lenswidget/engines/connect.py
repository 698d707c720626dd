"""A model in a Ray cluster: found there by name, or loaded there."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lenswidget.checks import is_integer
from lenswidget.engines.calls import RayCalls
from lenswidget.engines.remote_model import RemoteModel
from lenswidget.engines.remote_workers import RemoteWorkers
from lenswidget.engines.survey_worker import SurveyWorker
from lenswidget.errors import LensError, ModelError
from lenswidget.language_model import LanguageModel
from lenswidget.versions import import_ray

NAMESPACE = "lenswidget"
# Of a cluster's resources, what stands for a client; Ray takes it back when the client's job ends. No part of
# a CPU: the rest of that might be too little for an actor.
LEASE = {"node:__internal_head__": 0.0001}


def connect(
    address: str | None,
    model: str | Callable[..., Any],
    *,
    name: str | None = None,
    tensor_parallel: int = 1,
    num_cpus: float | int = 1,
    num_gpus: float | int = 0,
    resources: Mapping[str, float | int] | None = None,
    keep_s: float | int = 300,
    wait_s: float | int = 1800,
    **options: Any,
) -> RemoteModel:
    """A model in a Ray actor, loaded on whichever node has what it needs; waits until it is.

    Who connects to the same model with the same options, from the same notebook or another, gets the same
    actor, which answers one request after the other. It ends when the last client has been gone for `keep_s`.

    Args:
        address: "ray://host:10001" for a cluster, "auto" on a node of one, "local" for a cluster of this
            machine alone; None for what `ray.init` has connected to.
        model: what `LanguageModel` takes, as the node finds it; or a function of a module that the nodes
            have, which returns a `LanguageModel`.
        name: of the actor; made of the model and its options unless given.
        tensor_parallel: in how many actors the model is, each of which has a part of every weight, by
            transformers' own plan; a function is given `distributed_config` to hand on to `from_pretrained`.
        num_cpus, num_gpus, resources: that the actor takes of its node; each of several.
        keep_s: seconds.
        wait_s: seconds to wait for the model to be loaded.
        options: of `LanguageModel`, such as `dtype` or `device_map="cuda"`; or of the function.
    Raises:
        LensError: Ray is not installed or reached, or has another lenswidget.
        ModelError: the model cannot be loaded there, or not split so.
        EngineLostError: it was not loaded in time.
    """
    ray = import_ray()
    load, given = _loading(model, options)
    if not is_integer(tensor_parallel) or tensor_parallel < 1:
        raise LensError(f"Asked for tensor_parallel={tensor_parallel!r:.40}. Pass an integer, 1 or more.")
    _join(ray, address)
    needs: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources or {})}
    split = {"tensor_parallel": tensor_parallel} if tensor_parallel > 1 else {}
    name = name or _name(model, {**options, **needs["resources"], "num_gpus": num_gpus, **split})

    def find() -> Any:
        from lenswidget.engines.ray_host import GROUPS, RayGroupHost, RayHost

        more = (tensor_parallel, needs, wait_s) if split else ()
        lasting: dict[str, Any] = {"get_if_exists": True, "lifetime": "detached", "max_restarts": -1}
        host = ray.remote(concurrency_groups=GROUPS)(RayGroupHost if split else RayHost)
        named = host.options(name=name, namespace=NAMESPACE, **lasting, **needs)
        return named.remote(load, given, keep_s, *more)

    lease = ray.util.placement_group([LEASE]).id.hex()
    return RemoteModel(RayCalls(find, lease, wait_s))


def connect_workers(
    address: str | None,
    model: str | Callable[..., Any],
    n: int | tuple[int, int],
    *,
    num_cpus: float | int = 1,
    num_gpus: float | int = 0,
    resources: Mapping[str, float | int] | None = None,
    wait_s: float | int = 1800,
    **options: Any,
) -> RemoteWorkers:
    """Copies of a model in Ray actors, to share a survey: `lw.survey(workers, rows, ...)`.

    Waits for the first. As many as the cluster has room for work at a time; others join once it has. They end
    with this process, or by `workers.close()`.

    Args:
        n: how many; or how many at least and at most. Then more are asked for while all are busy and there
            are more rows, and those beyond the first number end once all rows are taken.
        address, model, num_cpus, num_gpus, resources, wait_s, options: as for `connect`, of each worker.
    Raises:
        LensError: as `connect`.
    """
    ray = import_ray()
    load, given = _loading(model, options)
    bounds: Any = n if isinstance(n, tuple) else (n, n)
    if len(bounds) != 2 or not all(map(is_integer, bounds)) or not 1 <= bounds[0] <= bounds[1]:
        raise LensError(f"Asked for {n!r:.40} workers. Pass an integer, 1 or more, or two: (1, 4).")
    _join(ray, address)
    # a lost worker is started again, and what it was asked is asked again, once
    lasting: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 1}
    needs: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources or {})}
    worker = ray.remote(SurveyWorker).options(**lasting, **needs)
    return RemoteWorkers(lambda: worker.remote(load, given), bounds, wait_s)


def _loading(model: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What loads a model there, and its arguments."""
    if isinstance(model, str):
        return LanguageModel, {"name_or_hf_model": model, **options}
    if callable(model):
        return model, options
    raise ModelError(
        f"Asked to load a {type(model).__name__} in another process. Give the name of a model, a folder, or "
        "a function that loads one there."
    )


def _join(ray: Any, address: str | None) -> None:
    """Connect this process to a cluster, unless it is; Ray's own lines stay in its log files."""
    if ray.is_initialized():
        return
    if address is None:
        raise LensError(
            "Asked for a model in a cluster, and this process has joined none. Pass its address, as "
            '"ray://host:10001", or "local".'
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise LensError(
                f"No Ray cluster answers at {address!r} ({reason:.120}). Start one there: ray start --head. "
                "One that wants a token is silent to others: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
            ) from error


def _name(model: str | Callable[..., Any], options: Mapping[str, Any]) -> str:
    """The same for the same model and options."""
    of = model if isinstance(model, str) else f"{model.__module__}.{getattr(model, '__qualname__', '')}"
    told = repr(sorted((key, repr(value)) for key, value in options.items()))
    return f"{of} {hashlib.sha256(told.encode()).hexdigest()[:12]}"
