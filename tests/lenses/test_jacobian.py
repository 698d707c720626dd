"""The Jacobian lens against an explicit Jacobian, and TransformerLens's own. See published/make.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import tiny_config, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lenswidget.errors import (
    AnatomyError,
    CellError,
    LensError,
    LensFileError,
    LensMismatchError,
    PromptError,
)
from lenswidget.language_model import LanguageModel
from lenswidget.lenses.fit_texts import encode
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.jacobian_fit import Fit
from lenswidget.lenses.lens import covered_layers
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.provenance import Provenance
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.reading import read

PUBLISHED = Path(__file__).parent / "published"
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    hf_model = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    return LanguageModel(hf_model, AutoTokenizer.from_pretrained(PUBLISHED / "model"))


@pytest.fixture(scope="module")
def numbers():
    return load_file(PUBLISHED / "numbers.safetensors")


def small_gpt2(dtype=torch.float64):
    torch.manual_seed(3)
    config = GPT2Config(
        n_layer=3, n_embd=12, n_head=2, vocab_size=50, n_positions=32, initializer_range=0.3, bos_token_id=1,
        eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(dtype).eval()


def explicit(hf_model, ids, layer, skip_first):
    """The estimator written out: the whole Jacobian of all positions by all positions, then its sums."""
    blocks = hf_model.transformer.h
    given = {}
    hook = blocks[max(layer, 0)].register_forward_hook(lambda m, args, out: given.update(h=out, x=args[0]))
    hf_model(ids[None], use_cache=False)
    hook.remove()
    base = (given["x"] if layer == -1 else given["h"]).detach()

    def last(stream):
        kept = {}
        if layer == -1:
            hook = blocks[0].register_forward_pre_hook(lambda m, args: (stream, *args[1:]))
        else:
            hook = blocks[layer].register_forward_hook(lambda m, args, out: stream)
        end = blocks[-1].register_forward_hook(lambda m, args, out: kept.update(h=out))
        hf_model(ids[None], use_cache=False)
        hook.remove()
        end.remove()
        return kept["h"][0]

    full = torch.autograd.functional.jacobian(last, base)[:, :, 0]  # [target, d, source, d]
    valid = range(skip_first, len(ids) - 1)
    return sum(full[target, :, t] for t in valid for target in valid if target >= t) / len(valid)


def test_the_fit_is_the_estimator_written_out():
    hf_model = small_gpt2()
    texts = [torch.randint(0, 50, (n,), generator=torch.Generator().manual_seed(n)) for n in (9, 12, 6)]
    lens = JacobianLens.fit(
        LanguageModel(hf_model, None), texts, layers=[-1, 0, 1], skip_first=2, rows=5, **QUIET
    )
    for layer in (-1, 0, 1):
        expected = sum(explicit(hf_model, ids, layer, 2) for ids in texts) / len(texts)
        # the model runs in float64, the sums are float32
        torch.testing.assert_close(lens.matrices[layer].double(), expected, atol=1e-6, rtol=1e-6)
    assert lens.n_prompts == 3


def test_the_fit_equals_transformerlens_on_the_same_texts(model, numbers):
    texts = [numbers["text_0"], numbers["text_1"]]
    lens = JacobianLens.fit(model, texts, skip_first=4, **QUIET)
    assert sorted(lens.matrices) == [0, 1]
    for layer, matrix in lens.matrices.items():
        theirs = numbers[f"J_{layer}"]
        assert float((matrix - theirs).norm() / theirs.norm()) < 1e-5


def test_a_published_lens_gives_transformerlenss_own_logits(model, numbers):
    lens = JacobianLens.load(PUBLISHED / "jacobian.pt", model)
    with torch.no_grad():
        hidden = model.hf_model(numbers["text_0"][None], output_hidden_states=True)
        for layer in (0, 1):
            ours = model.tail(lens.transport(layer, hidden.hidden_states[layer + 1][0]))
            torch.testing.assert_close(ours, numbers["jacobian_logits"][layer], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(hidden.logits[0], numbers["jacobian_logits"][2], atol=1e-4, rtol=1e-5)


def test_the_fit_is_deterministic_and_leaves_the_model_as_it_was(model, numbers):
    hf_model = model.hf_model
    first, *others = hf_model.parameters()
    first.requires_grad_(False)
    hf_model.train()
    hf_model.lm_head.eval()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf_model.modules())
    fits = [JacobianLens.fit(model, [numbers["text_0"]], **QUIET) for _ in range(2)]
    assert all(torch.equal(fits[0].matrices[layer], fits[1].matrices[layer]) for layer in (0, 1))
    assert not first.requires_grad
    assert all(parameter.requires_grad and parameter.grad is None for parameter in others)
    assert hf_model.training
    assert not hf_model.lm_head.training
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf_model.modules())
    first.requires_grad_(True)
    hf_model.eval()


@pytest.mark.parametrize("rows", [1, 7, 24])
def test_rows_per_pass_change_nothing_but_rounding(model, numbers, rows):
    fit = JacobianLens.fit(model, [numbers["text_0"]], rows=rows, **QUIET)
    default = JacobianLens.fit(model, [numbers["text_0"]], **QUIET)
    for layer in (0, 1):
        torch.testing.assert_close(fit.matrices[layer], default.matrices[layer], atol=1e-5, rtol=1e-5)


def test_the_start_of_a_text_is_run_as_a_cache_and_changes_nothing_but_rounding(model, numbers, monkeypatch):
    fit = Fit.prepare(model, [numbers["text_1"]], None, 16, 128, None, None)
    split = fit.run(progress=False)
    assert fit.splits
    monkeypatch.setattr(Fit, "_can_split", lambda self: False)
    whole = JacobianLens.fit(model, [numbers["text_1"]], **QUIET)
    for layer in (0, 1):
        torch.testing.assert_close(split.means[layer], whole.matrices[layer], atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_go_on_from_a_cache_is_run_whole(numbers):
    hf_model = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    forgetful = LanguageModel(hf_model, None)
    attention = hf_model.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, past_key_values=None, **kwargs: forward(*args, **kwargs)
    fit = Fit.prepare(forgetful, [numbers["text_0"]], None, 4, 128, None, None)
    means = fit.run(progress=False).means
    assert not fit.splits
    attention.forward = forward
    expected = JacobianLens.fit(forgetful, [numbers["text_0"]], skip_first=4, **QUIET)
    for layer in (0, 1):
        torch.testing.assert_close(means[layer], expected.matrices[layer], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["GPTNeoForCausalLM", "MambaForCausalLM", "Gemma2ForCausalLM"])
def test_families_of_every_build_are_fitted_and_no_short_cut_changes_the_matrices(family, monkeypatch):
    model_class = getattr(transformers, family)  # blocks that return tuples; no attention; norms after
    hf_model = tiny_model(tiny_config(model_class.config_class), model_class).eval()
    ids = torch.randint(5, 200, (9,), generator=torch.Generator().manual_seed(1))
    short = JacobianLens.fit(LanguageModel(hf_model, None), [ids], skip_first=4, **QUIET)
    monkeypatch.setattr(Fit, "_can_split", lambda self: False)
    plain = JacobianLens.fit(LanguageModel(hf_model, None), [ids], skip_first=4, rows=1, **QUIET)
    assert sorted(short.matrices) == [0, 1, 2]
    for layer, matrix in plain.matrices.items():
        torch.testing.assert_close(short.matrices[layer], matrix, atol=1e-5, rtol=1e-4)


def test_a_model_that_is_not_causal_is_refused(numbers):
    hf_model = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    hf_model.model.layers[1].register_forward_hook(lambda m, args, out: out + out.mean(dim=1, keepdim=True))
    with pytest.raises(AnatomyError, match="is not causal"):
        JacobianLens.fit(LanguageModel(hf_model, None), [numbers["text_0"]], **QUIET)


def test_a_model_whose_operations_cannot_be_batched_is_fitted_row_by_row(model, numbers, monkeypatch):
    default = JacobianLens.fit(model, [numbers["text_0"]], **QUIET)
    grad = torch.autograd.grad

    def unbatched(*args, is_grads_batched=False, **kwargs):
        if is_grads_batched:
            raise RuntimeError("Cannot access data pointer of a tensor under vmap")
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", unbatched)
    fit = JacobianLens.fit(model, [numbers["text_0"]], **QUIET)
    for layer in (0, 1):
        torch.testing.assert_close(fit.matrices[layer], default.matrices[layer], atol=1e-5, rtol=1e-5)


def test_an_interrupted_fit_resumes_bit_for_bit(model, numbers, tmp_path):
    texts = [numbers["text_0"], numbers["text_1"], numbers["text_0"].flip(0)]
    whole = JacobianLens.fit(model, texts, **QUIET)
    seen = []

    def stop_at_the_third(done, total):
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    file = tmp_path / "deep" / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        JacobianLens.fit(model, texts, checkpoint=file, progress=stop_at_the_third)
    assert seen == [(0, 3), (1, 3), (2, 3)]
    partial = JacobianLens.load(file)  # usable as it is, over the texts so far
    assert partial.n_prompts == 2
    assert partial.provenance == Provenance.of(model, texts[:2], **whole.provenance.settings)
    seen.clear()
    resumed = JacobianLens.fit(model, texts, checkpoint=file, progress=lambda *step: seen.append(step))
    assert seen == [(2, 3), (3, 3)]
    assert resumed.n_prompts == 3
    assert resumed.provenance == whole.provenance
    assert all(torch.equal(resumed.matrices[layer], whole.matrices[layer]) for layer in (0, 1))


def test_a_checkpoint_goes_on_with_more_texts_and_refuses_others(model, numbers, tmp_path):
    file = tmp_path / "fit.pt"
    first, second = numbers["text_0"], numbers["text_1"]
    JacobianLens.fit(model, [first], checkpoint=file, **QUIET)
    grown = JacobianLens.fit(model, [first, second], checkpoint=file, max_tokens=128, **QUIET)
    whole = JacobianLens.fit(model, [first, second], **QUIET)
    assert all(torch.equal(grown.matrices[layer], whole.matrices[layer]) for layer in (0, 1))
    with pytest.raises(LensMismatchError, match="another fit"):
        JacobianLens.fit(model, [second, first], checkpoint=file, **QUIET)
    with pytest.raises(LensMismatchError, match=r"another fit .*skip_first 16 against 4"):
        JacobianLens.fit(model, [first, second], skip_first=4, checkpoint=file, **QUIET)
    with pytest.raises(LensMismatchError, match="another fit"):
        JacobianLens.fit(model, [first], checkpoint=file, **QUIET)
    with pytest.raises(LensMismatchError, match="no checkpoint"):
        JacobianLens.fit(model, [first], checkpoint=PUBLISHED / "jacobian.pt", **QUIET)


@pytest.mark.parametrize("name", ["lens.safetensors", "lens.pt"])
def test_a_lens_stored_in_16_bits_is_read_in_float32(model, tmp_path, name):
    lens = JacobianLens({0: torch.randn(24, 24, generator=torch.Generator().manual_seed(0))}, 1, 3)
    lens.save(tmp_path / name, dtype=torch.float16)
    run = LocalEngine(model).run([5, 17, 40])
    found = read(run, Cells([0], [2]), lens=load_lens(tmp_path / name, model))
    rounded = JacobianLens({0: lens.matrices[0].half().float()}, 1, 3)
    assert np.array_equal(found.log_probs, read(run, Cells([0], [2]), lens=rounded).log_probs)


@pytest.mark.parametrize("name", ["lens.safetensors", "lens.pt"])
def test_saved_and_loaded_in_one_line_it_is_the_same_lens(model, numbers, tmp_path, name):
    lens = JacobianLens.fit(model, [numbers["text_0"]], **QUIET)
    lens.save(tmp_path / "deep" / name)
    again = load_lens(tmp_path / "deep" / name, model)
    assert isinstance(again, JacobianLens)
    assert all(torch.equal(again.matrices[layer], lens.matrices[layer]) for layer in (0, 1))
    assert (again.n_prompts, again.n_layers, again.provenance) == (1, 3, lens.provenance)
    assert again.provenance.n_tokens == 21
    assert set(again.provenance.versions) == {"lenswidget", "torch", "transformers"}


def test_the_written_artifact_has_the_published_keys(model, numbers, tmp_path):
    JacobianLens.fit(model, [numbers["text_0"]], **QUIET).save(tmp_path / "lens.pt", dtype=torch.float16)
    ours = torch.load(tmp_path / "lens.pt", weights_only=True)
    theirs = torch.load(PUBLISHED / "jacobian.pt", weights_only=True)
    assert set(theirs) == {"J", "n_prompts", "source_layers", "d_model", "metadata"}
    # beside them what other readers pass over: which texts, and a digest of the whole
    assert set(ours) == set(theirs) | {"lenswidget"}
    assert ours["source_layers"] == theirs["source_layers"] == [0, 1]
    assert {m.dtype for m in ours["J"].values()} == {m.dtype for m in theirs["J"].values()} == {torch.float16}


def test_a_bfloat16_model_is_summed_in_float32(numbers):
    hf_model = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model", dtype=torch.bfloat16).eval()
    lens = JacobianLens.fit(LanguageModel(hf_model, None), [numbers["text_0"]], skip_first=4, **QUIET)
    exact = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    exact.load_state_dict(hf_model.state_dict())
    reference = JacobianLens.fit(LanguageModel(exact, None), [numbers["text_0"]], skip_first=4, **QUIET)
    for layer in (0, 1):
        ours, theirs = lens.matrices[layer], reference.matrices[layer]
        assert ours.dtype == torch.float32
        # 8 significant bits through 3 blocks; a sum in bfloat16 would also show in the last bits of J
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05
        assert not torch.equal(ours, ours.bfloat16().float())


def test_transport_is_the_matrix_times_the_state_and_the_last_layer_needs_none(model):
    lens = JacobianLens.load(PUBLISHED / "jacobian.pt", model)
    states = torch.randn(5, 24)
    expected = (lens.matrices[1].double() @ states.double().T).T
    torch.testing.assert_close(lens.transport(1, states).double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(lens.transport(2, states), states)
    assert lens.transport(0, states.bfloat16()).dtype == torch.float32
    assert covered_layers(lens, 3) == {0, 1, 2}


def test_a_layer_without_a_matrix_is_refused_and_the_remedy_works(tmp_path, model):
    payload = torch.load(PUBLISHED / "jacobian.pt", weights_only=True)
    del payload["metadata"]
    torch.save(payload, tmp_path / "bare.pt")
    bare = load_lens(tmp_path / "bare.pt")
    with pytest.raises(LensMismatchError, match=r"nothing for layer 2.*lw\.load_lens\(path, model\)"):
        bare.transport(2, torch.zeros(1, 24))
    load_lens(tmp_path / "bare.pt", model).transport(2, torch.zeros(1, 24))
    with pytest.raises(LensMismatchError, match="nothing for layer -1"):
        bare.transport(-1, torch.zeros(1, 24))


def test_a_lens_of_another_model_is_refused(model, numbers, tmp_path):
    lens = JacobianLens.fit(model, [numbers["text_0"]], **QUIET)
    with pytest.raises(LensMismatchError, match=r"d_model = 24, but .* has d_model = 12"):
        lens.check(LanguageModel(small_gpt2(torch.float32), None))
    other = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    with torch.no_grad():
        other.lm_head.weight.add_(0.1)
    foreign = LanguageModel(other, None)
    runs = [LocalEngine(one).run([5, 17, 40]) for one in (model, foreign)]
    with pytest.raises(LensMismatchError, match="digests differ"):
        read(runs[0], lens=lens, against=runs[1])
    lens.save(tmp_path / "lens.safetensors")
    JacobianLens.fit(model, [numbers["text_0"]], checkpoint=tmp_path / "fit.pt", **QUIET)
    for name in ("lens.safetensors", "fit.pt"):
        with pytest.raises(LensMismatchError, match="digests differ"):
            load_lens(tmp_path / name, foreign)
    deep = JacobianLens({2: torch.eye(24)}, 1)
    with pytest.raises(LensMismatchError, match="deeper model"):
        deep.check(model)


def test_files_that_hold_no_jacobian_lens_say_so(tmp_path):
    for number, payload in enumerate([{"a": 1}, [1], {"J": {}}, {"J": {0: torch.eye(3), 1: torch.eye(2)}}]):
        torch.save(payload, tmp_path / f"{number}.pt")
        with pytest.raises(LensFileError, match="holds no Jacobian lens"):
            load_lens(tmp_path / f"{number}.pt")
    with pytest.raises(LensFileError, match="found nothing there"):
        JacobianLens.load(tmp_path / "none.pt")
    load_lens(PUBLISHED / "tuned").save(tmp_path / "tuned.safetensors")
    with pytest.raises(LensFileError, match="of kind 'tuned', not 'jacobian'"):
        JacobianLens.load(tmp_path / "tuned.safetensors")


def test_bad_asks_are_refused_before_any_work(model, numbers):
    with pytest.raises(CellError, match=r"Asked to fit layers \[2\] of a model of 3 layers"):
        JacobianLens.fit(model, [numbers["text_0"]], layers=[0, 2], **QUIET)
    with pytest.raises(PromptError, match="None of the 1 texts has more than 17 tokens"):
        JacobianLens.fit(model, [numbers["text_0"][:17]], **QUIET)
    with pytest.raises(PromptError, match="pass a list of texts"):
        JacobianLens.fit(model, "one text", **QUIET)
    for texts in ([], None, 5, iter([])):
        with pytest.raises(PromptError, match="pass a list of texts"):
            encode(model, texts, 8)
    for text in (None, [1.5, "a"], object()):
        with pytest.raises(CellError, match=r"a text of .* a list of integers"):
            encode(model, [numbers["text_0"], text], 8)
    assert [len(ids) for ids in encode(model, iter([numbers["text_0"], [1, 2]]), 8)] == [8, 2]
    with pytest.raises(PromptError, match="no tokenizer"):
        JacobianLens.fit(LanguageModel(small_gpt2(torch.float32), None), ["a text"], **QUIET)


def test_texts_that_are_too_short_are_left_out_with_a_warning(model, numbers):
    with pytest.warns(UserWarning, match="1 of 2 texts have at most 17 tokens"):
        lens = JacobianLens.fit(model, [numbers["text_0"], numbers["text_1"][:10]], **QUIET)
    assert lens.n_prompts == lens.provenance.n_texts == 1


def test_strings_and_their_ids_give_the_same_lens(model):
    text = " ".join(f"t{3 + i}" for i in range(20))
    ids = model.tokenizer(text)["input_ids"]
    by_text, by_ids = (JacobianLens.fit(model, [given], **QUIET) for given in (text, ids))
    assert torch.equal(by_text.matrices[0], by_ids.matrices[0])
    assert by_text.provenance.texts == by_ids.provenance.texts


def test_a_readout_goes_through_the_lens_on_every_layer_that_it_carries(model, numbers):
    lens = JacobianLens.load(PUBLISHED / "jacobian.pt", model)
    readout = read(model.run(numbers["text_0"]), lens=lens, k=3)
    assert readout.lens == "jacobian"
    assert set(readout.layers.tolist()) == {0, 1, 2}
    for layer in (0, 1, 2):
        here = readout.layers == layer
        expected = numbers["jacobian_logits"][layer].double().log_softmax(-1).topk(3)
        assert (readout.ids[here] == expected.indices.numpy()).all()
        found = torch.from_numpy(readout.log_probs[here]).double()
        torch.testing.assert_close(found, expected.values, atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [{"max_tokens": -5}, {"rows": 0}, {"skip_first": -1}])
def test_numbers_that_fit_nothing_are_refused(model, numbers, settings):
    with pytest.raises(LensError, match=r"with \w+=-?\d\. Give an integer, [01] or more"):
        JacobianLens.fit(model, [numbers["text_0"]], **{"skip_first": 4, "progress": False, **settings})


def test_a_readout_of_a_layer_that_the_lens_does_not_carry_is_refused(model, numbers):
    lens = JacobianLens.load(PUBLISHED / "jacobian.pt", model)
    with pytest.raises(
        CellError, match="layer -1 through the lens 'jacobian', which carries 3 layers from 0"
    ):
        read(model.run(numbers["text_0"]), Cells.grid([-1, 0], [3]), lens=lens)
