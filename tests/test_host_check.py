"""What `lw.check_host()` says of the files that hosts read."""

import sys
from pathlib import Path

import anywidget
import torch

import lenswidget as lw
from lenswidget import cli, host_check


def test_it_names_the_files_that_hosts_read():
    first, vscode, lab, every = lw.check_host().splitlines()
    assert first.startswith("anywidget 0.")
    for line, hosts in ((vscode, "VS Code"), (lab, "JupyterLab"), (every, "JupyterLab")):
        assert line.startswith(hosts)
        assert Path(line.partition(": ")[2]).is_file()


def test_a_missing_file_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(host_check, "_data_folders", lambda: [str(tmp_path)])
    _, vscode, _, every = lw.check_host().splitlines()
    assert f"nbextensions/anywidget/index.js is in none of {tmp_path}" in vscode
    assert f"{sys.executable} -m pip install --force-reinstall anywidget" in vscode
    assert f"{sys.executable} -m pip install --force-reinstall jupyterlab_widgets" in every


def test_doctor_names_versions_and_files_without_running_anything(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name, module in (("lenswidget", lw), ("torch", torch), ("anywidget", anywidget)):
        assert f"{name} {module.__version__}" in said
    assert f"Python {sys.version.split()[0]}, in {sys.prefix}" in said
    assert lw.check_host().partition("\n")[2] in said
    assert said.splitlines()[-1].startswith("All files that hosts look for are in this environment.")


def test_doctor_ends_with_1_and_says_what_to_do_where_a_file_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host_check, "_data_folders", lambda: [str(tmp_path)])
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "-m pip install --force-reinstall anywidget" in said
    assert "see above what to do" in said
