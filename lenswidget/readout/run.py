"""A run: its recipe, and the residual streams that one forward of it left."""

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity
from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.checks import check_ids, is_integer
from lenswidget.errors import CellError, ModelError
from lenswidget.ids import new_id
from lenswidget.interventions.recipe import EMBED_SITE, RunSpec
from lenswidget.models.facts import facts_of, held
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import Elsewhere
from lenswidget.readout.kept import Kept
from lenswidget.readout.last_row import last_row_fidelity
from lenswidget.readout.model_info import ModelInfo, describe
from lenswidget.readout.reuse import WHOLE, Reuse
from lenswidget.readout.sent_states import sent_states
from lenswidget.readout.streams import Streams
from lenswidget.readout.unembed import Unembed
from lenswidget.tracing.locks import ModelLock, lock_of

__all__ = ["EMBED_SITE", "ModelInfo", "Run", "RunSpec"]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One forward's streams, and how closely the tail reproduces the model's logits from them.

    Attributes:
        id: unique among all runs of this process and, very likely, of others.
        spec: the recipe.
        model: what the model says of itself.
        tail: the model's `Tail`.
        lock: the model's lock, held while cells are decoded.
        reuse: which columns were taken over from an earlier run, and how closely they agree.
        kept: what later runs may take over, until memory runs short; None where there is nothing.
    """

    id: str
    spec: RunSpec
    model: ModelInfo
    tail: Tail
    lock: ModelLock
    _changes: Callable[[bool], int]
    _has_stale_unembed: Callable[[], bool]
    _n_changes: int
    _streams: dict[str, Tensor | Streams]
    _capture: Callable[[str], Tensor]
    _own: Tensor
    _check: Callable[[Tensor | None], Fidelity]
    reuse: Reuse = WHOLE
    kept: Kept | None = None
    _model: ReadableModel | None = None

    @property
    def elsewhere(self) -> Elsewhere | None:
        """The process that has the states; None for this one."""
        return None

    @classmethod
    def from_states(
        cls,
        ids: Any,
        states: Any,
        tail: ReadableModel | Tail,
        *,
        logits: Any = None,
        layers: Iterable[int] | None = None,
    ) -> "Run":
        """States that another system captured, as a run: to be read, and shown by `LensWidget(run)`.

        The last block's states are decoded and compared with `logits`; layers that are off by one, states
        that are normed already or ids of another prompt show in `fidelity`.

        Args:
            ids: token ids `[seq]`; None takes those of the file.
            states: the residual stream after each block, `[rows, seq, d_model]`, a list of `[seq, d_model]`
                or `[1, seq, d_model]`, or a mapping from layer to such; or the path of a safetensors file
                with `hidden_states`, `[seq, rows, d_model]` as vLLM writes it beside `token_ids`, or with
                `states`, `[rows, seq, d_model]`.
            tail: the model that they are of, or its tail.
            logits: the other system's own, `[d_vocab]` of the last position, or `[n, d_vocab]` of the last n;
                None takes the file's `logits`, or else runs the model itself.
            layers: what the rows are, -1 for the embedding; unless given, all blocks, with the embedding
                first where there is one row more. vLLM's layer `j` is layer `j - 1` here.
        Raises:
            LensError: shapes that do not fit, or states without the last block's.
            CellError: an id that the vocabulary does not have.
        """
        sent = sent_states(ids, states, tail, logits=logits, layers=layers)
        info, facts = describe(tail), facts_of(tail.hf_model)
        tail = tail.tail if isinstance(tail, ReadableModel) else tail

        def missing(site: str) -> Tensor:
            raise CellError(f"Asked for {site!r:.40} of states that were sent: {EMBED_SITE} alone was.")

        return cls(
            id=new_id(),
            spec=RunSpec(sent.prompt),
            model=replace(info, sites=(EMBED_SITE,)),
            tail=tail,
            lock=lock_of(tail.hf_model),
            _changes=lambda values: facts.fingerprint(values=values),
            _has_stale_unembed=facts.has_stale_unembed,
            _n_changes=facts.fingerprint(values=True),
            _streams={EMBED_SITE: sent.stream},
            _capture=missing,
            _own=sent.own,
            _check=functools.partial(last_row_fidelity, tail, sent.stream[-1], sent.own),
        )

    @functools.cached_property
    def fidelity(self) -> Fidelity:
        """The last block's output decoded, against the model's own logits of this run's last positions.

        The forward left those logits; they are compared when first asked for, which the widget does before it
        shows anything, and `read` before it returns.
        """
        with self.held():
            return self._compared(None)

    def check_decoded(self, cells: Cells, logits: Float[Tensor, "rows d_vocab"]) -> None:
        """Takes `fidelity` from what a readout has decoded, where every row that it needs is among it.

        Args:
            cells: of `resid_post`, read as it is.
            logits: of these cells and maybe more, float32.
        """
        if "fidelity" in self.__dict__:
            return
        last = np.flatnonzero(cells.layers == self.n_layers - 1)
        row_of = dict(zip(cells.positions[last].tolist(), last.tolist(), strict=True))
        rows = [row_of.get(position) for position in range(self.seq - len(self._own), self.seq)]
        if None not in rows:
            self.__dict__["fidelity"] = self._compared(logits[rows])

    def _compared(self, decoded: Tensor | None) -> Fidelity:
        found = self._check(decoded)
        if not found.ok and self._has_stale_unembed():
            raise ModelError(
                f"A weight of the unembed of {self.model.name} was edited through .data since it was first "
                "read, so this run was decoded with the old one. Run it again: model.run(run.spec)."
            )
        # what was compared is let go, but for the row that the next token follows from
        self.__dict__["_own"] = self._own[-1:].clone()
        self.__dict__["_check"] = functools.partial(_known, found)
        return found

    @functools.cached_property
    def unembed(self) -> Unembed:
        """The final norm and the unembed, as readouts compute them; those of the model at this run."""
        return Unembed(self.tail)

    @property
    def local_model(self) -> ReadableModel:
        """The model in this process that the run is of.

        Raises:
            ModelError: it is elsewhere, was run without its adapter, or has changed since this run.
        """
        if self._model is None:
            raise ModelError(
                f"Asked to run {self.model.name} again as it was at this run, but it is not in this process, "
                "or the run was one without its adapter. Run it here, within hf_model.disable_adapter()."
            )
        self.check_model()
        return self._model

    def held(self) -> AbstractContextManager[None]:
        """The model for this thread alone, in evaluation mode and without gradients, to decode cells."""
        return held(self.tail.hf_model)

    @property
    def prompt(self) -> str | list[int]:
        """The prompt's text, or the ids of its columns where there was none."""
        return self.spec.prompt.as_given

    @property
    def token_ids(self) -> Int[Tensor, " seq"]:
        """`[seq]` int64, on the CPU: the token of each column."""
        return self.spec.prompt.column_ids

    @property
    def seq(self) -> int:
        """How many columns the grid has."""
        return self.spec.prompt.seq

    @property
    def last_logits(self) -> Float[Tensor, " d_vocab"]:
        """The model's own logits at the last column, `[d_vocab]`, in its dtype: which token comes next."""
        return self._own[-1]

    @property
    def answer_cell(self) -> Cells:
        """The one cell that says the model's own answer: the last layer's, at `answer_position`."""
        return Cells([self.n_layers - 1], [self.answer_position])

    @property
    def answer_position(self) -> int:
        """Where the model's answer stands: the last column, which speaks of the token after the prompt.

        In a masked language model the last mask of the prompt, where there is one.
        """
        mask_id = getattr(self.tokenizer, "mask_token_id", None)
        if self.model.predicts == "same" and mask_id is not None:
            masks = (self.token_ids == mask_id).nonzero()
            if len(masks):
                return int(masks[-1])
        return self.seq - 1

    @property
    def n_layers(self) -> int:
        """How many rows the grid has above the embedding."""
        return self.model.n_layers

    @property
    def d_vocab(self) -> int:
        """How many logits a cell has."""
        return self.model.d_vocab

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that can be read; all but those of the recipe are captured when they are first read."""
        return self.model.sites

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return self.model.tokenizer

    @property
    def nbytes(self) -> int:
        """Bytes that the streams captured so far take; those that runs share count in each."""
        return sum(stream.nbytes for stream in self._streams.values())

    def n_tokens_shown(self, k: int = 1) -> int | None:
        """How many ids stand for a token, where the model's vocabulary is padded beyond its tokenizer's.

        None where all do, where there is no tokenizer to tell, or where fewer than `k` do.
        """
        n_tokens = self.d_vocab if self.tokenizer is None else len(self.tokenizer)
        return n_tokens if k <= n_tokens < self.d_vocab else None

    def lowest_layer(self, site: str = EMBED_SITE) -> int:
        """-1 where the site has an embedding row, which is `resid_post` alone; else 0."""
        return -1 if site == EMBED_SITE else 0

    def states(self, site: str, layers: Any, positions: Any) -> Float[Tensor, "cells d_model"]:
        """The states of some cells, `[cells, d_model]`, in the model's dtype, where the streams are kept.

        Args:
            site: one of `sites`; captured now, by one more forward, if it has not been read before.
            layers: integers, one per cell; -1 is the embedding.
            positions: integers, one per cell.
        Raises:
            CellError: a layer or position outside the run, or a site that it does not have.
        """
        cells = Cells(layers, positions)
        self.check(cells, site)
        return self.states_of(site, cells)

    def states_of(self, site: str, cells: Cells) -> Float[Tensor, "cells d_model"]:
        """`states` of cells that `check` has let pass."""
        stream = self.stream(site)
        rows, positions = (
            torch.from_numpy(cells.layers - self.lowest_layer(site)),
            torch.from_numpy(cells.positions),
        )
        if isinstance(stream, Streams):
            return stream.take(rows, positions)
        return stream[rows.to(stream.device), positions.to(stream.device)]

    @property
    def is_current(self) -> bool:
        """Whether the model is still what it was at this run, weights edited through `.data` aside."""
        return self._changes(False) == self._n_changes

    def check_model(self, *, values: bool = False) -> None:
        """Refuse to read old states through a model that has changed since.

        Args:
            values: look at weights too, since an edit through `.data` moves nothing else.
        Raises:
            ModelError: the model has changed since this run.
        """
        if self._changes(values) != self._n_changes:
            raise ModelError(
                f"Asked to read a run of {self.model.name}, but the model has changed since this run. Run it "
                "again: model.run(run.spec)."
            )

    def check(self, cells: Cells, site: str = EMBED_SITE) -> None:
        """Refuses a site that the run does not have, or cells outside it.

        Raises:
            CellError: says which.
        """
        if site not in self.sites:
            raise CellError(
                f"Asked for site {site!r}; this run has {', '.join(self.sites)}: name one of those."
            )
        cells.check(self.n_layers, self.seq, self.lowest_layer(site))

    def check_tokens(self, k: Any, ids: Any = ()) -> list[int]:
        """The token ids as plain integers; refuses ids, or a number of top tokens, beyond the vocabulary.

        Raises:
            CellError: says which.
        """
        if not is_integer(k) or not 1 <= k <= self.d_vocab:
            raise CellError(
                f"Asked for the {k!r} best tokens of {self.d_vocab}: choose k from 1 to {self.d_vocab}."
            )
        return check_ids(ids, self.d_vocab)

    def __repr__(self) -> str:
        n_edits = len(self.spec.active_edits)
        edited = f"{n_edits} edit{'s' * (n_edits > 1)}; " if n_edits else ""
        reused = f"{self.reuse.n_columns} columns taken over; " if self.reuse.n_columns else ""
        return (
            f"Run({self.prompt!r:.60}: {self.seq} tokens, {self.n_layers} layers of {self.model.name}; "
            f"{edited}{reused}sites {', '.join(self.sites)}; {self.nbytes / 2**20:.1f} MiB)"
        )

    def stream(self, site: str) -> Tensor | Streams:
        """`[rows, seq, d_model]`, the lowest layer first; captured now if it has not been read before."""
        with self.lock:
            if site not in self._streams:
                self._streams[site] = self._capture(site)
            return self._streams[site]


def _known(found: Fidelity, decoded: Tensor | None) -> Fidelity:
    """A comparison that was made."""
    return found
