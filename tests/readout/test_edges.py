"""Readouts where something is odd: states that are not finite, little memory, interruptions, bad requests."""

import gc
import itertools
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import IDS, PROMPT, gpt2, language_model, llama, wide_vocabulary

from lenswidget.errors import Cancelled, CellError, LensError, ModelError, ShapeError
from lenswidget.language_model import LanguageModel
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import LogitLens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.tuned import TunedLens
from lenswidget.models import product
from lenswidget.readout import tiles, unembed
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.metrics import Tile, measure
from lenswidget.readout.query import Query
from lenswidget.readout.reading import read, read_slices
from lenswidget.readout.readout import PER_CELL

ALL = ("entropy", "kl", "agrees")
NUMBERS = ("log_probs", "entropy_nats", "kl_from_final", "kl_to_final", "tracked_log_probs")


@pytest.fixture(scope="module")
def run():
    return LocalEngine(wide_vocabulary(gpt2)).run(IDS)


def spoiled(run, layer, position, value):
    """The run with one number of one state replaced."""
    streams = run._streams["resid_post"].clone()
    streams[layer + 1, position, 3] = value
    return replace(run, _streams={"resid_post": streams})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rows", [1, 1000])
def test_a_state_that_is_not_finite_is_reported_in_its_cell_and_nowhere_else(run, value, rows):
    options = {"metrics": ALL, "track": [3], "logits": True, "tile_bytes": rows * 8 * run.d_vocab}
    found, clean = read(spoiled(run, 1, 4, value), **options), read(run, **options)
    bad = (found.layers == 1) & (found.positions == 4)
    assert found.is_finite.tolist() == (~bad).tolist()
    assert (found.ids[bad] == -1).all()
    assert (found.tracked_ranks[bad] == -1).all()
    assert not found.agrees[bad].any()
    for name in NUMBERS:
        assert np.isnan(getattr(found, name)[bad]).all()
        assert np.array_equal(getattr(found, name)[~bad], getattr(clean, name)[~bad])
    assert np.array_equal(found.ids[~bad], clean.ids[~bad])
    assert found.tokens()[bad].tolist() == [[""] * 5]


def test_a_last_row_that_is_not_finite_spoils_only_what_is_compared_with_it(run):
    found, clean = read(spoiled(run, 2, 4, torch.nan), metrics=ALL), read(run, metrics=ALL)
    below = (found.positions == 4) & (found.layers < 2)
    assert found.is_finite[below].all()
    assert np.isnan(found.kl_from_final[below]).all()
    assert not found.agrees[below].any()
    assert np.array_equal(found.entropy_nats[below], clean.entropy_nats[below])
    elsewhere = found.positions != 4
    assert np.array_equal(found.kl_to_final[elsewhere], clean.kl_to_final[elsewhere])


def test_logits_of_minus_infinity_have_no_probability_and_do_no_harm():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 1000, generator=generator) * 5
    rows[0, 100:] = -torch.inf  # fewer tokens possible than in the last layer, row 3
    rows[1:, 500:] = -torch.inf
    rows[2] = -torch.inf  # none at all
    found = measure(
        Tile(rows.clone(), 4, [(0, 4, 3)]), 5, torch.tensor([700, 3]), frozenset(ALL), logits=True
    )
    log_probs = rows.double().log_softmax(-1)
    terms = torch.nan_to_num(log_probs.exp() * log_probs, nan=0.0)
    np.testing.assert_allclose(found["entropy_nats"][[0, 1, 3]], -terms.sum(-1)[[0, 1, 3]], atol=1e-5)
    assert found["is_finite"].tolist() == [True, True, False, True]
    assert found["kl_from_final"][0] == torch.inf
    narrow = (log_probs[0].exp() * (log_probs[0] - log_probs[3]))[:100].sum()
    assert abs(found["kl_to_final"][0] - narrow) < 1e-4
    assert found["tracked_log_probs"][1, 0] == -torch.inf
    assert found["tracked_ranks"][1].tolist() == [500, int((rows[1] > rows[1, 3]).sum())]


class Short:
    """A head on a device with room for a few rows only."""

    def __init__(self, tail, room):
        self.unembed, self.room, self.seen = unembed.Unembed(tail), room, []

    def __call__(self, prepared):
        self.seen.append(len(prepared))
        if len(prepared) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a tile.")
        return self.unembed(prepared)

    def __getattr__(self, name):
        return getattr(self.unembed, name)


