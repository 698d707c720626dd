"""One forward for changed cells of many layers: each row joins the batch at the block where it is changed."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.interventions.edited_call import EditedCall
from lenswidget.interventions.patched_rows import Cell, PatchedRows
from lenswidget.models.hf_model import logits_of

# Sites that are the stream itself between two blocks: a row joins with its change made.
_BETWEEN = frozenset({"resid_pre", "resid_post"})


def joined_logits(
    rows: PatchedRows, cells: Sequence[Cell], new: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows d_vocab"]:
    """The logits at the last column where row `i` has `new[i]` at the cell `cells[i]`, float32.

    The forward runs on a batch of one row, whose mask and rotary embeddings serve all; each block reads its
    weights once for all rows. Call it as `PatchedRows.patched`.

    Args:
        cells: `(layer, column)`, layers rising.
    """
    where = rows.columns[[column for _, column in cells]]
    start = rows.start(where)
    is_between = rows.site in _BETWEEN
    joins = [rows.first_block(layer) for layer, _ in cells]
    joining: dict[int, Tensor] = {}
    for block, group in groupby(range(len(cells)), key=joins.__getitem__):
        at = list(group)
        states = rows.streams[block - 1][:, start:].expand(len(at), -1, -1).clone()
        if is_between:
            states[torch.arange(len(at)), where[at] - start] = new[at].to(states.device, states.dtype)
        joining[block] = states
    changes: list[Any] = []
    if not is_between:
        for layer in sorted(joining):
            n_there = sum(join <= layer for join in joins)
            layers = torch.tensor([layer for layer, _ in cells[:n_there]])
            changes.append(rows.change(layer, layers, where[:n_there] - start, new[:n_there]))
    inputs, options, last = rows.call_inputs(1, start)
    _widen(inputs.get("past_key_values"), joins)
    model = rows.model

    def joined(**kwargs: Any) -> Any:
        with _joining(rows, joining):
            return model.hf_model(**kwargs)

    with rows.skipping(joins[0], start, 1):
        result = EditedCall(joined, model.hf_model, model.anatomy, changes)(**inputs, **options)
    return logits_of(result)[:, last].float()


@contextlib.contextmanager
def _joining(rows: PatchedRows, joining: Mapping[int, Tensor]) -> Generator[None, None, None]:
    """Rows join the batch at the blocks that they are given for; the first ones take the batch's place.

    The hooks go before those that are there: what these see has all its rows.
    """
    anatomy, hf_model = rows.model.anatomy, rows.model.hf_model
    first = min(joining)

    def joined(block: int, states: Tensor) -> Tensor:
        more = joining[block].to(states.device)
        return more if block == first else torch.cat([states, more])

    handles: list[Any] = []
    try:
        for block in joining:
            # what enters a block has left the one below
            at = max(block - 1, 0)
            stream, module = anatomy.streams[at], hf_model.get_submodule(anatomy.rows[at].path)
            if block == 0:

                def entering(module: Any, args: Any, kwargs: Any, stream: Any = stream) -> Any:
                    return stream.with_entering(args, kwargs, joined(0, stream.entering(args, kwargs)))

                hook = module.register_forward_pre_hook(entering, prepend=True, with_kwargs=True)
            else:

                def leaving(
                    module: Any, args: Any, output: Any, stream: Any = stream, block: int = block
                ) -> Any:
                    return stream.with_leaving(output, joined(block, stream.leaving(output)))

                hook = module.register_forward_hook(leaving, prepend=True)
            handles.append(hook)
        yield
    finally:
        for hook in handles:
            hook.remove()


def _widen(cache: Any, joins: Sequence[int]) -> None:
    """Give each layer's keys and values as many rows as have joined by then; no number is copied."""
    if cache is None:
        return
    layers = getattr(cache, "layers", None)
    for block in range(len(cache.key_cache if layers is None else layers)):
        n_rows = max(1, sum(join <= block for join in joins))
        if layers is None:  # before transformers 4.54
            for kept in (cache.key_cache, cache.value_cache):
                kept[block] = kept[block].expand(n_rows, -1, -1, -1)
        else:
            layer = layers[block]
            layer.keys = layer.keys.expand(n_rows, -1, -1, -1)
            layer.values = layer.values.expand(n_rows, -1, -1, -1)
