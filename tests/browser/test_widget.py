"""The widget in a real JupyterLab on SmolLM2: everything a person does, and what Python sees of it."""

import re

import pytest
from harness.pages import frames, until_still, watched_page
from playwright.sync_api import expect
from widget_page import AXE, PROMPT, WidgetPage

# The cell's own card, by another road: float64 from the states that transformers gives.
ORACLE = """
import torch
def oracle(layer, position):
    hf = model.hf_model
    with torch.no_grad():
        kept = {}
        hook = hf.model.layers[layer].register_forward_hook(lambda m, i, o: kept.update(h=o))
        hf(**model.tokenizer(w.prompt, return_tensors="pt"))
        hook.remove()
        h = kept["h"][0, position].double()
        h = h * torch.rsqrt(h.pow(2).mean() + hf.config.rms_norm_eps) * hf.model.norm.weight.double()
        logits = hf.lm_head.weight.double() @ h
        log_probs = logits.log_softmax(0)
        best = logits.topk(20).indices.tolist()
        return {"ids": best, "logits": logits[best].tolist(), "log_probs": log_probs[best].tolist(),
                "entropy": -(log_probs * log_probs.exp()).sum().item()}
"""


@pytest.fixture
def widget(shown: WidgetPage):
    shown.reset()
    return shown


def number(text: str) -> float:
    return float(re.sub(r"[^\d.eE+-]", "", text.replace("−", "-")))


def test_the_last_row_says_paris_at_the_last_position(widget):
    assert widget.cell(29, 8).inner_text() == "·Paris"
    assert "Paris" in widget.root.locator(".lw-info strong").inner_text()


def test_a_click_decodes_the_cell_again_and_the_card_equals_a_float64_decode(widget):
    card = widget.open_card(12, 4)
    widget.execute(ORACLE)
    expected = widget.value("oracle(12, 4)")
    widget.becomes("w.selection", {"layer": 12, "position": 4})
    assert widget.value("w.decoded['ids']") == expected["ids"]
    rows = card.locator("tbody tr")
    assert rows.count() == 20
    for i, (log_prob, logit) in enumerate(zip(expected["log_probs"], expected["logits"], strict=True)):
        cells = rows.nth(i).locator("td")
        title = cells.nth(1).get_attribute("title")
        # float32 against float64: logits near 30 carry about 1e-5
        assert number(title.split()[1]) == pytest.approx(log_prob, abs=1e-3)
        assert number(cells.nth(2).inner_text()) == pytest.approx(logit, abs=6e-3)
    assert f"entropy {expected['entropy']:.2f} nats" in card.inner_text()


def test_python_sets_the_selection_and_the_card_follows(widget):
    widget.execute("w.selection = {'layer': 7, 'position': 2}")
    widget.decoded_card(7, 2)
    widget.execute("w.selection = None")
    widget.root.locator(".lw-hint").wait_for()


def test_enter_in_the_prompt_box_runs_the_model_and_an_empty_prompt_keeps_the_grid(widget):
    box = widget.root.get_by_label("Prompt", exact=True)
    box.fill("Berlin is the capital of")
    box.press("Enter")
    widget.root.get_by_text("6 tokens").wait_for()
    assert widget.value("w.prompt") == "Berlin is the capital of"
    heads = widget.root.locator(".lw-colhead").all_inner_texts()
    assert heads == ["Ber", "lin", "·is", "·the", "·capital", "·of"]
    before = widget.cell(29, 4).inner_text()
    box.fill("")
    box.press("Enter")
    alert = widget.root.locator(".lw-notice")
    alert.wait_for()
    assert "prompt" in alert.inner_text().lower()
    assert widget.cell(29, 4).inner_text() == before
    widget.execute(f"w.prompt = {PROMPT!r}")
    widget.page.wait_for_function(
        "() => document.querySelector('.lw-info strong')?.textContent.includes('Paris')"
    )
    assert box.input_value() == PROMPT


