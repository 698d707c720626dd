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


@pytest.mark.parametrize(("page", "n_hub"), [("README.md", 1), ("docs/widget.md", 0)])
def test_every_snippet_runs(page, n_hub, demo_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import lenswidget as lw

    found = snippets(page)
    offline = [snippet for snippet in found if NEEDS_THE_HUB not in snippet]
    assert len(found) - len(offline) == n_hub
    assert len(offline) >= 2
    names = {"model": demo_model, "lw": lw}
    for snippet in offline:
        exec(compile(snippet.replace("lw.demo_model()", "model"), page, "exec"), names)


def test_the_readmes_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_architecture_page_names_every_module():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)`", page))
    modules = {path.name for path in (ROOT / "lenswidget").glob("*.py")} - {"__init__.py"}
    assert modules == named & modules, f"not named: {sorted(modules - named)}"
    assert named - modules == set(), f"no longer there: {sorted(named - modules)}"


def test_a_module_imports_only_what_stands_before_it_on_the_architecture_page():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    order = [name for row in rows for name in re.findall(r"`(\w+)\.py`", row)]
    for place, name in enumerate(order):
        imported = {
            module
            for node in ast.parse((ROOT / "lenswidget" / f"{name}.py").read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lenswidget")
            # `from lenswidget import readout` names a module, `from lenswidget.readout import read` is in one
            for module in (
                [part.name for part in node.names] if node.module == "lenswidget" else [node.module[11:]]
            )
        }
        assert imported <= set(order[:place]), f"{name}.py imports {sorted(imported - set(order[:place]))}"
