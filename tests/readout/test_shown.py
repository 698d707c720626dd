"""What stands in a cell: words and lift against float64, and that nothing else moves."""

import dataclasses

import numpy as np
import pytest
import torch
from oracle import Reference, tail_in_float64
from tiny import PROMPT, gpt2, language_model, llama

import lenswidget as lw
from lenswidget.errors import LensError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.models.words import word_mask
from lenswidget.readout.shown import N_LIFTED, Best, Chooser

# two logits of float32 products that are nearer than this may change places
NEAR = 2e-4
TEXTS = ["The Eiffel Tower is in the heart of France.", "the city of Paris, the city of France"]


@pytest.fixture(scope="module", params=["gpt2", "llama", "demo"])
def case(request):
    """A model, a run of it and the float64 logits of all of its cells."""
    if request.param == "demo":
        model = request.getfixturevalue("demo_model")
    else:
        # some ids beyond the tokenizer's: they count in ranks and never stand in a cell
        model = language_model({"gpt2": gpt2, "llama": llama}[request.param], vocab_size=310)
    run = model.run(PROMPT)
    return model, run, Reference.of(model.hf_model, run)


@pytest.fixture(scope="module")
def background(case):
    return lw.fit_background(case[0], texts=TEXTS)


def matrices(model, carried=None):
    """A Jacobian lens with random matrices near the identity."""
    n_layers, d_model = model.anatomy.n_layers, model.anatomy.d_model
    seeded = torch.Generator().manual_seed(1)
    one = torch.eye(d_model)
    layers = range(n_layers - 1) if carried is None else carried
    found = {
        layer: one + 0.3 * torch.randn(d_model, d_model, generator=seeded) / d_model**0.5 for layer in layers
    }
    return JacobianLens(found, 1, n_layers)


def words_of(run):
    return torch.from_numpy(word_mask(run.tokenizer, run.d_vocab))


def ranks_of(logits, ids):
    """`[cells, d_vocab]` float64: how many are above each id's logit."""
    own = logits.gather(-1, ids[:, None])
    return (logits > own).sum(-1)


def test_the_word_shown_is_the_best_word_of_the_float64_row(case):
    _, run, reference = case
    found = lw.read(run, show="words")
    logits = reference.logits.flatten(0, 1)
    words = logits.masked_fill(~words_of(run), -torch.inf)
    ids = torch.from_numpy(found.shown_ids).long()
    own = logits.gather(-1, ids[:, None])[:, 0]
    assert (words.max(-1).values - own).max() <= NEAR
    two = words.topk(2).values
    clear = two[:, 0] - two[:, 1] > NEAR
    assert clear.double().mean() > 0.95
    assert torch.equal(ids[clear], words.argmax(-1)[clear])
    log_probs = reference.log_probs.flatten(0, 1).gather(-1, ids[:, None])[:, 0]
    np.testing.assert_allclose(found.shown_log_probs, log_probs, atol=1e-5, rtol=2e-7)
    # those that nearly tie with it may stand on either side
    above = (logits > own[:, None] + NEAR).sum(-1).numpy()
    least = (logits > own[:, None] - NEAR).sum(-1).numpy()
    assert ((above <= found.shown_ranks) & (found.shown_ranks <= least)).all()
    first = found.shown_ranks == 0
    assert np.array_equal(found.shown_ids[first], found.ids[first, 0])


def test_what_is_shown_changes_no_other_number(case, background):
    _, run, _ = case
    options = {"metrics": ("entropy", "kl", "agrees"), "track": [5, 40], "logits": True}
    plain = lw.read(run, **options)
    for show in ("top", "words", "lift"):
        found = lw.read(run, show=show, background=background, **options)
        for field in dataclasses.fields(plain):
            if field.name.startswith("shown_") or field.name == "tokenizer":
                continue
            ours, theirs = getattr(found, field.name), getattr(plain, field.name)
            assert np.array_equal(ours, theirs) if isinstance(theirs, np.ndarray) else ours == theirs, (
                field.name
            )
        assert (found.shown_ids is None) == (show == "top")


