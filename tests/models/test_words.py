"""Which ids of a vocabulary are words."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lenswidget.models.words import is_word, word_mask


def fast(raw, **options):
    return PreTrainedTokenizerFast(tokenizer_object=raw, **options)


def byte_level(words):
    table = {word.replace(" ", "Ġ"): i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(table, unk_token=next(iter(table))))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return fast(raw)


@pytest.mark.parametrize(
    "text", ["Paris", "don't", "co-op", "naïve", "Straße", "42", "東", "パ", "한", "हिन्दी"]
)
def test_a_word_is_letters_or_digits(text):
    assert is_word(text)


@pytest.mark.parametrize("text", ["", ",", "a1", "x", "'", "'t", "-", "co-", "3.5", "hello world", "é", "�"])
def test_nothing_else_is_a_word(text):
    assert not text or not is_word(text)


def test_a_vocabulary_that_marks_spaces_tells_words_from_ends_of_words():
    words = [
        " Paris",
        "Paris",
        "paris",
        " city",
        "city",
        " ing",
        "ing",
        " is",
        "is",
        ",",
        " 7",
        "7",
        " x",
        "<s>",
    ]
    tokenizer = byte_level(words)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    mask = word_mask(tokenizer, len(words) + 2)
    found = [word for word, is_one in zip(words, mask, strict=False) if is_one]
    assert found == [" Paris", "Paris", " city", "city", " ing", " is", " 7", "7"]
    assert not mask[len(words) :].any()  # ids that are padding


def test_sentencepiece_marks_its_spaces_too():
    pieces = ["<unk>", "▁Paris", "Paris", "▁the", "the", "ing", "▁", "<0xE2>", "東"]
    raw = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    mask = word_mask(fast(raw, unk_token="<unk>"), len(pieces))
    assert [piece for piece, is_one in zip(pieces, mask, strict=True) if is_one] == [
        "▁Paris",
        "Paris",
        "▁the",
        "東",
    ]


def test_wordpiece_marks_the_rest_of_a_word():
    pieces = ["[UNK]", "paris", "##is", "the", ".", "a"]
    raw = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    mask = word_mask(fast(raw, unk_token="[UNK]"), len(pieces))
    assert [piece for piece, is_one in zip(pieces, mask, strict=True) if is_one] == ["paris", "the"]


def test_the_mask_is_worked_out_once_and_again_for_added_tokens():
    tokenizer = byte_level([" Paris", "Paris", " city", ","])
    first = word_mask(tokenizer, 8)
    assert word_mask(tokenizer, 8) is first
    tokenizer.add_tokens([" Rome"])
    again = word_mask(tokenizer, 8)
    assert not first[4]
    assert again[4]
