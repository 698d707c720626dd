"""Two runs side by side: every number is what two plain forwards and float64 give."""

import copy
import warnings

import numpy as np
import pytest
import tiny
import torch

import lenswidget as lw
from lenswidget.errors import CellError, LensError, ModelError, PromptError
from lenswidget.readout.alignment import align_rows
from lenswidget.readout.pair import pair_of

A = "The Eiffel Tower is in the city of"
B = "The Tower is in the heart of France"


def tuned(model, seed=1):
    """A copy whose weights have been moved a little."""
    other = copy.deepcopy(model.hf_model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return lw.LanguageModel(other, model.tokenizer)


@torch.no_grad()
def log_probs(hf_model, ids):
    """Float64 log-probs of every row and column by plain forwards, `[layers + 1, seq, d_vocab]`: GPT-2."""
    states = []
    handles = [
        block.register_forward_hook(
            lambda _module, args, output: states.append(
                (args[0], output[0] if isinstance(output, tuple) else output)
            )
        )
        for block in hf_model.transformer.h
    ]
    hf_model(input_ids=ids)
    for handle in handles:
        handle.remove()
    double = copy.deepcopy(hf_model).double()
    stacked = torch.cat([states[0][0], *(after for _, after in states)])
    return double.lm_head(double.transformer.ln_f(stacked.double())).log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def ids_of(model, text):
    return model.tokenizer(text, return_tensors="pt")["input_ids"]


def check(found, one, other, tracked=()):
    """A comparison against float64 log-probs `[rows, seq, d_vocab]` of either side."""
    columns = found.alignment.columns
    both = (columns >= 0).all(1)
    p, q = one[:, columns[both, 0]], other[:, columns[both, 1]]
    mean = torch.logaddexp(p, q) - np.log(2)
    n = len(tiny.tokenizer())  # ids beyond are in the softmax, and stand for no token
    for name, expected in (
        ("kl_to_b", kl(p, q)),
        ("kl_to_a", kl(q, p)),
        ("js", (kl(p, mean) + kl(q, mean)) / 2),
        ("agrees", (p[..., :n].argmax(-1) == q[..., :n].argmax(-1)).double()),
        ("a.log_probs", p[..., :n].topk(5).values),
        ("b.log_probs", q[..., :n].topk(5).values),
        ("log_prob_change", (q - p)[..., list(tracked)]),
    ):
        grid = found.grid(name)
        np.testing.assert_allclose(grid[:, both], expected.numpy(), rtol=0, atol=1e-5, err_msg=name)
        if not name.startswith(("a.", "b.")):
            assert np.isnan(grid[:, ~both]).all(), name
    for side, own in ((0, one), (1, other)):  # what one side lacks, the other still says
        has = (columns[:, side] >= 0) & ~both
        expected = own[:, columns[has, side], :n].topk(5).values
        label = "ab"[side]
        np.testing.assert_allclose(found.grid(f"{label}.log_probs")[:, has], expected, rtol=0, atol=1e-5)
        assert np.isnan(found.grid(f"{'ba'[side]}.log_probs")[:, has]).all()
        assert (found.grid(f"{'ba'[side]}.ids")[:, has] == -1).all()
    ranks = [
        torch.stack([(x > x[..., t, None]).sum(-1) for t in tracked], -1) if tracked else x[..., :0]
        for x in (p, q)
    ]
    if tracked:
        np.testing.assert_array_equal(found.grid("rank_change")[:, both], (ranks[1] - ranks[0]).numpy())


def test_two_prompts_are_compared_where_their_tokens_are_the_same():
    model = tiny.language_model()
    found = lw.compare(model, A, B, track=[5, 9])
    ids_a, ids_b = ids_of(model, A), ids_of(model, B)
    assert found.alignment.by == "ids"
    assert found.alignment.missing_a
    assert found.alignment.missing_b
    for (i, j), is_same in zip(found.alignment.columns, found.alignment.is_same_token, strict=True):
        assert is_same == (i >= 0 and j >= 0 and ids_a[0, i] == ids_b[0, j])
    # every column of either is there once, in order
    for side, ids in ((0, ids_a), (1, ids_b)):
        own = found.alignment.columns[:, side]
        assert own[own >= 0].tolist() == list(range(ids.shape[1]))
    check(found, log_probs(model.hf_model, ids_a), log_probs(model.hf_model, ids_b), [5, 9])


def test_two_models_are_compared_on_one_prompt():
    base = tiny.language_model()
    other = tuned(base)
    found = lw.compare(base, other, A, track=["the"])
    ids = ids_of(base, A)
    tracked = base.tokenizer.encode("the")
    assert len(tracked) == 1
    check(found, log_probs(base.hf_model, ids), log_probs(other.hf_model, ids), tracked)
    assert not found.is_missing.any()
    assert found.alignment.is_same_token.all()


def test_a_run_compared_with_itself_differs_nowhere():
    model = tiny.language_model()
    run = model.run(A)
    found = lw.compare(run, run, track=[5])
    for name in ("kl_to_a", "kl_to_b", "js", "log_prob_change", "rank_change"):
        assert (getattr(found, name) == 0).all(), name
    assert (found.agrees == 1).all()


def test_a_row_has_the_one_of_the_same_relative_depth():
    assert align_rows(4, 4, -1).tolist() == [[i, i] for i in range(-1, 4)]
    assert align_rows(2, 4, -1).tolist() == [[-1, -1], [0, 1], [1, 3]]
    assert align_rows(4, 2, -1).tolist() == [[-1, -1], [0, 0], [1, 0], [2, 1], [3, 1]]
    shallow, deep = tiny.language_model(n_layer=2), tiny.language_model(n_layer=6)
    found = lw.compare(shallow, deep, A)
    assert found.alignment.rows.tolist() == [[-1, -1], [0, 2], [1, 5]]
    ids = ids_of(shallow, A)
    check(found, log_probs(shallow.hf_model, ids), log_probs(deep.hf_model, ids)[[0, 3, 6]])


@pytest.fixture
def peft_model():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = tiny.gpt2()

    def make(targets):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's own advice on tied weights and layouts
            config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
            return peft.get_peft_model(copy.deepcopy(base), config).eval()

    return base, make


def test_an_adapter_is_compared_off_and_on_without_a_second_copy(peft_model):
    base, make = peft_model
    adapted = make(["c_attn"])
    for wrapped in (adapted, adapted.base_model.model):  # peft's own model, and the one it put layers into
        model = lw.LanguageModel(wrapped, tiny.tokenizer())
        trained = {name for name, p in wrapped.named_parameters() if p.requires_grad}
        n_parameters = sum(p.numel() for p in wrapped.parameters())
        found = lw.compare(model, A, track=[5])
        ids = ids_of(model, A)
        check(found, log_probs(base, ids), log_probs(adapted.base_model.model, ids), [5])
        assert (found.a.name, found.b.name) == ("adapter off", "adapter on")
        assert found.js.max() > 1e-3
        # nothing is left behind
        assert {name for name, p in wrapped.named_parameters() if p.requires_grad} == trained
        assert sum(p.numel() for p in wrapped.parameters()) == n_parameters
        run = model.run(A)
        again = lw.compare(model, A).b
        np.testing.assert_array_equal(again.ids[:, 0], lw.read(run).ids[:, 0])


def test_a_run_without_the_adapter_is_not_taken_apart_with_it(peft_model):
    _, make = peft_model
    pair = pair_of((lw.LanguageModel(make(["c_attn"]), tiny.tokenizer()), A))
    with pytest.raises(ModelError, match="without its adapter"):
        lw.attribute(pair.a, 1, 2, token=5)
    assert abs(lw.attribute(pair.b, 1, 2, token=5).remainder) < 1e-4
    assert len(lw.read(pair.a, site="mlp_out", k=1).ids)


def test_a_site_that_is_captured_later_is_without_the_adapter_too(peft_model):
    base, make = peft_model
    found = lw.compare(lw.LanguageModel(make(["c_attn"]), tiny.tokenizer()), A, site="mlp_out")
    plain = lw.LanguageModel(base, tiny.tokenizer())
    expected = lw.read(plain.run(A), site="mlp_out")
    np.testing.assert_allclose(found.a.log_probs, expected.log_probs, rtol=0, atol=1e-5)
    assert np.abs(found.b.log_probs - expected.log_probs).max() > 1e-3


def test_adapters_that_cannot_be_taken_off_are_refused(peft_model):
    _, make = peft_model
    on_unembed = lw.LanguageModel(make(["lm_head"]), tiny.tokenizer())
    with pytest.raises(ModelError, match="second copy"):
        lw.compare(on_unembed, A)
    merged = make(["c_attn"])
    merged.merge_adapter()
    with pytest.raises(ModelError, match="Unmerge it first"):
        lw.compare(lw.LanguageModel(merged, tiny.tokenizer()), A)
    merged.unmerge_adapter()
    lw.compare(lw.LanguageModel(merged, tiny.tokenizer()), A)
    with merged.disable_adapter(), pytest.raises(ModelError, match="Switch it on first"):
        lw.compare(lw.LanguageModel(merged, tiny.tokenizer()), A)
    with pytest.raises(ModelError, match="it has none"):
        lw.compare(tiny.language_model(), A)


def test_other_vocabularies_are_aligned_by_characters_and_have_no_kl():
    one = tiny.language_model()
    other = lw.LanguageModel(tiny.gpt2(vocab_size=270), tiny.other_tokenizer())
    found = lw.compare(one, other, A, track=["t"])
    assert found.alignment.by == "characters"
    assert found.kl_to_a is None
    assert found.js is None
    with pytest.raises(LensError, match=r"no KL between .*300 and 270 tokens"):
        found.grid("js")
    ends = []
    for model in (one, other):
        spans = model.tokenizer(A, return_offsets_mapping=True)["offset_mapping"]
        ends.append([end for _, end in spans])
    pairs = [(i, j) for i, j in found.alignment.columns.tolist() if i >= 0 and j >= 0]
    assert pairs == [(ends[0].index(end), ends[1].index(end)) for end in sorted({*ends[0]} & {*ends[1]})]
    assert found.alignment.missing_a, "the coarser vocabulary lacks columns"
    # numbers of either side are its own readout's
    for side, model in ((found.a, one), (found.b, other)):
        read = lw.read(model.run(A), k=5)
        own = {
            (row, column): i for i, (row, column) in enumerate(zip(read.layers, read.positions, strict=True))
        }
        for i in np.flatnonzero(side.positions >= 0):
            at = own[side.layers[i], side.positions[i]]
            assert side.ids[i].tolist() == read.ids[at].tolist()
    both = ~found.is_missing
    np.testing.assert_array_equal(found.agrees[both], (found.a.tokens() == found.b.tokens())[both])
    with pytest.raises(PromptError, match="not one text"):
        lw.compare(one.run(A), other.run(B))
    with pytest.raises(LensError, match="in two vocabularies"):
        lw.compare(one, other, A, track=[5])


def test_sides_of_two_vocabularies_agree_where_their_top_tokens_are_one_text():
    """Models that say "t" everywhere, each by its own id of it."""
    sides, ids = [], []
    for hf_model, tokenizer in (
        (tiny.gpt2(), tiny.tokenizer()),
        (tiny.gpt2(vocab_size=270), tiny.other_tokenizer()),
    ):
        token = tokenizer.convert_tokens_to_ids("t")
        with torch.no_grad():
            hf_model.transformer.ln_f.weight.zero_()
            hf_model.transformer.ln_f.bias.fill_(1.0)
            hf_model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(hf_model.lm_head.weight))
            hf_model.lm_head.weight[token] = 1.0
        sides.append(lw.LanguageModel(hf_model, tokenizer))
        ids.append(token)
    assert ids[0] != ids[1]
    found = lw.compare(*sides, A)
    both = ~found.is_missing
    assert both.any()
    assert (found.agrees[both] == 1).all()
    assert {*found.a.ids[both][:, 0]} == {ids[0]}
    assert {*found.b.ids[both][:, 0]} == {ids[1]}


