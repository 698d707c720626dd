"""Edits made ready for one prompt of one model: what each does to the states at its layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.units import Units
from lenswidget.errors import AnatomyError, EditError, ModelError
from lenswidget.interventions.directions import check_apart, random_like, token_directions
from lenswidget.interventions.places import covers_generated, layers_of, positions_of, token_positions
from lenswidget.interventions.recipe import UNIT_SITES, Edit, HasRecipe
from lenswidget.models.hf_model import uncached
from lenswidget.models.token_ids import token_id


@dataclass
class Moment:
    """What a change needs to know of the forward that it is made in.

    Attributes:
        step: 0 for the prompt, `i` for the `i`-th call that a generation makes after it.
        tokens: `[batch, seq]`, which of the positions at hand are the prompt's own tokens.
        kept: what a change keeps from one step to the next.
    """

    step: int
    tokens: Bool[Tensor, "batch seq"]
    kept: dict[Any, Tensor]


Rows = Float[Tensor, "rows d_model"]
# From the edited positions' states `[rows, d_model]` and all states `[batch, seq, d_model]`, in float32.
Rule = Callable[[Tensor, Tensor, Moment], Tensor]


@dataclass(frozen=True, eq=False)
class Change:
    """One edit at one layer.

    Attributes:
        where: per batch row, the edited positions in the model's own sequence, rising.
        generated: whether the positions that a generation adds are edited.
        rule: gives the new states of the edited positions.
        units: where the edited heads or neurons lie; None where the whole site is edited.
    """

    edit: Edit
    layer: int
    where: list[Tensor]
    generated: bool
    rule: Rule
    units: Units | None = None

    def __call__(self, states: Float[Tensor, "batch seq d_model"], moment: Moment) -> Tensor:
        """The states with the change made, a new tensor; the very same where nothing is edited."""
        mask = self._mask(states, moment)
        if not bool(mask.any()):
            return states
        rows = self.rule(states[mask].float(), states, moment)
        changed = states.clone()
        changed[mask] = rows.to(states.dtype)
        return changed

    def _mask(self, states: Tensor, moment: Moment) -> Tensor:
        batch, seq = states.shape[:2]
        n_prompt = moment.tokens.shape[1]
        mask = torch.zeros(batch, n_prompt + moment.step, dtype=torch.bool)
        n_beams = batch // len(self.where)
        for row in range(batch):
            mask[row, self.where[row // n_beams]] = True
        mask[:, n_prompt:] = self.generated
        whole = n_prompt + moment.step
        if seq not in (1, whole):
            raise EditError(
                f"The model was given {seq} positions at step {moment.step}, not 1 or {whole}, so it is not "
                "known which are edited. Generate without chunks or drafts."
            )
        return (mask if seq == whole else mask[:, -1:]).to(states.device)


def make_changes(
    edits: Sequence[Edit], model: ReadableModel, inputs: Mapping[str, Any], *, is_generation: bool = False
) -> list[Change]:
    """The changes that edits make to a forward on `inputs`, in the order given; those that are off make none.

    Runs the model for what has to be known before: the clean coordinates of a swap, the source of a patch,
    the mean over texts.

    Args:
        inputs: the keyword arguments of the model's forward.
        is_generation: whether positions will be added.
    Raises:
        EditError: a layer, position, token or source that does not fit the model or the prompt.
        AnatomyError: a site that the model does not offer.
        ShapeError: a vector or source of another width.
    """
    makers = [_Maker(edit, model, inputs, is_generation) for edit in edits if edit.is_on]
    return [change for maker in makers for change in maker.changes()]


def changes_within(changes: Sequence[Change], start: int, stop: int) -> list[Change]:
    """The changes of a forward of the columns from `start` up to `stop` alone; those outside are left out."""
    moved = [
        replace(change, where=[at[(at >= start) & (at < stop)] - start for at in change.where])
        for change in changes
    ]
    return [change for change in moved if any(len(at) for at in change.where)]


def ready_changes(edits: Any) -> list[Change] | None:
    """Changes that were made for a prompt before, as they are; None where these are edits."""
    is_ready = isinstance(edits, (list, tuple)) and bool(edits) and all(isinstance(e, Change) for e in edits)
    return list(edits) if is_ready else None


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes the changes of one edit."""

    edit: Edit
    model: ReadableModel
    inputs: Mapping[str, Any]
    is_generation: bool

    def changes(self) -> list[Change]:
        edit, anatomy = self.edit, self.model.anatomy
        layers = layers_of(edit, anatomy.n_layers)
        for layer in layers:
            offered = self.model.layers[max(layer, 0)].offered
            if edit.site not in offered:
                reason = anatomy.sites[max(layer, 0)].refused.get(edit.site, "not found")
                raise AnatomyError(
                    f"Asked to edit {edit.site} of layer {layer} of {anatomy.model_class}, which is not "
                    f"offered: {reason}. Use one of {', '.join(offered)}."
                )
        tokens = token_positions(self.inputs)
        columns = [positions_of(edit.positions, len(row)) for row in tokens]
        where = [row[sorted(at)] for row, at in zip(tokens, columns, strict=True)]
        generated = covers_generated(edit.positions)
        # a strength of 0 is no change at all, and leaves every bit as it is
        if edit.strength == 0 and edit.op != "scale":
            return []
        units = [self._units(layer) for layer in layers]
        make: Callable[[list[int], list[list[int]]], list[Rule]] = getattr(self, f"_{edit.op}")
        made = zip(layers, make(layers, columns), units, strict=True)
        return [
            Change(edit, layer, where, generated, rule if at is None else self._at_units(rule, at), at)
            for layer, rule, at in made
        ]

    # --- heads and neurons

    def _units(self, layer: int) -> Units | None:
        """Where the edited units of a layer lie; None where the whole site is edited."""
        asked, anatomy = self.edit.units, self.model.anatomy
        if asked is None:
            return None
        kind, ids = asked
        found = anatomy.units[layer].get(kind)
        if found is None:
            raise AnatomyError(
                f"Asked to edit {kind} of layer {layer} of {anatomy.model_class}, which are not offered: "
                f"{anatomy.units[layer].refused.get(kind, 'not found')}. Edit the whole of {self.edit.site}."
            )
        if ids[-1] >= found.n:
            raise EditError(
                f"Asked to edit {kind} {ids[-1]} of {found.n} in layer {layer}. Use 0 to {found.n - 1}."
            )
        return found

    def _at_units(self, rule: Rule, units: Units) -> Rule:
        """The rule for the columns of the edited units alone."""
        columns = self._unit_columns(units)

        def new(rows: Tensor, states: Tensor, moment: Moment) -> Tensor:
            at = columns.to(rows.device)
            changed = rows.clone()
            changed[:, at] = rule(rows[:, at], states[..., at], moment)
            return changed

        return new

    def _unit_columns(self, units: Units) -> Tensor:
        assert self.edit.units is not None
        return torch.cat([torch.arange(units.n * units.d)[units.slice(unit)] for unit in self.edit.units[1]])

    def _read(self, inputs: dict[str, Any], edits: Sequence[Edit], layers: list[int]) -> dict[int, Tensor]:
        """What is edited, in another forward: by layer, `[batch, seq, width]`."""
        asked = self.edit.units
        if asked is None:
            return read_states(self.model, inputs, edits, self.edit.site, layers)
        columns = {layer: self._unit_columns(units) for layer in layers if (units := self._units(layer))}
        found = read_states(self.model, inputs, edits, asked[0], layers)
        return {layer: states[..., columns[layer].to(states.device)] for layer, states in found.items()}

    # --- the rules, one per layer

    def _zero(self, layers: list[int], columns: Any) -> list[Rule]:
        return [lambda rows, states, moment: self._blend(rows, torch.zeros_like(rows))] * len(layers)

    def _scale(self, layers: list[int], columns: Any) -> list[Rule]:
        return [lambda rows, states, moment: self.edit.strength * rows] * len(layers)

    def _add(self, layers: list[int], columns: Any) -> list[Rule]:
        vector = self.edit.vector
        d_model = self.model.anatomy.d_model
        assert vector is not None
        if len(vector) != d_model:
            raise EditError(
                f"The vector to add has {len(vector)} numbers and the stream {d_model}. Give as many."
            )
        vector = self.edit.strength * vector.detach().float()
        return [lambda rows, states, moment: rows + vector.to(rows.device)] * len(layers)

    def _mean(self, layers: list[int], columns: Any) -> list[Rule]:
        if self.edit.texts:
            means = self._means_over_texts(layers)
            return [_fixed(self._blend, means[layer]) for layer in layers]

        def rule(layer: int) -> Rule:
            def new(rows: Tensor, states: Tensor, moment: Moment) -> Tensor:
                key = (self, layer)
                if moment.step == 0:
                    # of each batch row, over its own tokens
                    moment.kept[key] = torch.stack(
                        [row[kept].float().mean(0) for row, kept in zip(states, moment.tokens, strict=True)]
                    )
                n = len(rows) // len(states)
                return self._blend(rows, moment.kept[key].repeat_interleave(n, dim=0))

            return new

        counts = {len(at) for at in columns}
        if len(counts) > 1:
            raise EditError(
                "The mean over positions was asked for prompts of unlike length. Trace them one by one, or "
                "pass texts= for the mean."
            )
        return [rule(layer) for layer in layers]

    def _steer(self, layers: list[int], columns: Any) -> list[Rule]:
        def rule(direction: Tensor) -> Rule:
            unit = direction / direction.norm()

            def new(rows: Tensor, states: Tensor, moment: Moment) -> Tensor:
                return rows + self.edit.strength * rows.norm(dim=-1).median() * unit.to(rows.device)

            return new

        return [rule(self._directions(layer)[0]) for layer in layers]

    def _project_out(self, layers: list[int], columns: Any) -> list[Rule]:
        def rule(directions: Tensor) -> Rule:
            basis = torch.linalg.qr(directions.T.double())[0].float()

            def new(rows: Tensor, states: Tensor, moment: Moment) -> Tensor:
                at = basis.to(rows.device)
                return self._blend(rows, rows - (rows @ at) @ at.T)

            return new

        return [rule(self._directions(layer)) for layer in layers]

    def _swap(self, layers: list[int], columns: Any) -> list[Rule]:
        if not self.edit.is_live and self.is_generation and covers_generated(self.edit.positions):
            raise EditError(
                "A swap is held at the coordinates of the run without edits, which has no generated "
                'positions. Pass positions="prompt", or is_live=True.'
            )
        clean = {} if self.edit.is_live else self._clean_states(layers)

        def rule(layer: int) -> Rule:
            directions = self._directions(layer)
            basis, inverse = directions.T, torch.linalg.pinv(directions.T.double()).float()
            held = None
            if layer in clean:
                rows = clean[layer].float().to(inverse.device)
                held = (rows @ inverse.T)[:, [1, 0]]

            def new(rows: Tensor, states: Tensor, moment: Moment) -> Tensor:
                coordinates = rows @ inverse.to(rows.device).T
                target = coordinates[:, [1, 0]] if held is None else held.to(rows.device)
                return rows + self.edit.strength * (target - coordinates) @ basis.to(rows.device).T

            return new

        return [rule(layer) for layer in layers]

    def _patch(self, layers: list[int], columns: list[list[int]]) -> list[Rule]:
        edit, source = self.edit, self.edit.source_spec
        assert source is not None
        if len(columns) > 1:
            raise EditError(f"Asked to patch {len(columns)} prompts together. Patch one prompt.")
        if covers_generated(edit.positions) and self.is_generation:
            raise EditError('A patch has no generated positions. Pass positions="prompt", or name some.')
        seq = source.prompt.seq
        given = edit.positions if edit.from_positions is None else edit.from_positions
        from_columns = (
            columns[0] if given is None and len(columns[0]) == seq else positions_of(given, seq, "patch from")
        )
        if len(from_columns) != len(columns[0]):
            raise EditError(
                f"Asked to patch {len(columns[0])} positions from {len(from_columns)}. Pass as many "
                "from_positions as positions."
            )
        # in the order of the edited positions
        pairs = sorted(zip(columns[0], from_columns, strict=True))
        at = [column for _, column in pairs]
        rules: list[Rule] = []
        for layer in layers:
            states = self._source_states(edit.from_layer if edit.from_layer is not None else layer, at)
            units = self._units(layer)
            width = self.model.anatomy.d_model if units is None else len(self._unit_columns(units))
            if states.shape[-1] != width:
                raise EditError(
                    f"The source of the patch is {states.shape[-1]} wide and what is edited {width}. Patch "
                    "from a model, or a layer, of the same width."
                )
            rules.append(_fixed(self._blend, states.float()))
        return rules

    # --- what the rules need

    def _blend(self, rows: Tensor, new: Tensor) -> Tensor:
        new = new.to(rows.device)
        return new if self.edit.strength == 1 else rows + self.edit.strength * (new - rows)

    def _directions(self, layer: int) -> Tensor:
        """`[tokens, d_model]` float32 at a layer's site."""
        model, edit = self.model, self.edit
        # what enters a layer has left the one below
        at = layer - 1 if edit.site == "resid_pre" else layer
        ids = [token_id(token, model.tokenizer, model.anatomy.d_vocab) for token in edit.tokens]
        found = token_directions(model, ids, at, edit.lens)
        check_apart(found, edit.tokens)
        return found if edit.control_seed is None else random_like(found, edit.control_seed)

    def _clean_states(self, layers: list[int]) -> dict[int, Tensor]:
        """By layer, the states at the edited positions in a forward without edits, `[rows, d_model]`."""
        tokens = token_positions(self.inputs)
        columns = [positions_of(self.edit.positions, len(row)) for row in tokens]
        rows = torch.cat([torch.full((len(at),), i) for i, at in enumerate(columns)])
        at = torch.cat([row[sorted(each)] for row, each in zip(tokens, columns, strict=True)])
        states = read_states(self.model, dict(self.inputs), (), self.edit.site, layers)
        return {layer: found[rows, at] for layer, found in states.items()}

    def _means_over_texts(self, layers: list[int]) -> dict[int, Tensor]:
        """By layer, the mean of the site over all positions of the texts, `[1, d_model]`."""
        sums: dict[int, Tensor] = {}
        n = 0
        for text in self.edit.texts:
            inputs = dict(self.model.tokenize(text))
            states = self._read(inputs, (), layers)
            n += sum(len(row) for row in token_positions(inputs))
            for layer, found in states.items():
                total = found.double().sum(dim=(0, 1)) if found.device.type != "mps" else found.sum((0, 1))
                sums[layer] = sums[layer] + total if layer in sums else total
        return {layer: (total / n).float()[None] for layer, total in sums.items()}

    def _source_states(self, layer: int, columns: list[int]) -> Tensor:
        """The states of the patch's source, `[columns, d_model]`."""
        source, spec, site = self.edit.source, self.edit.source_spec, self.edit.site
        assert spec is not None
        if isinstance(source, HasRecipe):
            if source.is_current and self.edit.units is None:
                return source.states(site, [layer] * len(columns), columns)
            if not source.is_current:
                raise ModelError(
                    "Asked to patch from a run whose model has changed since. Run it again, or pass its "
                    "recipe, run.spec."
                )
        layers_of(Edit("zero", site=site, layers=layer), self.model.anatomy.n_layers)
        found = self._read(dict(spec.prompt.model_inputs), spec.active_edits, [layer])
        at = torch.tensor(columns) if spec.prompt.columns is None else spec.prompt.columns[columns]
        return found[layer][0, at.to(found[layer].device)]


def read_states(
    model: ReadableModel, inputs: dict[str, Any], edits: Sequence[Edit], site: str, layers: Sequence[int]
) -> dict[int, Tensor]:
    """A site in one forward, by layer, `[batch, seq, d_model]` each, in the model's dtype.

    Args:
        site: or "heads" or "neurons": what the last projection of that part takes.
    """
    found: dict[int, Tensor] = {}
    options = {**uncached(model.hf_model), **({"edits": list(edits)} if edits else {})}
    with model.lock, torch.no_grad(), model.trace(inputs, **options):
        for layer in sorted(layers):
            if site in UNIT_SITES:
                states = model.layers[layer].unit_inputs(site)
            else:
                states = model.layers.embed if layer < 0 else getattr(model.layers[layer], site)
            found[layer] = states.detach().clone()
    return found


def _fixed(blend: Callable[[Tensor, Tensor], Tensor], new: Tensor) -> Rule:
    return lambda rows, states, moment: blend(rows, new)
