"""The terminal command, run as people run it."""

import csv
import io
import subprocess
import sys

import pytest

from lenswidget import cli


def test_command_writes_one_file_and_says_where(tmp_path, capsys):
    target = tmp_path / "lens.html"
    assert cli.main(["The Eiffel Tower is in the city of", "-o", str(target)]) == 0
    assert target.read_text().startswith("<!doctype html>")
    said = capsys.readouterr()
    assert said.out == ""
    assert "Read 279 cells." in said.err
    assert f"Wrote {target}" in said.err


def test_prompt_comes_from_standard_input_and_csv_from_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The capital of France is\n"))
    target = tmp_path / "grid.csv"
    assert cli.main(["-", "-o", str(target), "-k", "2"]) == 0
    with target.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 31 * 5 * 2


def test_empty_prompt_ends_with_one_sentence_and_no_file(tmp_path, capsys):
    target = tmp_path / "lens.html"
    assert cli.main(["", "-o", str(target)]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lenswidget: ")
    assert "Traceback" not in last
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hi", "-o", "lens.pdf"], "must end in .html or .csv"),
        (["hi", "-o", "/nowhere/at/all/lens.html"], "does not exist"),
        (["hi", "-k", "0"], "from 1 to 100"),
        ([], "prompt"),
    ],
)
def test_bad_usage_is_refused_before_a_model_is_loaded(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_sentence_before_a_model_is_loaded(tmp_path, capsys):
    assert cli.main(["hi", "--device", "abacus", "-o", str(tmp_path / "lens.html")]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("lenswidget: --device abacus: ")
    assert last.endswith("Name another, or leave it out.")


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, capsys):
    missing = tmp_path / "no-such-model"
    assert cli.main(["hi", "--model", str(missing), "-o", str(tmp_path / "lens.html")]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_a_file_that_exists_is_kept_unless_forced(tmp_path, capsys):
    target = tmp_path / "grid.csv"
    target.write_text("mine")
    with pytest.raises(SystemExit) as left:
        cli.main(["hi there", "-o", str(target)])
    assert left.value.code == 2
    assert "that file exists; name another, or write over it with --force" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert cli.main(["hi there", "-o", str(target), "--force"]) == 0
    assert target.read_text() != "mine"


@pytest.mark.parametrize("given", [b"caf\xe9 au lait", "Eiffel".encode("utf-16"), b"\xff"])
def test_bytes_that_are_no_text_on_standard_input_are_one_sentence(given, tmp_path):
    command = [sys.executable, "-m", "lenswidget.cli", "-", "-o", tmp_path / "lens.html"]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 1
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith("lenswidget: The bytes on standard input are no UTF-8 text: byte ")
    assert said.endswith("with iconv -t UTF-8, say.")
    assert not (tmp_path / "lens.html").exists()


def test_standard_input_is_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    text = "\ufeffÉté à Paris\r\nand more\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="ascii"))
    assert cli._from_input() == "Été à Paris\nand more"
