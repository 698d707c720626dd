"""The bytes that an entry of a vocabulary stands for, where it works on bytes; its text in tables."""

from functools import cache
from typing import Any


def works_on_bytes(tokenizer: Any) -> bool:
    """Whether a tokenizer writes bytes with GPT-2's stand-ins."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    return any(_is_byte_level(part) for part in (backend.decoder, backend.pre_tokenizer))


def bytes_of(piece: Any, *, is_byte_level: bool) -> bytes | None:
    """The bytes that a vocabulary's piece stands for; None where it stands for text.

    Args:
        piece: a name of the vocabulary, or the bytes themselves.
        is_byte_level: whether names are written with GPT-2's stand-ins; see `works_on_bytes`.
    """
    if isinstance(piece, bytes):
        return piece
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    if not is_byte_level:
        return None
    table = byte_of_character()
    if any(character not in table for character in piece):
        return None
    return bytes(table[character] for character in piece)


def token_text(tokenizer: Any, token_id: int) -> str:
    """The text of an id in tables: `#id` without a tokenizer, empty for -1, `<0xE2>` for a byte fragment."""
    if token_id < 0:
        return ""
    if tokenizer is None:
        return f"#{token_id}"
    text = str(tokenizer.decode([token_id]))
    if "\ufffd" not in text:
        return text
    piece = tokenizer.convert_ids_to_tokens(token_id)
    found = None if piece is None else bytes_of(piece, is_byte_level=works_on_bytes(tokenizer))
    if found is None:
        return text
    try:
        return found.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in found)


def _is_byte_level(part: Any) -> bool:
    """Whether a part of a fast tokenizer turns bytes into characters, by itself or among others."""
    try:
        # its own JSON, which pickle keeps: the whole tokenizer's holds the vocabulary, a fifth of a second
        return part is not None and b"ByteLevel" in part.__getstate__()
    except Exception:  # a part written in Python has no such text, and tokenizers raises a plain Exception
        return False


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte, inverted.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (byte-level BPE).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + i): byte for i, byte in enumerate(hidden)})
    return table
