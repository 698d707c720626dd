"""Files are written whole or not at all, and a value that is no path is refused in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenswidget.errors import LensError, LensFileError
from lenswidget.files import as_path, file_at, write_beside, write_first, write_together


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_and_raise(target, error):
    with write_beside(target) as scratch:
        scratch.write_text("half")
        raise error


def write_all(*targets):
    with write_together(*targets) as scratch:
        for path in scratch:
            path.write_text("new")


def test_a_body_that_ends_well_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "kept.txt"
    target.write_text("old")
    target.chmod(0o640)
    with write_beside(target) as scratch:
        assert scratch.name == target.name
        assert scratch.parent.parent == tmp_path
        scratch.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_body_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    target = tmp_path / "kept.txt"
    target.write_text("old")
    with pytest.raises(error):
        write_and_raise(target, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    with write_beside(tmp_path / "link") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_of_several_files_all_are_moved_or_none(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    with pytest.raises(FileNotFoundError), write_together(first, second) as (one, _):
        one.write_text("new")  # the second is never written
    assert first.read_text() == "old"
    assert names(tmp_path) == ["first"]
    second.mkdir()  # which no file can take the place of
    with pytest.raises(IsADirectoryError):
        write_all(first, second)
    assert first.read_text() == "old"
    assert names(tmp_path) == ["first", "second"]
    second.rmdir()
    write_all(first, second)
    assert [first.read_text(), second.read_text()] == ["new", "new"]
    assert names(tmp_path) == ["first", "second"]


def test_a_move_that_fails_takes_back_the_one_before_it(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    with pytest.raises(IsADirectoryError):
        write_all(first, second)
    assert names(tmp_path) == ["second"]


FULL_DISK = """
import resource, sys
import torch
import lenswidget as lw
from lenswidget.errors import LensFileError

torch.manual_seed(0)
folder = sys.argv[1]
matrices = torch.randn(2, 64, 64)
jacobian = lw.JacobianLens(dict(enumerate(matrices)), 1, 3)
tuned = lw.TunedLens(matrices, matrices[:, 0])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk: the write fails midway
for save, path in (
    (jacobian.save, "jacobian.safetensors"),
    (jacobian.save, "jacobian.pt"),
    (tuned.save, "tuned.safetensors"),
    (tuned.publish, "published"),
):
    try:
        save(f"{folder}/{path}")
    except LensFileError as error:
        print(error)
"""


def test_a_full_disk_costs_no_lens_that_was_there(tmp_path):
    import torch

    import lenswidget as lw

    small = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    jacobian, tuned = lw.JacobianLens(dict(enumerate(small)), 1, 3), lw.TunedLens(small, small[:, 0])
    jacobian.save(tmp_path / "jacobian.safetensors")
    jacobian.save(tmp_path / "jacobian.pt")
    tuned.save(tmp_path / "tuned.safetensors")
    tuned.publish(tmp_path / "published")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all(line.startswith("Could not write ") and "What was there is as it was" in line for line in said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("value", [None, 3, b"bytes", "", "a\0b", object()])
def test_what_is_no_path_is_refused_in_the_words_of_who_asked(value):
    with pytest.raises(LensError, match=r"^Asked to write to .*\. Give the path of a file\.$"):
        file_at(value)
    with pytest.raises(LensFileError, match=r"^A lens was asked for at .*\. Give it\.$"):
        as_path(value, LensFileError, "A lens was asked for at", "Give it.")


def test_a_file_goes_into_a_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_at("~/grid.csv") == tmp_path / "grid.csv"
    with pytest.raises(LensError, match="it is a folder"):
        file_at(tmp_path)
    with pytest.raises(LensError, match="does not exist"):
        file_at(tmp_path / "gone" / "grid.csv")


def test_of_two_that_write_a_file_first_both_read_what_the_first_wrote(tmp_path):
    target = tmp_path / "a.json"
    assert write_first(target, "one") == "one"
    assert write_first(target, "two") == "one"
    assert names(tmp_path) == ["a.json"]
