"""Numbers of a tile of logits: the k best, log-probs, entropy, divergences, ranks. Float32 throughout."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lenswidget.readout.shown import Best, Chooser, Chosen
from lenswidget.readout.top_k import top_k

# Rows whose logits and probabilities (2 x 16 x 200 kB for 50,000 tokens) stay in the caches together; on
# other devices, enough to fill them.
ROWS_AT_ONCE, ROWS_AT_ONCE_ELSEWHERE = 16, 128
# So many of the best logits at least are computed again: they carry most of a peaked row's probability.
N_EXACT = 8
# Stands for -inf where a product with a probability of 0 must be 0, and for what a divergence then exceeds.
FAR_BELOW, BEYOND_NATS = -1e38, 1e9
LOG_2 = math.log(2.0)


# Ids `[rows, m]`, and which rows of the tile where it is not all, to float64 `[rows, m]`.
Exact: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class Tile:
    """Logits of some cells, and of the rows that these are held against.

    Attributes:
        logits: `[rows, d_vocab]` float32, the cells' first. Changed by `measure`.
        n_cells: how many rows are cells that were asked for.
        segments: `(start, stop, final)`: the cells `start .. stop - 1` share a position, whose last layer is
            row `final`; empty where nothing is compared with the last layer.
        references: row of each cell's counterpart in another run, or None.
        is_same: `[cells]`, where a cell's states are its counterpart's, bit for bit; None if unknown.
        exact: gives some logits of every row again, `[rows, m]` ids to float64 `[rows, m]`; or None.
        n_tokens: ids from here on stand for no token: they are in the softmax, but never among the best.
        layers: `[cells]`, where a chooser asks.
        targets: `[cells]`, the token that each cell speaks of, -1 for none; where that is asked for.
    """

    logits: Float[Tensor, "rows d_vocab"]
    n_cells: int
    segments: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    references: slice | None = None
    is_same: Bool[Tensor, " cells"] | None = None
    exact: Exact | None = None
    n_tokens: int | None = None
    layers: Int[Tensor, " cells"] | None = None
    targets: Int[Tensor, " cells"] | None = None


@dataclass(frozen=True)
class Normed:
    """A tile's centred logits, their exponentials, and what normalises these.

    Attributes:
        centred: `[rows, d_vocab]`, each row less its largest logit: large terms would cancel otherwise.
        exps: `[rows, d_vocab]`, probabilities once divided by `total`; None unless rows are compared.
        total: `[rows]`, what the row of `exps` adds up to.
        log_z: `[rows]`, log of the sum of the exponentials of `centred`.
        expected: `[rows]`, mean of `centred` under the probabilities.
        is_finite: `[rows]`, whether the row has a softmax at all.
    """

    centred: Float[Tensor, "rows d_vocab"]
    exps: Float[Tensor, "rows d_vocab"] | None
    total: Float[Tensor, " rows"]
    log_z: Float[Tensor, " rows"]
    expected: Float[Tensor, " rows"]
    is_finite: Bool[Tensor, " rows"]


def measure(
    tile: Tile,
    k: int,
    track: Int[Tensor, "*cells tracked"],
    metrics: frozenset[str],
    *,
    logits: bool = False,
    chooser: Chooser | None = None,
) -> dict[str, Tensor]:
    """Everything that was asked about a tile's cells, by the names of `Readout`'s arrays.

    A cell whose logits have NaN or +inf, or are all -inf, gets NaN numbers and ids and ranks of -1; no other
    cell notices.

    Args:
        k: 1 to `d_vocab`.
        track: token ids `[tracked]` whose log-prob and rank are wanted; or `[cells, tracked]`, where each
            cell has its own and there are no references.
        metrics: of `entropy`, `kl`, `agrees`, `surprise`, and, where there are references, `js`.
        logits: whether the logits of the k best are wanted too.
        chooser: chooses what stands in a cell, where that is not the top token.
    """
    x, n = tile.logits, tile.n_cells
    # the ids as they are kept: no waiting for a device
    listed = track.tolist() if track.ndim == 1 else track.to(x.device).unbind(1)
    track = track.to(x.device)
    ranks = _ranks(x[:n], listed)
    their_ranks = None if tile.references is None else _ranks(x[tile.references], listed)
    ids, top = _best(tile, k)
    shown, best_of_all = ids, top
    if tile.n_tokens is not None:
        shown, best_of_all = _best(replace(tile, logits=x[:, : tile.n_tokens]), k)
    tracked = _scores(tile, track.expand(n if tile.references is None else len(x), -1))
    targeted = None if tile.targets is None else _scores(tile, tile.targets.clamp(min=0)[:, None])[:, 0]
    chosen = None
    if chooser is not None:
        chosen = chooser.choose(x[:n], Best(ids[:n], top[:n]), tile.layers, tile.exact)
    is_paired = "kl" in metrics or tile.references is not None
    normed = _normalise(x, ids, top, keep_exps=is_paired)
    ok, shift = normed.is_finite[:n], top[:n, :1]
    ids_k, best = shown[:n, :k], best_of_all[:n, :k]
    found = {
        "ids": ids_k.masked_fill(~ok[:, None], -1),
        "log_probs": (best - shift - normed.log_z[:n, None]).float(),
        "tracked_log_probs": (tracked[:n] - shift - normed.log_z[:n, None]).float(),
        "tracked_ranks": ranks.masked_fill(~ok[:, None], -1),
        "is_finite": ok,
    }
    if chosen is not None:
        found |= _shown(chosen, ok, (shift + normed.log_z[:n, None])[:, 0])
    if logits:
        found["logits"] = best.float()
    if targeted is not None and tile.targets is not None:
        surprise = shift[:, 0] + normed.log_z[:n] - targeted
        # a token of probability 1 has a surprise of 0, whatever rounding says
        found["surprise_nats"] = _tidy(surprise.masked_fill(~ok | (tile.targets < 0), torch.nan)).float()
    if "entropy" in metrics:
        found["entropy_nats"] = (normed.log_z - normed.expected)[:n].clamp(min=0.0)
    if "agrees" in metrics:
        found["agrees"] = _agrees(shown[:, 0], normed.is_finite, tile)
    if "kl" in metrics:
        found["kl_from_final"], found["kl_to_final"] = _kl_final(normed, tile)
    if tile.references is not None:
        a, b = slice(0, n), tile.references
        found["kl_from_reference"] = _kl(normed, b, a)
        found["kl_to_reference"] = _kl(normed, a, b)
        if "js" in metrics:
            found["js_reference"] = _js(normed, a, b)
        assert their_ranks is not None
        normaliser = top[b, :1] + normed.log_z[b, None]
        theirs = {
            "ids": shown[b, :k],
            "log_probs": (best_of_all[b, :k] - normaliser).float(),
            "tracked_log_probs": (tracked[b] - normaliser).float(),
            "tracked_ranks": their_ranks,
        }
        is_same = None if tile.is_same is None else tile.is_same.to(x.device)
        _add_reference(found, theirs, normed.is_finite[b], is_same)
    return found


def _shown(chosen: Chosen, ok: Tensor, normaliser: Tensor) -> dict[str, Tensor]:
    """What stands in each cell, by the names of `Readout`'s arrays."""
    log_probs = (chosen.logits - normaliser).masked_fill(~ok, torch.nan)
    found = {
        "shown_ids": chosen.ids.masked_fill(~ok, -1),
        "shown_log_probs": log_probs.float(),
        "shown_ranks": chosen.ranks.masked_fill(~ok, -1),
    }
    return found if chosen.usual is None else {**found, "shown_lifts": (log_probs - chosen.usual).float()}


