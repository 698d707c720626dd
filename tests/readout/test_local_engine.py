"""The local engine: what a run keeps, and what it refuses."""

import contextlib
import threading

import pytest
import torch
from tiny import PROMPT, gpt2, language_model, llama, n_hooks
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import MambaConfig, MambaForCausalLM

import lenswidget as lw
from lenswidget.errors import CellError, FidelityWarning, PromptError
from lenswidget.readout import capture
from lenswidget.readout.capture import Capture
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.reading import read
from lenswidget.readout.unembed import Unembed

IDS = [5, 17, 40, 200, 3, 99, 120, 7, 8, 250, 31]


@pytest.fixture(scope="module", params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request):
    return lw.LanguageModel(request.param(), None)


@pytest.fixture(scope="module")
def named():
    return language_model()


def hidden_states(model, ids):
    """transformers' own: the embedding, then each block's output but the last, which is normed."""
    with torch.no_grad():
        return model.hf_model(torch.tensor([ids]), output_hidden_states=True).hidden_states


def test_streams_equal_the_models_own_hidden_states(model):
    run = LocalEngine(model).run(IDS)
    expected = hidden_states(model, IDS)
    for layer in range(-1, run.n_layers - 1):
        states = run.states("resid_post", [layer] * run.seq, range(run.seq))
        assert torch.equal(states, expected[layer + 1][0])


def test_last_row_equals_model_logits(model):
    run = LocalEngine(model).run(IDS)
    with torch.no_grad():
        own = model.hf_model(torch.tensor([IDS])).logits[0]
        decoded = run.tail(run.states("resid_post", [run.n_layers - 1] * run.seq, range(run.seq)))
    torch.testing.assert_close(decoded, own, atol=1e-5, rtol=0)
    assert run.fidelity.ok


@pytest.mark.parametrize(("n_tokens", "n_checked"), [(11, 1), (64, 4)])
def test_the_last_positions_are_checked_against_the_models_own_logits(model, n_tokens, n_checked):
    run = LocalEngine(model).run((IDS * 6)[:n_tokens])
    assert run.fidelity.ok
    assert run.fidelity.n_positions == n_checked
    run = LocalEngine(model).run((IDS * 6)[:n_tokens])
    run._streams["resid_post"][-1, -1, 0] += 0.1  # what the forward did not leave
    assert not run.fidelity.ok
    with pytest.warns(FidelityWarning, match="is not its own logits"):
        lw.read(run)


@pytest.mark.parametrize("spoiled", [0.0, 0.1])
@pytest.mark.parametrize("n_tokens", [11, 64])
def test_a_readout_that_has_the_last_rows_is_the_check(model, n_tokens, spoiled, monkeypatch):
    run, again = (LocalEngine(model).run((IDS * 6)[:n_tokens]) for _ in range(2))
    n_rows = []
    product = Unembed.__call__
    monkeypatch.setattr(Unembed, "__call__", lambda *args: n_rows.append(len(args[1])) or product(*args))
    for one in (run, again):
        one._streams["resid_post"][-1, -1, 0] += spoiled  # what the forward did not leave
    with pytest.warns(FidelityWarning) if spoiled else contextlib.nullcontext():
        lw.read(run)
    assert sum(n_rows) == (run.n_layers + 1) * n_tokens
    assert run.fidelity.n_positions == again.fidelity.n_positions
    assert run.fidelity.max_abs_error == pytest.approx(again.fidelity.max_abs_error, abs=1e-5)


def test_a_run_holds_no_more_logits_than_it_checks():
    seen = lw.LanguageModel(gpt2(n_layer=2), None)
    forward = seen.hf_model.forward

    def without_the_option(input_ids, attention_mask=None):
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    seen.hf_model.forward = without_the_option
    run = LocalEngine(seen).run(IDS)
    assert run._own.untyped_storage().nbytes() == 4 * run.d_vocab
    assert run.fidelity.ok


def test_a_run_is_told_in_one_line(model):
    run = LocalEngine(model).run(IDS)
    assert repr(run).startswith("Run([5, 17, 40")
    assert f"{run.seq} tokens, {run.n_layers} layers" in repr(run)
    assert "\n" not in repr(run)


def test_a_run_leaves_no_hook_and_no_gradient(model):
    before = n_hooks(model.hf_model)
    run = LocalEngine(model).run(IDS)
    assert n_hooks(model.hf_model) == before
    assert not run.states("resid_post", [0], [0]).requires_grad


def test_a_run_describes_itself_and_has_its_own_id(named):
    engine = LocalEngine(named)
    run, other = engine.run(PROMPT), engine.run(PROMPT)
    assert run.id != other.id
    assert run.prompt == PROMPT
    assert run.token_ids.tolist() == engine.model.tokenizer(PROMPT)["input_ids"]
    assert (run.n_layers, run.d_vocab) == (4, 300)
    info = run.model
    assert (info.name, info.dtype, info.quantization) == ("GPT2LMHeadModel", "float32", None)
    assert info.max_length == 64
    assert "_streams" not in repr(run)


