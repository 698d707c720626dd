"""What fits share: their settings, texts as token ids, and a model that is put back as it was."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.checks import check_text, integers
from lenswidget.errors import LensError, PromptError
from lenswidget.models.hf_model import evaluation, uncached

# Strings, or token ids.
Texts: TypeAlias = Iterable[str | Sequence[int] | Tensor]


def check_settings(least: int, **settings: Any) -> None:
    """Refuses settings of a fit that are no integers, or below the least that means anything.

    Raises:
        LensError: says which.
    """
    for name, value in settings.items():
        if not isinstance(value, int) or value < least:
            raise LensError(f"Asked to fit a lens with {name}={value!r}. Give an integer, {least} or more.")


def encode(model: ReadableModel, texts: Texts, max_tokens: int, add_bos: bool | None = None) -> list[Tensor]:
    """Token ids `[seq]` of each text, with the tokenizer's own special tokens, cut to `max_tokens`.

    Args:
        texts: strings, or token ids as lists or tensors, which are taken as they are.
        add_bos: whether strings get the BOS token in front; None for what the tokenizer does.
    Raises:
        PromptError: texts is one string, empty or nothing to go through, a string meets a model without a
            tokenizer, or `add_bos` asks for what the tokenizer or a text's ids do not have.
        CellError: token ids that are no integers.
    """
    given: Any = texts
    listed: list[Any] = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not listed:
        raise PromptError(
            f"Asked to fit a lens on {texts!r:.80}; pass a list of texts, a few hundred for a good fit."
        )
    if add_bos not in (None, True, False):
        raise PromptError(f"Asked to fit a lens with add_bos={add_bos!r:.40}; pass True, False or None.")
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if add_bos and bos is None:
        raise PromptError("Asked to fit a lens with add_bos=True, but the tokenizer has no BOS token.")
    ids: list[Tensor] = []
    for index, text in enumerate(listed):
        if isinstance(text, str):
            ids.append(text_ids(model.tokenizer, text, max_tokens, add_bos))
            continue
        found = integers("a text of", text.flatten().tolist() if isinstance(text, Tensor) else text)
        if add_bos is not None and (found[:1].tolist() == [bos]) != add_bos:
            raise PromptError(
                f"Asked to fit a lens with add_bos={add_bos}, but text {index}, given as token ids, begins "
                f"{'without' if add_bos else 'with'} the BOS token. Ids are taken as they are: change "
                "them, or leave add_bos out."
            )
        ids.append(torch.from_numpy(found)[:max_tokens])
    return ids


def text_ids(tokenizer: Any, text: str, max_tokens: int, add_bos: bool | None) -> Tensor:
    """Token ids `[seq]` of one string."""
    if tokenizer is None:
        raise PromptError("Asked to fit a lens on strings, but this model has no tokenizer; pass token ids.")
    check_text(text, "A text to fit on", PromptError)
    # one more than wanted, in case the first goes
    length = max_tokens + 1 if add_bos is False else max_tokens
    found = list(tokenizer(text, truncation=True, max_length=length)["input_ids"])
    bos = tokenizer.bos_token_id
    begins = bos is not None and found[:1] == [bos]
    if add_bos and not begins:
        found = [bos, *found]
    elif add_bos is False and begins:
        found = found[1:]
    return torch.tensor(found[:max_tokens], dtype=torch.long, device="cpu")


def have_bos(model: ReadableModel, ids: Sequence[Tensor]) -> bool | None:
    """Whether texts begin with the tokenizer's BOS token; None where only some do, or without a tokenizer."""
    if model.tokenizer is None:
        return None
    bos = getattr(model.tokenizer, "bos_token_id", None)
    found = {bos is not None and text[:1].tolist() == [bos] for text in ids}
    return found.pop() if len(found) == 1 else None


def streams(model: ReadableModel, ids: Tensor) -> list[Tensor]:
    """The streams of one text, `[seq, d_model]` float32: what enters block 0, what leaves each block."""
    with torch.no_grad(), model.trace(ids[None].to(model.device), **uncached(model.hf_model)):
        found = [model.layers.embed, *(layer.resid_post for layer in model.layers)]
    return [stream[0].float() for stream in found]


@contextmanager
def fitting(model: ReadableModel) -> Generator[None, None, None]:
    """Gradients can be taken, whatever mode the caller is in.

    Raises:
        LensError: the model is none, or its weights were made in inference mode, which autograd refuses.
    """
    check_is_model(model, "A lens")
    if any(parameter.is_inference() for parameter in model.hf_model.parameters()):
        raise LensError(
            "Asked to fit a lens to a model whose weights were made under torch.inference_mode(), through "
            "which no gradient can be taken. Load the model outside of it."
        )
    with torch.inference_mode(False):
        yield


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
