"""What the README and the page on the widget show runs as it stands there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDS_THE_HUB = "openai-community"


def snippets(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PAGES = [
    ("README.md", 1),
    ("docs/widget.md", 0),
    ("docs/edits.md", 0),
    ("docs/growing.md", 0),
    ("docs/maps.md", 0),
    ("docs/attribution.md", 0),
    ("docs/survey.md", 0),
]


@pytest.mark.parametrize(("page", "n_hub"), PAGES)
def test_every_snippet_runs(page, n_hub, demo_with_lenses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import lenswidget as lw

    found = snippets(page)
    offline = [snippet for snippet in found if NEEDS_THE_HUB not in snippet]
    assert len(found) - len(offline) == n_hub
    assert len(offline) >= 2
    names = {"model": demo_with_lenses, "lw": lw}
    for snippet in offline:
        exec(compile(snippet.replace("lw.demo_model()", "model"), page, "exec"), names)


def test_the_readmes_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def files_in_import_order():
    """The modules of the package as the table of the architecture page lists them, dotted."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    return [
        ".".join(part for part in (folder.strip(" `/").removeprefix("lenswidget"), name) if part)
        for folder, names in rows
        for name in re.findall(r"`(\w+)`", names)
    ]


def modules():
    """Every module of the package by its dotted name, without the `__init__` files."""
    package = ROOT / "lenswidget"
    files = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in files}


def imported_modules(path):
    """What a file imports from the package, at its top and inside functions: modules, or packages as `a.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part.name for part in node.names if part.name.split(".")[0] == "lenswidget"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lenswidget":
            inside = {f"{node.module}.{part.name}" for part in node.names}
            # `from lenswidget.readout import unembed` names a module; a class is in one
            named = {name for name in inside if name.removeprefix("lenswidget.") in modules()}
            found |= named or {node.module}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} has a relative import"
    return {name.removeprefix("lenswidget.") for name in found}


def test_the_table_of_the_architecture_page_is_the_tree():
    order = files_in_import_order()
    assert len(order) == len(set(order)) > 60
    assert set(order) == set(modules())


def test_a_file_imports_only_what_stands_before_it_on_the_architecture_page():
    order = files_in_import_order()
    for place, name in enumerate(order):
        imported = imported_modules(modules()[name])
        assert imported <= set(order[:place]), f"{name} imports {sorted(imported - set(order[:place]))}"
