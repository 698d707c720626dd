"""A widget at its edges: unfaithful models, gaps in a lens, long prompts, narrow notebooks, busy kernels."""

import json
import re

import pytest
from harness.lens import Lens
from harness.pages import frames, until_still
from playwright.sync_api import expect
from widget_page import CODE, PROMPT, widget_in_lab

# A model that adds the stream after block 1 to its answer: its last block alone does not tell its logits.
UNFAITHFUL = """import torch, lenswidget as lw
from transformers import GPT2Config, GPT2LMHeadModel

class EarlyExit(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        seen = []
        keep = lambda _module, _args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        hook = self.transformer.h[1].register_forward_hook(keep)
        out = super().forward(*args, **kwargs)
        hook.remove()
        if seen:
            out.logits = out.logits + 0.5 * self.lm_head(seen[0])
        return out

torch.manual_seed(0)
sizes = dict(n_layer=4, n_embd=32, n_head=2, n_positions=64, vocab_size=300)
config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
model = lw.LanguageModel(EarlyExit(config).eval(), lw.demo_model().tokenizer, blocks="transformer.h")
w = model.lens([5, 6, 7], strict=False)
w"""


def test_a_model_whose_logits_are_not_its_tails_has_a_red_badge_and_is_else_refused(browser, lab, shot):
    with widget_in_lab(browser, lab, "unfaithful.ipynb", UNFAITHFUL) as widget:
        badge = widget.root.locator(".lw-badge")
        expect(badge).to_contain_text("not the model’s own logits")
        expect(badge).to_have_class(re.compile("is-bad"))
        red, green, blue = map(int, re.findall(r"\d+", badge.evaluate("e => getComputedStyle(e).color"))[:3])
        assert red > 2 * max(green, blue)
        # how far off it says it is: the model's own answer against the tail of its last row
        widget.execute(
            "run = model.run([5, 6, 7])\n"
            "with torch.no_grad():\n"
            "    rows = model.tail(run.states('resid_post', [3] * 3, [0, 1, 2]))\n"
            "    own = model.hf_model(torch.tensor([[5, 6, 7]])).logits[0].log_softmax(-1)"
        )
        expected = widget.value("float((own - rows.log_softmax(-1)).abs().max())")
        assert expected > 1e-3
        assert widget.value("w.run['fidelity']['max_abs_error']") == pytest.approx(expected, rel=1e-2)
        assert f"{expected:.0e}".replace("e-0", "e-") in badge.inner_text()
        # it can be looked at all the same
        widget.cell(2, 1, n_layers=4).click()
        widget.decoded_card(2, 1)
        refusal = widget.execute(
            "try:\n    model.lens([5, 6, 7])\nexcept lw.LensError as error:\n    print(error)"
        )
        assert "is not its own logits" in refusal
        assert "strict=False" in refusal
        shot(widget.page, "widget-unfaithful")


GAPS = """import lenswidget as lw
model = lw.demo_model()

class Upper:
    name = "upper"
    layers = tuple(range(20, 30))
    def transport(self, layer, states):
        return states

w = model.lens("The Eiffel Tower is in the city of", lens="logit", lenses=[Upper()])
w"""


def test_rows_that_a_lens_cannot_carry_look_not_computed_in_every_metric(browser, lab, shot):
    with widget_in_lab(browser, lab, "gaps.ipynb", GAPS) as widget:
        widget.control("Lens").select_option("upper")
        expect(widget.cell(25, 3)).not_to_have_class(re.compile("is-missing"))
        for metric in ("prob", "entropy", "kl", "rank", "agrees", "log_prob"):
            widget.control("Colour").select_option(metric)
            expect(widget.cell(20, 3)).not_to_have_class(re.compile("is-missing"))
            for layer in (19, 5, -1):
                cell = widget.cell(layer, 3)
                expect(cell).to_have_class(re.compile("is-missing"))
                assert cell.inner_text() == ""
                assert cell.evaluate("e => e.style.backgroundColor") == ""
        assert widget.root.locator(".is-nan").count() == 0
        # a click on one says why, and the next click works
        widget.cell(5, 3).click()
        expect(widget.root.locator("[data-card=main] [role=alert]")).to_contain_text("upper")
        widget.open_card(25, 3)
        shot(widget.page, "widget-gaps")


