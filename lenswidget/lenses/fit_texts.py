"""What fits share: their settings, texts as token ids, and a model that is put back as it was."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lenswidget.checks import integers
from lenswidget.errors import LensError, PromptError
from lenswidget.models.hf_model import evaluation


def check_settings(least: int, **settings: Any) -> None:
    """Refuses settings of a fit that are no integers, or below the least that means anything.

    Raises:
        LensError: says which.
    """
    for name, value in settings.items():
        if not isinstance(value, int) or value < least:
            raise LensError(f"Asked to fit a lens with {name}={value!r}. Give an integer, {least} or more.")


def encode(model: Any, texts: Any, max_tokens: int) -> list[Tensor]:
    """Token ids `[seq]` of each text, with the tokenizer's own special tokens, cut to `max_tokens`.

    Args:
        texts: strings, or token ids as lists or tensors.
    Raises:
        PromptError: texts is one string, empty or nothing to go through, or a string meets a model without a
            tokenizer.
        CellError: token ids that are no integers.
    """
    listed = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not listed:
        raise PromptError(
            f"Asked to fit a lens on {texts!r:.80}; pass a list of texts, a few hundred for a good fit."
        )
    ids: list[Tensor] = []
    for text in listed:
        if not isinstance(text, str):
            found = integers("a text of", text.flatten().tolist() if isinstance(text, Tensor) else text)
            ids.append(torch.from_numpy(found)[:max_tokens])
        elif model.tokenizer is None:
            raise PromptError(
                "Asked to fit a lens on strings, but this model has no tokenizer; pass token ids."
            )
        else:
            found = model.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            ids.append(torch.tensor(found, dtype=torch.long, device="cpu"))
    return ids


@contextmanager
def frozen(hf_model: torch.nn.Module) -> Generator[None, None, None]:
    """Evaluation mode, and no gradient for any parameter; both are put back."""
    learning = [parameter for parameter in hf_model.parameters() if parameter.requires_grad]
    with evaluation(hf_model):
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
