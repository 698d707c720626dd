"""Every example runs from top to bottom. The quickstart does so in a browser: browser/test_quickstart.py."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.ipynb"))
IN_BROWSER = {"quickstart"}


def texts(book):
    """The plain text of each code cell's last output, by the cell's id."""
    cells = [cell for cell in book.cells if cell.cell_type == "code" and cell.outputs]
    return {cell.id: cell.outputs[-1].get("data", {}).get("text/plain", "") for cell in cells}


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.stem not in IN_BROWSER], ids=lambda path: path.stem
)
def test_example_runs_from_top_to_bottom(path, tmp_path):
    book = nbformat.read(path, as_version=4)
    assert not any(cell.outputs for cell in book.cells if cell.cell_type == "code"), (
        "commit it without outputs"
    )
    NotebookClient(book, timeout=180, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = texts(book)
    assert ("SurveyWidget" if path.stem == "survey" else "LensWidget") in shown["lens"]
    if path.stem == "tour":
        assert shown["trace"] == "' Paris'"
        layers = ast.literal_eval(shown["track"])
        assert list(layers) == ["logit", "jacobian", "tuned"]
        # each lens ends on the model's answer, and the Jacobian lens has it long before the logit lens
        assert all(found[-1] == 29 for found in layers.values())
        assert min(layers["jacobian"]) <= 24 < min(layers["logit"])
        assert (tmp_path / "lens.html").exists()
    if path.stem == "survey":
        cost = ast.literal_eval(shown["cost"])
        assert cost["opposite"][2] < 0
        assert cost["capital"][0] < 0 < cost["capital"][2]
    if path.stem == "heads":
        assert "L23 head 4" in shown["heads"].splitlines()[1]
        assert "iffel" in shown["looks"].splitlines()[1]
        effects, control = (ast.literal_eval(shown[name]) for name in ("switch", "control"))
        assert max(effects.values()) < -0.25
        assert control["head 4"] < -1 < control["worst of them"] < -0.5
        assert abs(control["its neighbours"]) < 0.1
        assert "1     5" in shown["map"]
    if path.stem == "colosseum":
        patched, control = (ast.literal_eval(shown[name]) for name in ("patch", "control"))
        assert patched["no edit"] < 0.001
        assert patched["layer 20"] < 0.01
        assert patched["layer 23"] == pytest.approx(0.41, abs=0.01)
        assert patched["layer 29"] == pytest.approx(0.66, abs=0.01)
        assert control["patch"] > 20 * max(value for name, value in control.items() if name != "patch")
        assert "30 layers x 9 positions" in shown["map"]