@pytest.mark.parametrize("metrics", [("entropy",), ALL])
def test_out_of_memory_halves_the_tile_and_goes_on(run, monkeypatch, metrics):
    whole = read(run, metrics=metrics)
    short = Short(run.tail, room=6)
    monkeypatch.setitem(run.__dict__, "unembed", short)
    found = read(run, metrics=metrics)
    assert np.array_equal(found.ids, whole.ids)
    np.testing.assert_allclose(found.entropy_nats, whole.entropy_nats, atol=2e-6)
    seen = short.seen
    assert max(seen) > 6
    assert sum(n > 6 for n in seen) <= 5  # it does not try the large tile again each time


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize("metrics", [("entropy",), ("kl",)])
def test_out_of_memory_with_one_cell_is_raised(run, monkeypatch, metrics, is_paired):
    short = Short(run.tail, room=0)
    monkeypatch.setitem(run.__dict__, "unembed", short)
    with pytest.raises(torch.OutOfMemoryError):
        read(run, metrics=metrics, against=run if is_paired else None)
    assert len(short.seen) < 12


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_a_tile_takes_a_quarter_of_what_the_device_has_free(run, monkeypatch):
    whole, short = read(run), Short(run.tail, room=44)
    short.device = torch.device("cuda")  # by its own word: no device is needed to count rows
    monkeypatch.setitem(run.__dict__, "unembed", short)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: 4 * 6 * 4 * run.d_vocab)
    assert np.array_equal(read(run).ids, whole.ids)
    assert max(short.seen) == 6
    short.seen.clear()
    assert np.array_equal(read(run, tile_bytes=3 * 4 * run.d_vocab).ids, whole.ids)
    assert max(short.seen) == 3


def test_other_errors_are_not_taken_for_a_lack_of_memory(run):
    def lens(layer, states):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        read(run, lens=lens)


def drain(slices):
    steps = []
    while True:
        try:
            steps.append(next(slices))
        except StopIteration as finished:
            return steps, finished.value


def test_slices_count_up_and_return_the_readout(run):
    options = {"tile_bytes": 3 * 8 * run.d_vocab}
    steps, found = drain(read_slices(Query(run, k=5, metrics=ALL), slice_s=0.0, **options))
    assert len(steps) > 5
    assert all(total == len(found) for _, total in steps)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(steps))
    assert np.array_equal(found.ids, read(run, metrics=ALL).ids)


def test_the_lock_is_free_between_slices_and_after_closing(run):
    slices = read_slices(Query(run), slice_s=0.0, tile_bytes=3 * 4 * run.d_vocab)
    next(slices)
    assert not run.lock._holders
    inside = drain(read_slices(Query(run, Cells([0], [0]))))[1]
    assert len(inside) == 1
    next(slices)
    slices.close()
    assert not run.lock._holders


def test_a_readout_is_cancelled_between_slices(run):
    seen = []
    with pytest.raises(Cancelled, match=r"stopped after \d+ of 44 cells"):
        read(
            run,
            slice_s=0.0,
            tile_bytes=3 * 4 * run.d_vocab,
            progress=lambda done, total: seen.append(done),
            cancelled=lambda: len(seen) >= 3,
        )
    assert len(seen) == 3


def test_progress_ends_with_all_cells_and_true_shows_a_bar(run, capsys):
    seen = []
    read(run, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (44, 44)
    read(run, progress=True)
    assert "44/44" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"cells": Cells([3], [0])}, CellError, "layer 3, but this run has layers -1 to 2"),
        ({"cells": Cells([0], [11])}, CellError, "position 11"),
        ({"k": 0}, CellError, "k from 1 to 5003"),
        ({"k": 5004}, CellError, "5004 best tokens of 5003"),
        ({"track": 5}, CellError, "tokens 5: pass a list of token ids"),
        ({"track": [5003]}, CellError, "token 5003: pass ids, integers from 0 to 5002"),
        ({"metrics": ("entropy", "perplexity")}, LensError, "any of entropy, kl, agrees"),
        ({"metrics": "entropy"}, LensError, "pass a list"),
        ({"track": torch.tensor(5)}, CellError, "tokens tensor(5): pass a list of token ids"),
        ({"against": "hello"}, LensError, "compare with 'hello', which is not a run"),
        ({"site": "attn"}, CellError, "site 'attn'"),
        ({"lens": 3}, LensError, "lens=3 is no lens"),
        ({"lens": LogitLens}, LensError, "is no lens. Pass None, a lens"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(run, options, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        read(run, **options)


@pytest.mark.parametrize("metrics", ["kl", None, [["kl"]], ["kl", "perplexity"]])
def test_what_is_no_list_of_metrics_is_refused(run, metrics):
    with pytest.raises(LensError, match=r"pass a list of any of entropy, kl, agrees"):
        Query(run, metrics=metrics).checked()
    once = (name for name in ("kl", "agrees"))
    assert Query(run, metrics=once).checked().metrics == {"kl", "agrees"}


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda run: run.check_tokens("5"), "the '5' best tokens"),
        (lambda run: run.check_tokens(5, [1.5]), "token 1.5: pass ids"),
        (lambda run: run.check_tokens(5, 17), "tokens 17: pass a list of token ids"),
        (lambda run: run.check_tokens(5, "Paris"), "tokens 'Paris': pass a list of token ids"),
        (lambda run: Cells.of(7), "cells 7. Pass Cells.grid(layers, positions), or a list of pairs"),
        (lambda run: Cells.of([(0, 1, 2)]), "a list of pairs"),
    ],
)
def test_what_is_of_another_type_is_refused_in_one_sentence(run, check, said):
    with pytest.raises(CellError, match=re.escape(said)):
        check(run)


