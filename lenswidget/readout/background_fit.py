"""What a lens usually says, and what it says of nothing, found by reading some texts and some noise."""

import weakref
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.checks import integers
from lenswidget.errors import PromptError
from lenswidget.lenses.fit_texts import Texts, check_settings, text_ids
from lenswidget.lenses.lens import Lens, LensLike, LogitLens, as_lens, carry, check_lens
from lenswidget.lenses.lens_file import digest
from lenswidget.lenses.provenance import ids_digest
from lenswidget.models.facts import facts_of
from lenswidget.models.product import full_float32
from lenswidget.models.words import word_mask
from lenswidget.progress import Progress, drain, reporting
from lenswidget.readout.background import EVIDENCE, Background
from lenswidget.readout.background_texts import TEXTS
from lenswidget.readout.cells import Cells
from lenswidget.readout.engine import Engine
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.metrics import Tile, measure
from lenswidget.readout.query import rows
from lenswidget.readout.run import EMBED_SITE, Run, RunSpec
from lenswidget.readout.shown import Chooser
from lenswidget.readout.tiles import exact_logits

MAX_TOKENS = 48
# The first position is an attention sink; of neighbours every third one says as much for a third of the time.
SKIP_FIRST, EVERY = 1, 3
# Noise: so many states per layer. The third largest of 64 is exceeded by 1 in 20 further ones.
N_RANDOM, N_ABOVE, SEED = 64, 3, 0
# Rows of logits at a time.
ROWS = 64

Slices: TypeAlias = Generator[tuple[int, int], None, Background]
# Of a model as it is now: by lens, by what else they depend on.
_Kept: TypeAlias = "weakref.WeakKeyDictionary[Lens, dict[Any, Background]]"
# Stands for all logit lenses, which are equal: one that is let go would take what is kept with it.
_LOGIT = LogitLens()


def fit_background(
    model: ReadableModel,
    lens: LensLike = None,
    texts: Texts | None = None,
    *,
    site: str = EMBED_SITE,
    lift: bool = True,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = None,
) -> Background:
    """What a lens usually says at each layer of a model, and what it says of nothing.

    The mean log-probs are over every third position of the texts, without the first. The floor of a layer is
    the larger of two numbers: what the mean state gives, and what 1 in 20 random states exceed. Of those
    there are 64, seeded: the mean state and a random direction of the size by which the layer's states differ
    from their mean, so that they have its norm. The last layer has no floor: its cells are the model's own
    prediction. All is fitted once per model, lens and texts; asked again, the same is given back until the
    model changes.

    Args:
        lens: what `lens=` takes; None is the logit lens.
        texts: strings or token ids; a few short ones of ours unless given, for which no network is needed.
        site: what is read, as for `lw.read`.
        lift: whether the mean log-probs are wanted, which the lift needs; the floors alone take a third.
        max_tokens: texts are cut to this length.
        progress: called with `(done, total)`; True shows a tqdm bar.
    Raises:
        LensError: no model, or a lens or site that does not fit it.
        PromptError: no texts, or strings for a model without a tokenizer.
    """
    check_is_model(model, "A background")
    check_settings(1, max_tokens=max_tokens)
    found = as_lens(lens)
    check_lens(found, model)
    slices = background_slices(
        LocalEngine(model), model.hf_model, found, site, lift=lift, texts=texts, max_tokens=max_tokens
    )
    with reporting(progress, "background", "layer") as report:

        def between(done: int, total: int) -> None:
            report(done, total)

        return drain(slices, between)


