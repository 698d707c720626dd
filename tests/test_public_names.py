"""The public names are what `__all__` says, and importing them changes nothing."""

import subprocess
import sys

import lenswidget as lw


def test_all_names_exist_and_no_other_is_public():
    import types

    public = {name for name, value in vars(lw).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(lw, name), types.ModuleType)}
    assert public - modules == set(lw.__all__)


def test_importing_patches_starts_and_opens_nothing():
    code = """
import sys, threading, torch, transformers, anywidget
def world():
    calls = (torch.Tensor.__getitem__, torch.nn.Module.__call__, torch.nn.Module.forward)
    return sys.excepthook, sys.gettrace(), calls, set(vars(torch.Tensor)), threading.active_count()
before = world()
import lenswidget
assert world() == before
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
