"""What one watched forward tells about a model: its blocks, its stream, its way to the logits."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.anatomy.anatomy import Anatomy, Row
from lenswidget.anatomy.block_sites import BlockSites, examine, refusal
from lenswidget.anatomy.bypass import Bypass
from lenswidget.anatomy.fidelity import compare
from lenswidget.anatomy.isolated_block import IsolatedBlock
from lenswidget.anatomy.recording import Call, Recording, probe_ids, watch
from lenswidget.anatomy.stream import Stream, layouts
from lenswidget.anatomy.tail_chain import TailStep, trace_tail
from lenswidget.anatomy.unit_search import kept_units
from lenswidget.errors import AnatomyError, LensError
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import (
    forward,
    has_no_weights,
    inference,
    is_encoder_decoder,
    is_masked_lm,
    logits_of,
)
from lenswidget.models.split_forward import split_forward_of
from lenswidget.nested import Slot


def discover(
    hf_model: nn.Module,
    *,
    blocks: str | None = None,
    final_norm: str | None = None,
    unembed: str | None = None,
) -> Anatomy:
    """Finds a causal LM's blocks, final norm and unembed from one forward of a few tokens.

    What was found is kept as long as the model lives and does not change, its weights included.

    Args:
        hf_model: a transformers causal LM, however it is stored or spread. It is left as it was.
        blocks: path of the `ModuleList` that holds the decoder blocks, where discovery cannot find it.
        final_norm: path of the final norm, likewise.
        unembed: path of the module whose output becomes the logits, likewise.
    Raises:
        AnatomyError: nothing in the model behaves like a stack of decoder blocks, or a path given here
            is not in the model or did not run.
    """
    return facts_of(hf_model).get(
        ("anatomy", blocks, final_norm, unembed),
        lambda: _discovered(hf_model, blocks, final_norm, unembed),
        values=True,
    )


def _discovered(
    hf_model: nn.Module, blocks: str | None, final_norm: str | None, unembed: str | None
) -> Anatomy:
    with inference(hf_model):
        seen = _watched(hf_model)
        other = probe_ids(hf_model, shift=1)
        head = _unembed(hf_model, seen, unembed)
        tried: list[tuple[str, str]] = []
        best: Anatomy | None = None
        for name, paths in _candidates(hf_model, seen, blocks):
            for found in _verified(hf_model, seen, other, paths, head):
                if best is None or found.fidelity.max_abs_error < best.fidelity.max_abs_error:
                    best = found
                if found.fidelity.ok:
                    return _with_tail(hf_model, seen, found, final_norm)
            tried.append(
                (name, f"{len(paths)} that ran in order, but more than the last leads to the logits")
            )
        if best is None or blocks is None:
            raise AnatomyError(_no_blocks(hf_model, tried))
        return _with_tail(hf_model, seen, best, final_norm)


def _watched(hf_model: nn.Module) -> Recording:
    """One forward written down; a model that cannot run says so, and not something else."""
    name = type(hf_model).__name__
    if has_no_weights(hf_model):
        raise AnatomyError(
            f"Asked to watch {name} run, found its weights on the meta device, where they have no values. "
            "Load the model with its weights."
        )
    try:
        seen = watch(hf_model, probe_ids(hf_model))
    except (LensError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        config = getattr(hf_model, "config", None)
        is_bare = getattr(config, "return_dict", True) is False
        remedy = (
            "set hf_model.config.return_dict = True" if is_bare else "check that hf_model(input_ids=...) runs"
        )
        raise AnatomyError(
            f"Asked to watch {name} run on a few token ids, found that its own forward fails with "
            f"{type(error).__name__} ({error}): {remedy}."
        ) from error
    n_positions = seen.logits.shape[1] if seen.logits.ndim == 3 else 0
    if n_positions > seen.ids.shape[1]:
        raise AnatomyError(
            f"Asked to watch {name} run on {seen.ids.shape[1]} tokens, found logits of {n_positions} "
            "positions: it puts virtual tokens of its own before the prompt, for which there are no columns. "
            "Use the model without its learnt prompt; model.trace(...) works with it."
        )
    return seen


def _candidates(hf_model: nn.Module, seen: Recording, asked: str | None) -> list[tuple[str, list[str]]]:
    """Containers whose elements ran in order: longest first, then the one that ends nearest the logits."""
    calls = seen.by_path()
    found: list[tuple[str, list[str]]] = []
    for name, container in hf_model.named_modules():
        if asked is not None and name != asked:
            continue
        if asked is None and not isinstance(container, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            continue
        paths = [f"{name}.{key}" if name else key for key, _ in container.named_children()]
        ran = [path for path in paths if path in calls]
        starts = [calls[path][0].started for path in ran]
        if ran and starts == sorted(starts):
            found.append((name, ran))
    if asked is not None and not found:
        raise AnatomyError(
            f'Asked for blocks="{asked}", found no such module with children that ran in order in '
            f"{type(hf_model).__name__}. {_containers(hf_model)}"
        )
    return sorted(found, key=lambda item: (-len(item[1]), -calls[item[1][-1]][-1].ended))


def _containers(hf_model: nn.Module) -> str:
    """What to pass: the modules that hold several of a kind, lists first."""
    held = {name: [type(child) for child in m.children()] for name, m in hf_model.named_modules() if name}
    alike = [name for name, kinds in held.items() if len(kinds) > 1 and len(set(kinds)) == 1]
    lists = [name for name in alike if isinstance(hf_model.get_submodule(name), nn.ModuleList)]
    best = (lists + [name for name in alike if name not in lists])[:6]
    return "Pass " + " or ".join(f'blocks="{name}"' for name in best) + "." if best else ""


def _no_blocks(hf_model: nn.Module, tried: Sequence[tuple[str, str]]) -> str:
    saw = "; ".join(f"{name} ({why})" for name, why in tried[:6]) or "no ModuleList that ran"
    return (
        f"No decoder blocks found in {type(hf_model).__name__}. Looked for a ModuleList whose elements run "
        f"in order and whose last output leads to the logits by itself; saw {saw}. {_containers(hf_model)}"
    )


def _unembed(hf_model: nn.Module, seen: Recording, asked: str | None) -> Call | None:
    """The call of the unembed: as asked, as the model says, or the last one that is as wide as the logits."""
    calls = seen.by_path()
    if asked is not None:
        if asked not in calls:
            raise AnatomyError(
                f'Asked for unembed="{asked}", found no such module in the forward of '
                f"{type(hf_model).__name__}. Pass the path of a module that gives the logits."
            )
        return calls[asked][-1]
    own = getattr(hf_model, "get_output_embeddings", lambda: None)()
    for path, module in hf_model.named_modules():
        if own is module and path in calls:
            return calls[path][-1]
    width = seen.logits.shape[-1]
    for call in reversed(seen.calls):
        if any(t.shape[-1] == width for t in call.given.values()) and not _has_inner(seen, call):
            return call
    return None


def _has_inner(seen: Recording, call: Call) -> bool:
    return any(call.started < inner.started < call.ended for inner in seen.calls)


def _verified(
    hf_model: nn.Module, seen: Recording, other: Tensor, paths: list[str], head: Call | None
) -> Iterator[Anatomy]:
    """The readings of a candidate stack, each with the fidelity of its universal tail."""
    calls = seen.by_path()
    rows = _rows(paths, calls)
    row_calls = [calls[row.path][row.call] for row in rows]
    # the block that runs last ends the stack, and each is passed by in the form of its last call
    ends = {row.path: index for index, row in enumerate(rows)}
    skipped = sorted(paths, key=ends.__getitem__)
    modules = dict(hf_model.named_modules())
    for streams in _streams(row_calls, seen.ids):
        bypass = Bypass(
            blocks=tuple(modules[path] for path in skipped),
            streams=tuple(streams[ends[path]] for path in skipped),
            outputs=tuple(row_calls[ends[path]].output for path in skipped),
            unembed=None if head is None else modules[head.path],
            unembed_source=Slot((0, 0)) if head is None else next(iter(head.taken), Slot((0, 0))),
            neutral_id=int(other[0, 0]),
        )
        last = streams[-1].layout.read(row_calls[-1].given[streams[-1].target])
        flat = last.reshape(-1, last.shape[-1])
        for is_column in (True, False):
            chosen = replace(bypass, is_column=is_column)
            try:
                logits = chosen.logits(hf_model, flat)
                fidelity = compare(logits, seen.logits.reshape(len(flat), -1))
                if not is_column:  # readouts decode any number of cells
                    chosen.logits(hf_model, flat[:1])
            except Exception:
                continue
            yield Anatomy(
                model_class=type(hf_model).__name__,
                blocks=tuple(paths),
                unembed=None if head is None else head.path,
                final_norm=None,
                d_model=last.shape[-1],
                d_vocab=seen.logits.shape[-1],
                n_calls=tuple(len(calls[path]) for path in paths),
                rows=rows,
                streams=tuple(streams),
                tail_steps=None,
                fidelity=fidelity,
                is_causal=True,
                predicts="next",
                is_encoder_decoder=is_encoder_decoder(hf_model),
                sites=(),
                bypass=chosen,
                find_split=split_forward_of(hf_model),
                probe=seen,
            )


def _rows(paths: Sequence[str], calls: Mapping[str, Sequence[Call]]) -> tuple[Row, ...]:
    """The calls of these blocks in the order of the forward."""
    rows = [Row(block, n, path) for block, path in enumerate(paths) for n in range(len(calls[path]))]
    return tuple(sorted(rows, key=lambda row: calls[row.path][row.call].started))


def _streams(calls: Sequence[Call], ids: Tensor) -> Iterator[list[Stream]]:
    """The ways in which one stream can run through these calls: a slot in each input and each output."""
    batch, seq = ids.shape
    for target, tensor in calls[-1].given.items():
        for layout in layouts(tensor.shape, batch, seq):
            streams = [_stream(call, target, layout, tensor) for call in calls]
            if all(streams):
                yield [stream for stream in streams if stream is not None]


def _stream(call: Call, target: Slot, layout: Any, like: Tensor) -> Stream | None:
    given = [slot for slot, tensor in call.given.items() if tensor.shape == like.shape]
    taken = [slot for slot, tensor in call.taken.items() if tensor.shape == like.shape]
    if not given or not taken:
        return None
    return Stream(taken[0], target if target in given else given[0], layout)


def _with_tail(hf_model: nn.Module, seen: Recording, found: Anatomy, final_norm: str | None) -> Anatomy:
    steps = trace_tail(hf_model, seen, found.rows[-1].path, found.streams[-1], found.unembed)
    norm = final_norm if final_norm is not None else _final_norm(steps)
    if final_norm is not None and final_norm not in seen.by_path():
        raise AnatomyError(
            f'Asked for final_norm="{final_norm}", found no such module in the forward of '
            f"{type(hf_model).__name__}. Pass the path of the norm before {found.unembed}."
        )
    sites = tuple(_sites(hf_model, seen, found))
    paths = tuple((row.path, row.call) for row in found.rows)
    # only the end of the watched forward is kept: the rest would take memory as long as the model lives
    last = replace(seen.by_path()[found.rows[-1].path][-1], inputs=None, taken={})
    probe = Recording(seen.ids, [last], seen.logits)
    is_causal = _is_causal(hf_model, seen)
    predicts = "next" if is_causal or not is_masked_lm(hf_model) else "same"
    return replace(
        found,
        tail_steps=steps,
        final_norm=norm,
        sites=sites,
        probe=probe,
        find_units=partial(kept_units, weakref.ref(hf_model), paths, found.streams, sites),
        is_causal=is_causal,
        predicts=predicts,
    )


def _is_causal(hf_model: nn.Module, seen: Recording) -> bool:
    """Whether the first positions of a row say the same when the tokens after them are others."""
    n = seen.ids.shape[1] // 2
    other = seen.ids.clone()
    other[:, n:] = probe_ids(hf_model, shift=1)[:, n:]
    logits = logits_of(forward(hf_model, other))
    # of the first row alone: experts of limited capacity may make a row depend on those before it
    return compare(logits[0, :n], seen.logits[0, :n]).ok


def _sites(hf_model: nn.Module, seen: Recording, found: Anatomy) -> Iterator[BlockSites]:
    calls = seen.by_path()
    known: dict[tuple[str, ...], list[BlockSites]] = {}
    for row, stream in zip(found.rows, found.streams, strict=True):
        block = hf_model.get_submodule(row.path)
        make = tuple(name for name, _ in block.named_modules())
        isolated = IsolatedBlock(block, calls[row.path][row.call], stream, seen.ids.shape)
        earlier = known.setdefault(make, [])
        # the first block may be odd: what none of the first two has is not looked for in the others
        like = next((sites for sites in earlier if sites.parts), earlier[-1] if len(earlier) > 1 else None)
        earlier.append(examine(isolated, like))
        yield _once_per_pass(earlier[-1], calls, row.path)


def _once_per_pass(sites: BlockSites, calls: Mapping[str, Sequence[Call]], path: str) -> BlockSites:
    """The sites of a block; none inside it where its parts' calls could not be told apart by the block's."""
    n_calls = len(calls[path])
    points = {addend.point.path for part in sites.parts for addend in part.addends}
    points |= {sites.mid.path} if sites.mid else set()
    if n_calls == 1 or all(len(calls[f"{path}.{point}"]) == n_calls for point in points):
        return sites
    return refusal("the block runs in a loop, and its parts run more often than it does")


def _final_norm(steps: Sequence[TailStep] | None) -> str | None:
    return next((step.path for step in steps or () if step.is_norm), None)
