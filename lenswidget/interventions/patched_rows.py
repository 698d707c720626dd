"""Forwards whose every batch row has one cell changed, run from the changed layer and position on."""

import contextlib
import copy
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from lenswidget.anatomy.bypass import forwards_replaced
from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensError
from lenswidget.interventions.changes import Change
from lenswidget.interventions.edited_call import EditedCall
from lenswidget.interventions.recipe import Edit
from lenswidget.models.encoded_prompt import EncodedPrompt, column_source
from lenswidget.models.hf_model import logits_of, takes, uncached

# Rows of many layers in one forward: `interventions.joined_rows`.
JOINED = "joined"
# How a changed forward is run, the cheapest first, and what a map says of it.
WAYS = {
    JOINED: "blocks from each changed layer on, many layers in one forward, all tokens",
    "after": "blocks from the changed layer on, tokens from the changed position on",
    "above": "blocks from the changed layer on, all tokens",
    "batch": "whole forwards, several in a batch",
    "whole": "whole forwards, one by one",
}
# What a suffix can be cut out of; anything else that came with a prompt goes by rules of its own.
_CUT = frozenset({"input_ids", "attention_mask", "position_ids"})
# Tokens of a batch at most, so that it stays small in memory.
MOST_TOKENS = 2048
# Changed positions that share one beginning: more in a batch, but more tokens run that cannot have changed.
MOST_ROWS = 16
# Columns of a prompt at most whose changes join one forward: of more, a batch holds one layer in any case.
MOST_JOINED = 256
# Fewer tokens than these only read the weights more often, so several layers' rows are run together; all of
# them from the lowest layer on, and so not more than a share of the layers.
FEW_TOKENS, LAYERS_SHARE = 512, 6

Cell: TypeAlias = tuple[int, int]
# Not of the model's own code: these end a map, whichever way it is run.
OURS = (LensError, AssertionError)