def test_the_grid_is_worked_by_keyboard_alone(widget):
    page = widget.page
    widget.cell(29, 0).focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    focused = page.locator(".lenswidget [role=gridcell]:focus")
    expect(focused).to_have_attribute("aria-colindex", "3")
    expect(widget.root.locator(".lw-status")).to_contain_text("layer 28, position 1 after")
    page.keyboard.press("Enter")
    widget.decoded_card(28, 1)
    page.keyboard.press("Control+End")
    expect(focused).to_have_attribute("aria-colindex", "10")
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    expect(focused).to_have_attribute("aria-colindex", "2")
    page.keyboard.press("?")
    widget.root.locator(".lw-help").wait_for()
    page.keyboard.press("Escape")
    widget.root.locator(".lw-help").wait_for(state="detached")
    page.keyboard.press("Escape")
    widget.root.locator(".lw-hint").wait_for()
    expect(focused).to_have_count(1)
    page.keyboard.press("Tab")
    assert page.locator(".lenswidget .lw-grid :focus").count() == 0, "Tab leads out of the grid"


def test_keys_in_the_widget_do_not_reach_the_notebook(widget):
    n_cells = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = widget.page.evaluate(n_cells)
    widget.open_card(20, 3)
    for key in ("a", "b", "d", "d", "x", "m", "Shift+Enter"):
        widget.page.keyboard.press(key)
    widget.becomes("type(w.prompt).__name__", "list")  # of token ids: b has forked there
    widget.root.get_by_label("Prompt", exact=True).click()
    widget.page.keyboard.press("Shift+Enter")
    widget.page.keyboard.type("abd")
    assert widget.page.evaluate(n_cells) == before
    assert widget.root.get_by_label("Prompt", exact=True).input_value().endswith("abd")
    widget.root.get_by_label("Let the second prompt go").click()  # which m has opened
    widget.execute(f"w.prompt = {PROMPT!r} + ' '; w.prompt = w.prompt.strip()")


def test_pins_are_charted_with_the_exact_values_of_every_layer(widget):
    widget.cell(29, 8).click()
    widget.decoded_card(29, 8)
    widget.page.keyboard.press("p")
    widget.becomes("[pin['ids'] for pin in w.pins]", [[widget.value("w.decoded['ids'][0]")]])
    chart = widget.root.locator(".lw-chart")
    chart.wait_for()
    widget.page.wait_for_function("() => document.querySelectorAll('.lw-dot').length === 31")
    widget.execute(
        "_r = w.readout(track=(w.pins[0]['ids'][0],), k=1);"
        "_z = zip(_r.layers, _r.positions, _r.tracked_log_probs[:, 0]);"
        "_t = {int(l): float(x) for l, p, x in _z if p == 8}"
    )
    widget.root.get_by_label("Chart").select_option("log_prob")
    expect(widget.root.locator(".lw-dot title").first).to_contain_text("nats")
    for layer in (0, 14, 29):
        title = widget.root.locator(".lw-dot title").nth(layer + 1).text_content()
        assert number(title.rpartition(":")[2]) == pytest.approx(widget.value(f"_t[{layer}]"), abs=6e-3)
    expect(widget.cell(29, 8)).to_have_class(re.compile("is-pinned"))
    widget.root.locator(".lw-pin").get_by_title("Sum with the other forms").click()
    widget.page.wait_for_function(
        "() => document.querySelector('.lw-pin .lw-dim')?.textContent.startsWith('×')"
    )
    widget.becomes("len(w.pins[0]['ids']) > 1", True)
    forms = widget.value("[model.tokenizer.decode([i]) for i in w.pins[0]['ids']]")
    assert len(forms) > 1
    assert {form.strip().lower() for form in forms} == {"paris"}


def test_any_token_is_found_and_its_rank_is_exact(widget):
    card = widget.open_card(20, 8)
    widget.page.keyboard.press("/")
    widget.page.keyboard.type(" London")
    card.locator(".lw-match").first.click()
    found = card.locator(".lw-tracked li").first
    widget.page.wait_for_function("() => document.querySelector('.lw-tracked li')?.textContent.includes('%')")
    widget.execute(
        "token = model.tokenizer.encode(' London')[0];"
        "run = model.run(w.prompt); logits = model.tail(run.states('resid_post', [20], [8]))[0]"
    )
    rank = widget.value("int((logits > logits[token]).sum())")
    expect(found).to_contain_text(f"#{rank + 1:,}")