BROKEN = """import lenswidget as lw
model = lw.demo_model()

def broken(layer, states):
    return states * float("nan") if layer == 12 else states

w = model.lens("The Eiffel Tower is in the city of", lens=broken)
w"""


def test_a_cell_that_is_not_finite_says_so_and_is_not_taken_for_one_that_was_not_computed(browser, lab):
    with widget_in_lab(browser, lab, "broken.ipynb", BROKEN) as widget:
        for metric in ("prob", "entropy", "kl", "rank", "log_prob"):
            widget.control("Colour").select_option(metric)
            expect(widget.cell(12, 3)).to_have_class(re.compile("is-nan"))
            expect(widget.cell(11, 3)).not_to_have_class(re.compile("is-nan|is-missing"))
            assert widget.cell(12, 3).inner_text() == "NaN"
        widget.cell(12, 3).click()
        card = widget.decoded_card(12, 3)
        assert "entropy NaN nats" in card.inner_text()
        assert card.locator("tbody tr").count() == 0
        widget.page.keyboard.press("p")  # no token to pin
        assert widget.value("w.pins") == []
        widget.open_card(11, 3)


def test_a_long_prompt_has_an_overview_that_leads_anywhere(browser, lab, shot):
    code = CODE.replace(repr(PROMPT), repr("The cat sat on the mat and looked at the dog. " * 30))
    with widget_in_lab(browser, lab, "overview.ipynb", code) as widget:
        strip = widget.root.locator(".lw-overview")
        box = strip.bounding_box()
        widget.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 10)
        widget.page.mouse.down()
        scrolled = (
            "document.querySelector('.lw-grid').scrollLeft / document.querySelector('.lw-grid').scrollWidth"
        )
        widget.page.wait_for_function(f"() => {scrolled} > 0.6")
        until_still(widget.page, scrolled)
        frame = strip.locator("i").bounding_box()
        # as wide as the strip, so that it moves without a layout; what is drawn of it is its ::before
        drawn_px = strip.locator("i").evaluate("e => parseFloat(getComputedStyle(e, '::before').width)")
        assert drawn_px < 0.1 * box["width"]
        assert abs(frame["x"] + drawn_px / 2 - (box["x"] + 0.75 * box["width"])) < 8
        widget.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10, steps=5)
        widget.page.mouse.up()
        widget.page.wait_for_function(f"() => {scrolled} < 0.3")
        widget.page.wait_for_function("() => !document.querySelector('.lw-body .is-missing')")
        # drawn in the cell's own colour
        colour = """([position, layer]) => {
          const canvas = document.querySelector(".lw-overview canvas");
          const n = Number(document.querySelector(".lw-grid").ariaColCount) - 1;
          const x = Math.ceil(position * canvas.width / n), y = Math.ceil((29 - layer) * canvas.height / 31);
          return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        }"""
        seen = int(widget.root.locator(".lw-body [role=gridcell]").nth(8).get_attribute("aria-colindex")) - 2
        own = widget.cell(29, seen).evaluate("e => getComputedStyle(e).backgroundColor")
        drawn = [*map(int, re.findall(r"\d+", own)), 255]
        is_drawn = f"([at, drawn]) => ({colour})(at).join() === drawn.join()"
        widget.page.wait_for_function(is_drawn, arg=[[seen, 29], drawn])
        # in idle time also where nobody has looked
        widget.page.wait_for_function("""() => {
          const canvas = document.querySelector(".lw-overview canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return data.every((value, i) => i % 4 < 3 || value === 255);
        }""")
        assert strip.get_attribute("aria-hidden") == "true"
        shot(widget.page, "widget-overview")
        # the grid's own keys lead as far
        widget.cell(29, seen).focus()
        widget.page.keyboard.press("Control+End")
        widget.page.wait_for_function(f"() => {scrolled} > 0.8")
        # a short prompt needs none
        widget.execute(f"w.prompt = {PROMPT!r}")
        expect(strip).to_be_hidden()