def _add_reference(
    found: dict[str, Tensor], theirs: dict[str, Tensor], is_finite: Tensor, is_same: Tensor | None
) -> None:
    """Add the reference's numbers; a cell whose states are the reference's has the very same ones."""
    for name, values in theirs.items():
        values = values if values.is_floating_point() else values.masked_fill(~is_finite[:, None], -1)
        if is_same is not None:
            values = torch.where(is_same[:, None], found[name], values)
        found[f"reference_{name}"] = values
    if is_same is not None:
        for name in {"kl_from_reference", "kl_to_reference", "js_reference"} & found.keys():
            found[name] = torch.where(is_same & is_finite, 0.0, found[name])


def _best(tile: Tile, k: int) -> tuple[Tensor, Tensor]:
    """Ids and float64 logits of at least the k best of each row, best first; `[rows, >= k]` each."""
    x = tile.logits
    ids = top_k(x, min(max(k, N_EXACT), x.shape[-1]) if tile.exact is not None else k)
    if tile.exact is None:
        return ids, x.gather(1, ids).double()
    # ids rising first, so that the stable sort leaves ties to the lower id
    ids = ids.sort(dim=-1).values
    top, order = tile.exact(ids).sort(dim=-1, descending=True, stable=True)
    return ids.gather(1, order), top


