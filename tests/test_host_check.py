"""What `lw.check_host()` says of the files that hosts read."""

import sys
from pathlib import Path

import lenswidget as lw
from lenswidget import host_check


def test_it_names_the_files_that_hosts_read():
    first, vscode, lab = lw.check_host().splitlines()
    assert first.startswith("anywidget 0.")
    for line, hosts in ((vscode, "VS Code"), (lab, "JupyterLab")):
        assert line.startswith(hosts)
        assert Path(line.partition(": ")[2]).is_file()


def test_a_missing_file_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(host_check, "_data_folders", lambda: [str(tmp_path)])
    _, vscode, _ = lw.check_host().splitlines()
    assert f"nbextensions/anywidget/index.js is in none of {tmp_path}" in vscode
    assert f"{sys.executable} -m pip install --force-reinstall anywidget" in vscode
