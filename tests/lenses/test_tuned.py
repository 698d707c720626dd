"""The tuned lens: the published format, other models refused, kept exactly. See published/make.py."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM

from lenswidget.errors import FidelityError, LensError, LensFileError, LensMismatchError, PromptError
from lenswidget.language_model import LanguageModel
from lenswidget.lenses.lens import as_lens, check_lens, covered_layers
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.provenance import Provenance
from lenswidget.lenses.tuned import TunedLens, published_hashes
from lenswidget.readout.reading import read

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


def test_a_lens_of_another_unembed_is_not_read_through(model):
    lens = TunedLens.load(PUBLISHED / "tuned")
    run = model.run([1, 2, 3])
    read(run, lens=lens)
    calls = []
    counting = replace(lens)
    object.__setattr__(counting, "check", lambda model: calls.append(model))
    read(run, lens=counting)
    read(run, lens=counting)
    assert len(calls) == 1
    with pytest.raises(LensMismatchError, match="another unembed"):
        read(other_unembed(model).run([1, 2, 3]), lens=lens)


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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("1.weight", torch.eye(5), r"\[5, 5\] as 1.weight"),
        ("0.bias", torch.zeros(3), r"\[3\] as 0.bias"),
        ("1.weight", [1, 2], "list as 1.weight"),
    ],
)
def test_a_params_file_that_is_no_stack_of_matrices_names_what_is_wrong(folder, name, value, said):
    state = torch.load(folder / "params.pt", weights_only=True)
    torch.save({**state, name: value}, folder / "params.pt")
    with pytest.raises(LensFileError, match=f"params.pt holds {said}, but its config.json says d_model = "):
        TunedLens.load(folder)


def test_a_folder_or_file_that_holds_no_lens_says_what_it_lacks(folder, tmp_path):
    with pytest.raises(LensFileError, match="found nothing there"):
        load_lens(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LensFileError, match=r"without config\.json and params\.pt"):
        load_lens(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("no lens")
    with pytest.raises(LensFileError, match=r"is no lens: expected a \.safetensors file"):
        load_lens(tmp_path / "notes.txt")
    with pytest.raises(LensFileError, match=r"ends in \.safetensors"):
        load_lens(PUBLISHED / "tuned").save(tmp_path / "lens.bin")
    with pytest.raises(LensFileError, match="is no lens"):
        load_lens(PUBLISHED / "model" / "model.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"lens": "odd"})
    with pytest.raises(LensFileError, match="of kind 'odd'; this version reads tuned, jacobian"):
        load_lens(tmp_path / "odd.safetensors")
    with pytest.raises(LensFileError, match="of kind 'odd', not 'tuned'"):
        TunedLens.load(tmp_path / "odd.safetensors")
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


def test_an_unembed_narrower_than_the_stream_still_tells_models_apart():
    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=16, word_embed_proj_dim=8, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=40, max_position_embeddings=32, do_layer_norm_before=False,
    )  # fmt: skip
    first, second = (LanguageModel(OPTForCausalLM(config).eval(), None) for _ in range(2))
    lens = TunedLens.fit(first, random_texts(3, 12, 1), n_steps=1, cells_per_step=8, progress=False)
    lens.check(first)
    assert published_hashes(first) != published_hashes(second)
    with pytest.raises(LensMismatchError, match="digests differ"):
        lens.check(second)


def test_it_says_in_a_line_what_it_is(fitted):
    assert repr(load_lens(PUBLISHED / "tuned")) == "TunedLens(3 layers, d_model=24, of an unnamed model)"
    assert repr(fitted).endswith(", 60 texts)")


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


# --- fitting ------------------------------------------------------------------------------------


def kl_from_last(model, lens, ids):
    """Mean KL(last || lens), nats, for each layer below the last, in float64."""
    with torch.no_grad(), model.trace(ids[None]):
        streams = [model.layers.embed, *(layer.resid_post for layer in model.layers)]
    with torch.no_grad():
        last = model.tail(streams[-1][0]).double().log_softmax(-1)
        carried = [lens.transport(layer - 1, stream[0]) for layer, stream in enumerate(streams[:-1])]
        found = [model.tail(states).double().log_softmax(-1) for states in carried]
    return torch.stack([(last.exp() * (last - one)).sum(-1).mean() for one in found])


def random_texts(n, length, seed):
    return list(torch.randint(3, 40, (n, length), generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def fitted(model):
    return TunedLens.fit(model, random_texts(60, 24, 5), n_steps=30, cells_per_step=48, progress=False)


def test_a_fit_reads_texts_it_has_not_seen_better_than_the_logit_lens_on_every_layer(model, fitted):
    unseen = torch.cat(random_texts(4, 15, 6))
    logit = kl_from_last(model, as_lens(None), unseen)
    tuned = kl_from_last(model, fitted, unseen)
    assert (tuned < 0.5 * logit).all(), (tuned, logit)


def test_the_steps_go_down_on_every_layer_from_where_least_squares_ends(model, fitted):
    unseen = torch.cat(random_texts(4, 15, 6))
    start = TunedLens.fit(model, random_texts(60, 24, 5), n_steps=0, progress=False)
    before, after = kl_from_last(model, start, unseen), kl_from_last(model, fitted, unseen)
    assert (after < before).all(), (after, before)


def test_least_squares_is_the_weighted_ridge_regression_written_out(model):
    texts = random_texts(7, 11, 8)
    lens = TunedLens.fit(model, texts, n_steps=0, progress=False)
    kept = []
    for ids in texts:
        with torch.no_grad(), model.trace(ids[None]):
            kept.append([model.layers[0].resid_post[0].double(), model.layers[2].resid_post[0].double()])
    x, y = (torch.cat(part) for part in zip(*kept, strict=True))
    weights = 1 / y.square().mean(-1)
    weights /= weights.sum()
    mean_x, mean_r = weights @ x, weights @ (y - x)
    spread = (x - mean_x) * weights.sqrt()[:, None]
    ridge = 1e-3 * (1 + 10 * 24 / 77) * spread.square().sum() / 24
    # ridge regression as plain least squares with one more row per weight
    rows = torch.cat([spread, ridge.sqrt() * torch.eye(24)])
    aims = torch.cat([(y - x - mean_r) * weights.sqrt()[:, None], torch.zeros(24, 24)])
    matrix = torch.linalg.lstsq(rows, aims).solution.T
    torch.testing.assert_close(lens.weight[1].double(), matrix, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(lens.bias[1].double(), mean_r - matrix @ mean_x, atol=1e-4, rtol=1e-3)


def test_a_fit_is_the_same_for_the_same_seed_and_leaves_the_model_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.hf_model.state_dict().items()}
    told = []
    first, second = (
        TunedLens.fit(
            model,
            random_texts(5, 12, 1),
            n_steps=3,
            cells_per_step=8,
            progress=lambda *step: told.append(step),
        )
        for _ in range(2)
    )
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert told[:9] == [(done, 8) for done in range(9)]
    assert all(torch.equal(model.hf_model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.hf_model.parameters()
    )


def test_a_fitted_lens_knows_where_it_comes_from_and_is_refused_elsewhere(model, fitted, tmp_path):
    assert fitted.provenance.n_texts == 60
    assert fitted.provenance.settings["n_steps"] == 30
    fitted.save(tmp_path / "lens.safetensors")
    assert load_lens(tmp_path / "lens.safetensors", model).provenance == fitted.provenance
    with pytest.raises(LensMismatchError, match="digests differ"):
        load_lens(tmp_path / "lens.safetensors", other_unembed(model))
    fitted.publish(tmp_path / "published")
    assert torch.equal(TunedLens.load(tmp_path / "published", model).weight, fitted.weight)


def test_a_bfloat16_model_is_fitted_in_float32():
    model = load_model(torch.bfloat16)
    lens = TunedLens.fit(model, random_texts(8, 12, 1), n_steps=2, cells_per_step=8, progress=False)
    assert lens.weight.dtype == torch.float32
    assert lens.weight.isfinite().all()
    assert kl_from_last(model, lens, torch.cat(random_texts(2, 12, 9)))[0].isfinite()


def test_a_tail_without_gradients_is_fitted_by_the_remedy_that_its_error_names(model, monkeypatch):
    tail = model.tail

    def closed(states):
        with torch.no_grad():
            return tail(states)

    monkeypatch.setattr(LanguageModel, "tail", property(lambda self: closed))
    with pytest.raises(FidelityError, match="pass n_steps=0"):
        TunedLens.fit(model, random_texts(3, 12, 1), n_steps=1, progress=False)
    assert TunedLens.fit(model, random_texts(3, 12, 1), n_steps=0, progress=False).n_layers == 3


def test_texts_without_tokens_are_refused(model):
    with pytest.raises(PromptError, match="fewer than two tokens"):
        TunedLens.fit(model, [torch.tensor([5])], progress=False)
    with pytest.raises(PromptError, match="pass a list of texts"):
        TunedLens.fit(model, [], progress=False)


@pytest.mark.parametrize(
    "settings", [{"max_tokens": 0}, {"max_tokens": -5}, {"n_steps": -1}, {"cells_per_step": 0}]
)
def test_numbers_that_fit_nothing_are_refused(model, settings):
    with pytest.raises(LensError, match=r"with \w+=-?\d\. Give an integer, [01] or more"):
        TunedLens.fit(model, random_texts(3, 12, 1), progress=False, **settings)
