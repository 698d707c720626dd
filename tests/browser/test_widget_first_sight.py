"""What a newcomer meets first: a lens with its quality line."""

import pytest
from playwright.sync_api import expect
from widget_page import PROMPT, WidgetPage, widget_in_lab

CODE = f"""import lenswidget as lw
model = lw.demo_model()
texts = [{PROMPT!r}, "The capital of Japan is Tokyo, a city of many districts."]
_ = lw.report(None, model, texts, progress=False)
w = model.lens({PROMPT!r}, lens="logit")
w"""


@pytest.fixture(scope="module")
def measured(browser, lab):
    with widget_in_lab(browser, lab, "first-sight.ipynb", CODE) as widget:
        yield widget


@pytest.fixture
def widget(measured: WidgetPage):
    measured.page.set_viewport_size({"width": 1280, "height": 665})
    measured.reset()
    return measured


def test_the_switch_draws_the_kernels_curve_and_the_legend_names_poor_rows(widget, shot):
    curve = widget.root.locator(".lw-controls .lw-quality")
    told = widget.value("w.run['lens_quality']['logit']")
    paths = curve.locator("path").evaluate_all("all => all.map((e) => e.getAttribute('d'))")
    assert paths == told["paths"]
    assert curve.get_attribute("aria-label") == told["text"]
    assert told["poor"]
    expect(widget.root.locator(".lw-legend")).to_contain_text(told["poor"])
    widget.execute("w.lens = 'tuned'")
    expect(widget.control("Lens")).to_have_value("tuned")
    shot(widget.page, "first-sight-tuned")
    widget.execute("w.lens = 'logit'; w.site = 'attn_out'")
    # it was measured on the stream
    expect(widget.root.locator(".lw-legend")).not_to_contain_text(told["poor"])