def _scores(tile: Tile, ids: Tensor) -> Tensor:
    """Float64 logits `[cells, m]` of the ids `[cells, m]`."""
    if tile.exact is None or not ids.shape[1]:
        return tile.logits[: len(ids)].gather(1, ids).double()
    rest = torch.zeros(len(tile.logits) - len(ids), ids.shape[1], dtype=ids.dtype, device=ids.device)
    return tile.exact(torch.cat([ids, rest]))[: len(ids)]


def _ranks(x: Tensor, ids: Sequence[int | Tensor]) -> Tensor:
    """How many logits of each row are strictly above each of the ids; `[cells, ids]`.

    Args:
        ids: each the same for all rows, or `[cells]`.
    """
    ranks = torch.zeros(len(x), len(ids), dtype=torch.int64, device=x.device)
    if not ids:
        return ranks
    scratch = torch.empty_like(x[: _rows_at_once(x)])
    for start in range(0, len(x), len(scratch)):
        part = x[start : start + len(scratch)]
        above = scratch[: len(part)]
        rows = slice(start, start + len(part))
        for j, token_id in enumerate(ids):
            own = (
                part.gather(1, token_id[rows, None])
                if isinstance(token_id, Tensor)
                else part[:, token_id, None]
            )
            # as float: a sum of booleans is ten times slower, and counts below 2**24 are exact
            ranks[rows, j] = torch.gt(part, own, out=above).sum(-1)
    return ranks


def _rows_at_once(x: Tensor) -> int:
    return min(len(x), ROWS_AT_ONCE if x.device.type == "cpu" else ROWS_AT_ONCE_ELSEWHERE)


def _normalise(x: Tensor, ids: Tensor, top: Tensor, keep_exps: bool) -> Normed:
    """What a softmax of each row needs, its largest logit taken off and its best logits replaced by `top`.

    Exponentials and their sum: `torch.softmax` goes over the row twice more, and adds up its terms one after
    another, which is off by 1e-5 in a flat row; `sum` adds them in pairs.
    """
    peak = top[:, :1]
    best = (top - peak).float()
    n_at_once = _rows_at_once(x)
    exps = torch.empty_like(x) if keep_exps else None
    scratch = torch.empty_like(x[:n_at_once])
    expected, total = torch.empty(2, len(x), dtype=x.dtype, device=x.device)
    shift = peak.float()
    for start in range(0, len(x), n_at_once):
        rows = slice(start, start + n_at_once)
        part = x[rows].sub_(shift[rows]).scatter_(1, ids[rows], best[rows])
        p = torch.exp(part, out=scratch[: len(part)] if exps is None else exps[rows])
        torch.sum(p, dim=-1, out=total[rows])
        products = p.mul_(part) if exps is None else torch.mul(p, part, out=scratch[: len(part)])
        torch.sum(products, dim=-1, out=expected[rows])
    log_z, expected = total.log(), expected / total
    is_finite = peak.squeeze(1).isfinite() & log_z.isfinite()
    if bool((expected.isnan() & is_finite).any()):
        # some logits are -inf, and 0 * -inf is NaN
        x.clamp_(min=FAR_BELOW)
        expected = torch.where(is_finite, torch.stack([(r.softmax(-1) * r).sum() for r in x]), expected)
    return Normed(x, exps, total, log_z, expected, is_finite)


