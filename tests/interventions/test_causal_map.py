"""Causal maps are what whole forwards with plain hooks give, cell by cell, in float64."""

import copy

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, Cancelled, CellError, EditError, LensError
from lenswidget.interventions import mapper, patched_rows

# they share their first two tokens
CLEAN = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
CORRUPT = torch.tensor([[11, 12, 21, 22, 15, 24, 17]])
ANSWER, FOIL = 5, 9


@pytest.fixture(params=[name for name in MAKES if name != "experts"], scope="module")
def model(request):
    return made(request.param)


def states_of(block_output):
    return block_output[0] if isinstance(block_output, tuple) else block_output


def streams_by_hooks(double, blocks, ids):
    """What leaves each block, float64, by ordinary hooks."""
    found = []
    handles = [
        double.get_submodule(path).register_forward_hook(
            lambda _module, _args, output: found.append(states_of(output).clone())
        )
        for path in blocks
    ]
    double(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def map_by_hooks(model, ids, new, metric):
    """`[layers, positions]`: the metric of whole float64 forwards, a block's output changed by a plain hook.

    Args:
        new: by layer, what is put into each position, `[seq, d_model]`.
    """
    double = copy.deepcopy(model.hf_model).double()
    grid = np.zeros((len(new), ids.shape[1]))
    for layer, path in enumerate(model.anatomy.blocks):
        for position in range(ids.shape[1]):

            def hook(_module, _args, output, layer=layer, position=position):
                states = states_of(output).clone()
                states[0, position] = new[layer][position]
                return (states, *output[1:]) if isinstance(output, tuple) else states

            handle = double.get_submodule(path).register_forward_hook(hook)
            grid[layer, position] = float(metric(double(input_ids=ids, use_cache=False).logits[0, -1]))
            handle.remove()
    return grid


def log_prob(logits):
    return logits.log_softmax(-1)[ANSWER]


def logit_diff(logits):
    return logits[ANSWER] - logits[FOIL]


@torch.no_grad()
@pytest.mark.parametrize("metric", [log_prob, logit_diff])
def test_a_map_is_what_whole_forwards_with_plain_hooks_give(model, metric):
    foil = FOIL if metric is logit_diff else None
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER, foil=foil)
    double = copy.deepcopy(model.hf_model).double()
    clean, corrupt = (streams_by_hooks(double, model.anatomy.blocks, ids) for ids in (CLEAN, CORRUPT))
    m_clean, m_corrupt = (
        float(metric(double(input_ids=ids, use_cache=False).logits[0, -1])) for ids in (CLEAN, CORRUPT)
    )
    denoised = map_by_hooks(model, CORRUPT, [states[0] for states in clean], metric)
    noised = map_by_hooks(model, CLEAN, [states[0] for states in corrupt], metric)
    assert found.metric == metric.__name__
    np.testing.assert_allclose([found.clean, found.corrupt], [m_clean, m_corrupt], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.denoised, denoised, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.noised, noised, rtol=0, atol=1e-4)
    size = m_clean - m_corrupt
    np.testing.assert_allclose(found.denoising, (denoised - m_corrupt) / size, rtol=0, atol=2e-4 / abs(size))
    np.testing.assert_allclose(found.noising, (noised - m_corrupt) / size, rtol=0, atol=2e-4 / abs(size))
    # a map that shows something: the last row gives the whole answer back at the last position alone
    assert abs(found.denoising[-1, -1] - 1) < 1e-3
    assert np.ptp(found.denoised) > 0.05
    # nothing differs before the third token
    assert (found.denoised[:, :2] == found.corrupt).all()


@torch.no_grad()
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "resid_mid", "mlp_out"])
def test_every_site_is_what_whole_forwards_with_one_edit_give(model, site):
    if site not in model.layers.offered:
        with pytest.raises(AnatomyError, match="which no layer offers"):
            lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER, site=site)
        return
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER, site=site, measure="denoising")
    source = model.run(CLEAN)
    for layer in range(model.anatomy.n_layers):
        for position in range(7):
            edit = lw.Edit("patch", site=site, layers=layer, positions=position, source=source)
            with model.trace(CORRUPT, use_cache=False, edits=[edit]) as tracer:
                expected = float(log_prob(tracer.result.logits[0, -1].double()))
            assert abs(found.denoised[layer, position] - expected) < 1e-4, (layer, position)


@torch.no_grad()
def test_removing_cells_is_what_plain_hooks_give(model):
    double = copy.deepcopy(model.hf_model).double()
    streams = streams_by_hooks(double, model.anatomy.blocks, CLEAN)
    for ablate, removed in (
        ("zero", [torch.zeros_like(states[0]) for states in streams]),
        ("mean", [states[0].mean(0, keepdim=True).expand_as(states[0]) for states in streams]),
    ):
        found = lw.causal_map(model, CLEAN, ablate=ablate, answer=ANSWER)
        expected = map_by_hooks(model, CLEAN, removed, log_prob)
        np.testing.assert_allclose(found.ablated, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.ablation, expected - found.clean, rtol=0, atol=1e-4)
        assert found.denoising is None
        assert found.noising is None
        assert found.corrupt_ids is None