def test_numbers_of_any_library_and_in_any_container_are_taken(run):
    cells, plain = Cells.grid(np.int64(1), (j for j in range(3))), Cells([1, 1, 1], [0, 1, 2])
    assert (cells.layers.tolist(), cells.positions.tolist()) == ([1, 1, 1], [0, 1, 2])
    found = read(run, cells, k=2, track=(i for i in (3, 4)))
    expected = read(run, plain, k=2, track=[3, 4])
    assert found.tracked_ids.tolist() == [3, 4]
    assert np.array_equal(found.tracked_ranks, expected.tracked_ranks)
    assert np.array_equal(found.ids, expected.ids)


def test_a_reference_of_another_shape_is_refused(run):
    with pytest.raises(LensError, match="vocabulary of 5003 with one of 300"):
        read(run, against=LocalEngine(language_model()).run(PROMPT))
    shorter = LocalEngine(wide_vocabulary(gpt2)).run(IDS[:3])
    with pytest.raises(LensError, match="position 10 with a reference run of 3 tokens"):
        read(run, against=shorter)
    # a causal model: what both have is the same
    assert read(run, Cells([1, 2], [0, 2]), against=shorter).kl_to_reference.max() < 1e-5


def test_what_is_no_run_is_refused():
    with pytest.raises(LensError, match="not a run"):
        read("hello")


def test_what_can_be_gone_through_only_once_is_read_as_a_list_is(run):
    once = read(run, track=(i for i in (5, 6)), metrics=ALL)
    listed = read(run, track=[5, 6], metrics=ALL)
    assert once.tracked_ids.tolist() == [5, 6]
    assert np.array_equal(once.tracked_ranks, listed.tracked_ranks)
    np.testing.assert_allclose(once.tracked_log_probs, listed.tracked_log_probs, atol=1e-6)


class Careless:
    """A lens of someone's own, whose transport returns what `function` makes of the states."""

    name = "careless"

    def __init__(self, function):
        self.transport = lambda layer, states: function(states)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda h: h.mean(0, keepdim=True), "torch.float32 [1, 32] on cpu"),
        (lambda h: h[0], "torch.float32 [32] on cpu"),
        (lambda h: h[:, :5], "torch.float32 [11, 5] on cpu"),
        (lambda h: h.long(), "torch.int64 [11, 32] on cpu"),
        (lambda h: h.to("meta"), "torch.float32 [11, 32] on meta"),
        (lambda h: h.numpy(), "a ndarray"),
        (lambda h: (h,), "a tuple"),
        (lambda h: None, "a NoneType"),
    ],
)
def test_a_lens_that_returns_anything_but_states_is_named(run, function, found):
    # what torch would otherwise spread over the cells, cut off, or take from memory never written
    for lens in (Careless(function), lambda layer, states: function(states)):
        with pytest.raises(ShapeError, match=re.escape(f"of layer -1 on cpu and returned {found}; ")):
            read(run, lens=lens)


def test_a_list_of_pairs_names_cells_as_well(run):
    pairs, cells = read(run, [(2, 5), (-1, 0)]), read(run, Cells([2, -1], [5, 0]))
    assert np.array_equal(pairs.ids, cells.ids)
    assert (pairs.layers.tolist(), pairs.positions.tolist()) == ([2, -1], [5, 0])


