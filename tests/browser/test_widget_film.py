"""A film in JupyterLab: scrubbed, played, and what it says of itself."""

import pytest
from playwright.sync_api import expect
from widget_page import WidgetPage, widget_in_lab

CODE = """import lenswidget as lw
from dataclasses import replace
model = lw.demo_model()
spec = model.run("The Eiffel Tower is in the city of").spec
edit = lw.Edit("steer", layers=26, positions=-1, tokens=" Rome")
strengths = [0, 0.05, 0.1, 0.2, 0.3]
w = lw.film({f"Rome x{s}": replace(spec, edits=(replace(edit, strength=float(s)),)) for s in strengths},
            model=model, lens="logit")
w"""


@pytest.fixture(scope="module")
def film(browser, lab):
    with widget_in_lab(browser, lab, "film.ipynb", CODE, viewport={"width": 1400, "height": 1100}) as widget:
        yield widget
        assert widget.log.of_lenswidget() == []
        assert widget.log.uncaught == []


def answer(widget):
    return widget.root.locator(".lw-info strong")


def test_the_scrubber_shows_each_run_with_its_own_numbers(film: WidgetPage, shot):
    bar = film.root.get_by_label("Film", exact=True)
    scrub = bar.get_by_label("Run", exact=True)
    expect(answer(film)).to_have_text("\u201c\u2423Paris\u201d")
    expect(scrub).to_have_attribute("aria-valuetext", "1 of 5: Rome x0")
    scrub.focus()
    film.page.keyboard.press("End")
    film.becomes("w.frame", 4)
    expect(answer(film)).to_have_text("\u201c\u2423Rome\u201d")
    expect(scrub).to_have_attribute("aria-valuetext", "5 of 5: Rome x0.3")
    card = film.open_card(29, 8)
    whole = (
        "lw.read(model.run(replace(spec, edits=(replace(edit, strength=0.3),)), reuse=False), [(29, 8)], k=1)"
    )
    expect(card.locator("tbody tr").first).to_contain_text("Rome")
    shown = card.locator("tbody tr").first.locator(".lw-prob").get_attribute("title")
    own = film.value(f"float({whole}.log_probs[0, 0])")
    assert float(shown.split()[1].replace("\u2212", "-")) == pytest.approx(own, abs=1e-3)
    shot(film.page, "film")
    film.page.keyboard.press("Escape")
    scrub.focus()
    film.page.keyboard.press("ArrowLeft")
    film.becomes("w.frame", 3)
    assert film.value("len(w._session._runs)") == 1
    expect(film.root.locator(".lw-notice")).to_have_count(0)


def test_it_plays_to_its_end_and_offers_nothing_that_it_refuses(film: WidgetPage):
    bar = film.root.get_by_label("Film", exact=True)
    bar.get_by_label("Run", exact=True).focus()
    film.page.keyboard.press("Home")
    film.becomes("w.frame", 0)
    bar.get_by_label("Speed", exact=True).select_option("8")
    bar.get_by_role("button", name="Play", exact=True).click()
    expect(bar.get_by_role("button", name="Pause")).to_be_visible()
    film.becomes("w.frame", 4)
    expect(bar.get_by_role("button", name="Play", exact=True)).to_be_visible()
    expect(film.root.get_by_role("button", name="Continue", exact=True)).to_have_count(0)
    expect(film.root.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    expect(film.root.locator(".lw-fork")).to_have_count(0)
    expect(answer(film)).to_have_text("“␣Rome”")


def test_axe_finds_nothing_in_a_film(film: WidgetPage, shot):
    film.has_no_axe_violations(shot, "film")
