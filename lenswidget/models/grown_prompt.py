"""A prompt that is one token longer, or cut after some columns: the very ids, not their text again."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from lenswidget.models.encoded_prompt import EncodedPrompt


def longer(prompt: EncodedPrompt, token: int) -> EncodedPrompt:
    """A prompt of ids, and one token more."""
    inputs = dict(prompt.model_inputs)
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        inputs["attention_mask"] = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
    return _of_ids(prompt, inputs, torch.cat([prompt.column_ids, torch.tensor([token])]))


def first_columns_of(prompt: EncodedPrompt, n: int) -> EncodedPrompt:
    """The first `n` columns of a prompt of ids, with what of its bands lies within."""
    inputs = {name: value[:, :n] for name, value in prompt.model_inputs.items()}
    bands = tuple(
        replace(band, stop=min(band.stop, n), names=band.names[: n - band.start])
        for band in prompt.bands
        if band.start < n
    )
    return replace(_of_ids(prompt, inputs, prompt.column_ids[:n]), bands=bands)


def _of_ids(prompt: EncodedPrompt, inputs: dict[str, Any], column_ids: torch.Tensor) -> EncodedPrompt:
    return replace(
        prompt,
        model_inputs=MappingProxyType(inputs),
        column_ids=column_ids,
        text=None,
        options=MappingProxyType({}),
    )
