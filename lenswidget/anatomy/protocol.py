"""What lenses, readouts and the widget need of a model, whatever class it has.

Abstract base classes and not `typing.Protocol`: in Python 3.11 an `isinstance` check against a protocol
evaluates its properties, and evaluating `anatomy` runs the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import BatchEncoding

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.layers import Layers
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensError
from lenswidget.tracing.locks import ModelLock


class ReadableModel(ABC):
    """A model whose streams can be read. `LanguageModel` is one.

    Attributes:
        tokenizer: turns text into ids and back; None for a model that is given ids alone.
        processor: of a model that takes pictures; None for any other.
        source: the code that loads the model again, with `import lenswidget as lw`; None if unknown.
        lenses: fitted lenses of this model, by name: its widgets offer them, and open on the first.
    """

    tokenizer: Any = None
    processor: Any = None
    source: str | None = None
    lenses: Mapping[str, Any] = MappingProxyType({})

    @property
    @abstractmethod
    def hf_model(self) -> nn.Module:
        """The transformers model itself."""

    @property
    @abstractmethod
    def anatomy(self) -> Anatomy:
        """What the model was found to be."""

    @property
    @abstractmethod
    def tail(self) -> Tail:
        """The model's own map from the last block's output to its logits."""

    @property
    @abstractmethod
    def layers(self) -> Layers:
        """The decoder blocks with their sites, for use inside a trace."""

    @property
    @abstractmethod
    def lock(self) -> ModelLock:
        """Held while the model is traced, run or read."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where prompts go."""

    @abstractmethod
    def tokenize(self, prompt: Any, *, side: str | None = None) -> BatchEncoding:
        """A prompt as the model's keyword arguments."""

    @abstractmethod
    def trace(self, *prompt: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """A trace of one forward, to be opened by `with`."""


def check_is_model(model: object, what: str, *, or_tail: bool = False) -> None:
    """Refuses a value that is no `ReadableModel`.

    Args:
        what: the name of what was given the value, for the message.
        or_tail: take the `Tail` of one as well.
    Raises:
        LensError: says what it is.
    """
    if not isinstance(model, (ReadableModel, Tail) if or_tail else ReadableModel):
        raise LensError(
            f"{what} was given a {type(model).__name__}. Give it a LanguageModel: "
            "lw.LanguageModel(hf_model, tokenizer)."
        )
