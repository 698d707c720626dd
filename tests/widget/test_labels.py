"""Labels: what the eye gets for each id."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tokenizer as tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lenswidget.models.token_bytes import byte_of_character
from lenswidget.widget.labels import Labels, visible


def test_every_byte_has_one_stand_in():
    assert sorted(byte_of_character().values()) == list(range(256))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" Paris", "␣Paris"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        ("", "∅"),
        ("\u202egnp", "⟨202E⟩gnp"),
        ("\u0301", "◌\u0301"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\u200d", "⟨200D⟩"),
        ("<img src=x onerror=alert(1)>", "<img␣src=x␣onerror=alert(1)>"),
    ],
)
def test_visible(raw: str, shown: str):
    assert visible(raw) == shown


@given(st.text(min_size=1))
def test_visible_leaves_nothing_unseen(raw: str):
    shown = visible(raw)
    assert shown
    assert not shown.isspace()
    assert all(unicodedata.category(c) not in {"Cc", "Zs", "Zl", "Zp"} for c in shown)


def test_labels_of_smollm2_are_the_tokenizers_bytes(demo_model):
    """The labels' bytes, joined, are the text that was encoded."""
    labels = Labels(demo_model.tokenizer, 49_152)
    text = "héllo 日本 🙂\n\tend ﷽ नमस्ते"
    shown = [labels[i] for i in demo_model.tokenizer.encode(text)]
    parts = [bytes.fromhex(label.raw) if label.kind == "bytes" else label.raw.encode() for label in shown]
    assert b"".join(parts).decode() == text


def test_fragments_are_joined_into_their_character(demo_model):
    labels = Labels(demo_model.tokenizer, 49_152)
    ids = demo_model.tokenizer.encode("a🫠b")
    fragments = [i for i in ids if labels[i].kind == "bytes"]
    assert len(fragments) > 1
    assert [c for c in labels.joined(ids) if c] == ["🫠"] * len(fragments)


@pytest.mark.parametrize(
    ("hidden", "shown"), [("\u202e", "⟨202E⟩"), ("\u2028", "⟨2028⟩"), ("\u200b", "⟨200B⟩")]
)
def test_a_joined_character_that_would_not_be_seen_is_made_visible(demo_model, hidden, shown):
    labels = Labels(demo_model.tokenizer, 49_152)
    ids = [i for byte in hidden.encode() for i in [byte_token(demo_model.tokenizer, byte)]]
    assert "".join(demo_model.tokenizer.decode(ids)) == hidden
    assert labels.joined(ids) == [shown] * len(ids)


def byte_token(tokenizer, byte: int) -> int:
    stand_in = next(character for character, b in byte_of_character().items() if b == byte)
    return tokenizer.convert_tokens_to_ids(stand_in)


def test_ids_that_print_alike_are_told_apart_in_hex(demo_model):
    labels = Labels(demo_model.tokenizer, 49_152)
    alike = [i for i in range(49_152) if demo_model.tokenizer.decode([i]) == "\ufffd"]
    assert len(alike) > 100
    assert len({labels[i].text for i in alike}) == len(alike)


def test_special_and_missing_ids(demo_model):
    labels = Labels(demo_model.tokenizer, 50_000)
    assert labels[demo_model.tokenizer.eos_token_id].kind == "special"
    assert (labels[49_999].text, labels[49_999].kind) == ("#49999", "none")
    assert Labels(None, 10)[3].text == "#3"


class EachCharacter:
    """A pre-tokenizer written in Python, as those of some Chinese and Japanese models are."""

    def pre_tokenize(self, text):
        text.split(lambda _, part: [part[i : i + 1] for i in range(len(str(part)))])


BYTES, WORDS = pre_tokenizers.ByteLevel(), pre_tokenizers.Whitespace()


@pytest.mark.parametrize(
    ("pre_tokenizer", "decoder", "raw"),
    [
        (BYTES, decoders.ByteLevel(), " b"),
        (pre_tokenizers.Sequence([WORDS, BYTES]), None, " b"),
        (WORDS, decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), " b"),
        (WORDS, decoders.WordPiece(), "Ġb"),
        (pre_tokenizers.PreTokenizer.custom(EachCharacter()), None, "Ġb"),
        (None, None, "Ġb"),
    ],
)
def test_a_piece_is_bytes_where_some_part_of_the_tokenizer_says_so(pre_tokenizer, decoder, raw):
    words = Tokenizer(models.WordLevel({"a": 0, "Ġb": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    for name, part in (("pre_tokenizer", pre_tokenizer), ("decoder", decoder)):
        if part is not None:
            setattr(tokenizer.backend_tokenizer, name, part)
    assert Labels(tokenizer, 2)[1].raw == raw


def test_search_puts_the_same_string_first(demo_model):
    labels = Labels(demo_model.tokenizer, 49_152)
    hits = labels.search(" Paris")
    assert labels[hits[0]].raw == " Paris"
    assert {labels[i].raw for i in labels.search("paris", 3)} >= {"Paris", " Paris"}
    assert labels.search("") == []


def test_ids_spell_what_the_tokenizer_decodes():
    ids = tiny_tokenizer()("naïve 😀 café")["input_ids"]
    labels = Labels(tiny_tokenizer(), 300)
    assert labels.text(ids) == tiny_tokenizer().decode(ids) == "naïve 😀 café"
    cut = ids[: ids.index(tiny_tokenizer()("😀")["input_ids"][0]) + 2]
    assert labels.text(cut) == tiny_tokenizer().decode(cut) == "naïve \ufffd"
