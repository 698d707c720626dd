"""A run that is continued token by token, each with its column of the grid."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import is_integer
from lenswidget.errors import LensError, PromptError
from lenswidget.interventions.changes import Change, make_changes
from lenswidget.interventions.recipe import RunSpec
from lenswidget.interventions.sampling import ContinuedEdits, check_sampling, next_token
from lenswidget.interventions.shared_prefix import is_ids_alone
from lenswidget.models.facts import facts_of, held
from lenswidget.models.grown_prompt import longer
from lenswidget.models.hf_model import text_config
from lenswidget.models.split_forward import keys_in
from lenswidget.readout.capture import Capture, Past
from lenswidget.readout.kept import Kept, kept_runs
from lenswidget.readout.reuse import Reuse
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.streams import Streams, as_streams
from lenswidget.readout.taking_over import Grown

Runner = Callable[..., Run]
AsRun = Callable[[RunSpec, Grown, Callable[[], Sequence[Change]], int], Run]


@runtime_checkable
class Continues(Protocol):
    """An engine that can continue a run: see `continued`."""

    def extend(self, run: Run, n_tokens: int, **sampling: Any) -> Generator[Run, None, Run]: ...


@contextmanager
def held_as_it_is(model: ReadableModel) -> Generator[int, None, None]:
    """The model for this thread alone, compared with what it was; gives the number of its changes so far."""
    with model.lock:
        n_changes = facts_of(model.hf_model).fingerprint(values=True)
    with held(model.hf_model):
        yield n_changes


def continued(
    model: ReadableModel,
    run: Run,
    n_tokens: int,
    place: str,
    run_whole: Runner,
    as_run: AsRun,
    *,
    temperature: float | int = 0.0,
    top_p: float | int = 1.0,
    seed: int = 0,
) -> Generator[Run, None, Run]:
    """Continue a run: yields it with one more column each time, and returns the last.

    Over the exact ids, under its edits: those that cover generated positions (None, "generated", an open
    slice) are made at each new column, the others stay where they are in the prompt. It ends after
    `n_tokens`, at a token that ends a text, or where the model's positions end. Closing the generator stops
    it; what was yielded stays.

    The tokens follow from the model's own logits alone: temperature 0 gives those of
    `hf_model.generate(do_sample=False)`, unless the model's generation config has penalties.

    Args:
        n_tokens: at most so many.
        temperature: 0 takes the most probable token each time; else tokens are drawn.
        top_p: drawn from the most probable tokens that together have this probability.
        seed: of the draws: the same gives the same tokens, also where it goes on from one of these runs.
    Raises:
        LensError: an option out of its range, or a model of which no token follows.
        PromptError: the prompt is more than token ids.
        EditError: an edit that no generated position can have.
    """
    options = check_sampling(run.seq, temperature, top_p, seed)
    _check(run, n_tokens)
    edits = ContinuedEdits(run.spec.edits, run.seq)
    ends, longest = (
        _ends(model.hf_model),
        getattr(text_config(model.hf_model), "max_position_embeddings", None),
    )
    cached: _CachedSteps | None = None
    try:
        for _ in range(n_tokens):
            if isinstance(longest, int) and run.seq >= longest:
                break
            run.check_model()
            token = next_token(run.last_logits, options, run.seq)
            prompt = longer(run.spec.prompt, token)
            spec = RunSpec(prompt, run.spec.sites, edits.of(prompt.seq), options)
            cached = cached or _CachedSteps.after(model, run, n_tokens, place, as_run, edits)
            run = run_whole(spec, reuse=run) if cached is None else cached.step(run, spec)
            yield run
            if token in ends:
                break
    finally:
        if cached is not None:
            cached.finish(run)
    return run


def _check(run: Run, n_tokens: Any) -> None:
    if not is_integer(n_tokens) or n_tokens < 1:
        raise LensError(f"Asked to generate {n_tokens!r} tokens. Pass an integer from 1.")
    if not run.model.is_causal or run.model.predicts != "next":
        raise LensError(
            f"Asked to continue a prompt of {run.model.name}, whose positions see later ones: no token "
            "follows. Use a causal model."
        )
    if not is_ids_alone(run.spec):
        raise PromptError(
            "Asked to continue a prompt that is more than token ids (pictures, padding, an encoder's text). "
            "Give text or ids, or use model.generate(...)."
        )


def _ends(hf_model: nn.Module) -> frozenset[int]:
    """The tokens that end a text."""
    for config in (getattr(hf_model, "generation_config", None), getattr(hf_model, "config", None)):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    return frozenset()


class _CachedSteps:
    """Steps on one cache, which each fills further; make it with `after`."""

    def __init__(
        self, model: ReadableModel, run: Run, kept: Kept, place: str, as_run: AsRun, edits: ContinuedEdits
    ) -> None:
        self._model, self._place, self._as_run = model, place, as_run
        self._first, self._keys = run, kept.keys
        self._past = Past.of(kept.keys, model)
        self._edits = edits.at_new_columns
        self._changes: list[Change] | None = None

    @classmethod
    def after(
        cls,
        model: ReadableModel,
        run: Run,
        n_tokens: int,
        place: str,
        as_run: AsRun,
        edits: ContinuedEdits,
    ) -> "_CachedSteps | None":
        """Steps after a run; None where it has kept no keys, or the model must be run whole."""
        split, kept = model.anatomy.split, run.kept
        is_beyond = split.longest is not None and run.seq + n_tokens > split.longest
        if split.why_not or is_beyond or kept is None or kept.n_columns != run.seq:
            return None
        return cls(model, run, kept, place, as_run, edits)

    def step(self, run: Run, spec: RunSpec) -> Run:
        """The run with the next column."""
        model, past, split = self._model, self._past, self._model.anatomy.split
        with held_as_it_is(model) as n_changes:
            changes = self._changes_at(past.n_columns, spec)
            capture = Capture(model, spec.prompt, self._place, changes)
            found = capture(EMBED_SITE, want_logits=True, after=past)
            assert found.own is not None
            assert run.kept is not None
            self._past = Past(past.cache, past.n_columns + 1)
            grown = Grown(
                Streams([*as_streams(run.stream(EMBED_SITE)).parts, found.streams]),
                found.own,
                Reuse(run.id, run.seq, split.gap, split.bound, is_step=True),
                Kept((), run.kept.decoded.handed_on(spec.prompt.seq, run.seq)),
            )
            return self._as_run(
                spec, grown, lambda: make_changes(spec.edits, model, spec.prompt.model_inputs), n_changes
            )

    def finish(self, run: Run) -> None:
        """Keep the keys of the last run, from which a later one may go on."""
        n_first = self._first.seq
        if run.kept is None or run is self._first or self._past.n_columns != run.seq:
            return
        own = keys_in(self._past.cache, n_first)
        if own is not None and own.n_columns == run.seq - n_first:
            run.kept.keys = (*self._keys, own)
            kept_runs(self._model.hf_model).add(run.kept)

    def _changes_at(self, column: int, spec: RunSpec) -> list[Change]:
        """The changes of the new column; what they do is worked out once."""
        if self._changes is None:
            last = {"input_ids": spec.prompt.model_inputs["input_ids"][:, -1:]}
            self._changes = make_changes(self._edits, self._model, last)
        return [replace(change, where=[torch.tensor([column])]) for change in self._changes]