@dataclass(frozen=True, eq=False)
class PatchedRows:
    """One prompt's forward, run again with single cells of a site changed, several in a batch.

    Attributes:
        columns: `[seq]`, where the prompt's columns lie in the model's own sequence.
        streams: by layer, what leaves it without a change, `[1, positions, d_model]`; at -1 what enters the
            first.
        states: by layer that offers the site, what stands there without a change, `[seq, d_model]`.
        logits: at the last column without a change, `[1, d_vocab]` float32.
        cache: keys and values of the prompt, where they can be cut; else None.
    """

    model: ReadableModel
    prompt: EncodedPrompt
    site: str
    columns: Tensor
    streams: Mapping[int, Tensor]
    states: Mapping[int, Tensor]
    logits: Tensor
    cache: Any
    _prefixes: dict[tuple[int, int], Any]

    @classmethod
    def of(cls, model: ReadableModel, prompt: EncodedPrompt, site: str) -> "PatchedRows":
        """Runs the prompt to know what stands below and before a change, and at the site."""
        columns = torch.arange(prompt.seq) if prompt.columns is None else prompt.columns
        streams: dict[int, Tensor] = {}
        states: dict[int, Tensor] = {}
        with model.trace(dict(prompt.model_inputs), **uncached(model.hf_model)) as tracer:
            streams[-1] = model.layers.embed.clone()
            for layer in model.layers:
                if site in layer.offered:
                    found: Tensor = getattr(layer, site)[0]
                    states[layer.index] = found[columns.to(found.device)].clone()
                streams[layer.index] = layer.resid_post.clone()
            logits = logits_of(tracer.result)[:, int(columns[-1])].float()
        return cls(model, prompt, site, columns, streams, states, logits, _cache(model, prompt), {})

    @property
    def ways(self) -> list[str]:
        """The ways that may work here, the cheapest first; each but the last is to be checked."""
        is_looped = self.model.anatomy.is_looped
        cut = ["after"] if self.cache is not None and not is_looped else []
        above = [] if is_looped else ["above"]
        joined = [JOINED] if above and self.columns.numel() <= MOST_JOINED else []
        return [*joined, *cut, *above, "batch", "whole"]

    def first_block(self, layer: int) -> int:
        """The lowest block that a change at a layer reaches."""
        return layer + 1 if self.site == "resid_post" else layer

    def describe(self, way: str) -> str:
        """What a map says of a way."""
        text = WAYS[way]
        is_cut = way == JOINED and self.cache is not None
        return text.replace("all tokens", "tokens from the changed position on") if is_cut else text

    def describe_after(self, way: str, failed: Mapping[str, Exception]) -> str:
        """What a map says of a way, and of those before it in which the model's own code failed."""
        text = self.describe(way)
        if not failed:
            return text
        name, error = next(iter(failed.items()))
        line = next(iter(str(error).splitlines()), "")
        said = f"{type(error).__name__}: {line:.120}" if line else type(error).__name__
        return f"{text} ({' and '.join(failed)} failed in the model's own code, first {name!r} with {said})"

    def start(self, where: Tensor) -> int:
        """Where a forward for these columns may begin: the first of them, if the cache can be cut there."""
        return 0 if self.cache is None else int(where.min())

    def batches(self, way: str, changed: Mapping[int, list[int]]) -> list[list[Cell]]:
        """Cells, as `(layer, column)`, in groups that are run together.

        Args:
            changed: by layer the columns that are changed there, rising.
        """
        layers = sorted(changed)
        if way == "whole":
            return [[(layer, column)] for layer in layers for column in changed[layer]]
        n_whole = column_source(self.prompt.model_inputs).shape[1]
        is_cut = way == "after" or (way == JOINED and self.cache is not None)
        left = sorted({column for columns in changed.values() for column in columns})
        found: list[list[Cell]] = []
        while left:
            n_tokens = n_whole - int(self.columns[left[0]]) if is_cut else n_whole
            n_rows = max(1, MOST_TOKENS // n_tokens)
            # rows begin at the first one's position: few may share it, or most run what they need not
            if is_cut:
                n_rows = min(n_rows, MOST_ROWS, max(2, -(-n_tokens // 3)))
            columns, left = left[:n_rows], left[n_rows:]
            if way == JOINED:
                n_layers = max(1, MOST_TOKENS // (len(columns) * n_tokens))
            else:
                n_most = max(1, self.model.anatomy.n_layers // LAYERS_SHARE)
                n_layers = min(max(1, FEW_TOKENS // (len(columns) * n_tokens)), n_most)
            for i in range(0, len(layers), n_layers):
                group = [(k, c) for k in layers[i : i + n_layers] for c in columns if c in changed[k]]
                found += [group] if group else []
        return found

    def patched(
        self, way: str, cells: list[Cell], new: Float[Tensor, "rows d_model"]
    ) -> Float[Tensor, "rows d_vocab"]:
        """The logits at the last column where row `i` has `new[i]` at the cell `cells[i]`, float32.

        Call it under the model's lock, in evaluation mode and without gradients, its facts pinned.
        """
        where = self.columns[[column for _, column in cells]]
        start = int(where.min()) if way == "after" else 0
        layers = torch.tensor([layer for layer, _ in cells])
        changes = [self.change(layer, layers, where - start, new) for layer in layers.unique().tolist()]
        return self.changed(way, changes, len(cells), start)

    def changed(
        self, way: str, changes: list[Change], n_rows: int, start: int = 0
    ) -> Float[Tensor, "rows d_vocab"]:
        """The logits at the last column of rows that are changed, float32.

        Call it as `patched`.

        Args:
            changes: of `n_rows` batch rows; their positions are counted from `start`.
        """
        inputs, options, last = self.call_inputs(n_rows, start)
        call = EditedCall(self.model.hf_model, self.model.hf_model, self.model.anatomy, changes)
        lowest = min(change.layer for change in changes)
        with self.skipping(self.first_block(lowest) if way in ("after", "above") else 0, start, n_rows):
            result = call(**inputs, **options)
        return logits_of(result)[:, last].float()

    def call_inputs(self, n_rows: int, start: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        """The forward's arguments, its options, and where its logits of the last column are."""
        inputs = self._inputs(n_rows, start)
        last = int(self.columns[-1]) - start
        is_end = last == column_source(inputs).shape[1] - 1
        names = ("logits_to_keep", "num_logits_to_keep") if is_end else ()
        keep = next((name for name in names if takes(self.model.hf_model, name)), None)
        return inputs, {keep: 1} if keep else {}, -1 if keep else last

    def change(self, layer: int, layers: Tensor, where: Tensor, new: Tensor) -> Change:
        """The change of those rows whose cell is of this layer."""
        is_here = layers == layer
        rows_here = new[is_here.to(new.device)]
        return Change(
            edit=Edit("zero", site=self.site),
            layer=layer,
            where=[where[i : i + 1] if is_here[i] else where[:0] for i in range(len(where))],
            generated=False,
            rule=lambda rows, states, moment: rows_here.to(rows.device, rows.dtype),
        )

    @contextlib.contextmanager
    def skipping(self, n_blocks: int, start: int, n_rows: int) -> Generator[None, None, None]:
        """The first blocks hand on what is known: the last of them gives this prompt's own stream."""
        if n_blocks == 0:
            yield
            return
        bypass = self.model.anatomy.bypass
        known = self.streams[n_blocks - 1][:, start:].expand(n_rows, -1, -1)
        # all of them: what those below give is read by none
        replacements = [
            (block, partial(_give, stream.with_leaving(output, known)))
            for block, stream, output in zip(bypass.blocks, bypass.streams, bypass.outputs, strict=True)
        ][:n_blocks]
        with forwards_replaced(replacements):
            yield

    def _inputs(self, n_rows: int, start: int) -> dict[str, Any]:
        """The forward's arguments for `n_rows` of the prompt, from position `start` on."""
        found: dict[str, Any] = {}
        for name, value in self.prompt.model_inputs.items():
            if isinstance(value, Tensor) and value.ndim and len(value) == 1:
                # the mask is of the whole, whatever is in the cache
                value = value[:, start:] if start and name != "attention_mask" else value
                value = value.expand(n_rows, *value.shape[1:])
            found[name] = value
        if not start:
            return {**found, **uncached(self.model.hf_model)}
        key = (start, n_rows)
        if key not in self._prefixes:
            self._prefixes.clear()  # one at a time: a prefix is as large as a batch's own cache
            prefix = copy.deepcopy(self.cache)
            # a negative number, of tokens to remove: newer releases take no other
            prefix.crop(start - self.prompt.seq)
            prefix.batch_repeat_interleave(n_rows)
            self._prefixes[key] = prefix
        return {**found, "past_key_values": _fork(self._prefixes[key]), "use_cache": True}


def _give(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def _cache(model: ReadableModel, prompt: EncodedPrompt) -> Any:
    """A prompt's keys and values, where every layer keeps all of them and the mask is plain."""
    hf_model, anatomy = model.hf_model, model.anatomy
    inputs = prompt.model_inputs
    can_cut = set(inputs) <= _CUT and prompt.columns is None and anatomy.is_causal
    if not can_cut or not takes(hf_model, "past_key_values"):
        return None
    found = getattr(hf_model(**inputs, use_cache=True), "past_key_values", None)
    if type(found) is not DynamicCache:
        return None
    layers = getattr(found, "layers", None)
    if layers is None:  # before transformers 4.54
        old: Any = found
        keys = list(old.key_cache)
    else:
        if any(type(layer).__name__ != "DynamicLayer" for layer in layers):
            return None  # a window, or a state of fixed size, cannot be cut
        keys = [layer.keys for layer in layers]
    is_whole = all(isinstance(key, Tensor) and key.shape[-2] == prompt.seq for key in keys)
    return found if keys and is_whole else None


def _fork(cache: Any) -> Any:
    """The same keys and values in a cache of its own: to add to it replaces tensors and changes none."""
    forked = copy.copy(cache)
    for name, value in vars(cache).items():
        if isinstance(value, list):
            forked.__dict__[name] = [
                item if isinstance(item, Tensor) else copy.copy(item) for item in list[Any](value)
            ]
    return forked
