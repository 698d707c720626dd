"""Readouts against float64: every number of every cell, on small models and on the real one."""

import copy

import numpy as np
import pytest
import torch
from oracle import Reference, kl, tail_in_float64
from tiny import IDS, gpt2, llama, wide_vocabulary

import lenswidget as lw
from lenswidget.models import product
from lenswidget.readout import unembed
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.query import Query
from lenswidget.readout.reading import logits, read

TRACK = [28, 30, 253]
ALL = ("entropy", "kl", "agrees")
# logits of float32 weights and d_model up to 576: two that are nearer than this may change places
NEAR = 2e-4


@pytest.fixture(scope="module", params=["gpt2", "llama", "demo"])
def case(request):
    """A run and its float64 reference."""
    if request.param == "demo":
        model = request.getfixturevalue("demo_model")
        run = LocalEngine(model).run("The Eiffel Tower is in the city of")
    else:
        model = wide_vocabulary({"gpt2": gpt2, "llama": llama}[request.param])
        run = LocalEngine(model).run(IDS)
    return run, Reference.of(model.hf_model, run)


@pytest.fixture(scope="module")
def full(case):
    return read(case[0], metrics=ALL, track=TRACK, logits=True)


@pytest.fixture(scope="module")
def small():
    model = wide_vocabulary(gpt2)
    return LocalEngine(model).run(IDS)


def test_ids_equal_the_reference_wherever_its_gap_exceeds_rounding(case, full):
    ids, gaps = case[1].best(5)
    clear = np.minimum(gaps, np.concatenate([np.full_like(gaps[..., :1], np.inf), gaps[..., :-1]], -1)) > NEAR
    assert clear.mean() > 0.95
    assert np.array_equal(full.grid("ids")[clear], ids[clear])


def test_log_probs_are_within_1e_5_of_the_reference(case, full):
    expected = case[1].log_probs_of(full.grid("ids"))
    np.testing.assert_allclose(full.grid("log_probs"), expected, atol=1e-5, rtol=0)
    tracked = case[1].log_probs_of(np.broadcast_to(TRACK, (*full.grid("ids").shape[:2], 3)))
    # a log-prob of -100 has a float32 spacing of 8e-6
    np.testing.assert_allclose(full.grid("tracked_log_probs"), tracked, atol=1e-5, rtol=2e-7)


def test_entropy_is_within_1e_4_of_the_reference(case, full):
    np.testing.assert_allclose(full.grid("entropy_nats"), case[1].entropy_nats, atol=1e-4, rtol=0)


def test_divergences_are_within_1e_4_of_the_reference_both_ways(case, full):
    for name in ("kl_from_final", "kl_to_final"):
        np.testing.assert_allclose(full.grid(name), getattr(case[1], name), atol=1e-4, rtol=0)
    assert (full.at(layer=case[0].n_layers - 1).kl_from_final == 0).all()


def test_ranks_are_exact_up_to_what_rounding_may_swap(case, full):
    for j, token_id in enumerate(TRACK):
        most, least = case[1].ranks(token_id, NEAR)
        found = full.grid("tracked_ranks")[..., j]
        assert ((least <= found) & (found <= most)).all()
        assert (least == most).any()


def test_agreement_is_with_the_last_layers_top_token(case, full):
    _, gaps = case[1].best(1)
    clear = (gaps[..., 0] > NEAR) & (gaps[-1:, :, 0] > NEAR)
    assert np.array_equal(full.grid("agrees")[clear], case[1].agrees[clear])
    assert full.at(layer=case[0].n_layers - 1).agrees.all()


def test_logits_are_those_of_the_reference(case, full):
    expected = np.take_along_axis(case[1].logits.numpy(), full.grid("ids").astype(np.int64), -1)
    np.testing.assert_allclose(full.grid("logits"), expected, atol=1e-5, rtol=2e-7)


def test_all_logits_of_a_few_cells_can_be_had(small):
    found = logits(Query(small, Cells([-1, 2], [3, 0])).checked())
    expected = small.tail(small.states("resid_post", [-1, 2], [3, 0]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_order_and_choice_of_cells_gives_the_same_numbers(small):
    grid = read(small, metrics=ALL, track=TRACK)
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(grid), size=30)  # some twice
    some = read(small, Cells(grid.layers[chosen], grid.positions[chosen]), metrics=ALL, track=TRACK)
    same(some, grid[chosen])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 50])
def test_tiles_of_every_size_give_the_same_numbers(small, rows):
    whole = read(small, metrics=ALL, track=TRACK, against=small)
    cut = read(small, metrics=ALL, track=TRACK, against=small, tile_bytes=rows * 2 * 4 * small.d_vocab)
    same(cut, whole)


def same(found, expected):
    """Equal ids and ranks, and numbers within what another order of summation changes."""
    assert np.array_equal(found.ids, expected.ids)
    # two logits nearer than the product's rounding may change places
    moved = np.abs(found.tracked_ranks - expected.tracked_ranks)
    assert moved.max() <= 1
    assert np.count_nonzero(moved) <= moved.size // 50
    assert np.array_equal(found.agrees, expected.agrees)
    for name in ("log_probs", "tracked_log_probs", "entropy_nats", "kl_from_final", "kl_to_final"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-6, rtol=1e-6)


