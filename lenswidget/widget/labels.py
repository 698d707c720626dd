"""Token ids -> labels a person can read.

Ids are identity, labels are for the eye: several ids may carry one label, and a label is never turned back
into an id. Bytes that are no whole character are shown in hex, white space as glyphs, and nothing is lost.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from lenswidget.models.token_bytes import bytes_of, works_on_bytes

Kind = Literal["text", "space", "bytes", "special", "none"]

SPACE_GLYPHS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
ZERO_WIDTH_JOINER = "\u200d"
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Label:
    """How one token id is shown.

    Attributes:
        text: what the eye gets; never empty, no control characters.
        kind: `text`; `space` (only white space); `bytes` (part of a character, `text` in hex); `special`
            (control token of the model); `none` (the tokenizer has no such id).
        raw: the decoded string; for `bytes` the hex of the bytes, for `none` the empty string.
    """

    text: str
    kind: Kind
    raw: str


class Labels:
    """The labels of one tokenizer's ids.

    Args:
        tokenizer: a transformers tokenizer, or None, in which case ids are shown as numbers.
        d_vocab: how many ids the model's logits have; may exceed the tokenizer's.
    """

    def __init__(self, tokenizer: Any, d_vocab: int):
        self.tokenizer = tokenizer
        self.d_vocab = d_vocab
        self._labels: dict[int, Label] = {}

    def __getitem__(self, token_id: int) -> Label:
        """The label of one id; any integer is accepted, ids without a token read `#id`."""
        label = self._labels.get(token_id)
        if label is None:
            label = self._labels[token_id] = self._make(token_id)
        return label

    def of(self, token_ids: Iterable[int]) -> dict[int, Label]:
        """The labels of all distinct ids given, by id."""
        return {token_id: self[token_id] for token_id in sorted(set(token_ids))}

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def joined(self, token_ids: Sequence[int]) -> list[str | None]:
        """For each token that is a fragment of a character: the whole character, if its neighbours give it.

        Args:
            token_ids: a prompt's ids, in order.
        Returns:
            One entry per id: the character the fragment belongs to, made visible as labels are, or None.
        """
        joined: list[str | None] = [None] * len(token_ids)
        pending = b""
        start = 0
        for i, token_id in enumerate(token_ids):
            if self[token_id].kind != "bytes":
                pending = b""
                continue
            if not pending:
                start = i
            pending += bytes.fromhex(self[token_id].raw)
            try:
                character = pending.decode()
            except UnicodeDecodeError:
                continue
            joined[start : i + 1] = [visible(character)] * (i + 1 - start)
            pending = b""
        return joined

    def text(self, token_ids: Iterable[int]) -> str:
        """What these ids spell together, as the tokenizer's own decode does: fragments make up characters.

        Bytes that are no whole character become the replacement sign; special tokens keep their names.
        """
        spelt = (self._spelt(token_id) for token_id in token_ids)
        return b"".join(spelt).decode(errors="replace")

    def _spelt(self, token_id: int) -> bytes:
        label = self[token_id]
        return bytes.fromhex(label.raw) if label.kind == "bytes" else label.raw.encode(errors="replace")

    def search(self, text: str, k: int = 20) -> list[int]:
        """Ids whose string is like `text`: the same first, then alike but for space and case, then prefixes.

        Args:
            text: what a person typed; empty gives nothing.
            k: at most this many ids.
        """
        if not text:
            return []
        wanted = text.strip().casefold() or text
        hits: list[tuple[int, int, int]] = []
        for token_id, (raw, folded) in enumerate(self._vocabulary):
            if wanted in folded or (raw and raw == text):
                order = 0 if raw == text else 1 if folded == wanted else 2 if folded.startswith(wanted) else 3
                hits.append((order, len(raw), token_id))
        return [token_id for _, _, token_id in sorted(hits)[:k]]

    def entries(self, text: str) -> list[int]:
        """Ids whose decoded string, or whose name in the vocabulary, is exactly `text`, lowest first."""
        if not text:
            return []
        names = self.tokenizer.convert_ids_to_tokens(range(self._n_tokens))
        alike = [i for i, (raw, _) in enumerate(self._vocabulary) if raw == text]
        return alike or [i for i, name in enumerate(names) if name == text]

    @cached_property
    def _vocabulary(self) -> list[tuple[str, str]]:
        raws = [self[token_id].raw for token_id in range(self.d_vocab)]
        return [(raw, raw.strip().casefold() or raw) for raw in raws]

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(getattr(self.tokenizer, "all_special_ids", ()))

    @cached_property
    def _n_tokens(self) -> int:
        return 0 if self.tokenizer is None else len(self.tokenizer)

    @cached_property
    def _is_byte_level(self) -> bool:
        return works_on_bytes(self.tokenizer)

    @cached_property
    def _added(self) -> dict[int, str]:
        try:
            added = getattr(self.tokenizer, "added_tokens_decoder", {})
        except Exception:  # some backends have no such table and say so in their own way
            added = {}
        # a method in the backend of mistral-common, which raises when it is called
        return {token_id: str(token) for token_id, token in added.items()} if isinstance(added, dict) else {}

    def _make(self, token_id: int) -> Label:
        if token_id == -1:  # what a readout has where a cell is not finite
            return Label("NaN", "none", "")
        if not 0 <= token_id < self._n_tokens:
            return Label(f"#{token_id}", "none", "")
        if token_id in self._special_ids or token_id in self._added:
            raw = whole(self._added.get(token_id) or str(self.tokenizer.convert_ids_to_tokens(token_id)))
            return Label(visible(raw), "special" if token_id in self._special_ids else "text", raw)
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return Label(f"#{token_id}", "none", "")
        told, raw = bytes_of(piece, is_byte_level=self._is_byte_level), ""
        if told is None:
            text = self.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
            # sentencepiece drops the space that opens a sequence, so take it from the piece
            raw = whole(str(piece.replace("▁", " ") if "▁" in piece else text or piece))
            told = self._told_bytes(token_id) if REPLACEMENT in raw else None
        if told is not None:
            try:
                raw = told.decode()
            except UnicodeDecodeError:
                return Label(told.hex(" ").upper(), "bytes", told.hex())
        return Label(visible(raw), "space" if raw.isspace() else "text", raw)

    def _told_bytes(self, token_id: int) -> bytes | None:
        """The bytes of an id, where a tokenizer that names pieces by their text can tell them apart."""
        return None if self._byte_piece is None else self._byte_piece(token_id)

    @cached_property
    def _byte_piece(self) -> Callable[[int], bytes] | None:
        """What tells an id's bytes, in the tokenizer or in one that it wraps, as mistral-common's does."""
        inner = self.tokenizer
        while inner is not None:
            found = getattr(inner, "id_to_byte_piece", None)
            if callable(found):
                return cast(Any, found)
            inner = getattr(inner, "instruct_tokenizer", None) or getattr(inner, "tokenizer", None)
        return None


def whole(text: str) -> str:
    """`text` with the replacement sign for half characters (lone surrogates), which no message can carry."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def visible(raw: str) -> str:
    """`raw` with everything that the eye would miss made visible; never empty."""
    if not raw:
        return "∅"
    has_ink = any(not unicodedata.category(c).startswith(("C", "Z", "M")) for c in raw)
    shown = "".join(_glyph(c, has_ink) for c in raw)
    # a combining mark alone would sit on its neighbour
    return f"◌{shown}" if unicodedata.category(raw[0]).startswith("M") else shown


def _glyph(character: str, has_ink: bool) -> str:
    if character in SPACE_GLYPHS:
        return SPACE_GLYPHS[character]
    if character == ZERO_WIDTH_JOINER and has_ink:
        return character  # holds emoji sequences together
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"}:
        # controls, format characters (bidi overrides among them), odd spaces
        return f"⟨{ord(character):04X}⟩"
    return character