def background_slices(
    engine: Engine,
    hf_model: torch.nn.Module,
    lens: Lens,
    site: str = EMBED_SITE,
    *,
    lift: bool = True,
    texts: Texts | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Slices:
    """`fit_background`, in slices: yields `(done, total)`; what is known already is returned at once.

    Args:
        hf_model: what the engine runs; until it changes, what was fitted is kept.
    """
    ids = _ids_of(engine, TEXTS if texts is None else texts, max_tokens)
    key = (site, ids_digest(ids))
    kept: _Kept = facts_of(hf_model).get("backgrounds", weakref.WeakKeyDictionary[Lens, Any])
    own: Any = _LOGIT if isinstance(lens, LogitLens) else lens
    try:
        of_lens = kept.setdefault(own, {})
    except TypeError:  # a lens of your own that no dictionary can hold
        of_lens = {}
    known = of_lens.get((*key, True)) or of_lens.get((*key, lift))
    if known is None:
        known = of_lens[(*key, lift)] = yield from _fit(engine, ids, lens, site, lift)
    return known


def known_background(slices: Slices) -> Background | None:
    """What `background_slices` was asked for, if it was fitted before."""
    try:
        next(slices)
    except StopIteration as found:
        return found.value
    slices.close()
    return None


def _ids_of(engine: Engine, texts: Texts, max_tokens: int) -> list[Tensor]:
    """Token ids `[seq]` of each text, as the engine encodes it, cut to `max_tokens`."""
    given: Any = texts
    listed: list[Any] = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not listed:
        raise PromptError(
            f"Asked to fit a background on {texts!r:.80}; pass a list of texts, or leave it out."
        )
    ids: list[Tensor] = []
    info = engine.info()
    most = max_tokens if info.max_length is None else min(max_tokens, info.max_length)
    for text in listed:
        if isinstance(text, str):
            ids.append(text_ids(info.tokenizer, text, most, None))
        else:
            listed_ids = text.flatten().tolist() if isinstance(text, Tensor) else text
            ids.append(torch.from_numpy(integers("a text of", listed_ids))[:most])
    return ids


def _fit(engine: Engine, ids: Sequence[Tensor], lens: Lens, site: str, lift: bool) -> Slices:
    yield 0, 3 * len(ids)  # who only wants what is known goes no further
    runs: list[Run] = []
    for text in ids:
        runs.append(engine.run(RunSpec(engine.encode(text.tolist()))))
        yield len(runs), 3 * len(ids)
    run = runs[-1]
    run.check(Cells([0], [0]), site)
    layers = rows(run, site, lens)
    has_words = run.tokenizer is not None and bool(word_mask(run.tokenizer, run.d_vocab).any())
    floors: dict[str, list[float]] = {"top": []}
    if has_words:
        floors |= {"words": [], **({"lift": []} if lift else {})}
    means: list[Tensor] = []
    total = len(ids) + len(layers) * (2 if lift else 1)
    n = 0
    for done, layer in enumerate(layers):
        with run.held(), full_float32(run.unembed.device):
            states, nothing = _states(runs, site, layer)
        n, usual = len(states), None
        if lift:
            with run.held(), full_float32(run.unembed.device):
                usual = _usual(run, lens, layer, states)
            means.append(usual.cpu())
            yield len(ids) + 2 * done + 1, total
        is_last = layer == run.n_layers - 1 and site == EMBED_SITE
        with run.held(), full_float32(run.unembed.device):
            said = (
                dict.fromkeys(floors, np.nan) if is_last else _said(run, lens, layer, nothing, floors, usual)
            )
        for name, value in said.items():
            floors[name].append(value)
        yield len(ids) + (2 if lift else 1) * (done + 1), total
    found = {name: torch.tensor(values, dtype=torch.float32) for name, values in floors.items()}
    texts = ids_digest(ids)
    facts = (run.model.name, lens.name, site, layers, n, texts)
    log_probs = torch.stack(means) if lift else None
    tensors = {**found, **({} if log_probs is None else {"log_probs": log_probs})}
    return Background(
        run.model.name, lens.name, site, tuple(layers), found, log_probs, n, texts, digest(tensors, *facts)
    )


def _states(runs: Sequence[Run], site: str, layer: int) -> tuple[Tensor, Tensor]:
    """The states of the texts at one layer, `[n, d_model]`; and those of nothing, the mean of them last."""
    states = torch.cat([run.states_of(site, _cells(run, layer)).float() for run in runs])
    mean = states.mean(0, keepdim=True)
    size = (states - mean).square().sum(-1).mean().sqrt()
    seeded = torch.Generator("cpu").manual_seed(SEED)
    random = torch.randn(N_RANDOM, states.shape[-1], generator=seeded, device="cpu").to(states.device)
    return states, torch.cat([mean + size * random / random.norm(dim=-1, keepdim=True), mean])


def _cells(run: Run, layer: int) -> Cells:
    positions = np.arange(min(SKIP_FIRST, run.seq - 1), run.seq, EVERY)
    return Cells(np.full(len(positions), layer), positions)


def _chooser(run: Run, show: str, usual: Tensor | None) -> Chooser | None:
    if show == "top":
        return None
    device = run.unembed.device
    is_word = torch.from_numpy(word_mask(run.tokenizer, run.d_vocab)).to(device)
    if show == "words" or usual is None:
        return Chooser(is_word)
    return Chooser(is_word, usual[None], torch.zeros(1, dtype=torch.long, device=device))


def _logits(run: Run, lens: Lens, layer: int, states: Tensor) -> tuple[Tensor, Any]:
    """Float32 logits of some states, and what computes single ones of them again."""
    unembed = run.unembed
    prepared = unembed.prepare(carry(lens, layer, states))
    return unembed(prepared), partial(exact_logits, unembed, prepared) if unembed.is_exact else None


def _usual(run: Run, lens: Lens, layer: int, states: Tensor) -> Tensor:
    """The mean log-prob of each token over some states, `[d_vocab]` float32."""
    total = torch.zeros(run.d_vocab, dtype=torch.float64, device=run.unembed.device)
    for some in states.split(ROWS):
        logits = _logits(run, lens, layer, some)[0]
        # of each row the same is taken off all tokens, so that it can be added up first
        total += logits.sum(0).double() - logits.logsumexp(-1).double().sum()
    return (total / len(states)).float()


def _said(
    run: Run, lens: Lens, layer: int, nothing: Tensor, shows: Iterable[str], usual: Tensor | None
) -> dict[str, float]:
    """For each choice what noise reaches in 1 of 20 cells, or the mean state if that is more."""
    logits, exact = _logits(run, lens, layer, nothing)
    at = torch.full((len(nothing),), -1, dtype=torch.long, device=logits.device)
    none = torch.empty(0, dtype=torch.long, device="cpu")
    found: dict[str, float] = {}
    for show in shows:
        chooser = _chooser(run, show, usual)
        # changed by measuring
        tile = Tile(logits.clone(), len(nothing), exact=exact, n_tokens=run.n_tokens_shown(1), layers=at)
        said = measure(tile, 1, none, frozenset(), chooser=chooser)[EVIDENCE[show]].flatten()
        found[show] = float(torch.maximum(said[:N_RANDOM].topk(N_ABOVE).values[-1], said[-1]))
    return found
