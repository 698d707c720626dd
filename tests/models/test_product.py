"""The way of the product with the unembed: measured once on a machine, and kept for all processes to come."""

import json
import subprocess
import sys

import pytest
import torch

from lenswidget.models import product


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache, and a process that knows nothing of one yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(product, "_timings", {})
    return tmp_path / "lenswidget" / "product"


def test_a_way_is_measured_once_for_each_number_of_threads(folder):
    first = product.timing()
    assert product.timing() is first
    assert first.n_threads == torch.get_num_threads()
    assert first.plain_ms > 0
    assert (first.packed_ms is not None) == torch.backends.mkldnn.is_available()


def test_a_packed_weight_is_kept_only_where_it_is_faster():
    assert product.Timing(2, packed_ms=0.9, plain_ms=1.0).is_packed
    assert not product.Timing(2, packed_ms=1.0, plain_ms=1.0).is_packed
    assert not product.Timing(2, packed_ms=None, plain_ms=1.0).is_packed


def test_without_onednn_there_is_no_packed_weight(folder, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert product.pack(torch.eye(64)) is None
    assert "cannot be had packed" in str(product.timing())
    assert not folder.exists()  # there was no choice to keep


def test_a_later_process_goes_by_what_an_earlier_one_measured(folder, monkeypatch):
    first = product.timing()
    (file,) = folder.iterdir()
    assert file == product.timing_file()
    assert json.loads(file.read_text())["plain_ms"] == first.plain_ms
    monkeypatch.setattr(product, "_timings", {})
    assert product.timing() == first  # times that are measured twice are never equal


def test_of_two_processes_that_measure_at_once_all_go_by_one(folder):
    code = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
    code += "from lenswidget.models.product import timing; print(timing())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = {each.communicate(timeout=120)[0].strip() for each in both}
    assert said == {str(product.timing())}
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"packed_ms": "x"}', '{"packed_ms": 1, "n_threads": 9}'])
def test_a_damaged_measurement_is_made_anew(folder, damaged):
    folder.mkdir(parents=True)
    product.timing_file().write_text(damaged)
    found = product.timing()
    assert json.loads(product.timing_file().read_text())["plain_ms"] == found.plain_ms


def test_where_nothing_can_be_kept_it_holds_for_the_process(folder):
    folder.parent.mkdir()
    folder.write_text("a file where the folder would be")
    assert product.timing() is product.timing()


def test_another_machine_or_number_of_threads_has_a_file_of_its_own(folder, monkeypatch):
    here = product.timing_file()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert product.timing_file() != here
