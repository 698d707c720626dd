"""Which ids of a vocabulary are words, as far as a vocabulary can tell."""

import unicodedata
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.models.token_bytes import bytes_of, works_on_bytes

# How a vocabulary marks the space before a token; GPT-2's stand-in is turned back into a space.
SENTENCEPIECE_SPACE = "▁"
WORDPIECE_REST = "##"
# Inside a word beside letters: "don't", "co-op".
JOINERS = frozenset("'’-‐")
# A lower-case token of fewer letters with no space before it is more often the end of a word than one.
LEAST_LOWER_CASE, LEAST_LETTERS = 4, 2
# Scripts that put no space between words, and in which one character may be a word; from their Unicode names.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

_masks: "weakref.WeakKeyDictionary[Any, tuple[int, npt.NDArray[np.bool_]]]" = weakref.WeakKeyDictionary()


def word_mask(tokenizer: Any, d_vocab: int) -> npt.NDArray[np.bool_]:
    """Which ids are a word or a number by themselves, `[d_vocab]`; worked out once per tokenizer.

    A word is letters, with `'` or `-` between them, and begins after a space: ` Paris`, ` don't`. Where the
    vocabulary marks spaces, a token without one counts if the same word with one is a token too and it has
    four letters or a capital: `Paris` and `city`, but neither `ing` nor `is`. In scripts without spaces
    between words every letter counts. A number is digits: the answer to a sum must not be hidden. No words
    are single letters of other scripts, special tokens, parts of a character, punctuation, and, in WordPiece,
    what begins with `##`.

    Args:
        tokenizer: a transformers tokenizer.
        d_vocab: how many ids the model's logits have; those beyond the tokenizer's are no words.
    """
    known = _masks.get(tokenizer)
    if known is None or known[0] != len(tokenizer) or len(known[1]) != d_vocab:
        known = _masks[tokenizer] = (len(tokenizer), _mask(tokenizer, d_vocab))
    return known[1]


def _mask(tokenizer: Any, d_vocab: int) -> npt.NDArray[np.bool_]:
    n_tokens = min(len(tokenizer), d_vocab)
    special: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
    texts = ["" if token_id in special else text for token_id, text in enumerate(_texts(tokenizer, n_tokens))]
    spaced = {text[1:] for text in texts if text.startswith(" ")}
    # a vocabulary of whole words, or one that marks the rest of a word instead
    marks_spaces = len(spaced) > n_tokens // 20
    mask = np.zeros(d_vocab, bool)
    for token_id, text in enumerate(texts):
        bare = text.removeprefix(" ")
        if text.startswith(WORDPIECE_REST) or not bare:
            continue
        begins = not marks_spaces or text.startswith(" ")
        mask[token_id] = is_word(bare) if begins else _is_word_unmarked(bare, spaced)
    return mask


def is_word(text: str) -> bool:
    """Whether a text, without the space before it, is a word or a number; see `word_mask`."""
    if text.isdecimal():
        return True
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    others = [c for c in text if unicodedata.category(c)[0] not in "LM"]
    if not letters or any(c not in JOINERS for c in others) or not _ends_in_letters(text):
        return False
    return len(letters) >= LEAST_LETTERS or _is_unspaced(letters[0])


def _is_word_unmarked(text: str, spaced: set[str]) -> bool:
    """Whether a token with no space before it is a word, in a vocabulary that marks spaces."""
    if text.isdecimal() or (text and _is_unspaced(text[0])):
        return is_word(text)
    is_told = text[0].isupper() or len(text) >= LEAST_LOWER_CASE
    return is_told and text in spaced and is_word(text)


def _ends_in_letters(text: str) -> bool:
    return text[0] not in JOINERS and text[-1] not in JOINERS


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


def _texts(tokenizer: Any, n_tokens: int) -> list[str]:
    """The text of every id, the space before it included; empty for parts of characters."""
    is_byte_level = works_on_bytes(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(range(n_tokens))
    return [_text(piece, is_byte_level) for piece in pieces]


def _text(piece: Any, is_byte_level: bool) -> str:
    if piece is None:
        return ""
    found = bytes_of(piece, is_byte_level=is_byte_level)
    if found is None:
        return str(piece).replace(SENTENCEPIECE_SPACE, " ")
    try:
        return found.decode()
    except UnicodeDecodeError:
        return ""
