"""What people install: built without node, whole, typed, and working from the wheel alone."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUNDLES = {f"lenswidget/static/{name}" for name in ("widget.js", "widget.css", "survey.js", "survey.css")}
NEEDED = {*BUNDLES, "lenswidget/py.typed"}

SMOKE = """
import sys
from pathlib import Path

import lenswidget as lw

assert Path(lw.__file__).is_relative_to(sys.prefix), lw.__file__
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=1)
widget = lw.LanguageModel(LlamaForCausalLM(config).eval(), None).lens([1, 2, 3])
widget.selection = {"layer": 1, "position": 2}
assert len(widget.decoded["ids"]) == 20
print(widget.save("lens.html").stat().st_size)
"""


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """The sdist, and the wheel built from it, on a machine without node."""
    folder = tmp_path_factory.mktemp("dist")
    # Nothing of the system: no node, no npm, no git.
    env = {**os.environ, "PATH": "/nonexistent"}
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        env=env,
        capture_output=True,
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def fresh_environment(archives, tmp_path_factory):
    """A new environment with nothing but the wheel; its dependencies lie on the path behind it."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-qq",
            "--no-deps",
            str(archives[1]),
        ],
        check=True,
    )
    # A path in a .pth file is searched, but the .pth files in it (this checkout, installed editable) are not.
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run_in(environment, *command, cwd):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_holds_the_bundle_the_types_and_nothing_else(archives):
    names = set(zipfile.ZipFile(archives[1]).namelist())
    assert names >= NEEDED
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"lenswidget"}
    assert all(name.endswith((".py", ".js", ".css", ".typed")) for name in names if ".dist-info" not in name)


def test_sdist_holds_the_bundle_and_what_it_is_built_from(archives):
    with tarfile.open(archives[0]) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    assert names >= NEEDED | {
        "js/package.json",
        "js/package-lock.json",
        "js/src/index.ts",
        "LICENSE",
        "README.md",
    }
    assert not [name for name in names if "node_modules" in name]


def test_wheel_in_a_fresh_environment_decodes_a_cell_and_saves_a_file(fresh_environment, tmp_path):
    done = run_in(fresh_environment, "python", "-W", "error", "-c", SMOKE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


def test_wheel_installs_the_terminal_command_and_its_help_explains_itself(fresh_environment, tmp_path):
    done = run_in(fresh_environment, "lenswidget", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("--model", "--output", "lens.html", "examples:", "standard input"):
        assert word in done.stdout
    assert run_in(fresh_environment, "lenswidget", "--version", cwd=tmp_path).stdout.startswith(
        "lenswidget 0."
    )


def test_bundle_is_marked_as_generated_for_reviewers():
    attributes = subprocess.run(
        ["git", "check-attr", "linguist-generated", "lenswidget/static/widget.js"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert attributes.stdout.strip().endswith("true")