def test_a_token_that_was_searched_for_has_its_numbers_along_the_column(widget):
    card = widget.open_card(20, 8)
    card.get_by_label("Find any token").fill(" London")
    card.locator(".lw-match").first.click()
    titles = card.locator(".lw-dot title")
    expect(titles).to_have_count(31)
    widget.execute(
        "token = model.tokenizer.encode(' London')[0]; run = model.run(w.prompt);"
        "logits = model.tail(run.states('resid_post', list(range(-1, 30)), [8] * 31)).double();"
        "ranks = (logits > logits[:, token, None]).sum(1).tolist();"
        "probs = logits.softmax(1)[:, token].tolist()"
    )
    ranks, probs = widget.value("ranks"), widget.value("probs")
    for row, title in enumerate(titles.all_text_contents()):
        said = re.fullmatch(r"·?.*London, (\w+): (\S+) % #([\d,]+)", title)
        assert said, title
        assert said[1] == ("embed" if row == 0 else str(row - 1))
        assert float(said[2]) == pytest.approx(100 * probs[row], rel=0.06)
        assert int(said[3].replace(",", "")) == ranks[row] + 1
    card.locator(".lw-chart").click(position={"x": 61, "y": 80})
    widget.decoded_card(0, 8)


def test_a_card_is_asked_again_with_another_k_and_temperature(widget):
    card = widget.open_card(25, 8)
    card.get_by_label("Top", exact=True).select_option("5")
    widget.page.wait_for_function("() => document.querySelectorAll('[data-card=main] tbody tr').length === 5")
    cold = card.locator(".lw-prob").first.inner_text()
    card.get_by_label("Temp.", exact=True).select_option("2")
    widget.root.get_by_text("temperature 2").wait_for()
    assert number(card.locator(".lw-prob").first.inner_text()) < number(cold)
    widget.becomes("w.decoded['temperature']", 2)
    assert "grid:" in card.inner_text()


def test_cards_are_kept_side_by_side_and_leave_the_selection_alone(widget):
    widget.open_card(10, 3)
    widget.page.keyboard.press("k")
    widget.open_card(22, 5)
    widget.page.wait_for_function("() => document.querySelectorAll('.lw-kept .lw-card').length === 1")
    widget.becomes("w.selection", {"layer": 22, "position": 5})
    widget.becomes("[card['layer'] for card in w.cards]", [10])
    widget.execute("w.cards = [*w.cards, {'layer': 3, 'position': 1, 'site': 'resid_post', 'lens': 'logit'}]")
    widget.page.wait_for_function(
        "() => document.querySelectorAll('.lw-kept .lw-card tbody tr').length === 40"
    )
    widget.becomes("w.selection", {"layer": 22, "position": 5})


def test_a_kept_card_that_is_decoded_otherwise_is_so_in_the_trait_and_the_other_way_round(widget):
    widget.open_card(25, 8)
    widget.page.keyboard.press("k")
    widget.execute("w.selection = {'layer': 12, 'position': 3}")
    widget.decoded_card(12, 3)
    kept = widget.root.locator(".lw-kept .lw-card")
    as_kept = {"layer": 25, "position": 8, "site": "resid_post", "lens": "logit", "k": 20, "temperature": 1}
    widget.becomes("w.cards", [as_kept])
    temperature = kept.get_by_label("Temp.", exact=True)
    temperature.focus()
    temperature.select_option("2")
    expect(kept).to_contain_text("temperature 2")
    expect(temperature).to_be_focused()
    kept.get_by_label("Top", exact=True).select_option("5")
    expect(kept.locator("tbody tr")).to_have_count(5)
    widget.becomes("w.cards", [{**as_kept, "k": 5, "temperature": 2}])
    # a search made on it stays, whatever it is read by
    kept.get_by_label("Find any token").fill(" London")
    kept.locator(".lw-match").first.click()
    kept.get_by_label("Site", exact=True).select_option("mlp_out")
    widget.becomes("w.cards[0]['site']", "mlp_out")
    expect(kept).to_have_attribute("aria-busy", "false")
    expect(kept.locator(".lw-tracked li")).to_contain_text("London")
    # another widget begins with it as it now is
    widget.execute("again = model.lens(w.prompt, state=w.state)")
    assert widget.value("again.cards") == [{**as_kept, "k": 5, "temperature": 2, "site": "mlp_out"}]
    widget.execute(
        "again.close(); w.cards = [{**w.cards[0], 'temperature': 0.5, 'k': 7, 'site': 'resid_post'}]"
    )
    expect(kept).to_contain_text("temperature 0.5")
    expect(kept.locator("tbody tr")).to_have_count(7)
    expect(kept).to_have_count(1)
    widget.becomes("w.selection", {"layer": 12, "position": 3})


