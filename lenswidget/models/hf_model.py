"""All that is asked of a transformers model: its forward, logits, configuration, device and mode."""

import difflib
import functools
import inspect
import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import generic

from lenswidget.errors import AnatomyError, PromptError
from lenswidget.nested import tensors

# How many positions the made-up source of an encoder-decoder has: no size that a prompt of ours has.
N_SOURCE = 5


def forward(hf_model: nn.Module, ids: Tensor, *, source_seed: int = 0) -> Any:
    """The model's own forward on token ids `[batch, seq]`: see `inputs_for`."""
    return hf_model(**inputs_for(hf_model, ids, source_seed=source_seed))


def inputs_for(hf_model: nn.Module, ids: Tensor, *, source_seed: int = 0) -> dict[str, Any]:
    """The arguments of the model's forward on token ids `[batch, seq]`, without a cache.

    In an encoder-decoder these are the decoder's, and what the encoder would give is made up: so source and
    columns differ in length, and a model whose encoder reads sound or pictures needs none.

    Args:
        source_seed: another one makes up another source.
    """
    inputs: dict[str, Any] = {"input_ids": ids}
    if is_encoder_decoder(hf_model):
        inputs = {"decoder_input_ids": ids, **_source(hf_model, ids, source_seed)}
    if takes(hf_model, "use_cache") or _takes_any(hf_model.forward):
        inputs["use_cache"] = False
    return inputs


@dataclass
class _Encoded(BaseModelOutput):
    """An encoder's output, with what some decoders look for besides."""

    router_logits: Any = None
    router_probs: Any = None


def _source(hf_model: nn.Module, ids: Tensor, seed: int) -> dict[str, Any]:
    """What stands for the encoder's side: states `[batch, N_SOURCE, width]`, the same for every row."""
    encoder = getattr(hf_model, "get_encoder", lambda: None)()
    width = getattr(getattr(encoder, "config", None), "hidden_size", None)
    if width is None or encoder is None:
        return {"input_ids": ids[:, :1].expand(-1, N_SOURCE)}
    floats = (weight for weight in encoder.parameters() if weight.is_floating_point())
    dtype = next(floats, torch.empty(0, device="cpu")).dtype
    generator = torch.Generator("cpu").manual_seed(seed)
    states = torch.randn(1, N_SOURCE, width, generator=generator, device="cpu").to(ids.device, dtype)
    return {"encoder_outputs": _Encoded(last_hidden_state=states.expand(len(ids), -1, -1))}


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
    """Whether the model's forward has an argument of that name.

    A forward that hands any keyword on, as an adapter's or one that was put on the instance, has those of the
    forward behind it.
    """
    if name in inspect.signature(hf_model.forward).parameters:
        return True
    if not _takes_any(hf_model.forward):
        return False
    adapted = getattr(hf_model, "get_base_model", lambda: None)()
    if isinstance(adapted, nn.Module) and adapted is not hf_model:
        return takes(adapted, name)
    return name in inspect.signature(type(hf_model).forward).parameters


def _takes_any(function: Callable[..., Any]) -> bool:
    kinds = (parameter.kind for parameter in inspect.signature(function).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


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


def all_modules(root: nn.Module) -> list[nn.Module]:
    """The module and all inside it, each once: `root.modules()` in a fifth of the time."""
    found = [root]
    seen = {id(root)}
    for module in found:  # which grows meanwhile
        for child in module.__dict__["_modules"].values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


@contextmanager
def evaluation(hf_model: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode; every module's own mode is put back."""
    training = [module for module in all_modules(hf_model) if module.training]
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


@functools.lru_cache(maxsize=64)
def _keywords_of(classes: frozenset[type]) -> frozenset[str]:
    """The names that the forwards of these module classes take."""
    found = {"return_dict", "output_attentions", "output_hidden_states", "use_cache", "labels"}
    for each in classes:
        found |= set(inspect.signature(each.forward).parameters)
    # what every model takes by **kwargs; transformers before 5 has no such list
    shared: Any = getattr(generic, "TransformersKwargs", None)
    return frozenset(found | set(getattr(shared, "__annotations__", ())))


def check_keywords(hf_model: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Refuse a keyword that no module takes: transformers passes it on and ignores it.

    Raises:
        PromptError: says which, and the nearest that there is.
    """
    if not kwargs:
        return
    known = _keywords_of(frozenset(type(module) for module in hf_model.modules())) | {
        "add_special_tokens",
        "images",
    }
    known |= set(inspect.signature(hf_model.forward).parameters)
    for name in kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            remedy = f"Did you mean {close[0]!r}?" if close else "Leave it out."
            raise PromptError(
                f"Asked for {name}=, which no module of {type(hf_model).__name__} takes. {remedy}"
            )


# In this order: a configuration may be in several.
_AUTO_CLASSES = (
    (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
    (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
    (MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM),
)
# Options of loading that a configuration needs too.
_OF_A_CONFIG = frozenset(
    {"trust_remote_code", "token", "revision", "cache_dir", "local_files_only", "subfolder"}
)


def config_of(name: str, options: Mapping[str, Any]) -> Any:
    """The configuration of a model by its name; None where it cannot be had: loading the model says why.

    Args:
        options: of `from_pretrained`.
    """
    try:
        return AutoConfig.from_pretrained(name, **{k: v for k, v in options.items() if k in _OF_A_CONFIG})
    except Exception:
        return None


def auto_class(name: str, options: Mapping[str, Any]) -> Any:
    """The transformers auto class that loads a model by its name; that of causal models where none is known.

    Args:
        options: of `from_pretrained`.
    """
    if "gguf_file" in options or "config" in options:
        return AutoModelForCausalLM
    config = config_of(name, options)
    found = (auto for mapping, auto in _AUTO_CLASSES if type(config) in mapping)
    return next(found, AutoModelForCausalLM)


def takes_pictures(hf_model: nn.Module) -> bool:
    """Whether transformers knows the model's configuration as one of pictures with text."""
    config = getattr(hf_model, "config", None)
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and takes(hf_model, "pixel_values")


def is_masked_lm(hf_model: nn.Module) -> bool:
    """Whether transformers knows the model's configuration as a masked language model's."""
    return type(getattr(hf_model, "config", None)) in MODEL_FOR_MASKED_LM_MAPPING


def has_no_weights(hf_model: nn.Module) -> bool:
    """Whether all weights are on the meta device, and nothing brings them when they are needed."""
    weights = list(hf_model.parameters())
    is_spread = any("_hf_hook" in module.__dict__ for module in hf_model.modules())
    return bool(weights) and not is_spread and all(weight.is_meta for weight in weights)


@contextmanager
def attribute_errors_told(hf_model: nn.Module) -> Generator[None, None, None]:
    """Raises an AttributeError in a model as one of ours.

    In a property of a class that has a `__getattr__`, Python would take it for a missing property.
    """
    try:
        yield
    except AttributeError as error:
        raise AnatomyError(
            f"Asked to look at {type(hf_model).__name__}, found that it fails with AttributeError ({error}). "
            "Check that hf_model(input_ids=...) runs."
        ) from error
