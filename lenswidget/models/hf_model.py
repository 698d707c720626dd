"""All that is asked of a transformers model: its forward, logits, configuration, device and mode."""

import inspect
import itertools
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.errors import AnatomyError
from lenswidget.nested import tensors


def forward(hf_model: nn.Module, ids: Tensor) -> Any:
    """The model's own forward on token ids `[batch, seq]`, without a cache.

    An encoder-decoder gets the ids on both sides.
    """
    accepted = inspect.signature(hf_model.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    inputs: dict[str, Any] = {"input_ids": ids}
    if "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = ids
    if "use_cache" in accepted or takes_any:
        inputs["use_cache"] = False
    return hf_model(**inputs)


def logits_of(result: Any) -> Tensor:
    """The logits `[batch, seq, d_vocab]` in what a model returned."""
    found = getattr(result, "logits", None)
    if isinstance(found, Tensor):
        return found
    found = [] if isinstance(result, Mapping) else tensors(result)
    if found:
        return found[0][1]
    raise AnatomyError(
        f"Asked for the logits of a forward, found none in a {type(result).__name__}. "
        "Load the model with its language-modelling head (AutoModelForCausalLM)."
    )


def takes(hf_model: nn.Module, name: str) -> bool:
    """Whether the model's forward has an argument of that name."""
    return name in inspect.signature(hf_model.forward).parameters


def uncached(hf_model: nn.Module) -> dict[str, bool]:
    """What a model's forward is to be told so that it fills no cache; nothing where it has none."""
    return {"use_cache": False} if takes(hf_model, "use_cache") else {}


def text_config(hf_model: nn.Module) -> Any:
    """The configuration of the text decoder, which may be nested in the model's own; None without any."""
    config: Any = getattr(hf_model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def device_of(hf_model: nn.Module) -> torch.device:
    """Where a model takes its inputs: where accelerate runs it, else where its first weight is.

    An offloaded weight is on no device: accelerate brings it to where its module runs.
    """
    found = getattr(getattr(hf_model, "_hf_hook", None), "execution_device", None)
    if found is not None:
        return torch.device(found)
    weights = itertools.chain(hf_model.parameters(), hf_model.buffers())
    return next((weight.device for weight in weights if weight.device.type != "meta"), torch.device("cpu"))


@contextmanager
def evaluation(hf_model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode; every module's own mode is put back."""
    training = [module for module in hf_model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def inference(hf_model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode without gradients; every module's own mode is put back."""
    with evaluation(hf_model), torch.no_grad():
        yield


def is_encoder_decoder(hf_model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder, whose tokens are the columns."""
    return bool(getattr(getattr(hf_model, "config", None), "is_encoder_decoder", False)) and takes(
        hf_model, "decoder_input_ids"
    )
