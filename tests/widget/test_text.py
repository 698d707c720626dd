"""Text that other programs misread: formulas in a CSV, halves of characters, fragments of them."""

import csv
import itertools

import pandas as pd
import pytest
import torch
from tiny import PROMPT, gpt2, language_model, tokenizer
from transformers import PreTrainedTokenizerFast
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import LensError
from lenswidget.models.encoded_prompt import encode_prompt
from lenswidget.widget import csv_table
from lenswidget.widget.widget import LensWidget

HALF = "a\ud800"
FORMULAS = ["=1+1", "+1", "-1", "@SUM", "\tx", "\rx"]


@pytest.fixture(scope="module")
def widget():
    return LensWidget(language_model(gpt2), PROMPT)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_no_cell_of_a_csv_is_a_formula_unless_asked(tmp_path):
    frame = pd.DataFrame({"token": [*FORMULAS, "a=b", " Paris", ""], "log_prob": -1.5})
    for raw in (False, True):
        csv_table.write(frame, tmp_path / "table.csv", raw=raw)
        tokens = [token for token, _ in rows_of(tmp_path / "table.csv")[1:]]
        before = "" if raw else "'"
        assert tokens == [*(before + text for text in FORMULAS), "a=b", " Paris", ""]
        assert {number for _, number in rows_of(tmp_path / "table.csv")[1:]} == {"-1.5"}


def test_to_csv_is_safe_and_raw_gives_the_tokens_themselves(widget, tmp_path):
    readout = widget.readout(k=100)  # a third of the vocabulary in each cell: each of the signs is there
    texts = readout.tokens().ravel().tolist()
    assert {text[:1] for text in texts} >= set("=+-@\t\r")
    found = {}
    for raw in (False, True):
        path = widget.to_csv(tmp_path / "grid.csv", k=100, raw=raw)
        header, *rows = rows_of(path)
        found[raw] = [row[header.index("token")] for row in rows]
    assert found[True] == texts
    assert not [text for text in found[False] if text[:1] in "=+-@\t\r" and text]
    assert [text.removeprefix("'") for text in found[False]] == [text.removeprefix("'") for text in texts]


def test_fragments_of_characters_are_told_apart_in_tables(widget):
    frame = widget.to_dataframe(k=100).drop_duplicates("id")
    names = tokenizer().convert_ids_to_tokens(frame.id.tolist())
    fragments = frame[frame.token.str.startswith("<0x")]
    assert len(fragments) > 50
    assert fragments.token.is_unique
    assert not frame.token.str.contains("\ufffd").any()
    table = {character: byte for byte, character in bytes_to_unicode().items()}
    for name, text in zip(names, frame.token, strict=True):
        bits = bytes(table[character] for character in name)
        if text.startswith("<0x"):
            assert "".join(f"<0x{byte:02X}>" for byte in bits) == text
        else:
            assert bits.decode() == text


def bytes_to_unicode():
    """transformers' own table of GPT-2's stand-ins."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()


def test_half_a_character_is_refused_in_a_sentence_wherever_python_gives_text(widget, tmp_path):
    model = language_model(gpt2)
    function = {HALF: lambda layer, states: states}
    for call in (
        lambda: model.lens(HALF),
        lambda: model.run(HALF),
        lambda: model.trace(HALF).__enter__(),
        lambda: model.trace([PROMPT, HALF]).__enter__(),
        lambda: model.tokenize(HALF),
        lambda: setattr(widget, "prompt", HALF),
        lambda: widget.track(HALF),
        lambda: setattr(widget, "pins", [{"ids": [1], "label": HALF, "color": 0}]),
        lambda: widget.track(5, label=HALF),
        lambda: setattr(widget, "site", HALF),
        lambda: setattr(widget, "lens", HALF),
        lambda: widget.save(tmp_path / HALF),
        lambda: widget.to_csv(f"{tmp_path}/{HALF}"),
        lambda: model.lens(PROMPT, lenses=function),
        lambda: lw.TunedLens.fit(model, [HALF], progress=False),
        lambda: lw.load_lens(HALF),
    ):
        with pytest.raises(LensError) as told:
            call()
        str(told.value).encode()
        assert "\n" not in str(told.value)
    assert widget.prompt == PROMPT
    assert widget.pins == []


def test_half_a_character_from_the_page_gets_one_reply_in_words(widget):
    page = Page(LensWidget(language_model(gpt2), PROMPT))
    cell = {"layer": 1, "position": 1, "site": "resid_post", "lens": "logit", "k": 2, "track": []}
    for kind, fields in (
        ("search", {"text": HALF}),
        ("run", {"prompt": HALF}),
        ("run", {"again": HALF}),
        ("decode", {**cell, "run_id": HALF}),
        ("decode", {**cell, "run_id": page.widget.run["id"], "lens": HALF}),
        ("code", {**cell, "run_id": page.widget.run["id"], "site": HALF}),
        (HALF, {}),
    ):
        reply, _ = page.ask(kind, **fields)
        assert reply["error"]["type"] in ("CellError", "LensError", "PromptError")
    page.sent.clear()
    page.widget._receive(page.widget, {"id": HALF, "kind": "ping"}, [])
    assert [content["id"] for content, _ in page.sent] == [None]
    for state in ({"pins": [{"ids": [1], "label": HALF, "color": 0}]}, {HALF: 1}, {"metric": HALF}):
        page.sent.clear()
        page.widget.set_state(state)
        assert [content["kind"] for content, _ in page.sent] == ["refused"]
    assert page.ask("ping")[0]["value"] == {}


class Lots(PreTrainedTokenizerFast):
    """A tokenizer that splits the same text otherwise each time."""

    def __call__(self, text, *args, **options):
        found = super().__call__(text, *args, **options)
        at = next(self.places)
        parts = [super(Lots, self).__call__(part)["input_ids"] for part in (text[:at], text[at:])]
        found["input_ids"] = [i for part in parts for i in part]
        found["attention_mask"] = [1] * len(found["input_ids"])
        return found


def test_code_of_a_prompt_that_its_tokenizer_splits_otherwise_has_the_ids():
    lots = Lots(tokenizer_object=tokenizer().backend_tokenizer)
    lots.places = itertools.cycle([1, 6, 2, 7])
    hf_model = gpt2()
    prompt = encode_prompt("The city of Paris", lots, hf_model, torch.device("cpu"))
    assert prompt.text is None
    ids = prompt.model_inputs["input_ids"][0].tolist()
    assert prompt.code == repr(ids)
    assert prompt.to_state() == {"ids": ids}
    plain = encode_prompt("The city of Paris", tokenizer(), hf_model, torch.device("cpu"))
    assert plain.code == repr("The city of Paris")