def test_other_sites_are_captured_when_first_read_and_kept(model):
    run = LocalEngine(model).run(IDS)
    before = run.nbytes
    attn, mlp = (run.states(site, [2] * run.seq, range(run.seq)) for site in ("attn_out", "mlp_out"))
    pre, post = (run.states("resid_post", [layer] * run.seq, range(run.seq)) for layer in (1, 2))
    torch.testing.assert_close(pre + attn + mlp, post, atol=1e-5, rtol=0)
    after = run.nbytes
    assert after == before + 2 * (before // 5 * 4)
    run.states("attn_out", [1], [1])
    assert run.nbytes == after


def test_sites_can_be_captured_at_once(model):
    eager = LocalEngine(model).run(IDS, sites=("resid_post", "mlp_out"))
    lazy = LocalEngine(model).run(IDS)
    size = eager.nbytes
    assert torch.equal(eager.states("mlp_out", [3], [2]), lazy.states("mlp_out", [3], [2]))
    assert eager.nbytes == size


def test_streams_on_the_cpu_read_the_same(model):
    kept, moved = (LocalEngine(model, streams=place).run(IDS) for place in ("device", "cpu"))
    cells = Cells.all(kept)
    states = [run.states("resid_post", cells.layers, cells.positions) for run in (kept, moved)]
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("place", "free_rows", "kept_on"),
    [
        ("auto", 7, "cpu"),
        ("auto", 9, "cuda"),
        ("device", 7, "cuda"),
        ("cpu", 9, "cpu"),
    ],
)
def test_streams_go_to_the_cpu_where_they_would_take_half_of_what_is_free(
    model, monkeypatch, place, free_rows, kept_on
):
    found = Capture(model, LocalEngine(model).encode(IDS), place)
    with FakeTensorMode():  # a device without the device: nothing is computed
        state = torch.empty(1, 11, 32, device="cuda")
        monkeypatch.setattr(capture, "free_bytes", lambda device: free_rows * state.nbytes)
        streams = found._room(4, state)
    assert streams.device.type == kept_on
    assert streams.shape == (4, 11, 32)


def test_progress_counts_layers(named):
    seen = []
    LocalEngine(named).run(PROMPT, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("layers", "positions", "said"),
    [
        ([4], [0], "layer 4, but this run has layers -1 to 3"),
        ([-2], [0], "layer -2"),
        ([0], [11], "position 11, but this run has positions 0 to 10"),
        ([0], [-1], "position -1"),
        ([0, 1], [0], "2 layers and 1 positions"),
        ([0.5], [0], "a list of integers"),
        ([[0]], [0], "a list of integers"),
    ],
)
def test_cells_outside_the_run_are_refused(named, layers, positions, said):
    run = LocalEngine(named).run(IDS)
    with pytest.raises(CellError, match=said):
        run.states("resid_post", layers, positions)


def test_unknown_sites_and_embedding_rows_of_other_sites_are_refused(named):
    run = LocalEngine(named).run(IDS)
    with pytest.raises(CellError, match="'resid_past'; this run has resid_pre, resid_mid, resid_post"):
        run.states("resid_past", [0], [0])
    with pytest.raises(CellError, match="layer -1, but this run has layers 0 to 3"):
        run.states("mlp_out", [-1], [0])


@pytest.mark.parametrize("prompt", ["", [], [[1, 2], [3, 4]], torch.zeros(1, 3, 32)])
def test_prompts_that_are_not_one_are_refused(named, prompt):
    with pytest.raises(PromptError):
        LocalEngine(named).run(prompt)


def test_runs_on_two_threads_do_not_cross(named):
    engine = LocalEngine(named)
    prompts = [[i + 1] * (i + 3) for i in range(6)]
    alone = [engine.run(prompt) for prompt in prompts]
    found = {}

    def work(i):
        found[i] = engine.run(prompts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, run in enumerate(alone):
        cells = Cells.all(run)
        a, b = (r.states("resid_post", cells.layers, cells.positions) for r in (run, found[i]))
        assert torch.equal(a, b)


def test_logits_given_in_float32_are_trusted_no_further_than_the_weights_are_stored():
    config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = lw.LanguageModel(MambaForCausalLM(config).eval().to(torch.bfloat16), None)
    with torch.no_grad():
        assert model.hf_model(torch.tensor([IDS])).logits.dtype is torch.float32
    fidelity = LocalEngine(model).run(IDS).fidelity
    assert 1e-4 < fidelity.max_abs_error < 0.05
    assert fidelity.ok


def test_logits_that_autocast_rounded_are_trusted_no_further_than_that():
    model = language_model(llama)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fidelity = LocalEngine(model).run(IDS).fidelity
    assert 1e-4 < fidelity.max_abs_error < fidelity.tolerance < 0.05
    assert LocalEngine(model).run(IDS).fidelity.tolerance < 1e-3


def test_a_model_offloaded_by_accelerate_reads_the_same(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain, spread = gpt2(), gpt2()
    expected = read(LocalEngine(lw.LanguageModel(plain, None)).run(IDS), metrics=("entropy", "kl"))
    accelerate.cpu_offload(spread, torch.device("cpu"))
    assert next(spread.parameters()).device.type == "meta"
    run = LocalEngine(lw.LanguageModel(spread, None)).run(IDS)
    found = read(run, metrics=("entropy", "kl"))
    assert run.fidelity.ok
    assert (found.ids == expected.ids).all()
    assert abs(found.log_probs - expected.log_probs).max() < 1e-5