def usual_in_float64(model, lens=None):
    """Mean log-probs `[layers, d_vocab]`, from plain hooks, over every third position without the first."""
    hf_model = model.hf_model
    blocks = list(model.layers)
    found = []
    for text in TEXTS:
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
        kept: dict = {}
        stack = hf_model.transformer.h if hasattr(hf_model, "transformer") else hf_model.model.layers

        def keep(_module, _given, out, kept=kept):
            kept[len(kept) - 1] = out[0] if isinstance(out, tuple) else out

        def keep_first(_module, given, kept=kept):
            kept[-1] = given[0]

        hooks = [block.register_forward_hook(keep) for block in stack]
        hooks.append(stack[0].register_forward_pre_hook(keep_first))
        with torch.no_grad():
            hf_model(ids)
        for hook in hooks:
            hook.remove()
        states = torch.stack([kept[i][0] for i in range(-1, len(blocks))])[:, 1::3]
        found.append(states)
    states = torch.cat(found, dim=1).double()
    if lens is not None:
        states = torch.stack(
            [
                row @ lens.matrices[i - 1].double().T if i - 1 in lens.matrices else row
                for i, row in enumerate(states)
            ]
        )
    return states.shape[1], tail_in_float64(hf_model, states).log_softmax(-1).mean(1)


def test_the_usual_is_the_mean_of_float64_log_probs(case, background):
    n, usual = usual_in_float64(case[0])
    assert background.n_positions == n
    assert background.layers == tuple(range(-1, case[0].anatomy.n_layers))
    np.testing.assert_allclose(background.log_probs, usual, atol=2e-4, rtol=2e-6)


def check_lift(run, found, log_probs, usual):
    """`[cells, d_vocab]` float64 log-probs, and what is usual of each."""
    words = log_probs.masked_fill(~words_of(run), -torch.inf)
    k = min(N_LIFTED, int(words_of(run).sum()))
    best = words.topk(k).indices
    lift = log_probs - usual
    largest = lift.gather(-1, best).max(-1).values
    ids = torch.from_numpy(found.shown_ids).long()
    own = lift.gather(-1, ids[:, None])[:, 0]
    np.testing.assert_allclose(found.shown_lifts, own, atol=5e-4, rtol=1e-5)
    # one that is the 16th or the 17th by rounding may be in or out
    kth = words.topk(k).values[:, -1]
    is_in = words.gather(-1, ids[:, None])[:, 0] >= kth - NEAR
    assert is_in.all()
    nearly = words.topk(min(k + 1, words.shape[1])).values
    clear = (
        nearly[:, k - 1] - nearly[:, -1] > NEAR if nearly.shape[1] > k else torch.ones(len(ids), dtype=bool)
    )
    assert clear.double().mean() > 0.9
    assert (largest - own)[clear].abs().max() <= 5e-4
    np.testing.assert_array_equal(found.shown_ranks, ranks_of(log_probs, ids))


def test_the_lift_shown_is_the_largest_among_the_best_words(case, background):
    model, run, reference = case
    found = lw.read(run, show="lift", background=background)
    _, usual = usual_in_float64(model)
    log_probs = reference.log_probs
    check_lift(run, found, log_probs.flatten(0, 1), usual.repeat_interleave(run.seq, 0))


def test_the_lift_through_a_lens_is_over_the_usual_through_it(case):
    model, run, _ = case
    lens = matrices(model)
    found = lw.read(run, lens=lens, show="lift", background=lw.fit_background(model, lens, TEXTS))
    layers = sorted(set(found.layers.tolist()))
    cells = np.array([(layer, position) for layer in layers for position in range(run.seq)]).T
    states = run.states("resid_post", *cells).double().view(len(layers), run.seq, -1)
    carried = [
        row @ lens.matrices[layer].double().T if layer in lens.matrices else row
        for layer, row in zip(layers, states, strict=True)
    ]
    log_probs = tail_in_float64(model.hf_model, torch.stack(carried)).log_softmax(-1).flatten(0, 1)
    usual = usual_in_float64(model, lens)[1][[layer + 1 for layer in layers]].repeat_interleave(run.seq, 0)
    check_lift(run, found, log_probs, usual)