def _agrees(first: Tensor, is_finite: Tensor, tile: Tile) -> Tensor:
    agrees = torch.zeros(tile.n_cells, dtype=torch.bool, device=first.device)
    for start, stop, final in tile.segments:
        agrees[start:stop] = (first[start:stop] == first[final]) & is_finite[start:stop] & is_finite[final]
    return agrees


def _kl_final(normed: Normed, tile: Tile) -> tuple[Tensor, Tensor]:
    """KL(final || cell) and KL(cell || final) of every cell; `[cells]` each, in nats."""
    assert normed.exps is not None
    onto, under = torch.empty_like(normed.log_z[: tile.n_cells]).repeat(2, 1)
    for start, stop, final in tile.segments:
        cells = slice(start, stop)
        # expected centred logit of one under the probabilities of the other, for a position's cells at once
        onto[cells] = _dots(normed.centred[cells], normed.exps[final]) / normed.total[final]
        under[cells] = _dots(normed.exps[cells], normed.centred[final]) / normed.total[cells]
        entropy = normed.log_z[final] - normed.expected[final]
        onto[cells] = normed.log_z[cells] - onto[cells] - entropy
        under[cells] = (normed.log_z[final] - under[cells]) - (normed.log_z[cells] - normed.expected[cells])
        # its own last layer: 0, whatever rounding says
        if start <= final < stop:
            onto[final] = under[final] = torch.where(normed.is_finite[final], 0.0, torch.nan)
    return _tidy(onto), _tidy(under)


def _kl(normed: Normed, of: slice, to: slice) -> Tensor:
    """KL(of || to), row by row; `[cells]` in nats."""
    assert normed.exps is not None
    crossed = _dots(normed.exps[of], normed.centred[to]) / normed.total[of]
    entropy = normed.log_z[of] - normed.expected[of]
    return _tidy(normed.log_z[to] - crossed - entropy)


def _js(normed: Normed, a: slice, b: slice) -> Tensor:
    """The mean of KL(p || m) and KL(q || m), m the mean of p and q, row by row; `[cells]` in nats."""
    assert normed.exps is not None
    found = torch.empty_like(normed.log_z[a])
    n_at_once = _rows_at_once(normed.centred[a])
    for start in range(0, len(found), n_at_once):
        rows = slice(start, start + n_at_once)
        p, q = (normed.exps[each][rows] / normed.total[each][rows, None] for each in (a, b))
        log_p, log_q = (normed.centred[each][rows] - normed.log_z[each][rows, None] for each in (a, b))
        mean = torch.logaddexp(log_p, log_q) - LOG_2
        terms = torch.where(p > 0, p * (log_p - mean), 0.0) + torch.where(q > 0, q * (log_q - mean), 0.0)
        found[rows] = terms.sum(-1) / 2
    is_finite = normed.is_finite[a] & normed.is_finite[b]
    return torch.where(is_finite, found.clamp(min=0.0), torch.nan)


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """Row by row, `[rows, n]` with `[rows, n]` or `[n]`; `[rows]`.

    Summed in pairs, as `sum` does: a BLAS product adds 50,000 terms one after another, which is off by 1e-3.
    """
    n_at_once = _rows_at_once(x)
    parts = range(0, len(x), n_at_once)
    others = [y] * len(parts) if y.ndim == 1 else y.split(n_at_once)
    return torch.cat([(x[i : i + n_at_once] * o).sum(dim=-1) for i, o in zip(parts, others, strict=True)])


def _tidy(kl: Tensor) -> Tensor:
    """No smaller than 0, as rounding makes it; infinite where a token is possible in only one of the two."""
    return torch.where(kl > BEYOND_NATS, torch.inf, kl.clamp(min=0.0))