def test_the_estimate_is_the_change_times_the_gradient(model):
    """The derivative along the change, by central differences in float64."""
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER, measure=["estimate"])
    assert found.denoised is None
    double = copy.deepcopy(model.hf_model).double()
    with torch.no_grad():
        clean, corrupt = (streams_by_hooks(double, model.anatomy.blocks, ids) for ids in (CLEAN, CORRUPT))
        h = 3e-3  # models compute norms in float32, whose rounding a smaller step shows
        ahead, behind = (
            map_by_hooks(
                model, CORRUPT, [b[0] + s * (a - b)[0] for a, b in zip(clean, corrupt, strict=True)], log_prob
            )
            for s in (h, -h)
        )
    slopes = (ahead - behind) / (2 * h)
    atol = 1e-3 * max(1, np.abs(slopes).max())
    np.testing.assert_allclose(found.estimated - found.corrupt, slopes, rtol=0, atol=atol)


def test_the_estimate_of_parts_is_their_gradient_too():
    model = made("residual multiplier")
    for site in ("attn_out", "resid_mid", "mlp_out"):
        found = lw.causal_map(model, CLEAN, ablate="zero", answer=ANSWER, site=site, measure="estimate")
        h = 1e-2
        for layer, position in ((0, 2), (2, 4), (3, 6)):
            ends = []
            for strength in (1 + h, 1 - h):
                edit = lw.Edit("scale", site=site, layers=layer, positions=position, strength=strength)
                with torch.no_grad(), model.trace(CLEAN, use_cache=False, edits=[edit]) as tracer:
                    ends.append(float(log_prob(tracer.result.logits[0, -1].double())))
            slope = (ends[0] - ends[1]) / (2 * h)
            # float32 differences of 1e-7 over 2e-2
            assert abs(found.estimate[layer, position] + slope) < 1e-3 + 0.02 * abs(slope), (site, layer)


@torch.no_grad()
def test_long_prompts_reuse_what_stands_before_the_patch():
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, 200, (1, 40), generator=generator)
    corrupt = clean.clone()
    corrupt[0, ::3] = torch.randint(0, 200, (14,), generator=generator)
    reused = []
    for name in MAKES:
        model = made(name)
        found = lw.causal_map(
            model, clean, corrupt, answer=ANSWER, measure="denoising", positions=[*range(0, 36, 2), 39]
        )
        reused += [name] * ("tokens from the changed position on" in found.way)
        source = model.run(clean)
        for row, layer in enumerate(found.layers.tolist()):
            for column, position in enumerate(found.positions.tolist()):
                edit = lw.Edit("patch", layers=layer, positions=position, source=source)
                with model.trace(corrupt, use_cache=False, edits=[edit]) as tracer:
                    expected = float(log_prob(tracer.result.logits[0, -1].double()))
                assert abs(found.denoised[row, column] - expected) < 1e-4, (name, layer, position)
    # a state-space model keeps no keys that could be cut; the others do
    assert {"sequential", "parallel", "learnt positions"} <= set(reused)
    assert "state space" not in reused


@torch.no_grad()
def test_what_is_not_the_same_as_whole_forwards_is_run_whole(monkeypatch):
    model = made("sequential")
    right = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER)
    assert right.way.startswith("blocks from each changed layer on, many layers in one forward, tokens from")
    assert right.n_checked == 6
    assert 0 <= right.error < 1e-4
    expected = right.denoised
    joined, skipping = mapper.joined_logits, patched_rows.PatchedRows.skipping

    def of_the_next_row(rows, cells, new):
        return joined(rows, cells, new).roll(1, 0) if len(cells) > 1 else joined(rows, cells, new) + 1

    monkeypatch.setattr(mapper, "joined_logits", of_the_next_row)
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER)
    assert found.way == patched_rows.WAYS["after"]
    np.testing.assert_allclose(found.denoised, expected, rtol=0, atol=1e-5)

    def wrong(self, n_blocks, start, n_rows):
        return skipping(self, max(0, n_blocks - 1), start, n_rows)

    # one block too few is skipped, and the stream that is handed on is that of another layer
    monkeypatch.setattr(patched_rows.PatchedRows, "skipping", wrong)
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER)
    np.testing.assert_allclose(found.denoised, expected, rtol=0, atol=1e-5)

    def broken(self, n_blocks, start, n_rows):
        if n_blocks:
            raise ZeroDivisionError("no block")
        return skipping(self, n_blocks, start, n_rows)

    monkeypatch.setattr(patched_rows.PatchedRows, "skipping", broken)
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER)
    failed = "joined and after and above failed in the model's own code"
    assert found.way == (
        f"{patched_rows.WAYS['batch']} ({failed}, first 'joined' with ZeroDivisionError: no block)"
    )
    np.testing.assert_allclose(found.denoised, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"site": "heads", "positions": [4]}], ids=["cells", "heads"])