def test_a_vocabulary_of_equal_size_with_other_tokens_is_another_one():
    one = tiny.language_model()
    other = lw.LanguageModel(tiny.gpt2(), tiny.other_tokenizer())
    found = lw.compare(one, other, A)
    assert "other tokens for the same ids" in found.why_no_kl
    assert found.kl_to_b is None


def test_a_lens_that_leaves_layers_out_and_parts_are_compared_too():
    model = tiny.language_model()
    found = lw.compare(model, A, B, site="mlp_out")
    assert found.alignment.rows[:, 0].tolist() == [0, 1, 2, 3]
    assert found.site == "mlp_out"


def test_a_comparison_is_a_table_and_prints_itself():
    model = tiny.language_model()
    found = lw.compare(model, A, B, track=[5])
    frame = found.to_dataframe()
    assert len(frame) == len(found.js) == found.grid("js").size
    for name in ("token_a", "token_b", "log_prob_5_a", "log_prob_5_b", "js", "rank_change_5", "is_missing"):
        assert name in frame
    np.testing.assert_array_equal(frame["is_missing"], np.isnan(frame["js"]))
    assert "lacks positions" in repr(found)
    with pytest.raises(LensError, match="of a comparison"):
        found.grid("nothing")


def test_progress_ends_at_all_cells():
    seen = []
    model = tiny.language_model()
    found = lw.compare(model, A, B, progress=lambda *now: seen.append(now))
    has = (found.alignment.columns >= 0).any(1).sum() * 5
    assert seen[-1] == (has, has)