def test_cells_in_any_order_get_their_own_layer_usual(case, background):
    _, run, _ = case
    whole = lw.read(run, show="lift", background=background, k=1)
    order = np.random.default_rng(0).permutation(len(whole))[:20]
    cells = lw.Cells(whole.layers[order], whole.positions[order])
    some = lw.read(run, cells, show="lift", background=background, metrics=("kl",), k=1)
    assert np.array_equal(some.shown_ids, whole.shown_ids[order])
    np.testing.assert_allclose(some.shown_lifts, whole.shown_lifts[order], atol=1e-5, rtol=1e-6)
    none = lw.read(run, lw.Cells([], []), show="lift", background=background)
    assert none.shown_ids.shape == none.shown_lifts.shape == (0,)


def test_padding_ids_never_stand_in_a_cell(case):
    model, run, _ = case
    if run.d_vocab == len(model.tokenizer):
        pytest.skip("this vocabulary has no padding")
    found = lw.read(run, show="words")
    assert found.shown_ids.max() < len(model.tokenizer)


def test_a_word_that_the_model_rules_out_is_not_the_most_lifted():
    """A logit of minus infinity, of a model that masks its vocabulary, in all texts of the background too."""
    is_word = torch.tensor([True, True, True, False])
    usual = torch.tensor([[-1.0, -2.0, -torch.inf, -1.0]])
    chooser = Chooser(is_word, usual, torch.tensor([0, 0]))
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 5.0]])
    best = Best(torch.tensor([[3]]), torch.tensor([[5.0]]))
    assert chooser.choose(logits, best, torch.tensor([0]), None).ids.tolist() == [1]


def test_a_cell_that_is_not_finite_shows_nothing(case, background):
    _, run, _ = case
    streams = run._streams["resid_post"].clone()
    streams[2, 3] = torch.nan
    broken = dataclasses.replace(run, _streams={"resid_post": streams})
    broken.__dict__["fidelity"] = run.fidelity
    for show in ("words", "lift"):
        found = lw.read(broken, show=show, background=background)
        ours = lw.read(run, show=show, background=background)
        at = (found.layers == 1) & (found.positions == 3)
        assert found.shown_ids[at] == found.shown_ranks[at] == -1
        assert np.isnan(found.shown_log_probs[at])
        assert np.array_equal(found.shown_ids[~at], ours.shown_ids[~at])


def test_a_table_has_what_is_shown(case, background):
    _, run, _ = case
    frame = lw.read(run, show="lift", background=background, k=2).to_dataframe()
    first = frame.iloc[0]
    assert first["shown"] == run.tokenizer.decode([int(first["shown_id"])])
    assert {"shown_log_prob", "shown_rank", "shown_lift"} <= set(frame)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_floor_is_above_19_of_20_random_states(make):
    model = language_model(make)
    run, background = model.run(PROMPT), lw.fit_background(model, texts=TEXTS)
    below = {show: [] for show in background.floors}
    for layer in background.layers[:-1]:
        states = torch.cat(
            [
                one.states("resid_post", [layer] * len(range(1, one.seq, 3)), list(range(1, one.seq, 3)))
                for one in map(model.run, TEXTS)
            ]
        )
        mean = states.mean(0)
        size = (states - mean).square().sum(-1).mean().sqrt()
        noise = torch.randn(40, states.shape[-1], generator=torch.Generator().manual_seed(99 + layer))
        streams = run._streams["resid_post"].clone().repeat_interleave(5, 1)[:, : run.seq]
        noise = mean + size * noise / noise.norm(dim=-1, keepdim=True)
        for part in noise.split(run.seq):
            streams[layer + 1, : len(part)] = part
            other = dataclasses.replace(run, _streams={"resid_post": streams})
            other.__dict__["fidelity"] = run.fidelity
            for show in below:
                cells = lw.Cells([layer] * len(part), range(len(part)))
                found = lw.read(other, cells, show=show, background=background)
                below[show] += (~background.is_above(found)).tolist()
    for show, found in below.items():
        # 1 in 20 is what a floor lets through; of n draws that varies by this much
        assert np.mean(found) >= 0.95 - 3 * (0.05 * 0.95 / len(found)) ** 0.5 - 0.02, show