def test_in_a_narrow_notebook_a_click_brings_the_card_into_view_and_no_further(browser, lab, shot):
    narrow = {"viewport": {"width": 620, "height": 620}}
    with widget_in_lab(browser, lab, "narrow.ipynb", **narrow) as widget:
        cell = widget.cell(26, 2)
        cell.scroll_into_view_if_needed()
        cell.click()
        card = widget.decoded_card(26, 2)
        expect(card.get_by_role("heading").first).to_be_in_viewport(ratio=1)
        expect(card.locator("tbody tr").nth(1)).to_be_in_viewport()
        top = "document.querySelector('[data-card=main]').getBoundingClientRect().top"
        before = until_still(widget.page, top)
        assert widget.page.evaluate("document.activeElement?.role") == "gridcell"
        shot(widget.page, "widget-narrow")
        # what is in view stays where it is
        widget.execute("w.selection = {'layer': 20, 'position': 2}")
        widget.decoded_card(20, 2)
        assert abs(until_still(widget.page, top) - before) < 2


def test_a_click_is_answered_while_a_cell_runs_that_leaves_the_model_alone(browser, lab, tmp_path):
    with widget_in_lab(browser, lab, "sleeping.ipynb") as widget:
        widget.hold(tmp_path)
        widget.open_card(21, 3)
        assert widget.page.evaluate("window.isDone") is False
        (tmp_path / "end").touch()
        widget.page.wait_for_function("() => window.isDone")


def test_while_a_cell_uses_the_model_clicks_wait_and_the_latest_wins(browser, lab, tmp_path):
    with widget_in_lab(browser, lab, "busy.ipynb") as widget:
        widget.execute(
            "asked = []; decode = w._session.decode\n"
            "def counted(request):\n    asked.append(request.layer); return decode(request)\n"
            "w._session.decode = counted"
        )
        widget.hold(tmp_path, with_model=True)
        for layer in (19, 21, 23, 25):
            widget.cell(layer, 3).click()
            frames(widget.page)
        expect(widget.root.locator(".lw-state")).to_have_text("Waiting for the kernel")
        # what the grid knows is on show meanwhile, marked as such
        card = widget.card()
        expect(card).to_have_attribute("aria-busy", "true")
        expect(card.locator(".is-stale tbody tr:not(.is-blank)")).to_have_count(5)
        widget.page.evaluate(
            """() => { window.seen = new Set(); new MutationObserver(() =>
                 window.seen.add(document.querySelector("[data-card=main]")?.ariaLabel)
               ).observe(document.querySelector(".lw-side"),
                          { subtree: true, childList: true, attributes: true }); }"""
        )
        (tmp_path / "end").touch()
        widget.decoded_card(25, 3)
        assert widget.value("asked") == [19, 25]
        assert set(widget.page.evaluate("[...window.seen]")) <= {"Decoded cell, layer 25, position 3"}
        widget.becomes("w.selection", {"layer": 25, "position": 3})


def test_ipywidgets_link_observe_interactive_and_layout_work_with_it(browser, lab):
    code = (
        CODE.removesuffix("w")
        + """
import ipywidgets
other = model.lens("The Louvre is in the city of")
ipywidgets.jslink((w, "metric"), (other, "metric"))
ipywidgets.link((w, "stride"), (other, "stride"))
heard = []
w.observe(lambda change: heard.append(change["new"]), "selection")
shown = ipywidgets.interactive(lambda metric: metric, metric=["prob", "entropy", "kl"])
ipywidgets.link((shown.children[0], "value"), (w, "metric"))
w.layout.width = "900px"
ipywidgets.VBox([w, other, shown])
"""
    )
    with widget_in_lab(browser, lab, "links.ipynb", code) as widget:
        both = widget.page.locator(".lenswidget")
        expect(both).to_have_count(2)
        assert both.first.bounding_box()["width"] == pytest.approx(900, abs=2)
        widget.page.locator(".widget-dropdown select").select_option("entropy")
        for view in (both.nth(0), both.nth(1)):
            expect(view.locator(".lw-controls").get_by_label("Colour", exact=True)).to_have_value("entropy")
        both.nth(1).locator(".lw-controls").get_by_label("Layers", exact=True).select_option("5")
        expect(both.nth(0).locator(".lw-controls").get_by_label("Layers", exact=True)).to_have_value("5")
        # two widgets on one model do not disturb each other
        widget.execute("w.selection = {'layer': 29, 'position': 8}")
        widget.becomes("heard[-1]", {"layer": 29, "position": 8})
        assert widget.value("other.selection") is None
        assert widget.value("[w.prompt, other.prompt]") == [PROMPT, "The Louvre is in the city of"]


