"""Takes a cell's logit apart: by part, head, neuron or source position."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.attention_watch import Attended
from lenswidget.anatomy.units import Units, UnitSplit
from lenswidget.errors import CellError, LensError
from lenswidget.lenses.lens import LensLike, as_lens, check_carried, check_lens
from lenswidget.models.facts import held
from lenswidget.models.token_ids import token_id
from lenswidget.readout.attribution import Attribution
from lenswidget.readout.card import decode
from lenswidget.readout.cell_direction import CellDirection
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import at_the_run
from lenswidget.readout.parts_forward import LayerParts, read_parts
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.tolerances import ATTENTION_ROW, STREAM_SUM, largest, within

BY = ("part", "head", "neuron", "source")
# Which units each way needs, and of which part they are pieces.
_UNITS = {"head": ("heads", "attn"), "source": ("heads", "attn"), "neuron": ("neurons", "mlp")}
# How many neurons stand for themselves; all others of a layer are one term.
N_NEURONS = 32


@at_the_run
def attribute(
    run: Run,
    layer: int,
    position: int,
    *,
    token: Any = None,
    foil: Any = None,
    by: str = "part",
    lens: LensLike = None,
    layers: Collection[int] | None = None,
    is_measured: bool = True,
) -> Attribution:
    """Take the logit of a token at one cell apart into what the blocks below added there.

    Runs the cell's column once more, edits included, up to the cell's layer, from the states and keys that
    the run kept; where that is not verified, the whole prompt. Through a lens, part `i` at layer `l` counts
    `J_l c_i`.

    Args:
        run: a `Run`.
        layer: -1 (embedding) to `n_layers - 1`, of the residual stream.
        position: 0 to `seq - 1`.
        token, foil: ids, or texts that are one token; the cell's own best token unless given, and no foil.
        by: "part" (attention and MLP of each layer), "head" (attention by head), "neuron" (MLPs by neuron:
            the strongest, and all others of a layer as one term) or "source" (attention by the positions that
            it read: `alpha v W_O`, summed over heads).
        lens: an affine one; None is the logit lens.
        layers: whose parts are split where `by` is not "part"; all unless given.
        is_measured: whether each term is taken out of the cell as well, and the logit read again.
    Raises:
        CellError: a cell, token or layer that is not there.
        AnatomyError: the way from the stream to the logits cannot be taken apart.
        UnknownLensError: a lens that is not affine.
        ModelError: the model has changed since the run.
        LensError: `by` is something else.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020.
    """
    if by not in BY:
        raise LensError(f"Asked to attribute by {by!r:.40}. Use one of {', '.join(BY)}.")
    # directions are gradients, which inference mode keeps none of
    with torch.inference_mode(False), torch.no_grad():
        return _attributed(run, layer, position, token, foil, by, lens, layers, is_measured)


def _attributed(
    run: Run,
    layer: int,
    position: int,
    token: Any,
    foil: Any,
    by: str,
    lens: LensLike,
    layers: Collection[int] | None,
    is_measured: bool,
) -> Attribution:
    run.check(Cells([layer], [position]))
    found = as_lens(lens)
    check_lens(found, run.tail)
    check_carried(found, [layer], run.n_layers)
    model = run.local_model
    _ = model.anatomy.units if by != "part" else ()  # found before the model is taken for unchanged
    with held(model.hf_model):
        ids = _token_ids(run, layer, position, found, token, foil)
        direction = CellDirection(run, layer, position, found, ids)
        units, _ = _UNITS.get(by, ((), ""))
        split = [index for index in range(layer + 1) if layers is None or index in layers]
        watched = split if by == "source" else ()
        kept = read_parts(run, layer, position, units=(units,) if units else (), attention=watched)
        terms = _Splitter(run, layer, position, by, split, direction).terms(kept)
        removed = torch.stack(terms.vectors)
        measured = np.full(len(terms.names), np.nan)
        if is_measured:
            is_state = np.array([kind != "bias" for kind in terms.kinds])
            measured[is_state] = direction.measured(removed[torch.from_numpy(is_state)]).numpy()
    return Attribution(
        run_id=run.id,
        layer=layer,
        position=position,
        lens=found.name,
        by=by,
        token_id=ids[0],
        foil_id=ids[1] if len(ids) > 1 else None,
        kinds=tuple(terms.kinds),
        layers=np.array(terms.layers, np.int64),
        units=np.array(terms.units, np.int64),
        names=tuple(terms.names),
        predicted=np.array(terms.predicted, np.float64),
        measured=measured,
        logit=direction.logit,
        before_cap=direction.before_cap,
        cap=direction.cap,
        notes=tuple(dict.fromkeys(terms.notes)),
        tokenizer=run.tokenizer,
    )


def _token_ids(run: Run, layer: int, position: int, lens: Any, token: Any, foil: Any) -> list[int]:
    if token is None:
        from_card = _best(run, layer, position, lens)
        if from_card is None:
            raise CellError("The cell's state is not finite, so it has no best token. Pass token=.")
        token = from_card
    ids = [token_id(each, run.tokenizer, run.d_vocab) for each in (token, foil) if each is not None]
    if len(ids) == 2 and ids[0] == ids[1]:
        raise CellError(f"The token and the foil are the same, {token!r}. Choose another foil.")
    return ids


def _best(run: Run, layer: int, position: int, lens: Any) -> int | None:
    return next(iter(decode(run, layer, position, lens=lens, k=1).ids), None)


@dataclass
class _Terms:
    """The terms found so far."""

    kinds: list[str] = field(default_factory=list[str])
    layers: list[int] = field(default_factory=list[int])
    units: list[int] = field(default_factory=list[int])
    names: list[str] = field(default_factory=list[str])
    predicted: list[float] = field(default_factory=list[float])
    vectors: list[Tensor] = field(default_factory=list[Tensor])
    notes: list[str] = field(default_factory=list[str])

    def add(self, kind: str, layer: int, unit: int, name: str, number: float, vector: Tensor) -> None:
        for column, value in (
            (self.kinds, kind),
            (self.layers, layer),
            (self.units, unit),
            (self.names, name),
            (self.predicted, number),
            (self.vectors, vector),
        ):
            column.append(value)  # pyright: ignore[reportArgumentType]


class _Splitter:
    """Turns what the blocks added into terms."""

    def __init__(
        self, run: Run, layer: int, position: int, by: str, layers: list[int], direction: CellDirection
    ) -> None:
        self._run, self._layer, self._position, self._by = run, layer, position, by
        self._direction, self._layers = direction, layers
        self._terms = _Terms()
        self._strong: set[tuple[int, int]] = set()
        self._dtype = torch.float32

    def terms(self, kept: list[LayerParts]) -> _Terms:
        embedded = self._run.states(EMBED_SITE, [-1], [self._position])[0]
        self._dtype = embedded.dtype
        self._add("embed", -1, -1, "embedding", embedded.cpu().double())
        splits = [self._split(index, parts) for index, parts in enumerate(kept)]
        if self._by == "neuron":
            self._strong = self._strongest(splits)
        for index, (parts, split) in enumerate(zip(kept, splits, strict=True)):
            self._add_layer(index, parts, split)
        zero = torch.zeros_like(self._terms.vectors[0])
        for name, number in self._direction.constants.items():
            self._terms.add("bias", -1, -1, name, number, zero)
        return self._terms

    def _add(self, kind: str, layer: int, unit: int, name: str, vector: Tensor) -> None:
        self._terms.add(kind, layer, unit, name, float(vector @ self._direction.direction), vector)

    def _add_layer(self, layer: int, parts: LayerParts, split: UnitSplit | None) -> None:
        _, of_part = _UNITS.get(self._by, ("", ""))
        for name, vector in parts.added.items():
            if name == of_part and split is not None:
                self._add_pieces(layer, parts, split, vector)
            else:
                kind = name if name in ("attn", "mlp") else "other"
                self._add(kind, layer, -1, f"L{layer} {name}", vector)
        change = parts.left - parts.below
        listed = list(parts.added.values())
        rest = change - torch.stack(listed).sum(0) if listed else change
        size = parts.below.abs() + parts.left.abs() + sum(vector.abs() for vector in listed)
        if not within(rest, torch.zeros_like(rest), STREAM_SUM, size, self._dtype):
            name = f"L{layer} rest" if listed else f"L{layer} block"
            self._add("rest", layer, -1, name, rest)

    def _split(self, layer: int, parts: LayerParts) -> UnitSplit | None:
        """How a layer's part falls into units; None, and a note, where that did not verify."""
        kind, name = _UNITS.get(self._by, ("", ""))
        if not kind or name not in parts.added or layer not in self._layers:
            return None
        anatomy = self._run.tail.anatomy
        units = anatomy.units[layer].get(kind)
        if units is None:
            reason = anatomy.units[layer].refused.get(kind, "not found")
            self._terms.notes.append(f"layer {layer}'s {name} stays whole: {reason}")
            return None
        block = self._run.tail.hf_model.get_submodule(anatomy.rows[layer].path)
        return units.split(block, parts.taken[kind])

    def _add_pieces(self, layer: int, parts: LayerParts, split: UnitSplit, whole: Tensor) -> None:
        _, name = _UNITS[self._by]
        if self._by == "head":
            for head, vector in enumerate(split.added(range(split.units.n))):
                self._add("head", layer, head, f"L{layer} head {head}", vector)
        elif self._by == "neuron":
            mine = sorted(unit for at, unit in self._strong if at == layer)
            vectors = split.added(mine) if mine else torch.zeros(0, len(whole), dtype=torch.float64)
            for unit, vector in zip(mine, vectors, strict=True):
                self._add("neuron", layer, unit, f"L{layer} neuron {unit}", vector)
            every = split.carry(parts.taken["neurons"][None])[0]
            self._add("mlp", layer, -1, f"L{layer} other neurons", every - vectors.sum(0))
        else:
            attended = attended_to(parts.attended, split.units, parts.taken["heads"])
            if attended is None:
                self._terms.notes.append(
                    f"layer {layer}'s attention stays whole: {_why_no_sources(split.units)}"
                )
                self._add("attn", layer, -1, f"L{layer} attn", whole)
                return
            self._add_sources(layer, split, attended)
        if bool((split.constant != 0).any()):
            self._add(name, layer, -1, f"L{layer} {name} bias", split.constant)

    def _add_sources(self, layer: int, split: UnitSplit, attended: Attended) -> None:
        # [keys, heads * d_value]: what each position hands to the projection
        values = attended.head_values().double() * attended.weights.double()[..., None]
        handed = values.permute(1, 0, 2).flatten(1)
        like = split.inputs
        for source, vector in enumerate(split.carry(handed.to(like))):
            if bool((handed[source] != 0).any()):
                self._add("source", layer, source, f"L{layer} from {source}", vector)

    def _strongest(self, splits: list[UnitSplit | None]) -> set[tuple[int, int]]:
        """`(layer, neuron)` of those that count most."""
        found: list[tuple[float, int, int]] = []
        for layer, split in enumerate(splits):
            if split is None:
                continue
            numbers = split.weights(self._direction.direction) * split.inputs.cpu().double()
            best = numbers.abs().topk(min(N_NEURONS, len(numbers)))
            found += [
                (-size, layer, i) for size, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        return {(layer, unit) for _, layer, unit in sorted(found)[:N_NEURONS]}


def attended_to(found: list[Attended], units: Units, taken: Tensor) -> Attended | None:
    """The product of weights and values that is what the projection takes `[n * d]`; None where none is."""
    for each in found:
        if (each.n_heads, each.d_value) != (units.n, units.d):
            continue
        output = each.output().flatten().cpu()
        if within(output, taken.cpu().double(), ATTENTION_ROW, largest(output), taken.dtype):
            return each
    return None


def _why_no_sources(units: Units) -> str:
    if units.is_gated:
        return "what its weights gather is gated before the projection"
    return "its weights were not seen"
