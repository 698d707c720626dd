"""What fits share: texts as token ids, progress, and a model that is put back as it was."""

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import PromptError

Progress = bool | Callable[[int, int], object]


def encode(model: Any, texts: Sequence[Any], max_tokens: int) -> list[Tensor]:
    """Token ids `[seq]` of each text, with the tokenizer's own special tokens, cut to `max_tokens`.

    Args:
        texts: strings, or token ids as lists or tensors.
    Raises:
        PromptError: texts is one string or empty, or a string meets a model without a tokenizer.
    """
    if isinstance(texts, str) or not len(texts):
        raise PromptError(
            f"Asked to fit a lens on {texts!r}; pass a list of texts, a few hundred for a good fit."
        )
    ids: list[Tensor] = []
    for text in texts:
        if not isinstance(text, str):
            ids.append(torch.as_tensor(text, dtype=torch.long, device="cpu").reshape(-1)[:max_tokens])
        elif model.tokenizer is None:
            raise PromptError(
                "Asked to fit a lens on strings, but this model has no tokenizer; pass token ids."
            )
        else:
            found = model.tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            ids.append(torch.tensor(found, dtype=torch.long, device="cpu"))
    return ids


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
    takes = inspect.signature(model.hf_model.forward).parameters
    return {"use_cache": False} if "use_cache" in takes else {}


@contextmanager
def frozen(hf_model: torch.nn.Module) -> Generator[None, None, None]:
    """Evaluation mode, and no gradient for any parameter; both are put back."""
    training = [module for module in hf_model.modules() if module.training]
    learning = [parameter for parameter in hf_model.parameters() if parameter.requires_grad]
    hf_model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
