"""The ids that the decoder of an encoder-decoder has so far: those of its columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lenswidget.errors import PromptError
from lenswidget.models.prompts import text_ids


def add_decoder(
    inputs: dict[str, Any], decoder: Any, tokenizer: Any, hf_model: nn.Module, device: torch.device
) -> None:
    """Give an encoder-decoder the ids that its decoder's columns show."""
    if "decoder_input_ids" in inputs:
        if decoder is not None:
            raise PromptError(
                "Asked for decoder= with an encoding that has decoder_input_ids: give one of them."
            )
        return
    start = start_ids(hf_model, device)
    if decoder is None:
        ids = start
    elif isinstance(decoder, int) and not isinstance(decoder, bool):
        ids = _continued(inputs, start, decoder, hf_model)
    else:
        found = text_ids(decoder, tokenizer) if isinstance(decoder, str) else _listed(decoder)
        given = torch.tensor([found], device=device, dtype=torch.long)
        ids = given if found[:1] == start[0].tolist() else torch.cat([start, given], dim=1)
    inputs["decoder_input_ids"] = ids


def start_ids(hf_model: Any, device: torch.device) -> Tensor:
    """The token that an encoder-decoder's decoder begins with, `[1, 1]`.

    Raises:
        PromptError: the model does not name one.
    """
    for config in (getattr(hf_model, "generation_config", None), getattr(hf_model, "config", None)):
        for name in ("decoder_start_token_id", "bos_token_id"):
            found = getattr(config, name, None)
            if isinstance(found, int):
                return torch.tensor([[found]], device=device)
    raise PromptError(
        f"{type(hf_model).__name__} names no token that its decoder starts with. Give decoder=[ids]."
    )


def _continued(inputs: Mapping[str, Any], start: Tensor, n_tokens: int, hf_model: Any) -> Tensor:
    """The start token and the `n_tokens` that the model itself goes on with, greedily."""
    if n_tokens < 1:
        raise PromptError(f"Asked for {n_tokens} tokens of the decoder. Give 1 or more.")
    with torch.no_grad():
        return hf_model.generate(
            **inputs, decoder_input_ids=start, max_new_tokens=n_tokens, do_sample=False, num_beams=1
        )


def _listed(ids: Any) -> list[int]:
    found = ids.flatten().tolist() if isinstance(ids, (Tensor, np.ndarray)) else ids
    if not isinstance(found, Iterable) or isinstance(found, (bytes, Mapping)):
        raise PromptError(f"The decoder was given {ids!r:.60}. Give text, token ids, or a number of tokens.")
    listed = list(found)
    if not listed or not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in listed):
        raise PromptError(f"The decoder was given {ids!r:.60}. Give text, token ids, or a number of tokens.")
    return [int(i) for i in listed]
