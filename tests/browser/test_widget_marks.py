"""What the page says of its rows and columns: a chat's messages, passes of looped blocks, masked models."""

from harness.pages import frames
from playwright.sync_api import expect
from widget_page import AXE, widget_in_lab

CHAT = """import lenswidget as lw
model = lw.demo_model()
w = model.lens([
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Japan?"},
])
w"""
LOOPED = """import lenswidget as lw, torch, transformers as hf
torch.manual_seed(0)
config = hf.HrmTextConfig(vocab_size=211, hidden_size=32, intermediate_size=48, num_attention_heads=4,
    head_dim=8, num_layers_per_stack=3, max_position_embeddings=64, initializer_range=0.3)
model = lw.LanguageModel(hf.HrmTextForCausalLM(config))
w = model.lens([5, 17, 99, 3, 42, 120, 7, 64])
w"""
MASKED = """import lenswidget as lw, torch, transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
words = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=fast, mask_token="[MASK]", unk_token="[UNK]")
torch.manual_seed(1)
config = hf.BertConfig(vocab_size=11, hidden_size=32, intermediate_size=48, num_attention_heads=4,
    num_hidden_layers=3, max_position_embeddings=32)
model = lw.LanguageModel(hf.BertForMaskedLM(config).eval(), tokenizer)
w = model.lens("the cat [MASK] on a mat")
w"""
# What axe finds, in both of JupyterLab's themes.
VIOLATIONS = """async () => (await axe.run('.lenswidget', { resultTypes: ['violations'] })).violations
  .map(({ id, nodes }) => [id, ...nodes.slice(0, 4).map((n) => n.html + n.failureSummary)])"""


def in_both_themes(widget, shot, name):
    widget.page.add_script_tag(path=str(AXE))
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        widget.notebook.use_theme(theme)
        expect(widget.root).to_have_attribute("data-theme", theme.split()[1].lower())
        widget.page.wait_for_timeout(300)
        frames(widget.page)
        shot(widget.page, f"widget-{name}-{theme.split()[1].lower()}")
        assert widget.page.evaluate(VIOLATIONS) == [], theme
    widget.notebook.use_theme("JupyterLab Light")


def test_a_chats_columns_say_whose_they_are_and_fold(browser, lab, shot):
    with widget_in_lab(browser, lab, "chat.ipynb", CHAT) as widget:
        root, keys = widget.root, widget.page.keyboard
        strips = root.locator(".lw-strip")
        # those over columns in view
        expect(strips).to_have_text(["system"])
        in_both_themes(widget, shot, "chat")
        # the system message folds by a press, and the view moves over
        strips.first.click()
        expect(strips.first).to_have_text("▸ system · 21")
        widget.becomes("w.folded_bands", [0])
        # what is read aloud
        first = widget.value("w.spans['user'][0]")
        head = root.get_by_role("columnheader", name=f"position {first}, “What”, user")
        expect(head).to_have_text("What")
        folded = root.get_by_role("columnheader", name="position 0–20, message of system, 21 columns, folded")
        expect(folded).to_have_attribute("aria-expanded", "false")
        widget.cell(20, 4).click()
        expect(root.locator(".lw-status")).to_contain_text(f"position {first} (user) after “What”")
        shot(widget.page, "widget-chat-folded")
        # T hides the template: what is left is the messages' own tokens
        widget.cell(20, 1).focus()
        keys.press("T")
        widget.becomes("w.hide_template", True)
        expect(root.get_by_label("Hide template")).to_be_checked()
        columns = widget.value(
            "[w.spans['system'][-1], *sorted(c for r in ('user', 'assistant') for c in w.spans[r])]"
        )
        frames(widget.page)
        shown = root.locator(".lw-colhead").evaluate_all("all => all.map((e) => e.dataset.at)")
        assert shown[1:] == [str(column) for column in columns[1:]]
        assert shown[0] == "0–20"
        # what asks the model to answer was of the template alone
        expect(strips).to_have_text(["▸ system · 21", "user", "assistant", "user"])
        shot(widget.page, "widget-chat-hidden")
        # f at its column unfolds it again
        widget.cell(20, 0).click()
        keys.press("f")
        widget.becomes("w.folded_bands", [])
        expect(root.locator(".lw-status")).to_contain_text("Unfolded message of system, 21 columns")
        # and the state brings all that to another widget
        widget.execute("w.folded_bands = [0]; again = model.lens(state=w.state)")
        assert widget.value("[again.hide_template, again.folded_bands, again.spans == w.spans]") == [
            True,
            [0],
            True,
        ]