def test_state_begins_another_widget_where_this_one_stands(browser, lab):
    with widget_in_lab(browser, lab, "state.ipynb") as widget:
        widget.control("Colour").select_option("entropy")
        widget.open_card(20, 8)
        widget.page.keyboard.press("p")
        widget.page.keyboard.press("k")
        widget.becomes("len(w.cards)", 1)
        widget.becomes("len(w.pins)", 1)
        widget.execute(
            "again = model.lens('The Eiffel Tower is in Paris, and', state=w.state); display(again)"
        )
        assert widget.value(
            "[again.metric, again.selection, again.pins == w.pins, again.cards == w.cards]"
        ) == [
            "entropy",
            {"layer": 20, "position": 8},
            True,
            True,
        ]
        assert widget.value("again.decoded['layer']") == 20


def test_a_saved_notebook_of_twenty_widgets_stays_under_6_mb(browser, lab):
    _, folder = lab
    code = CODE.removesuffix("w") + (
        "from IPython.display import display\n"
        "ws = [model.lens(f'Paris is city number {i} of') for i in range(20)]\n"
        "display(*ws)"
    )
    with widget_in_lab(browser, lab, "twenty.ipynb", code) as widget:
        expect(widget.page.locator(".lenswidget")).to_have_count(20, timeout=120_000)
        widget.notebook.save_with_widgets()
        n_bytes = (folder / "twenty.ipynb").stat().st_size
        saved = json.loads((folder / "twenty.ipynb").read_text())["metadata"]["widgets"]
        kept = saved["application/vnd.jupyter.widget-state+json"]["state"].values()
        assert sum("snapshot" in each["state"] for each in kept) == 21  # and `w`
        print("bytes of 20 widgets:", n_bytes)
        assert n_bytes < 6_000_000


def test_it_prints_whole_and_without_its_controls(browser, lab, shot):
    with widget_in_lab(browser, lab, "print.ipynb") as widget:
        widget.notebook.use_theme("JupyterLab Dark")
        widget.open_card(20, 8)
        dark = widget.cell(29, 7).evaluate("e => e.style.backgroundColor")
        widget.page.emulate_media(media="print")
        # on paper in light colours, in any theme
        expect(widget.root).to_have_css("background-color", "rgb(255, 255, 255)")
        expect(widget.cell(29, 7)).not_to_have_css("background-color", dark)
        expect(widget.root).to_have_attribute("data-theme", "light")
        expect(widget.root.locator(".lw-state")).to_be_hidden()
        expect(widget.root.get_by_title("More")).to_be_hidden()
        expect(widget.root.get_by_role("button", name="Run", exact=True)).to_be_hidden()
        expect(widget.root.locator(".lw-legend")).to_be_visible()
        expect(widget.cell(-1, 8)).to_be_visible()
        shot(widget.root, "widget-print")


def test_tokens_of_every_script_are_shown_whole(browser, lab, shot):
    text = "東京 🗼 שלום مرحبا naïve\\n\\tend"
    code = CODE.replace(repr(PROMPT), f'"{text}"')
    with widget_in_lab(browser, lab, "scripts.ipynb", code) as widget:
        lens = Lens(widget.page, 30)
        lens.open_card(10, 2)
        heads = widget.root.locator(".lw-colhead")
        kinds = heads.evaluate_all("nodes => nodes.map(n => n.className)")
        assert any("is-bytes" in kind for kind in kinds)
        widget.cell(10, 1).hover()
        tip = widget.root.locator(".lw-tooltip")
        expect(tip).to_be_visible()
        joined = widget.value("w.run['joined']")
        assert {"␣🗼", "東", "京"} <= set(filter(None, joined))
        # a byte fragment names its character on hover
        widget.cell(10, joined.index("␣🗼")).hover()
        expect(tip).to_contain_text("🗼")
        shot(widget.page, "widget-scripts")