def test_divergence_from_a_reference_run_is_cell_by_cell():
    model = wide_vocabulary(gpt2)
    engine = LocalEngine(model)
    run, other = engine.run(IDS), engine.run(IDS[::-1])
    found = read(run, against=other)
    ours, theirs = (Reference.of(model.hf_model, r).log_probs for r in (run, other))
    np.testing.assert_allclose(found.grid("kl_from_reference"), kl(theirs, ours), atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.grid("kl_to_reference"), kl(ours, theirs), atol=1e-4, rtol=0)
    assert found.kl_from_final is None


def test_a_reference_run_may_be_of_another_model():
    models = wide_vocabulary(gpt2), wide_vocabulary(llama)
    run, other = (LocalEngine(model).run(IDS) for model in models)
    found = read(run, against=other, metrics=("kl",))
    ours, theirs = (Reference.of(m.hf_model, r).log_probs for m, r in zip(models, (run, other), strict=True))
    np.testing.assert_allclose(found.grid("kl_from_reference"), kl(theirs, ours), atol=1e-4, rtol=0)


def test_a_reference_of_another_model_costs_no_exactness():
    model = wide_vocabulary(gpt2)
    run = LocalEngine(model).run(IDS)
    other = LocalEngine(lw.LanguageModel(copy.deepcopy(model.hf_model), None)).run(IDS)
    found, expected = (read(run, against=reference, track=[3]) for reference in (other, run))
    assert np.array_equal(found.log_probs, expected.log_probs)
    assert np.array_equal(found.tracked_log_probs, expected.tracked_log_probs)


def test_a_run_compared_with_itself_does_not_diverge(small):
    found = read(small, against=small)
    assert found.kl_from_reference.max() < 1e-6
    assert found.kl_to_reference.max() < 1e-6


def test_other_sites_are_compared_with_the_models_own_last_row():
    model = wide_vocabulary(gpt2)
    run = LocalEngine(model).run(IDS)
    found = read(run, site="mlp_out", metrics=ALL)
    final = Reference.of(model.hf_model, run).log_probs[-1:]
    cells = np.mgrid[0 : run.n_layers, 0 : run.seq].reshape(2, -1)
    own = tail_in_float64(model.hf_model, run.states("mlp_out", *cells)).view(run.n_layers, run.seq, -1)
    expected = Reference(own, final)
    np.testing.assert_allclose(found.grid("kl_from_final"), expected.kl_from_final, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.grid("entropy_nats"), expected.entropy_nats, atol=1e-4, rtol=0)
    assert np.array_equal(found.grid("agrees"), expected.agrees)


def test_a_lens_carries_each_layer_by_its_own_number():
    model = wide_vocabulary(gpt2)
    run = LocalEngine(model).run(IDS)
    found = read(run, lens=lambda layer, states: states * (layer + 3) + layer, metrics=ALL)
    cells = np.mgrid[-1 : run.n_layers, 0 : run.seq].reshape(2, -1)
    layers = torch.from_numpy(cells[0])[:, None].double()
    carried = run.states("resid_post", *cells).double() * (layers + 3) + layers
    plain = Reference.of(model.hf_model, run).log_probs[-1:]
    expected = Reference(tail_in_float64(model.hf_model, carried).view(-1, run.seq, 5003), plain)
    np.testing.assert_allclose(found.grid("kl_to_final"), expected.kl_to_final, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.grid("entropy_nats"), expected.entropy_nats, atol=1e-4, rtol=0)
    assert np.array_equal(found.grid("ids"), expected.best(5)[0])
    assert found.lens == "<lambda>"


@pytest.mark.parametrize("kind", [gpt2, llama])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_stored_in_16_bits_is_read_in_float32(kind, dtype, monkeypatch):
    model = lw.LanguageModel(wide_vocabulary(kind, fresh=True).hf_model.to(dtype), None)
    run = LocalEngine(model).run(IDS)
    assert run.fidelity.ok
    expected = Reference.of(model.hf_model, run)
    for is_packed in (True, False):
        found = read(run, metrics=ALL)
        assert np.array_equal(found.grid("ids"), expected.best(5)[0])
        log_probs = expected.log_probs_of(found.grid("ids"))
        np.testing.assert_allclose(found.grid("log_probs"), log_probs, atol=1e-5, rtol=0)
        np.testing.assert_allclose(found.grid("kl_to_final"), expected.kl_to_final, atol=1e-4, rtol=0)
        if is_packed:
            monkeypatch.setattr(unembed, "_pack", lambda linear: None)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize(
    ("device", "backend", "asked", "was"),
    [("cuda", torch.backends.cuda, "high", "tf32"), ("cpu", torch.backends.mkldnn, "medium", "bf16")],
)
def test_products_are_float32_inside_and_as_they_were_afterwards(device, backend, asked, was):
    torch.set_float32_matmul_precision(asked)
    try:
        with product.full_float32(torch.device(device)):
            assert backend.matmul.fp32_precision == "ieee"
        assert backend.matmul.fp32_precision == was
    finally:
        torch.set_float32_matmul_precision("highest")


def test_autocast_outside_does_not_change_a_readout(small):
    plain = read(small)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read(small)
    assert np.array_equal(found.log_probs, plain.log_probs)