def test_no_cells_give_an_empty_readout(run):
    asked = {"metrics": (*ALL, "js"), "track": [1], "logits": True, "against": run}
    found, some = read(run, Cells([], []), **asked), read(run, Cells([0], [0]), **asked)
    assert len(found) == 0
    for name in PER_CELL:
        none, one = getattr(found, name), getattr(some, name)
        if name.startswith(("shown_", "surprise_")):  # which was not asked for
            assert none is one is None
            continue
        assert (none.dtype, none.shape) == (one.dtype, (0, *one.shape[1:]))
    assert repr(found) == "Readout(no cells, site resid_post, lens logit)"


def test_a_changed_unembed_is_read_as_it_now_is():
    model = wide_vocabulary(llama, fresh=True)
    engine = LocalEngine(model)
    head_module = model.hf_model.lm_head
    edits = {
        "in place": lambda weight: weight.neg_(),
        "through .data": lambda weight: weight.data.neg_(),
        "replaced": lambda weight: setattr(weight, "data", -weight.data),
        "assigned": lambda weight: setattr(head_module, "weight", torch.nn.Parameter(-weight)),
    }
    for name, edit in edits.items():
        run = engine.run(IDS)
        before = read(run)
        with torch.no_grad():
            edit(head_module.weight)
        with pytest.raises(ModelError, match="has changed since this run"):
            read(run)
        after = read(engine.run(run.spec), k=5003)
        # the head has no bias: what was best is now worst
        assert np.array_equal(after.ids[:, -1], before.ids[:, 0]), name


PACKED, PLAIN = product.Timing(1, packed_ms=1.0, plain_ms=2.0), product.Timing(1, packed_ms=2.0, plain_ms=2.0)


def test_a_packed_weight_goes_with_its_model(monkeypatch):
    monkeypatch.setattr(unembed, "timing", lambda: PACKED)
    model = wide_vocabulary(llama, fresh=True)
    made = LocalEngine(model).run(IDS)
    read(made)
    packed = weakref.ref(unembed.Unembed(made.tail)._packed)
    head = weakref.ref(model.hf_model.lm_head)
    assert packed() is not None
    del model, made
    gc.collect()
    assert head() is None
    assert packed() is None


def test_either_way_of_the_product_gives_the_same_numbers(monkeypatch):
    found = {}
    for way in (PACKED, PLAIN):
        monkeypatch.setattr(unembed, "timing", lambda way=way: way)
        made = LocalEngine(wide_vocabulary(llama, fresh=True)).run(IDS)
        found[way] = read(made, metrics=ALL, track=[7])
        assert (unembed.Unembed(made.tail)._packed is not None) == way.is_packed
    packed, plain = found.values()
    assert np.array_equal(packed.ids, plain.ids)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(plain, name), getattr(packed, name), atol=2e-6, rtol=1e-6)


def test_tiles_shrink_while_they_are_slow_and_grow_back(run, monkeypatch):
    monkeypatch.setattr(tiles, "SLOW_ROWS", 2)
    asked = Query(run, k=5).checked()
    decoder = tiles.TileDecoder(asked, 256 << 20)
    with run.held():
        whole = len(decoder.tile(0)[0])
        decoder.pace(1.0, 0.1)
        assert len(decoder.tile(0)[0]) < whole
        for _ in range(10):
            decoder.pace(0.01, 0.1)
        assert len(decoder.tile(0)[0]) == whole
    assert decoder.halve()
    decoder.pace(0.01, 0.1)
    assert decoder._rows == whole // 2  # not beyond what memory allowed


@pytest.fixture
def on_meta():
    """Whatever names no device of its own comes to nothing: as on a GPU by default, but stricter."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_a_default_device_changes_nothing(run, on_meta):
    options = {"metrics": ALL, "track": [3], "against": run}
    found = read(LocalEngine(LanguageModel(run.tail.hf_model, None)).run(IDS), **options)
    torch.set_default_device(None)
    expected = read(run, **options)
    for name in (*NUMBERS, "tracked_ranks", "kl_to_reference"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_a_default_device_does_not_keep_a_lens_from_being_fitted(run, on_meta, tmp_path):
    model, texts = LanguageModel(run.tail.hf_model, None), [IDS * 3, IDS[::-1] * 3]
    fits = (
        lambda: JacobianLens.fit(model, texts, progress=False),
        lambda: TunedLens.fit(model, texts, n_steps=1, progress=False),
    )
    found = [fit() for fit in fits]
    found[1].publish(tmp_path)
    again = load_lens(tmp_path, model)
    torch.set_default_device(None)
    jacobian, tuned = (fit() for fit in fits)
    assert all(torch.equal(found[0].matrices[layer], jacobian.matrices[layer]) for layer in (0, 1))
    assert torch.equal(found[1].weight, tuned.weight)
    assert torch.equal(again.bias, tuned.bias)