def test_a_token_that_was_searched_for_keeps_its_numbers_when_the_site_changes(widget):
    card = widget.open_card(20, 8)
    card.get_by_label("Find any token").fill(" London")
    card.locator(".lw-match").first.click()
    expect(card.locator(".lw-tracked .lw-num").last).to_contain_text("#")
    widget.control("Site").select_option("mlp_out")
    widget.becomes("w.decoded['site']", "mlp_out")
    widget.execute(
        "token = model.tokenizer.encode(' London')[0]; run = model.run(w.prompt);"
        "logits = model.tail(run.states('mlp_out', [20], [8]))[0]"
    )
    rank = widget.value("int((logits > logits[token]).sum())")
    expect(card.locator(".lw-tracked .lw-num").last).to_have_text(f"#{rank + 1:,}")


def test_the_code_that_a_card_copies_gives_the_card(widget):
    widget.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card = widget.open_card(12, 6)
    card.get_by_role("button", name="Code").click()
    card.get_by_text("Code copied.").wait_for()
    code = widget.page.evaluate("navigator.clipboard.readText()")
    assert "model.trace" in code
    printed = widget.execute(code)
    for text in widget.value("[model.tokenizer.decode([i]) for i in w.decoded['ids'][:3]]"):
        assert repr(text)[1:-1] in printed or text in printed


@pytest.mark.parametrize("metric", ["log_prob", "entropy", "kl", "rank", "agrees"])
def test_each_metric_colours_every_cell_and_says_its_number(widget, metric):
    widget.control("Colour").select_option(metric)
    widget.page.wait_for_function(
        "() => document.querySelectorAll('.lw-body [role=gridcell]').length > 200"
        " && !document.querySelector('.lw-body .is-missing')"
    )
    widget.becomes("w.metric", metric)
    widget.cell(9, 2).hover()
    shown_value = {
        "entropy": "entropy",
        "kl": "KL(last ‖ cell): ",
        "rank": "rank of “␣Paris”: #",
        "agrees": "last layer",
        "log_prob": "log-prob: −",
    }
    expect(widget.root.locator(".lw-tooltip")).to_contain_text(shown_value[metric])


def test_the_answer_is_the_models_own_however_the_grid_is_read(widget):
    answer = widget.root.locator(".lw-info strong")
    settled = widget.root.locator(".lw-body .is-settled")
    assert settled.count() > 0
    widget.execute("w.metric = 'rank'; w.site = 'mlp_out'")
    # no token was chosen: the ranks are those of the model's own next one
    expect(widget.root.locator(".lw-legend")).to_contain_text("Rank of “␣Paris”")
    widget.page.wait_for_function(
        "() => document.querySelectorAll('.lw-body [role=gridcell]').length > 200"
        " && !document.querySelector('.lw-body .is-missing')"
    )
    expect(answer).to_have_text("“␣Paris”")
    expect(settled).to_have_count(0)
    widget.cell(29, 8).hover()
    widget.execute("_r = w.track(' Paris'); _at = (_r.layers == 29) & (_r.positions == 8)")
    rank = widget.value("int(_r.tracked_ranks[_at][0, 0])")
    expect(widget.root.locator(".lw-tooltip")).to_contain_text(f"rank of “␣Paris”: #{rank + 1:,}")
    widget.execute("w.site = 'resid_post'")


def test_pins_of_one_label_have_each_its_own_number(widget):
    widget.execute(
        "_ids = [model.tokenizer.encode(t)[0] for t in (' Paris', ' London')];"
        "w.pins = [{'ids': [i], 'label': 'same', 'color': c} for c, i in enumerate(_ids)];"
        "w.selection = {'layer': 29, 'position': 8}"
    )
    numbers = widget.root.locator(".lw-pin .lw-num")
    expect(numbers).to_have_count(2)
    widget.execute(
        "_r = w.readout(track=_ids, k=1); _at = (_r.layers == 29) & (_r.positions == 8);"
        "_p = (100 * __import__('numpy').exp(_r.tracked_log_probs[_at][0])).tolist()"
    )
    for text, p in zip(numbers.all_inner_texts(), widget.value("_p"), strict=True):
        assert float(text.removesuffix(" %")) == pytest.approx(p, rel=6e-3)
    # of several positions the chip says none, since the chart says which is which
    widget.execute("w.trajectory = {'metric': 'prob', 'positions': [3, 8]}")
    expect(numbers).to_have_count(0)