def test_an_error_of_our_own_is_not_taken_for_a_way_that_does_not_work(monkeypatch, options):
    def refused(self, n_blocks, start, n_rows):
        raise EditError("a sentence")

    monkeypatch.setattr(patched_rows.PatchedRows, "skipping", refused)
    with pytest.raises(EditError, match="a sentence"):
        lw.causal_map(made("sequential"), CLEAN, CORRUPT, answer=ANSWER, **options)


@torch.no_grad()
def test_padded_prompts_are_mapped_at_their_own_tokens():
    model = tiny.language_model(tiny.llama)
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 3, dtype=torch.long), CLEAN], dim=1),
        "attention_mask": torch.tensor([[0] * 3 + [1] * 7]),
    }
    plain = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER)
    found = lw.causal_map(model, padded, CORRUPT, answer=ANSWER)
    np.testing.assert_allclose(found.denoised, plain.denoised, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.noised, plain.noised, rtol=0, atol=1e-4)


@torch.no_grad()
def test_looped_and_masked_models_are_mapped_by_whole_forwards_where_they_must():
    config = tiny_config(hf.AlbertConfig)
    config.num_hidden_layers, config.num_hidden_groups = 4, 1
    model = lw.LanguageModel(tiny_model(config, hf.AlbertForMaskedLM))
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=ANSWER, measure="denoising")
    assert found.way == patched_rows.WAYS["batch"]
    source = model.run(CLEAN)
    for layer, position in ((0, 2), (2, 3), (3, 6)):
        edit = lw.Edit("patch", layers=layer, positions=position, source=source)
        with model.trace(CORRUPT, edits=[edit]) as tracer:
            expected = float(log_prob(tracer.result.logits[0, -1].double()))
        assert abs(found.denoised[layer, position] - expected) < 1e-4


def test_progress_ends_at_all_cells_and_a_stop_stops():
    model = tiny.language_model()
    seen = []
    hooks = tiny.n_hooks(model.hf_model)
    lw.causal_map(model, CLEAN, CORRUPT, answer=5, progress=lambda *now: seen.append(now))
    assert seen[-1] == (56, 56)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(Cancelled, match="stopped after"):
        lw.causal_map(model, CLEAN, CORRUPT, answer=5, cancelled=lambda: True)
    assert tiny.n_hooks(model.hf_model) == hooks
    assert not any("forward" in vars(module) for module in model.hf_model.modules())


def test_a_map_is_a_table_and_prints_itself():
    model = tiny.language_model()
    found = lw.causal_map(model, CLEAN, CORRUPT, answer=5, foil=9, layers=[1, 3], positions=[2, -1])
    frame = found.to_dataframe()
    assert len(frame) == 4
    assert frame["position"].tolist() == [2, 6, 2, 6]
    assert frame["clean_id"].tolist() == [13, 17, 13, 17]
    assert frame["corrupt_id"].tolist() == [21, 17, 21, 17]
    np.testing.assert_array_equal(frame["denoising"], found.denoising.ravel())
    assert "2 layers x 2 positions" in repr(found)
    assert "in 4 cells checked" in repr(found)


BAD = {
    "13 tokens": ({"corrupt": [1] * 13}, EditError, "7 tokens and the corrupt one 13"),
    "same prompts": ({"corrupt": CLEAN}, EditError, "are the same"),
    "no second prompt": ({"corrupt": None}, EditError, "was given none"),
    "prompt and removal": ({"ablate": "zero"}, EditError, "was given both"),
    "removal": ({"corrupt": None, "ablate": "half"}, EditError, "zero, mean"),
    "site": ({"site": "resid"}, EditError, "Use one of resid_pre"),
    "metric": ({"metric": "loss"}, EditError, "logit_diff, log_prob"),
    "no foil": ({"metric": "logit_diff"}, EditError, "without a foil"),
    "foil": ({"metric": "log_prob", "foil": 9}, EditError, "Leave foil= out"),
    "same foil": ({"foil": 5}, EditError, "same token"),
    "answer": ({"answer": 900}, CellError, "900"),
    "words": ({"answer": " Paris and Rome"}, CellError, "tokens"),
    "no answer": ({"answer": None}, EditError, "No answer"),
    "measure": ({"measure": ["all"]}, EditError, "denoising, noising, estimate"),
    "layer": ({"layers": 9}, EditError, "layer 9 of 4"),
    "position": ({"positions": 7}, EditError, "position 7 of 7"),
    "group": ({"positions": "generated"}, EditError, "Pass integers"),
    "progress": ({"progress": 3}, LensError, "progress"),
    "cancelled": ({"cancelled": 3}, LensError, "cancelled"),
    "model": ({"model": "gpt2"}, LensError, "LanguageModel"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_a_sentence(case):
    changes, error, words = BAD[case]
    given = {"model": tiny.language_model(), "clean": CLEAN, "corrupt": CORRUPT, "answer": 5, **changes}
    with pytest.raises(error, match=words) as raised:
        lw.causal_map(given.pop("model"), **given)
    assert "\n" not in str(raised.value)
