"""The main job, whole: a real model in a real JupyterLab, a click, the card's numbers checked in float64."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from harness.lens import Lens
from playwright.sync_api import expect

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPT = "The Eiffel Tower is in the city of"
N_LAYERS = 30
LAST_POSITION = 8


def float64_log_probs(hf_model, tokenizer, matrix, layer, position):
    """The log-probs and logits of one cell `[d_vocab]` through a Jacobian lens's matrix, in float64.

    The matrix of the lens is the file's; the product, the norm and the head are written out here: of the
    package's code only the loading of that file takes part.
    """
    model = copy.deepcopy(hf_model).double()
    states = []
    hook = model.model.layers[layer].register_forward_hook(lambda _m, _a, out: states.append(out))
    try:
        with torch.no_grad():
            model(**tokenizer(PROMPT, return_tensors="pt"))
    finally:
        hook.remove()
    out = states[0] if isinstance(states[0], torch.Tensor) else states[0][0]
    state = matrix.double() @ out[0, position]
    scale = torch.rsqrt(state.square().mean() + model.config.rms_norm_eps)
    logits = (state * scale * model.model.norm.weight.detach()) @ model.lm_head.weight.detach().T
    return logits - torch.logsumexp(logits, dim=0), logits


def test_quickstart_ends_with_paris_and_a_clicked_cell_shows_what_float64_says_of_it(
    open_in_lab, page, page_log, shot, demo_with_lenses
):
    demo_hf_model, demo_tokenizer = demo_with_lenses.hf_model, demo_with_lenses.tokenizer
    notebook = open_in_lab(path=EXAMPLES / "quickstart.ipynb")
    notebook.run_all()
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    expect(lens.cell(N_LAYERS - 1, LAST_POSITION)).to_contain_text("Paris")
    layer, position = 26, LAST_POSITION
    lens.open_card(layer, position)
    shot(page, "quickstart-light")
    rows = lens.card_rows()
    assert len(rows) == 20

    assert notebook.value("_.lens") == "jacobian"
    matrix = demo_with_lenses.lenses["jacobian"].matrices[layer]
    log_probs, logits = float64_log_probs(demo_hf_model, demo_tokenizer, matrix, layer, position)
    ids = [row.token_id for row in rows]
    # float32 against float64 over 30 blocks: neighbours this close may change places
    assert all(
        abs(log_probs[i] - best) < 2e-3 for i, best in zip(ids, log_probs.topk(20).values, strict=True)
    )
    for row in rows:
        assert demo_tokenizer.decode(row.token_id).strip() in row.text
        # written with four and two digits
        assert row.log_prob == pytest.approx(log_probs[row.token_id].item(), abs=1e-3)
        assert row.logit == pytest.approx(logits[row.token_id].item(), abs=0.02)
        assert float(re.sub("[^0-9.e-]", "", row.percent)) == pytest.approx(
            100 * math.exp(row.log_prob), rel=0.01, abs=0.01
        )

    # the same numbers are Python's
    assert notebook.value("_.selection") == {"layer": layer, "position": position}
    assert notebook.value("_.decoded['ids']") == ids

    # and the theme follows
    notebook.use_theme("JupyterLab Dark")
    expect(lens.root).to_have_attribute("data-theme", "dark")
    shot(page, "quickstart-dark")
    assert page_log.uncaught == []
    assert page_log.of_lenswidget() == []
