"""What fits share: texts as token ids, progress, and a model that is put back as it was."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import LensError, PromptError
from lenswidget.prompts import takes
from lenswidget.watch import evaluation

Progress = bool | Callable[[int, int], object]


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
        PromptError: texts is one string, empty or no texts, or a string meets a model without a tokenizer.
    """
    several = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else []
    if not several:
        raise PromptError(
            f"Asked to fit a lens on {texts!r:.80}; pass a list of texts, a few hundred for a good fit."
        )
    ids: list[Tensor] = []
    for text in several:
        if not isinstance(text, str):
            ids.append(_as_ids(text)[:max_tokens])
        elif model.tokenizer is None:
            raise PromptError(
                "Asked to fit a lens on strings, but this model has no tokenizer; pass token ids."
            )
        else:
            found = model.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            ids.append(torch.tensor(found, dtype=torch.long, device="cpu"))
    return ids


def _as_ids(text: Any) -> Tensor:
    try:
        return torch.as_tensor(text, dtype=torch.long, device="cpu").reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise PromptError(
            f"Asked to fit a lens on the text {text!r:.80}; pass strings, or lists of token ids."
        ) from None


def counted(total: int, progress: Progress, what: str, start: int = 0) -> Iterator[int]:
    """`start .. total - 1`, telling progress: True for a tqdm bar, a function `(done, total)`, or False."""
    if progress is True:
        from tqdm.auto import tqdm

        yield from tqdm(range(start, total), initial=start, total=total, desc=what)
        return
    for done in range(start, total):
        if callable(progress):
            progress(done, total)
        yield done
    if callable(progress):
        progress(total, total)


def uncached(model: Any) -> dict[str, bool]:
    """What a `LanguageModel`'s forward is to be told so that it fills no cache; nothing where it has none."""
    return {"use_cache": False} if takes(model.hf_model, "use_cache") else {}


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