def test_a_planted_direction_is_above_the_floor(demo_model):
    background = lw.fit_background(demo_model, texts=TEXTS)
    run = demo_model.run(PROMPT)
    (token,) = demo_model.tokenizer.encode(" Paris", add_special_tokens=False)
    norm = demo_model.hf_model.model.norm.weight
    weight = demo_model.hf_model.lm_head.weight
    # what tells this token from all others best, where rows of the unembed overlap
    own = weight[token] - weight.mean(0)
    direction = torch.linalg.solve(torch.cov(weight.T), own) / norm
    streams = run._streams["resid_post"].clone()
    layers, position = list(range(2, 28)), run.seq - 1
    for layer in layers:
        row = streams[layer + 1, position]
        streams[layer + 1, position] = row.norm() * direction / direction.norm()
    planted = dataclasses.replace(run, _streams={"resid_post": streams})
    planted.__dict__["fidelity"] = run.fidelity
    cells = lw.Cells(layers, [position] * len(layers))
    for show in ("top", "words", "lift"):
        found = lw.read(planted, cells, show=show, background=background)
        assert (found.shown() == " Paris").all()
        assert background.is_above(found).all(), show
        # and without it there is nothing much in the middle of this model, through the logit lens
        plain = lw.read(run, cells, show=show, background=background)
        assert background.is_above(plain)[:20].mean() < 0.3


def test_a_background_is_fitted_once_until_the_model_changes():
    model = language_model(gpt2)
    first = lw.fit_background(model, texts=TEXTS)
    assert lw.fit_background(model, texts=TEXTS) is first
    assert lw.fit_background(model, texts=TEXTS, lift=False) is first
    other = lw.fit_background(model, texts=TEXTS[:1])
    assert other.digest != first.digest
    assert other.texts != first.texts
    lens = matrices(model)
    through = lw.fit_background(model, lens, TEXTS)
    assert through is lw.fit_background(model, lens, TEXTS)
    assert through.digest != first.digest
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight.mul_(2)
    assert lw.fit_background(model, texts=TEXTS).digest != first.digest


def test_floors_alone_are_the_same_and_have_no_lift():
    model = language_model(llama)
    floors = lw.fit_background(model, texts=TEXTS, lift=False)
    whole = lw.fit_background(model, texts=TEXTS)
    assert floors.log_probs is None
    assert set(floors.floors) == {"top", "words"}
    for name, floor in floors.floors.items():
        assert torch.equal(floor.nan_to_num(), whole.floors[name].nan_to_num())
        assert floor[-1].isnan()
        assert floor[:-1].isfinite().all()


def test_a_site_within_a_block_has_a_background_of_its_own():
    model = language_model(gpt2)
    background = lw.fit_background(model, texts=TEXTS, site="mlp_out")
    run = model.run(PROMPT)
    found = lw.read(run, site="mlp_out", show="lift", background=background)
    assert background.is_above(found).shape == (len(found),)
    with pytest.raises(LensError, match="at mlp_out"):
        lw.read(run, show="lift", background=background)


def test_what_cannot_be_shown_is_refused_with_what_to_do():
    model = language_model(gpt2)
    run = model.run(PROMPT)
    with pytest.raises(LensError, match="choose one of top, words, lift"):
        lw.read(run, show="best")
    with pytest.raises(LensError, match=r"background=lw\.fit_background"):
        lw.read(run, show="lift")
    with pytest.raises(LensError, match="logit lens"):
        lw.read(run, lens=matrices(model), show="lift", background=lw.fit_background(model, texts=TEXTS))
    bare = lw.LanguageModel(gpt2(), None)
    with pytest.raises(LensError, match="no tokenizer"):
        lw.read(bare.run([1, 2, 3]), show="words")
    assert set(lw.fit_background(bare, texts=[[1, 2, 3], [4, 5]]).floors) == {"top"}
    with pytest.raises(LensError, match="this model has no tokenizer; pass token ids"):
        lw.fit_background(bare)
    with pytest.raises(LensError, match="list of texts"):
        lw.fit_background(model, texts=[])