def test_a_focused_cell_keeps_its_pins_stripe(widget):
    widget.open_card(29, 8)
    widget.page.keyboard.press("p")
    cell = widget.cell(29, 8)
    expect(cell).to_have_class(re.compile("is-pinned"))
    widget.page.keyboard.press("ArrowDown")
    widget.page.keyboard.press("ArrowUp")
    expect(cell).to_be_focused()
    color = widget.root.locator(".lw-dotmark").evaluate("e => getComputedStyle(e).backgroundColor")
    assert color in cell.evaluate("e => getComputedStyle(e).boxShadow")


def test_keys_change_the_width_as_it_is_drawn(widget):
    widget.page.set_viewport_size({"width": 1120, "height": 1000})
    head = widget.root.locator(".lw-colhead").first
    expect(head).not_to_have_css("width", "72px")
    drawn = until_still(widget.page, "document.querySelector('.lw-colhead').offsetWidth")
    assert 48 <= drawn < 72
    widget.cell(29, 2).focus()
    widget.page.keyboard.press("]")
    expect(head).to_have_css("width", f"{drawn + 8}px")
    widget.page.set_viewport_size({"width": 1400, "height": 1000})
    widget.execute("w.column_width_px = 72")
    assert head.get_attribute("title") == "“The”"


def test_layout_controls_reach_python_and_back(widget):
    widget.control("Layers").select_option("4")
    heads = widget.root.locator(".lw-body .lw-rowhead")
    widget.page.wait_for_function("() => document.querySelectorAll('.lw-body .lw-rowhead').length === 9")
    assert heads.all_inner_texts() == ["29", "25", "21", "17", "13", "9", "5", "1", "embed"]
    widget.control("Rows").select_option("tokens")
    widget.page.wait_for_function("() => document.querySelector('.lw-grid.is-transposed')")
    assert widget.root.locator(".lw-colhead").all_inner_texts()[:2] == ["embed", "1"]
    widget.becomes("[w.stride, w.orientation]", [4, "tokens"])
    widget.root.get_by_title("More").click()
    widget.root.get_by_role("button", name="Reset view").click()
    widget.becomes("[w.stride, w.orientation]", [1, "layers"])
    widget.execute("w.column_width_px = 120")
    widget.page.wait_for_function("() => document.querySelector('.lw-colhead').offsetWidth === 120")
    widget.cell(29, 2).focus()
    widget.page.keyboard.press("[")
    widget.becomes("w.column_width_px", 112)
    head = widget.root.locator(".lw-colhead").nth(1).bounding_box()
    widget.page.mouse.move(head["x"] + head["width"] - 3, head["y"] + 10)
    widget.page.mouse.down()
    widget.page.mouse.move(head["x"] + head["width"] - 33, head["y"] + 10, steps=4)
    widget.page.mouse.up()
    widget.becomes("w.column_width_px", 82)


def test_a_long_prompt_loads_what_is_in_view_and_then_the_rest_as_it_scrolls(widget):
    widget.execute("w.prompt = 'The cat sat on the mat and looked at the dog. ' * 12")
    grid = widget.root.locator(".lw-grid")
    widget.page.wait_for_function(
        "() => Number(document.querySelector('.lw-grid').ariaColCount) > 120"
        " && !document.querySelector('.lw-body .is-missing')",
    )
    grid.evaluate("g => g.scrollTo(3000, 0)")
    widget.page.wait_for_function(
        "() => Number(document.querySelector('.lw-body [role=gridcell]').ariaColIndex) > 30"
        " && !document.querySelector('.lw-body .is-missing')",
    )
    widget.execute(f"w.prompt = {PROMPT!r}")


def test_a_hostile_token_is_text(widget):
    widget.execute("w.pins = [{'ids': [5], 'label': '<img src=x onerror=window.pwned=1>', 'color': 0}]")
    widget.root.get_by_text("<img src=x onerror=window.pwned=1>").first.wait_for()
    assert widget.root.locator("img").count() == 0
    assert widget.page.evaluate("window.pwned") is None