def test_pairs_of_cells_are_read_against_one_another():
    model = tiny.language_model()
    run, other = model.run(A), model.run(B)
    cells, theirs = [(0, 1), (3, 2)], [(2, 0), (1, 4)]
    found = lw.read(run, cells, against=other, against_cells=theirs, metrics=["js"])
    p, q = (log_probs(model.hf_model, ids_of(model, text)) for text in (A, B))
    for i, ((row, column), (r, c)) in enumerate(zip(cells, theirs, strict=True)):
        expected = kl(p[row + 1, column], q[r + 1, c])
        assert abs(found.kl_to_reference[i] - expected) < 1e-5
        assert abs(found.reference_log_probs[i, 0] - q[r + 1, c].max()) < 1e-5
    with pytest.raises(CellError, match="2 cells with 1"):
        lw.read(run, cells, against=other, against_cells=theirs[:1])
    with pytest.raises(LensError, match="with no run"):
        lw.read(run, cells, metrics=["js"])
    with pytest.raises(LensError, match="position"):
        lw.read(run, cells, against=other, against_cells=[(0, 0), (0, 99)])


def test_js_reaches_log_two_and_survives_impossible_tokens():
    from lenswidget.readout.metrics import Tile, measure

    far = torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf, 0.0, 0.0]])
    found = measure(
        Tile(far, 1, references=slice(1, 2)), 1, torch.zeros(0, dtype=torch.long), frozenset({"js"})
    )
    assert abs(float(found["js_reference"]) - np.log(2)) < 1e-6
    nan = torch.tensor([[torch.nan, 0.0], [0.0, 0.0]])
    found = measure(
        Tile(nan, 1, references=slice(1, 2)), 1, torch.zeros(0, dtype=torch.long), frozenset({"js"})
    )
    assert torch.isnan(found["js_reference"]).all()


BAD = {
    "nothing": ((), "nothing"),
    "a prompt alone": ((A,), "Asked to compare str"),
    "two prompts without a model": ((A, B), "str, str"),
    "a model alone": ((None,), "LanguageModel"),
    "a run as a prompt": ((None, "run", A), "as if it were a prompt"),
    "three prompts": ((None, A, B, A), "Pass a model and two prompts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence(case):
    given, words = BAD[case]
    model = tiny.language_model()
    known = {None: model, "run": model.run(A)}
    with pytest.raises(LensError, match=words) as raised:
        lw.compare(*(known.get(each, each) for each in given))
    assert "\n" not in str(raised.value)
