"""Fits: what they record, how they merge, and what they refuse. See published/make.py for the model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from lenswidget.errors import (
    LensError,
    LensMismatchError,
    LensMismatchWarning,
    PromptError,
    UnknownLensError,
)
from lenswidget.language_model import LanguageModel
from lenswidget.lenses import jacobian_fit
from lenswidget.lenses.fit_texts import encode
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import check_lens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.provenance import UNKNOWN
from lenswidget.lenses.tuned import TunedLens

PUBLISHED = Path(__file__).parent / "published"
TEXT = " ".join(f"t{30 + i}" for i in range(20))


def load_model(adds_bos=False):
    tokenizer = AutoTokenizer.from_pretrained(PUBLISHED / "model")
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="t1 $A", special_tokens=[("t1", tokenizer.bos_token_id)]
        )
    return LanguageModel(AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval(), tokenizer)


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def texts():
    numbers = load_file(PUBLISHED / "numbers.safetensors")
    return [numbers["text_0"], numbers["text_1"], numbers["text_0"].flip(0)]


def fit(model, texts, **options):
    return JacobianLens.fit(model, texts, **{"skip_first": 4, "progress": False, **options})


@pytest.fixture(scope="module")
def parts(model, texts):
    return fit(model, texts[:2]), fit(model, texts[2:])


def saved_again(lens, path):
    lens.save(path)
    return load_lens(path)


# --- merging ------------------------------------------------------------------------------------


def test_a_merge_is_the_lens_of_one_fit_on_all_the_texts(model, texts, parts, tmp_path):
    whole, merged = fit(model, texts), JacobianLens.merge(parts)
    assert (merged.n_prompts, merged.n_layers, merged.name) == (3, 3, "jacobian")
    for layer in (0, 1):
        one, other = (part.matrices[layer].double() for part in parts)
        assert torch.equal(merged.matrices[layer], ((2 * one + other) / 3).float())
        torch.testing.assert_close(merged.matrices[layer], whole.matrices[layer], atol=1e-6, rtol=1e-6)
    assert merged.provenance.n_texts == 3
    assert merged.provenance.n_tokens == whole.provenance.n_tokens == sum(map(len, texts))
    assert merged.provenance.text_digests == whole.provenance.text_digests
    assert merged.provenance.settings == whole.provenance.settings
    for name in ("merged.pt", "merged.safetensors"):
        again = saved_again(merged, tmp_path / name)
        assert again.provenance == merged.provenance
        assert again.n_prompts == 3
    merged.check(model)


def test_a_merge_of_merges_does_not_depend_on_the_order(model, texts):
    one, two, three = (fit(model, [text]) for text in texts)
    left = JacobianLens.merge([JacobianLens.merge([one, two]), three])
    right = JacobianLens.merge(iter([three, JacobianLens.merge([two, one])]))
    assert left.provenance.texts == right.provenance.texts != ""
    torch.testing.assert_close(left.matrices[0], right.matrices[0], atol=1e-6, rtol=1e-6)
    alone = JacobianLens.merge([one])
    assert torch.equal(alone.matrices[0], one.matrices[0])
    assert alone.provenance == one.provenance


def test_texts_that_two_lenses_share_are_refused_in_whatever_order_they_come(model, texts, parts, tmp_path):
    merged = JacobianLens.merge(parts)
    for lenses in (
        [parts[0], parts[0]],
        [merged, parts[1]],
        [fit(model, texts[1:]), parts[1]],
        [saved_again(parts[0], tmp_path / "a.pt"), parts[0]],
    ):
        with pytest.raises(LensMismatchError, match=r"share . texts?, which would count twice"):
            JacobianLens.merge(lenses)
    foreign = JacobianLens.load(PUBLISHED / "jacobian.pt")  # which says nothing of its texts
    with pytest.raises(LensMismatchError, match="share 2 texts"):
        JacobianLens.merge([foreign, JacobianLens.load(PUBLISHED / "jacobian.pt")])


def test_lenses_that_were_not_fitted_alike_are_refused_with_what_differs(model, texts, parts):
    one, other = parts
    renamed = replace(other.provenance, model="another")
    retrained = replace(other.provenance, unembed="00" * 32)
    with_bos = replace(other.provenance, settings={**other.provenance.settings, "add_bos": True})
    for lens, words in (
        (fit(model, texts[2:], skip_first=5), "skip_first: 4 and 5"),
        (fit(model, texts[2:], max_tokens=20), "max_tokens: 128 and 20"),
        (fit(model, texts[2:], layers=[1]), r"layers that have matrices: \[0, 1\] and \[1\]"),
        (replace(other, provenance=renamed), "the model: .* and 'another'"),
        (replace(other, provenance=retrained), "unembed's digest"),
        (replace(other, provenance=with_bos), "add_bos: False and True"),
        (replace(other, n_layers=4), "number of layers: 3 and 4"),
        (JacobianLens({0: torch.eye(8), 1: torch.eye(8)}, 1), "d_model: 24 and 8"),
    ):
        with pytest.raises(LensMismatchError, match=rf"differ in .*{words}.*fitted alike"):
            JacobianLens.merge([one, lens])
    rows = fit(model, texts[2:], rows=5)  # changes no number of the result
    assert JacobianLens.merge([one, rows]).n_prompts == 3


def test_what_cannot_be_merged_says_why(parts):
    with pytest.raises(LensError, match="merge no lenses"):
        JacobianLens.merge([])
    with pytest.raises(LensError, match="does not say how many texts"):
        JacobianLens.merge([parts[0], replace(parts[1], n_prompts=0)])
    with pytest.raises(UnknownLensError, match="pass a list of Jacobian lenses"):
        JacobianLens.merge([parts[0], TunedLens.load(PUBLISHED / "tuned")])


def merged_by_transformerlens(files, path):
    """What TransformerLens 4.3.0 does to merge artifacts, in the same order: compare, weigh, write."""
    found = [torch.load(file, weights_only=True) for file in files]
    told = [{key: value for key, value in one["metadata"].items() if key != "n_prompts"} for one in found]
    assert all(one == told[0] for one in told), "all lenses being merged must share the same provenance"
    assert all(one["source_layers"] == found[0]["source_layers"] for one in found)
    total = sum(one["n_prompts"] for one in found)
    sums = {
        layer: sum(one["J"][layer].float() * one["n_prompts"] for one in found) / total
        for layer in found[0]["J"]
    }
    payload = {key: found[0][key] for key in ("source_layers", "d_model")}
    metadata = {**found[0]["metadata"], "n_prompts": total}
    torch.save({**payload, "J": sums, "n_prompts": total, "metadata": metadata}, path)


def test_files_of_ours_are_merged_by_transformerlens_and_the_merge_counts_all_texts(
    model, parts, texts, tmp_path
):
    files = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for part, file in zip(parts, files, strict=True):
        part.save(file)
    merged_by_transformerlens(files, tmp_path / "merged.pt")
    lens = load_lens(tmp_path / "merged.pt", model)
    assert lens.n_prompts == lens.provenance.n_texts == 3
    assert repr(lens).endswith("3 texts)")
    assert lens.provenance.texts == ""  # of the first file they would say less than they seem to
    assert lens.provenance.unembed == parts[0].provenance.unembed
    expected = JacobianLens.merge(parts)
    torch.testing.assert_close(lens.matrices[0], expected.matrices[0], atol=1e-6, rtol=1e-6)


def test_checkpoints_of_ours_have_equal_metadata_too(model, texts, tmp_path):
    files = [tmp_path / "0.pt", tmp_path / "1.pt"]
    for text, file in zip(texts, files, strict=False):
        fit(model, [text], checkpoint=file)
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first["metadata"] == second["metadata"]
    assert first["metadata"]["target_layer"] == 2
    assert JacobianLens.merge(map(load_lens, files)).n_prompts == 2


def test_a_file_of_the_first_version_loads_with_all_that_it_says(model, texts, parts, tmp_path):
    from dataclasses import asdict

    lens = parts[0]
    old = {key: value for key, value in asdict(lens.provenance).items() if key != "text_digests"}
    old["settings"] = {
        key: value for key, value in old["settings"].items() if key not in ("add_bos", "target_layer")
    }
    metadata = {"lenswidget": json.dumps(old), "target_layer": 2}
    payload = {"J": lens.matrices, "n_prompts": 2, "source_layers": [0, 1], "d_model": 24}
    torch.save({**payload, "metadata": metadata}, tmp_path / "old.pt")
    found = load_lens(tmp_path / "old.pt", model)
    assert (found.provenance.texts, found.provenance.n_tokens) == (lens.provenance.texts, 47)
    sums = {layer: matrix * 2 for layer, matrix in lens.matrices.items()}
    checkpoint = {"jacobian_sum": sums, "n_done": 2, "next_idx": 2, "source_layers": [0, 1]}
    torch.save({**checkpoint, "target_layer": 2, "metadata": metadata}, tmp_path / "fit.pt")
    resumed = fit(model, texts, checkpoint=tmp_path / "fit.pt")
    assert resumed.n_prompts == 3
    torch.testing.assert_close(resumed.matrices[0], JacobianLens.merge(parts).matrices[0])


# --- the BOS token ------------------------------------------------------------------------------


@pytest.mark.parametrize("adds", [False, True])
def test_add_bos_puts_one_in_front_of_strings_or_none(adds):
    model = load_model(adds_bos=adds)
    bos, plain = model.tokenizer.bos_token_id, list(range(30, 50))
    with_bos, without, as_is = (
        encode(model, [TEXT], 128, add_bos)[0].tolist() for add_bos in (True, False, None)
    )
    assert with_bos == [bos, *plain]
    assert without == plain
    assert as_is == (with_bos if adds else without)
    assert [len(encode(model, [TEXT], 8, add_bos)[0]) for add_bos in (True, False, None)] == [8, 8, 8]
    assert encode(model, [TEXT], 8, False)[0].tolist() == plain[:8]


@pytest.mark.parametrize("kind", [JacobianLens, TunedLens])
def test_a_fit_records_whether_its_texts_begin_with_a_bos(kind, texts):
    model = load_model()
    options = {"n_steps": 0} if kind is TunedLens else {"skip_first": 4}
    found = [
        kind.fit(model, given, add_bos=add_bos, progress=False, **options).provenance.settings["add_bos"]
        for given, add_bos in (
            ([TEXT], True),
            ([TEXT], False),
            ([TEXT], None),
            ([TEXT, [1, *texts[0]]], None),
        )
    ]
    assert found == [True, False, False, None]
    nameless = LanguageModel(model.hf_model, None)
    assert kind.fit(nameless, texts[:1], progress=False, **options).provenance.settings["add_bos"] is None


def test_a_bos_in_front_changes_the_matrices(model):
    with_bos, without = (fit(model, [TEXT], add_bos=add_bos) for add_bos in (True, False))
    assert float((with_bos.matrices[0] - without.matrices[0]).norm()) > 1e-3
    by_ids = fit(model, [[model.tokenizer.bos_token_id, *range(30, 50)]])
    assert torch.equal(by_ids.matrices[0], with_bos.matrices[0])


def test_add_bos_that_cannot_be_had_is_refused(model, texts):
    with pytest.raises(PromptError, match="text 1, given as token ids, begins without the BOS token"):
        fit(model, [TEXT, texts[0]], add_bos=True)
    with pytest.raises(PromptError, match="begins with the BOS token"):
        fit(model, [[1, *range(30, 50)]], add_bos=False)
    with pytest.raises(PromptError, match="tokenizer has no BOS token"):
        fit(LanguageModel(model.hf_model, None), texts, add_bos=True)


def test_a_tokenizer_that_starts_texts_otherwise_is_named_when_a_lens_is_read(parts):
    other = load_model(adds_bos=True)
    with pytest.warns(LensMismatchWarning, match=r"without a BOS token in front.*add_bos=True"):
        check_lens(parts[0], other)


# --- other models and targets -------------------------------------------------------------------


def test_a_lens_of_a_model_of_the_same_unembed_is_read_with_a_word(model, parts, tmp_path):
    tuned_further = load_model()
    with torch.no_grad():
        tuned_further.hf_model.model.layers[0].mlp.down_proj.weight.mul_(2)
    tuned_further.hf_model.config.name_or_path = "somewhere/model-instruct"
    with pytest.warns(LensMismatchWarning, match="not the same model, though their unembeds are the same"):
        check_lens(parts[0], tuned_further)
    moved = load_model()
    moved.hf_model.config.name_or_path = "/another/folder/Model"
    check_lens(parts[0], moved)  # warnings are errors here


def published(path, **metadata):
    payload = torch.load(PUBLISHED / "jacobian.pt", weights_only=True)
    payload["metadata"].update(metadata)
    torch.save(payload, path)
    return path


def test_a_lens_to_another_target_layer_is_refused(model, texts, tmp_path):
    payload = torch.load(PUBLISHED / "jacobian.pt", weights_only=True)
    del payload["J"][1]
    payload["source_layers"] = [0]
    payload["metadata"]["target_layer"] = 1
    torch.save(payload, tmp_path / "middle.pt")
    for target in (1, -2):
        payload["metadata"]["target_layer"] = target
        torch.save(payload, tmp_path / "middle.pt")
        lens = load_lens(tmp_path / "middle.pt")
        for refused in (
            lambda: load_lens(tmp_path / "middle.pt", model),
            lambda lens=lens: lens.check(model),
        ):
            with pytest.raises(LensMismatchError, match=r"carries states to layer 1, but the last .* is 2"):
                refused()
    assert load_lens(published(tmp_path / "last.pt", target_layer=-1), model).n_layers == 3
    assert fit(model, texts[:1]).provenance.settings["target_layer"] == 2
    with pytest.raises(LensError, match="its target is layer 1"):
        load_lens(published(tmp_path / "crossed.pt", target_layer=1))


def test_a_lens_made_by_hand_fits_whatever_it_fits(model):
    JacobianLens({0: torch.eye(24)}, 1, 3, UNKNOWN).check(model)


# --- modes and checkpoints ----------------------------------------------------------------------


def test_fits_under_inference_mode_give_the_same_lens(model, texts):
    tuned = {"n_steps": 2, "cells_per_step": 8, "progress": False}
    outside = fit(model, texts[:2]), TunedLens.fit(model, texts, **tuned)
    with torch.inference_mode():
        given = [text.clone() for text in texts]
        inside = fit(model, given[:2]), TunedLens.fit(model, given, **tuned)
    assert all(torch.equal(inside[0].matrices[layer], outside[0].matrices[layer]) for layer in (0, 1))
    assert torch.equal(inside[1].weight, outside[1].weight)
    assert not inside[1].weight.is_inference()
    assert not inside[1].weight.requires_grad


@pytest.mark.parametrize("kind", [JacobianLens, TunedLens])
def test_a_model_made_under_inference_mode_is_refused_in_a_sentence(kind, model, texts):
    with torch.inference_mode():
        made = LanguageModel(type(model.hf_model)(model.hf_model.config).eval(), None)
    with pytest.raises(LensError, match=r"made under torch\.inference_mode.*Load the model outside"):
        kind.fit(made, texts, progress=False)


def test_a_tuned_fit_of_a_model_in_train_mode_measures_in_eval_and_puts_the_mode_back(model, texts):
    options = {"n_steps": 2, "cells_per_step": 8, "progress": False}
    expected = TunedLens.fit(model, texts, **options)
    model.hf_model.train()
    model.hf_model.model.norm.eval()
    modes = {name: module.training for name, module in model.hf_model.named_modules()}
    assert torch.equal(TunedLens.fit(model, texts, **options).weight, expected.weight)
    assert {name: module.training for name, module in model.hf_model.named_modules()} == modes
    model.hf_model.eval()


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("text_s", "kept"), [(61.0, [1, 2]), (31.0, [None, 2]), (1.0, [None, None])])
def test_a_checkpoint_is_written_after_each_minute_of_a_fit(
    model, texts, tmp_path, monkeypatch, text_s, kept
):
    clock, file, found = Clock(), tmp_path / "fit.pt", []
    monkeypatch.setattr(jacobian_fit.time, "monotonic", clock)

    def progress(done, total):
        if done in (1, 2):
            found.append(load_lens(file).n_prompts if file.exists() else None)
        clock.now += text_s

    monkeypatch.setattr(jacobian_fit, "MAX_ROWS", 24)  # one pass for each text
    lens = fit(model, texts, checkpoint=file, progress=progress)
    assert found == kept
    assert lens.n_prompts == load_lens(file).n_prompts == 3


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(model, texts, tmp_path, monkeypatch):
    file = tmp_path / "fit.pt"
    fit(model, texts[:1], checkpoint=file)
    kept = file.read_bytes()
    monkeypatch.setattr(torch, "save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(LensError, match=r"Could not write .*no space"):
        fit(model, texts, checkpoint=file)
    assert file.read_bytes() == kept
