"""Lens files: what is loaded is what was written, or it is refused in one sentence."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damages import KINDS, facts, lenses, outcomes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lenswidget.errors import LensFileError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.tuned import TunedLens

PUBLISHED = Path(__file__).parent / "published"


def rewritten(path, **changes):
    """The same tensors with other metadata; None takes a key out."""
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **changes}
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_gives_the_very_lens(kind):
    found = outcomes(kind, 40, seed=7)
    assert set(found) <= {"equal", "refused"}
    assert found["refused"] > 30


@pytest.mark.parametrize("index", [0, 1])
def test_one_flipped_bit_in_a_tensor_is_seen_and_a_file_without_a_digest_still_loads(tmp_path, index):
    lens = lenses()[index]
    path = tmp_path / "lens.safetensors"
    lens.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(LensFileError, match=r"not what was written: the digests differ\); save it again"):
        load_lens(path)
    path.write_bytes(whole)
    rewritten(path, digest=None)
    assert facts(load_lens(path)) == facts(lens)


def test_a_flipped_bit_in_a_published_artifact_is_seen_though_torch_reads_on(tmp_path):
    shutil.copy(PUBLISHED / "jacobian.pt", tmp_path / "lens.pt")
    data = bytearray((tmp_path / "lens.pt").read_bytes())
    matrix = torch.load(tmp_path / "lens.pt", weights_only=True)["J"][0]
    data[data.index(matrix.numpy().tobytes()) + 7] ^= 64
    (tmp_path / "lens.pt").write_bytes(data)
    assert not torch.equal(torch.load(tmp_path / "lens.pt", weights_only=True)["J"][0], matrix)
    with pytest.raises(LensFileError, match="was not loaded"):
        load_lens(tmp_path / "lens.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": "{"},
        {"provenance": "[]"},
        {"provenance": '{"n_texts": "three"}'},
        {"provenance": '{"settings": [1]}'},
        {"provenance": '{"text_digests": [1]}'},
        {"provenance": None},
        {"own": "null"},
        {"own": "{}"},
        {"own": '{"n_prompts": "many", "n_layers": 3}'},
        {"own": "[" * 100_000},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_damaged_metadata_is_one_sentence_with_and_without_a_digest(tmp_path, changes):
    path = tmp_path / "lens.safetensors"
    lenses()[0].save(path)
    for digest in ({}, {"digest": None}):
        rewritten(path, **changes, **digest)
        with pytest.raises(LensFileError, match=r"is no lens that can be read .*; save it again\.$"):
            load_lens(path)


def test_tensors_that_are_no_lens_are_refused(tmp_path):
    for index, name in ((0, "jacobian"), (1, "tuned")):
        path = tmp_path / f"{name}.safetensors"
        lenses()[index].save(path)
        with safe_open(path, "pt") as file:
            metadata = {key: value for key, value in file.metadata().items() if key != "digest"}
        for tensors in ({"zero": torch.eye(6)}, {"0": torch.zeros(6)}, {"weight": torch.zeros(2, 3, 3)}, {}):
            save_file(tensors, path, metadata)
            with pytest.raises(LensFileError, match="is no lens that can be read"):
                load_lens(path)


def test_a_published_folder_is_whole_and_says_which_file_is_not(tmp_path):
    lens = lenses()[1]
    lens.publish(tmp_path / "mine")
    files = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert files == ["SHA256SUMS", "config.json", "params.pt"]
    assert torch.equal(load_lens(tmp_path / "mine").weight, lens.weight)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "another"})
    )
    with pytest.raises(LensFileError, match=r"config\.json is not what was written.* remove SHA256SUMS"):
        load_lens(tmp_path / "mine")
    (tmp_path / "mine" / "SHA256SUMS").unlink()  # the remedy
    assert load_lens(tmp_path / "mine").provenance.model == "another"


def test_the_digests_are_in_the_format_of_sha256sum(tmp_path):
    if shutil.which("sha256sum") is None:
        pytest.fail("coreutils' sha256sum is not installed")
    lenses()[1].publish(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_two_saves_of_an_artifact_are_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        lenses()[0].save(tmp_path / folder / "lens.pt")
    assert (tmp_path / "a" / "lens.pt").read_bytes() == (tmp_path / "b" / "lens.pt").read_bytes()


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    jacobian, tuned = lenses()
    for save in (
        lambda: jacobian.save(tmp_path / "file" / "lens.pt"),
        lambda: tuned.save(tmp_path / "file" / "lens.safetensors"),
        lambda: tuned.publish(tmp_path / "file"),
    ):
        with pytest.raises(LensFileError, match=r"Could not write .*save elsewhere"):
            save()


# --- where a lens is found ----------------------------------------------------------------------


def test_a_folder_that_holds_a_lens_under_a_usual_name_loads(tmp_path):
    shutil.copy(PUBLISHED / "jacobian.pt", tmp_path / "lens.pt")
    expected = JacobianLens.load(PUBLISHED / "jacobian.pt")
    for found in (load_lens(tmp_path), JacobianLens.load(tmp_path)):
        assert torch.equal(found.matrices[0], expected.matrices[0])
    (tmp_path / "lens.pt").unlink()
    lenses()[1].save(tmp_path / "lens.safetensors")
    assert isinstance(load_lens(tmp_path), TunedLens)


@pytest.mark.parametrize("name", ["params.pt", "config.json"])
def test_a_file_of_a_published_folder_stands_for_its_folder(name):
    expected = load_lens(PUBLISHED / "tuned")
    for found in (load_lens(PUBLISHED / "tuned" / name), TunedLens.load(PUBLISHED / "tuned" / name)):
        assert torch.equal(found.weight, expected.weight)
    with pytest.raises(LensFileError):
        load_lens(PUBLISHED / "model" / "config.json")


def test_provenance_keeps_all_that_it_says(tmp_path):
    jacobian, _ = lenses()
    jacobian.save(tmp_path / "lens.safetensors")
    jacobian.save(tmp_path / "lens.pt")
    assert load_lens(tmp_path / "lens.safetensors").provenance == jacobian.provenance
    assert load_lens(tmp_path / "lens.pt").provenance == jacobian.provenance
    unnamed = replace(jacobian, n_layers=None)
    unnamed.save(tmp_path / "unnamed.pt")
    assert load_lens(tmp_path / "unnamed.pt").provenance == jacobian.provenance


def test_the_damages_can_be_tried_at_length():
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "damages.py", "3"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert {kind: sum(found.values()) for kind, found in json.loads(done.stdout).items()} == dict.fromkeys(
        KINDS, 3
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("name", ["lens.safetensors", "lens.pt"])
def test_a_new_file_is_open_to_whom_the_umask_says_and_an_old_one_keeps_its_mode(tmp_path, name):
    jacobian, path = lenses()[0], tmp_path / name
    before = os.umask(0o027)
    try:
        jacobian.save(path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o664)
        jacobian.save(path)
        assert path.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)
