"""What another system captured, as a run takes it: states of checked shapes, logits beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.anatomy.tail import Tail
from lenswidget.checks import check_ids, integers
from lenswidget.errors import LensError, ShapeError
from lenswidget.models.encoded_prompt import EncodedPrompt, encode_prompt
from lenswidget.models.facts import held
from lenswidget.models.hf_model import device_of, forward, logits_of


@dataclass(frozen=True, eq=False)
class SentStates:
    """What a run is made of.

    Attributes:
        prompt: of the ids alone.
        stream: `[n_layers + 1, seq, d_model]`, NaN in rows that were not sent.
        own: `[n, d_vocab]`, the logits of the last n positions, in the coarser dtype of states and logits.
    """

    prompt: EncodedPrompt
    stream: Float[Tensor, "rows seq d_model"]
    own: Float[Tensor, "n d_vocab"]


def sent_states(
    ids: Any, states: Any, of: ReadableModel | Tail, *, logits: Any, layers: Iterable[int] | None
) -> SentStates:
    """See `Run.from_states`, which explains the arguments and what is raised."""
    check_is_model(of, "A run from states", or_tail=True)
    hf_model, anatomy = of.hf_model, of.anatomy
    if isinstance(states, (str, Path)):
        given = _file(Path(states))
        ids = given.get("token_ids", given.get("input_ids")) if ids is None else ids
        logits = given.get("logits") if logits is None else logits
        states = given["states"]
    if ids is None:
        raise LensError("States were given without token ids. Give ids=, [seq] integers.")
    listed = ids.flatten().tolist() if isinstance(ids, Tensor) else ids
    token_ids = check_ids(listed, anatomy.d_vocab)
    if isinstance(states, Mapping):
        by_layer: Mapping[Any, Any] = states
        layers, states = list(by_layer), list(by_layer.values())
    sent = _stacked(states)
    n_layers = anatomy.n_layers
    if sent.shape[1:] != (len(token_ids), anatomy.d_model):
        raise ShapeError(
            f"States of shape {list(sent.shape)} were given for {len(token_ids)} token ids. Give "
            f"[rows, {len(token_ids)}, {anatomy.d_model}]."
        )
    rows = _rows(layers, len(sent), n_layers)
    device = device_of(hf_model)
    shape = (n_layers + 1, *sent.shape[1:])
    stream = torch.full(shape, torch.nan, dtype=sent.dtype, device=device)
    stream[torch.tensor(rows, device=device) + 1] = sent.to(device)
    tokenizer = of.tokenizer if isinstance(of, ReadableModel) else None
    prompt = encode_prompt(token_ids, tokenizer, hf_model, device)
    own = _forward(of, token_ids) if logits is None else _logits(logits, len(token_ids), anatomy.d_vocab)
    coarser = max(own.dtype, sent.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return SentStates(prompt, stream, own.to(device=device, dtype=coarser))


def _file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, `states` as `[rows, seq, d_model]`."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LensError(f"Asked for the states in {path}, which cannot be read ({error}).") from error
    if "hidden_states" in found:
        found["states"] = found["hidden_states"].transpose(0, 1)
    if "states" not in found:
        raise LensError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}. Give a file with hidden_states, "
            "[seq, rows, d_model], or states, [rows, seq, d_model]."
        )
    return found


def _stacked(states: Any) -> Tensor:
    """`[rows, seq, d_model]`, of a tensor or array, or of one for each row; a batch of one goes."""
    try:
        if isinstance(states, Sequence):
            parts = [torch.as_tensor(each) for each in states]
            found = torch.stack([each[0] if each.ndim == 3 and len(each) == 1 else each for each in parts])
        else:
            found = torch.as_tensor(states)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LensError(f"States that are no tensors of one shape were given ({error}).") from error
    found = found[:, 0] if found.ndim == 4 and found.shape[1] == 1 else found
    if found.ndim != 3 or not found.is_floating_point():
        raise ShapeError(
            f"States of shape {list(found.shape)} and {found.dtype} were given. Give floats, "
            "[rows, seq, d_model]."
        )
    return found.detach()


def _rows(layers: Iterable[int] | None, n: int, n_layers: int) -> list[int]:
    if layers is None and n not in (n_layers, n_layers + 1):
        raise LensError(
            f"{n} rows of states were given for {n_layers} layers. Say which they are: layers=[...], -1 for "
            "the embedding."
        )
    rows = list(range(n_layers - n, n_layers)) if layers is None else integers("layers", layers).tolist()
    if len(set(rows)) != n or min(rows) < -1 or max(rows) >= n_layers:
        raise LensError(
            f"{n} rows of states were given as layers {rows!r:.80}. Name each once, -1 to {n_layers - 1}."
        )
    if n_layers - 1 not in rows:
        raise LensError(
            f"The states lack layer {n_layers - 1}, the last, by which the others are checked. Send it too."
        )
    return rows


def _logits(logits: Any, seq: int, d_vocab: int) -> Tensor:
    found = torch.as_tensor(logits).detach()
    found = found.reshape(-1, found.shape[-1]) if found.ndim else found.reshape(1, 1)
    if found.shape[-1] != d_vocab or not 1 <= len(found) <= seq or not found.is_floating_point():
        raise ShapeError(
            f"Logits of shape {list(found.shape)} were given. Give floats of the last n positions, "
            f"[n, {d_vocab}]."
        )
    return found


def _forward(of: ReadableModel | Tail, token_ids: list[int]) -> Tensor:
    """The model's own logits at the last position, `[1, d_vocab]`, by a forward of the ids."""
    hf_model = of.hf_model
    with held(hf_model):
        return logits_of(forward(hf_model, torch.tensor([token_ids], device=device_of(hf_model))))[
            0, -1:
        ].clone()
