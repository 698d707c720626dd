"""The tuned lens: the published format, other models refused, kept exactly. See published/make.py."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lenswidget.errors import LensFileError, LensMismatchError
from lenswidget.fitted import Provenance
from lenswidget.lenses import as_lens, check_lens, covered_layers, load_lens
from lenswidget.model import LanguageModel
from lenswidget.tuned import TunedLens, published_hashes

PUBLISHED = Path(__file__).parent / "published"


def load_model(dtype=torch.float32):
    hf_model = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model", dtype=dtype).eval()
    return LanguageModel(hf_model, AutoTokenizer.from_pretrained(PUBLISHED / "model"))


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def numbers():
    return load_file(PUBLISHED / "numbers.safetensors")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(PUBLISHED / "tuned", tmp_path / "tuned"))


def other_unembed(model):
    """The same model with its unembed turned upside down."""
    other = AutoModelForCausalLM.from_pretrained(PUBLISHED / "model").eval()
    with torch.no_grad():
        other.lm_head.weight.copy_(other.lm_head.weight.flip(0))
    return LanguageModel(other, model.tokenizer)


def test_a_published_lens_gives_the_packages_own_logits_on_every_layer(model, numbers):
    lens = TunedLens.load(PUBLISHED / "tuned", model)
    hidden = model.hf_model(numbers["text_0"][None], output_hidden_states=True).hidden_states
    assert lens.n_layers == len(numbers["tuned_logits"]) == 3
    for index, theirs in enumerate(numbers["tuned_logits"]):
        # what enters block i is what leaves block i - 1
        with torch.no_grad():
            ours = model.tail(lens.transport(index - 1, hidden[index][0]))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)  # float32 rounding at logits of 50


def test_the_last_layer_is_read_as_it_is(model):
    lens = TunedLens.load(PUBLISHED / "tuned", model)
    states = torch.randn(4, 24)
    assert torch.equal(lens.transport(2, states), states)
    assert lens.transport(2, states.bfloat16()).dtype == torch.float32


def test_the_unembeds_hash_is_the_packages_own_in_every_dtype(model):
    theirs = json.loads((PUBLISHED / "tuned/config.json").read_text())["unembed_hash"]
    assert published_hashes(model)[0] == theirs
    # a lens fitted to the model in bfloat16 is known to be this model's in float32
    assert published_hashes(load_model(torch.bfloat16))[0] in published_hashes(model)


def test_a_lens_of_another_unembed_is_refused(model):
    with pytest.raises(LensMismatchError, match="another unembed"):
        TunedLens.load(PUBLISHED / "tuned", other_unembed(model))
    lens = TunedLens.load(PUBLISHED / "tuned")
    check_lens(lens, model)
    with pytest.raises(LensMismatchError, match="another unembed"):
        check_lens(lens, other_unembed(model))


@pytest.mark.parametrize(
    ("key", "value", "what"), [("num_hidden_layers", 2, "layers"), ("d_model", 12, "d_model")]
)
def test_a_lens_of_another_shape_is_refused_with_both_numbers(model, key, value, what):
    lens = TunedLens.load(PUBLISHED / "tuned")
    small = {"num_hidden_layers": lens.weight[:value], "d_model": lens.weight[:, :value, :value]}[key]
    bias = {"num_hidden_layers": lens.bias[:value], "d_model": lens.bias[:, :value]}[key]
    with pytest.raises(LensMismatchError, match=f"{what} = {value}, but .* has {what} = "):
        TunedLens(small, bias).check(model)


def test_states_of_another_width_or_a_layer_beyond_the_model_are_refused():
    lens = TunedLens.load(PUBLISHED / "tuned")
    with pytest.raises(LensMismatchError, match=r"\[cells, 24\] but was given \[5, 12\]"):
        lens.transport(0, torch.zeros(5, 12))
    with pytest.raises(LensMismatchError, match="nothing for layer 3; it carries 4 layers from -1 to 2"):
        lens.transport(3, torch.zeros(5, 24))


def test_saved_and_loaded_in_one_line_it_is_the_same_lens(model, tmp_path):
    lens = TunedLens.load(PUBLISHED / "tuned", model)
    lens.save(tmp_path / "lens.safetensors")
    again = load_lens(tmp_path / "lens.safetensors", model)
    assert isinstance(again, TunedLens)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    assert again.provenance == lens.provenance
    assert again.published_hash == lens.published_hash


def test_what_it_publishes_is_what_was_published(tmp_path):
    lens = load_lens(PUBLISHED / "tuned")
    lens.publish(tmp_path / "mine")
    theirs = torch.load(PUBLISHED / "tuned/params.pt", weights_only=True)
    ours = torch.load(tmp_path / "mine/params.pt", weights_only=True)
    assert list(theirs) == list(ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    # as large as its numbers: a view would have taken the whole stack along
    assert (tmp_path / "mine/params.pt").stat().st_size < 2 * (PUBLISHED / "tuned/params.pt").stat().st_size
    configs = [
        json.loads((path / "config.json").read_text()) for path in (PUBLISHED / "tuned", tmp_path / "mine")
    ]
    assert configs[0] == configs[1]


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("it-ran"),))


def test_a_params_file_that_would_run_code_is_refused_and_runs_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for write in (torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))):
        write(Bomb(), folder / "params.pt")
        with pytest.raises(LensFileError, match="was not loaded"):
            TunedLens.load(folder)
    assert not (folder / "it-ran").exists()


def test_a_folder_or_file_that_holds_no_lens_says_what_it_lacks(folder, tmp_path):
    with pytest.raises(LensFileError, match="found nothing there"):
        load_lens(tmp_path / "nowhere")
    with pytest.raises(LensFileError, match=r"without config\.json and params\.pt"):
        load_lens(tmp_path)
    (tmp_path / "notes.txt").write_text("no lens")
    with pytest.raises(LensFileError, match=r"is no lens: expected a \.safetensors file"):
        load_lens(tmp_path / "notes.txt")
    with pytest.raises(LensFileError, match=r"ends in \.safetensors"):
        load_lens(PUBLISHED / "tuned").save(tmp_path / "lens.bin")
    (folder / "config.json").write_text('{"d_model": 24}')
    with pytest.raises(LensFileError, match="needs num_hidden_layers"):
        load_lens(folder)
    (folder / "config.json").write_text('{"d_model": 24, "num_hidden_layers": 4}')
    with pytest.raises(LensFileError, match="should hold weights for 4 layers"):
        load_lens(folder)
    (folder / "config.json").write_text('{"d_model": 12, "num_hidden_layers": 3}')
    with pytest.raises(LensFileError, match="d_model = 12"):
        load_lens(folder)


def test_a_lens_without_biases_adds_none(folder):
    state = torch.load(folder / "params.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if "weight" in key}, folder / "params.pt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "bias": False}))
    lens = TunedLens.load(folder)
    assert torch.equal(lens.transport(0, torch.zeros(2, 24)), torch.zeros(2, 24))


def test_it_is_a_lens_for_every_row():
    lens = load_lens(PUBLISHED / "tuned")
    assert as_lens(lens) is lens
    assert covered_layers(lens, 3) == {-1, 0, 1, 2}


def test_provenance_survives_a_file_of_a_later_version():
    kept = Provenance(model="m", n_texts=3, versions={"torch": "2"}, settings={"layers": [1, 2]})
    assert Provenance.from_json('{"model": "m", "n_texts": 3, "later": 1}') == Provenance(
        model="m", n_texts=3
    )
    assert kept != Provenance(model="m")
