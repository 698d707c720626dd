"""The picture of a survey in the browser: a click opens a prompt, keys do too, and many prompts scroll."""

import pytest
from playwright.sync_api import expect
from test_widget_looks import OUTSIDE
from widget_page import widget_in_lab

CODE = """import lenswidget as lw
model = lw.demo_model()
rows = [
    {"prompt": "The capital of France is", "answer": " Paris", "kind": "capital"},
    {"prompt": "The capital of Japan is", "answer": " Tokyo", "kind": "capital"},
    {"prompt": "The capital of Italy is", "answer": " Rome", "kind": "capital"},
    {"prompt": "The opposite of hot is", "answer": " cold", "kind": "opposite"},
    {"prompt": "The opposite of up is", "answer": " down", "kind": "opposite"},
]
edit = lw.Edit("zero", site="mlp_out", layers=12)
found = lw.survey(model, rows, target="answer", group="kind", edits=edit, progress=False)
w = found.widget(lens="logit")
w"""
MANY = """from dataclasses import replace
first = [each for each in found.measured if each.condition == "plain"]
many = [replace(first[i % 5], row=i, prompt=f"prompt number {i}") for i in range(100_000)]
found = lw.Survey(1, "logit", "resid_post", many, found.opener)
v = found.widget(lens="logit")
import IPython.display
"""
# what of the picture's canvas is painted, as the share of its pixels that are not clear
PAINTED = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
  return n / (data.length / 4);
}"""


@pytest.fixture(scope="module")
def shown(browser, lab):
    with widget_in_lab(browser, lab, "survey.ipynb", CODE) as widget:
        yield widget
        assert widget.log.of_lenswidget() == []
        assert widget.log.uncaught == []


def strip(widget, name="SmolLM2-135M-Instruct"):
    return widget.root.get_by_role("slider", name=f"Prompts of {name}, by layer of arrival", exact=True)


def test_a_click_opens_the_grid_of_the_prompt_at_the_layer_that_was_clicked(shown):
    survey = shown.root.get_by_role("region", name="Survey", exact=True)
    expect(survey.get_by_role("button", name="capital")).to_contain_text("n 3")
    columns = strip(shown)
    assert columns.locator("canvas").evaluate(PAINTED) > 0.5
    order = shown.value(
        "[each.row for each in sorted((e for e in found.measured if e.condition == 'plain'),"
        " key=lambda e: (99 if e.holds_from(1) is None else e.holds_from(1), e.ranks[-1], e.row))]"
    )
    box = columns.bounding_box()
    width = columns.locator(".lw-columns-room").bounding_box()["width"] / 5
    for place in (4, 1):
        columns.hover(position={"x": (place + 0.5) * width, "y": box["height"] / 2})
        tip = survey.locator(".lw-columns-tip")
        expect(tip).to_contain_text(shown.value(f"rows[{order[place]}]['prompt']"))
        columns.click(position={"x": (place + 0.5) * width, "y": 14})
        shown.becomes("w.prompt", shown.value(f"rows[{order[place]}]['prompt']"))
        shown.becomes("w.selection", {"layer": 28, "position": 4})
        expect(survey.get_by_role("status")).to_contain_text(f"row {order[place]}")
    # the strip of the edited condition opens with the edit
    strip(shown, "SmolLM2-135M-Instruct, edited").click(position={"x": 2, "y": 30})
    shown.becomes("len(w.edits)", 1)
    expect(shown.root.locator(".lw-edits")).to_be_visible()


def test_keys_move_over_the_prompts_and_say_each(shown):
    columns = strip(shown)
    shown.page.keyboard.press("Tab")
    columns.focus()
    shown.page.keyboard.press("Home")
    expect(columns).to_have_attribute("aria-valuenow", "1")
    first = columns.get_attribute("aria-valuetext")
    shown.page.keyboard.press("ArrowRight")
    expect(columns).to_have_attribute("aria-valuenow", "2")
    assert columns.get_attribute("aria-valuetext") != first
    shown.page.keyboard.press("End")
    expect(columns).to_have_attribute("aria-valuenow", "5")
    shown.page.keyboard.press("ArrowDown")
    prompt = columns.get_attribute("aria-valuetext").partition(";")[0]
    shown.page.keyboard.press("Enter")
    shown.becomes("w.prompt", prompt)
    shown.becomes("w.opened['strip']", 0)


def test_curves_groups_and_differences_follow_what_is_chosen(shown):
    survey = shown.root.get_by_role("region", name="Survey", exact=True)
    survey.get_by_role("combobox", name="Curves", exact=True).select_option("log_prob")
    shown.becomes("w.curve", "log_prob")
    chart = survey.locator(".lw-survey-chart")
    mean = shown.value("found.curves('log_prob')['mean'].iloc[-1]")
    survey.locator("summary").click()
    expect(survey.locator(".lw-survey-table tbody tr").first).to_contain_text(f"{mean:.2f}".replace("-", "−"))
    survey.get_by_role("combobox", name="Difference", exact=True).select_option("edits")
    shown.becomes("w.contrast", "edits")
    expect(chart.locator(".lw-band-area")).to_have_count(2)
    survey.get_by_role("button", name="opposite").click()
    expect(chart.locator(".lw-band-area")).to_have_count(1)
    expect(strip(shown, "SmolLM2-135M-Instruct, edited − plain")).to_have_attribute("aria-valuemax", "3")
    survey.get_by_role("button", name="opposite").click()
    survey.get_by_role("combobox", name="Difference", exact=True).select_option("")
    survey.locator("summary").click()
    shown.becomes("w.contrast", None)


def test_axe_finds_nothing_and_nothing_is_cut(shown, shot):
    shown.has_no_axe_violations(shot, "survey")
    for width in (600, 350):
        shown.page.set_viewport_size({"width": width, "height": 1000})
        shown.page.wait_for_timeout(300)
        assert shown.page.evaluate(OUTSIDE) == []
    shown.page.set_viewport_size({"width": 1400, "height": 1000})


def test_a_saved_file_shows_the_picture_without_a_kernel(shown, watched, tmp_path, shot):
    shown.execute(f"w.save({str(tmp_path / 'survey.html')!r})")
    page, log = watched
    page.goto((tmp_path / "survey.html").as_uri())
    columns = page.get_by_role("slider").first
    expect(columns).to_have_attribute("aria-valuemax", "5")
    assert columns.locator("canvas").evaluate(PAINTED) > 0.5
    page.get_by_role("combobox", name="Curves", exact=True).select_option("rank")
    expect(page.locator(".lw-survey-chart .lw-band-area")).to_have_count(4)
    columns.click(position={"x": 2, "y": 30})
    expect(page.locator(".lw-survey-said")).not_to_be_empty()
    expect(page.locator("[role=gridcell]").first).to_be_visible()
    shot(page, "survey-saved")
    assert log.uncaught == []


def test_a_hundred_thousand_prompts_scroll(shown, watched, tmp_path):
    shown.execute(MANY + f"v.save({str(tmp_path / 'many.html')!r})")
    page, log = watched
    page.goto((tmp_path / "many.html").as_uri())
    columns = page.get_by_role("slider").first
    expect(columns).to_have_attribute("aria-valuemax", "100000")
    for at in (0.5, 1):
        columns.evaluate(f"(e) => {{ e.scrollLeft = {at} * e.scrollWidth; }}")
        page.wait_for_timeout(100)
        assert columns.locator("canvas").evaluate(PAINTED) > 0.5
    columns.focus()
    page.keyboard.press("End")
    expect(columns).to_have_attribute("aria-valuenow", "100000")
    assert "prompt number" in columns.get_attribute("aria-valuetext")
    assert log.uncaught == []
