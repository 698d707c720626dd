"""Lenses by name: out of a folder of several, and out of the hub's cache."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from tiny import gpt2, language_model, llama

import lenswidget as lw
from lenswidget.errors import LensFileError, LensMismatchError
from lenswidget.lenses.repository import choose

PUBLISHED = Path(__file__).parent / "published"


def lens(model, scale):
    d_model, n_layers = model.anatomy.d_model, model.anatomy.n_layers
    matrices = {layer: scale * torch.eye(d_model) for layer in range(n_layers - 1)}
    return lw.JacobianLens(matrices, 3, n_layers)


@pytest.fixture
def named():
    """A model that bears a name, as one loaded by it does."""
    model = language_model(gpt2)
    model.hf_model.name_or_path = model.hf_model.config.name_or_path = "owner/Tiny-GPT2"
    return model


def fill(folder, model):
    lens(model, 2.0).save(folder / "tiny-gpt2" / "lens.pt")
    lens(model, 3.0).save(folder / "tiny-gpt2-large" / "lens.pt")
    lens(language_model(llama, n_layer=3), 4.0).save(folder / "tiny-llama.safetensors")
    shutil.copytree(PUBLISHED / "tuned", folder / "tuned" / "other-model")


def scale_of(found):
    return float(found.matrices[0][0, 0])


def test_a_folder_of_several_gives_the_one_that_bears_the_models_name(tmp_path, named):
    fill(tmp_path, named)
    found = lw.load_lens(tmp_path, named)
    assert scale_of(found) == 2.0
    assert scale_of(lw.load_lens(tmp_path, named, filename="tiny-gpt2-large/lens.pt")) == 3.0
    assert isinstance(lw.load_lens(tmp_path / "tuned" / "other-model"), lw.TunedLens)


def test_a_folder_whose_lenses_are_of_others_is_refused_and_names_them(tmp_path):
    other = language_model(gpt2)
    fill(tmp_path, other)
    with pytest.raises(LensFileError, match=r"no lens of .*tiny-gpt2/lens\.pt.*filename="):
        lw.load_lens(tmp_path, other)
    with pytest.raises(LensFileError, match="found nothing there"):
        lw.load_lens(tmp_path, other, filename="nothing.pt")


def cached(cache, model, *, repo="owner/lenses"):
    """A repository as the hub's cache lays it out: blobs, and links to them from a snapshot."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / ("a" * 40)
    files = cache / "files"
    fill(files, model)
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    for i, file in enumerate(path for path in sorted(files.rglob("*")) if path.is_file()):
        blob = root / "blobs" / f"{i:040x}"
        file.rename(blob)
        link = snapshot / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache at an empty folder, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_repository_in_the_hubs_cache_gives_the_models_lens_without_a_network(hub, named):
    cached(hub, named)
    assert scale_of(lw.load_lens("owner/lenses", named)) == 2.0
    assert scale_of(lw.load_lens("owner/lenses", named, filename="tiny-gpt2-large/lens.pt")) == 3.0
    assert isinstance(lw.load_lens("owner/lenses", filename="tuned/other-model/params.pt"), lw.TunedLens)
    with pytest.raises(LensMismatchError):
        lw.load_lens("owner/lenses", named, filename="tiny-llama.safetensors")


def test_of_what_the_hub_lists_the_models_lens_is_taken(hub, named, monkeypatch):
    """The list is all that is not the hub's own code here: it would come over the network."""
    cached(hub, named)
    listed = ["README.md", "tiny-gpt2/lens.pt", "tiny-gpt2-large/lens.pt", "tiny-llama.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: listed)
    assert scale_of(lw.load_lens("owner/lenses", named)) == 2.0


def test_a_repository_that_is_nowhere_is_refused_in_a_sentence(hub, named):
    with pytest.raises(LensFileError, match="there is no such path here, and the hub cannot give it"):
        lw.load_lens("owner/nothing", named)


def test_a_path_that_is_there_is_not_looked_for_on_the_hub(hub, named):
    lens(named, 5.0).save(Path("owner/lenses") / "lens.safetensors")
    assert scale_of(lw.load_lens("owner/lenses", named)) == 5.0


@pytest.mark.parametrize(
    ("files", "model", "expected"),
    [
        (["gpt2/lens.pt", "gpt2-xl/lens.pt"], "openai-community/gpt2", "gpt2/lens.pt"),
        (["Qwen3_0.6B.safetensors", "Qwen3-8B.safetensors"], "Qwen/Qwen3-0.6B", "Qwen3_0.6B.safetensors"),
        (["a/gpt2/lens.pt", "b/gpt2/lens.pt"], "a/gpt2", None),
        (["lens/a/gpt2.pt", "README.md"], "b/other", "lens/a/gpt2.pt"),
        (["README.md"], "a/gpt2", None),
        ([], "", None),
    ],
)
def test_which_of_a_repositorys_files_is_meant(files, model, expected):
    if expected is None:
        with pytest.raises(LensFileError, match="holds"):
            choose(files, model, "owner/lenses")
    else:
        assert choose(files, model, "owner/lenses") == expected
