"""Models that several processes have together: a part of every weight each, or some of the layers each."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lenswidget.errors import ModelError
from lenswidget.models.hf_model import config_of, device_of

# Projections whose outputs hold queries, or keys and values, as transformers' plans name them.
_FUSED = frozenset({"qkv_proj", "query_key_value"})
_QUERIES, _KEYS = _FUSED | {"q_proj", "q_b_proj"}, _FUSED | {"k_proj", "v_proj"}


def is_spread() -> bool:
    """Whether this process is one of several that torch runs together.

    They may hold one model: then all must cut the same tiles and stop at the same places, so that none goes
    by its own clock or memory.
    """
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def n_shards(hf_model: nn.Module) -> int:
    """How many processes have a part of every weight, by transformers' tensor parallelism; 1: it is whole."""
    return int(getattr(hf_model, "_tp_size", None) or 1)


def largest_of_all(hf_model: nn.Module, value: float) -> float:
    """The largest of what each process found that has a part of a model; itself where the model is whole."""
    if n_shards(hf_model) == 1:
        return value
    mesh: Any = hf_model._device_mesh
    found = torch.tensor(value, dtype=torch.float64, device=device_of(hf_model))
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=mesh["tp"].get_group())
    return float(found)


def check_no_pipeline(hf_model: nn.Module) -> None:
    """Refuse a model whose layers are in several processes: those of the others are identities here.

    Raises:
        ModelError: says so.
    """
    kinds = {type(module).__name__ for module in hf_model.modules()}
    # transformers' mark, and what it leaves in place of another stage's modules
    if hasattr(hf_model, "_pp_stage") or "PipelineIdentityLayer" in kinds:
        raise _pipeline_error(type(hf_model).__name__)


def check_split(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a way to split a model that cannot be read or does not divide, before its weights are loaded.

    Args:
        name: of the model.
        options: of `from_pretrained`, which may ask for no split.
    Raises:
        ModelError: a pipeline, no plan to split by, or heads that do not divide.
    """
    given = options.get("distributed_config")
    asked: Mapping[str, Any] = given if isinstance(given, Mapping) else vars(given) if given else {}
    if (asked.get("pp_size") or 1) > 1:
        raise _pipeline_error(name)
    n, plan = asked.get("tp_size") or options.get("tp_size") or 1, asked.get("tp_plan")
    if n < 2:
        return
    config = options.get("config") or config_of(name, options)
    if config is None:
        return
    text = config.get_text_config(decoder=True)
    own = {**(getattr(text, "base_model_tp_plan", None) or {})}
    plan = {**own, **plan} if isinstance(plan, Mapping) else own
    if not plan:
        raise ModelError(
            f"Asked to split {name} over {n} processes, and transformers has no tensor-parallel plan for "
            f"{type(text).__name__}. Spread it over the devices of one process: device_map='auto'."
        )
    # where all heads are gathered before the attention, they need not divide
    parted = {key.rpartition(".")[2] for key, how in plan.items() if how == "colwise"}
    n_heads = getattr(text, "num_attention_heads", None) or n
    n_shared = getattr(text, "num_key_value_heads", None) or n_heads
    counts = {"attention heads": n_heads} if parted & _QUERIES else {}
    counts |= {"key-value heads": n_shared} if parted & _KEYS else {}
    for what, count in counts.items():
        if count % n:
            fitting = [str(m) for m in range(2, count + 1) if not any(each % m for each in counts.values())]
            remedy = f"Pass one of {', '.join(fitting)}" if fitting else "Use device_map='auto'"
            raise ModelError(
                f"Asked to split {name} over {n} processes, which do not divide its {count} {what}. {remedy}."
            )


def _pipeline_error(name: str) -> ModelError:
    return ModelError(
        f"Asked to read {name} in a pipeline: a process has some layers, and identities in place of the "
        "others, which would read as wrong numbers. Split each layer, DistributedConfig(tp_size=...), or "
        "spread the layers over the devices of one process, device_map='auto'."
    )