def test_two_views_stay_in_step_and_a_closed_view_leaves_no_listener(widget):
    widget.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    views = widget.page.locator(".lenswidget")
    widget.page.wait_for_function("() => document.querySelectorAll('.lenswidget').length === 2")
    widget.page.locator(".lenswidget .lw-controls").nth(1).get_by_label("Colour").select_option("entropy")
    widget.page.wait_for_function(
        "() => [...document.querySelectorAll('.lenswidget select')]"
        ".filter(({ value }) => value === 'entropy').length === 2"
    )
    assert views.count() == 2
    widget.page.evaluate("window.jupyterapp.shell.currentWidget.close()")
    widget.page.wait_for_function("() => document.querySelectorAll('.lenswidget').length === 1")


def test_the_menu_saves_a_picture_of_the_grid(widget):
    widget.root.get_by_title("More").click()
    with widget.page.expect_download() as download:
        widget.root.get_by_role("button", name="Download PNG").click()
    path = download.value.path()
    assert path.read_bytes().startswith(b"\x89PNG")
    width, height = (int.from_bytes(path.read_bytes()[at : at + 4], "big") for at in (16, 20))
    # twice the size on screen, for crisp text: 31 rows of 20 px and 9 columns of 72 px at least
    assert width > 2 * 9 * 72
    assert height > 2 * 31 * 20
    widget.page.keyboard.press("Escape")


def test_a_saved_file_works_without_a_kernel_and_says_what_it_lacks(widget, browser, tmp_path):
    widget.execute(f"w.track(' Paris'); w.save({str(tmp_path / 'lens.html')!r})")
    with watched_page(browser) as (page, log):
        page.goto((tmp_path / "lens.html").as_uri())
        page.get_by_text("Saved view: no kernel").wait_for()
        page.locator(".lw-row[aria-rowindex='4'] > [role=gridcell][aria-colindex='10']").click()
        expect(page.locator("[data-card=main] tbody tr")).to_have_count(10)
        # the pin was tracked when the file was made, so its course has every layer
        expect(page.locator(".lw-dot")).to_have_count(31)
        for metric in ("entropy", "kl", "rank", "agrees", "log_prob"):
            page.get_by_label("Colour").select_option(metric)
            expect(page.locator(".lw-body .is-missing")).to_have_count(0)
        page.get_by_role("button", name="Code").click()
        page.get_by_text("This needs a kernel").wait_for()
        assert page.get_by_role("button", name="Run", exact=True).is_disabled()
        assert log.uncaught == []


def test_no_accessibility_violation(widget):
    widget.open_card(15, 8)
    widget.page.keyboard.press("p")
    widget.root.locator(".lw-chart").wait_for()
    widget.page.add_script_tag(path=str(AXE))
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        widget.notebook.use_theme(theme)
        expect(widget.root).to_have_attribute("data-theme", theme.split()[1].lower())
        widget.page.wait_for_timeout(300)
        frames(widget.page)
        found = widget.page.evaluate(
            "async () => (await axe.run('.lenswidget', { resultTypes: ['violations'] })).violations"
            ".map(({ id, nodes }) => [id, ...nodes.slice(0, 4).map((n) => n.html + n.failureSummary)])"
        )
        assert found == [], theme
    widget.notebook.use_theme("JupyterLab Light")


def test_a_restarted_kernel_leaves_the_grid_readable_and_says_so(widget, tmp_path):
    widget.open_card(15, 8)
    # the kernel goes while a click waits for it, and does so for good
    widget.hold(tmp_path, with_model=True)
    widget.cell(16, 8).click()
    expect(widget.root.locator(".lw-state")).to_have_text("Waiting for the kernel")
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    widget.page.evaluate(f"() => {{ window.restarted = {kernel}.restart(); }}")
    widget.root.get_by_text("Kernel gone").wait_for()
    widget.root.get_by_text("The kernel did not get this request").wait_for()
    widget.page.wait_for_timeout(2_000)
    assert widget.root.get_by_text("Kernel gone").is_visible()
    assert widget.cell(29, 8).inner_text() == "·Paris"
    # the server fails to end a kernel that it is restarting
    widget.page.evaluate("() => window.restarted.then(() => true)")
    widget.notebook.wait_until_idle()