def test_passes_of_looped_blocks_are_bracketed_and_fold(browser, lab, shot):
    with widget_in_lab(browser, lab, "looped.ipynb", LOOPED) as widget:
        root, keys = widget.root, widget.page.keyboard
        rows = root.locator(".lw-body .lw-rowhead")
        expect(rows).to_have_text(["1.2", "1.1", "1.0", "0.2", "0.1", "0.0", "embed"])
        names = root.locator(".lw-body .lw-rowhead.is-first")
        assert names.evaluate_all("all => all.map((e) => e.dataset.at)") == ["▾ pass 1", "▾ pass 0"]
        name = "pass 0, block 1, model.H_module.layers.1: layer 1"
        expect(root.get_by_role("rowheader", name=name)).to_have_text("0.1")
        widget.cell(1, 3, n_layers=6).click()
        expect(root.locator(".lw-card h3")).to_contain_text("Pass 0, block 1 · layer 1")
        in_both_themes(widget, shot, "looped")
        # copied code names the call, and reads it
        expect(root.locator(".lw-card[aria-busy=false]")).to_have_count(1)
        root.get_by_title("Copy as code").click()
        code = root.locator(".lw-code")
        # the clipboard takes it where it may; the page then says so
        expect(root.locator(".lw-card")).to_contain_text("opied")
        if code.count():
            assert "model.layers[1].resid_post[:, 3]  # layer 1: pass 0, block 1" in code.input_value()
        # a press on the head folds the pass; F at a cell of it unfolds it; the row that is left has the focus
        names.last.click()
        widget.becomes("w.folded_passes", [0])
        expect(rows).to_have_text(["1.2", "1.1", "1.0", "0.2", "embed"])
        expect(names.last).to_have_attribute("aria-expanded", "false")
        shot(widget.page, "widget-looped-folded")
        root.locator(".lw-row[aria-rowindex='5'] > [role=gridcell]").nth(3).focus()
        keys.press("F")
        widget.becomes("w.folded_passes", [])
        expect(rows).to_have_count(7)
        keys.press("F")
        expect(root.locator("[role=gridcell]:focus")).to_have_count(1)
        expect(root.locator(".lw-status")).to_contain_text("Folded pass 0, 3 rows")
        widget.execute("w.folded_passes = []")


def test_a_masked_model_speaks_of_the_token_that_stands_there(browser, lab, shot):
    with widget_in_lab(browser, lab, "masked.ipynb", MASKED) as widget:
        root = widget.root
        # the answer is that at the mask, by the model's own logits
        widget.execute(
            "logits = model.hf_model(**tokenizer(w.prompt, return_tensors='pt')).logits[0]\n"
            "tops = logits.argmax(-1).tolist(); ids = w.run['tokens']"
        )
        answer = widget.value("tokenizer.decode([tops[2]])")
        expect(root.locator(".lw-info")).to_contain_text("at position 2 says")
        expect(root.locator(".lw-info strong")).to_have_text(f"“{answer}”")
        expect(root.locator(".lw-info")).to_contain_text("each cell says what stands at its position")
        expect(root.locator(".lw-legend")).to_contain_text("is the token that stands there")
        assert "next token" not in root.inner_text()
        # corners where the top token is the column's own
        wanted = widget.value("[i for i, (top, own) in enumerate(zip(tops, ids)) if top == own]")
        last = root.locator(".lw-row[aria-rowindex='2'] > [role=gridcell]")
        corners = last.evaluate_all("all => all.map((e) => e.className.includes('is-next'))")
        assert [i for i, is_marked in enumerate(corners) if is_marked] == wanted
        expect(root.get_by_role("grid")).to_have_attribute(
            "aria-label", "Top token at every layer and position: the token that each layer says stands there"
        )
        title = "; its cells say what stands here"
        assert root.locator(f".lw-colhead[title$='{title}']").count() == 6
        last.nth(1).click()
        card = root.locator(".lw-card[aria-busy=false]")
        expect(card.locator("h3")).to_contain_text("position 1, at")
        # of this vocabulary every token is on the card
        expect(card.locator(".lw-tag")).to_have_text("here")
        expect(card.locator("tr.is-next th")).to_contain_text("cat")
        expect(root.locator(".lw-status")).to_contain_text("position 1 at “cat”")
        in_both_themes(widget, shot, "masked")
