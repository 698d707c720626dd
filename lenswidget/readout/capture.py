"""Forwards of one prompt, whole or after a prefix, that keep the residual streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.interventions.changes import Change, changes_within
from lenswidget.models.encoded_prompt import EncodedPrompt, column_source
from lenswidget.models.hf_model import evaluation, logits_of, takes, uncached
from lenswidget.models.split_forward import KeyPart, cache_of, keys_in
from lenswidget.readout.run import EMBED_SITE
from lenswidget.readout.unembed import free_bytes

# How many of the last positions every run can be checked at; of a short prompt only the last, since the
# model's own unembed would spend a tenth of the whole time on the others.
CHECKED_POSITIONS, SHORT_PROMPT = 4, 64
# Streams stay on the device while they leave this share of its free memory to everything else.
FREE_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Past:
    """A cache that holds the first columns of a prompt; a forward after it adds its own."""

    cache: Any
    n_columns: int

    @classmethod
    def of(cls, parts: Sequence[KeyPart], model: ReadableModel) -> "Past":
        """A new one, filled with what was kept."""
        n_columns = sum(part.n_columns for part in parts)
        return cls(cache_of(parts, model.hf_model) if n_columns else None, n_columns)


@dataclass(frozen=True, eq=False)
class Captured:
    """What one forward left.

    Attributes:
        streams: `[rows, columns, d_model]`, lowest layer first, of the columns that were run.
        own: `[n, d_vocab]`, the model's own logits of the last columns; None where they were not wanted.
        keys: of the columns that were run; None where they were not wanted, or the cache cannot be cut.
    """

    streams: Tensor
    own: Tensor | None
    keys: KeyPart | None


class Capture:
    """Forwards of one prompt, each of which fills one site's streams.

    Args:
        place: where streams are kept: see `LocalEngine`.
        changes: made in every forward.
    """

    def __init__(
        self, model: ReadableModel, prompt: EncodedPrompt, place: str, changes: Sequence[Change] = ()
    ) -> None:
        self._changes = changes
        self._model = model
        self._prompt = prompt
        self._place = place
        self._n_checked = min(prompt.seq, CHECKED_POSITIONS if prompt.seq >= SHORT_PROMPT else 1)
        ends_with_a_column = prompt.columns is None or (
            int(prompt.columns[-self._n_checked])
            == len(column_source(prompt.model_inputs)[0]) - self._n_checked
        )
        # the second is the name before transformers 4.50
        names = ("logits_to_keep", "num_logits_to_keep") if ends_with_a_column else ()
        self._keep = next((name for name in names if takes(model.hf_model, name)), None)

    def __call__(
        self,
        site: str,
        progress: Any = None,
        *,
        want_logits: bool = False,
        keep_keys: bool = False,
        after: "Sequence[KeyPart] | Past" = (),
    ) -> Captured:
        """Run the prompt, or what of it comes after some columns.

        A layer that has no such site leaves NaN, which readouts report as not finite.

        Args:
            keep_keys: keep what a later forward needs to go on from here; the model must be splittable.
            after: keys of the first columns, or a cache that has them, which are then not run.
        """
        model, layers = self._model, list(self._model.layers)
        n_layers, lowest = len(layers), -1 if site == EMBED_SITE else 0
        past = after if isinstance(after, Past) else Past.of(after, model)
        n_past = past.n_columns
        options: dict[str, Any] = {"use_cache": True} if keep_keys or n_past else uncached(model.hf_model)
        if self._keep:
            options[self._keep] = self._n_checked
        changes = changes_within(self._changes, n_past, self._prompt.seq) if n_past else self._changes
        edits = {"edits": changes} if changes else {}
        streams: Tensor | None = None
        own: Tensor | None = None
        keys: KeyPart | None = None
        trace = model.trace(self._inputs(past), **edits, **options)
        with model.lock, torch.no_grad(), evaluation(model.hf_model), trace as tracer:
            for layer in range(lowest, n_layers):
                if layer >= 0 and site not in layers[layer].offered:
                    continue
                state = layers[0].resid_pre if layer < 0 else getattr(layers[layer], site)
                if streams is None:
                    streams = self._room(n_layers - lowest, state, n_past)
                streams[layer - lowest].copy_(self._at_columns(state[0]))
                if progress is not None:
                    progress(layer + 1, n_layers)
            if want_logits or keep_keys:
                result = tracer.result
                own = self._own_logits(result, n_past) if want_logits else None
                keys = keys_in(getattr(result, "past_key_values", None), n_past) if keep_keys else None
        assert streams is not None
        return Captured(streams, own, keys)

    def _inputs(self, past: "Past") -> dict[str, Any]:
        inputs = dict(self._prompt.model_inputs)
        if past.n_columns:
            inputs["input_ids"] = inputs["input_ids"][:, past.n_columns :]
            inputs["past_key_values"] = past.cache
        return inputs

    def _at_columns(self, rows: Tensor) -> Tensor:
        """Of `[positions, n]` those of the columns, `[seq, n]`."""
        columns = self._prompt.columns
        return rows if columns is None else rows[columns.to(rows.device)]

    def _own_logits(self, result: Any, n_past: int) -> Tensor:
        """The model's own logits of the last columns, `[n_checked, d_vocab]`."""
        own = logits_of(result)[0]
        if self._keep is None:
            own = self._at_columns(own)
        # a copy: where all positions' logits were computed, it is not to hold them
        return own[-min(self._n_checked, self._prompt.seq - n_past) :].clone()

    def _room(self, n_rows: int, like: Tensor, n_past: int = 0) -> Tensor:
        """NaN, `[n_rows, columns, d_model]`, where this engine keeps streams of such a state."""
        shape = (n_rows, self._prompt.seq - n_past, like.shape[-1])
        may_be_short = self._place == "auto" and like.device.type == "cuda"
        is_short = may_be_short and like.nbytes * n_rows > FREE_SHARE * free_bytes(like.device)
        device = torch.device("cpu") if self._place == "cpu" or is_short else like.device
        return torch.full(shape, torch.nan, dtype=like.dtype, device=device)
