"""Which columns of a chat are whose, found by rendering it again: no template is known here by name.

A message's text is replaced by a mark, the chat is rendered, and what stands before and after the mark stands
before and after that text in the chat as it is. What was found is decoded again; where it is not the text,
nothing is said.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lenswidget.models.bands import Band

# of a private area, which has no capitals: no text and no template has it, and none changes it
_MARK = "\ue0f0\ue0f1\ue0f2"
_IS_THINKING = ("reason", "think")
_THINKING = re.compile(
    r"(?P<open>[<\[])(?P<name>\w*think\w*)[>\]].*?(?:(?P=open)/(?P=name)[>\]]|\Z)", re.I | re.S
)


class _Unknown(Exception):
    """Why it is not known which columns are whose."""


@dataclass
class _Said:
    """A message in the rendered text: where its texts are, as characters, and where it ends."""

    role: str
    texts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    thinking: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def start(self) -> int:
        return self.texts[0][0]

    @property
    def stop(self) -> int:
        return self.texts[-1][1]


def chat_bands(
    messages: Any, ids: Sequence[int], tokenizer: Any, **options: Any
) -> tuple[tuple[Band, ...], list[str]]:
    """The bands of a chat's columns: its messages, what the template puts around them, what is thinking.

    Args:
        messages: the chat.
        ids: of its columns, as the template and the tokenizer made them.
        options: of the template.
    Returns:
        The bands, and remarks for people. Without bands a remark says why.
    """
    try:
        return _found(_Chat(messages, tokenizer, options), list(ids))
    except _Unknown as reason:
        return (), [f"Which columns are whose message is not known: {reason}."]


class _Chat:
    """A chat that can be rendered with other messages."""

    def __init__(self, messages: Any, tokenizer: Any, options: Mapping[str, Any]) -> None:
        self.messages = [dict(message) for message in messages]
        self.tokenizer = tokenizer
        self._options = {"add_generation_prompt": True, **options}
        text = self.render(self.messages)
        if text is None:
            raise _Unknown("the chat template gives no text")
        self.text = text

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        """Some messages as text; None where the template refuses them."""
        try:
            found = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, **{**self._options, **options}
            )
        except Exception:  # a template may raise whatever it likes
            return None
        return found if isinstance(found, str) else None

    def marked(self, index: int, path: tuple[Any, ...], text: str) -> str | None:
        """The chat with another text in one of its messages."""
        messages = [*self.messages]
        messages[index] = _put(messages[index], path, text)
        return self.render(messages)


def _found(chat: _Chat, ids: list[int]) -> tuple[tuple[Band, ...], list[str]]:
    starts, stops = _offsets(chat, ids)
    _add_default(chat)
    said, notes = _located(chat)
    edges = _edges(chat, said)
    bands: list[Band] = []
    content = [False] * len(ids)
    for one in said:
        for start, stop in one.texts:
            columns = [i for i in range(len(ids)) if starts[i] < stop and stops[i] > start]
            _check_decoded(chat, [ids[i] for i in columns], chat.text[start:stop])
            for i in columns:
                content[i] = True
    for one, start, stop in edges:
        bands += _band("message", one, [i for i in range(len(ids)) if start <= starts[i] < stop])
    for start, stop in _thinking(chat, said):
        columns = [i for i in range(len(ids)) if starts[i] < stop and stops[i] > start]
        if any(content[i] for i in columns):
            bands += _band("thinking", "thinking", columns)
    bands += [band for run in _runs(content) for band in _band("template", "template", run)]
    if any(message.get("tool_calls") for message in chat.messages):
        notes.append("Tool calls are counted as tokens of the chat template.")
    return tuple(bands), notes


def _band(kind: str, label: str, columns: Sequence[int]) -> list[Band]:
    return [Band(columns[0], columns[-1] + 1, kind, label)] if columns else []


def _runs(content: Sequence[bool]) -> Iterator[list[int]]:
    """The columns without content, in runs that follow each other."""
    run: list[int] = []
    for column, has_content in enumerate([*content, True]):
        if not has_content:
            run.append(column)
        elif run:
            yield run
            run = []


def _offsets(chat: _Chat, ids: list[int]) -> tuple[list[int], list[int]]:
    """Where each column's token begins and ends in the text."""
    try:
        found = chat.tokenizer(chat.text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = [(int(start), int(stop)) for start, stop in found["offset_mapping"]]
    except Exception:  # tokenizers written in Python have no offsets, and say so in ways of their own
        raise _Unknown("the tokenizer does not say where its tokens are in the text") from None
    if list(found["input_ids"]) != ids:
        raise _Unknown("the template’s text gives other tokens by itself")
    return [start for start, _ in offsets], [stop for _, stop in offsets]


def _fields(message: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str, bool]]:
    """The texts of a message: where in it, the text, and whether it is thinking."""
    for name, value in message.items():
        is_thinking = any(word in str(name).lower() for word in _IS_THINKING)
        if isinstance(value, str) and (name == "content" or is_thinking):
            yield (name,), value, is_thinking
        if name == "content" and isinstance(value, Sequence) and not isinstance(value, str):
            for i, part in enumerate(value):
                if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    yield (name, i, "text"), part["text"], False


def _put(value: Any, path: tuple[Any, ...], text: str) -> Any:
    """A copy of a message with another text at a path."""
    if not path:
        return text
    copy = list(value) if isinstance(path[0], int) else dict(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], text)
    return copy


def _add_default(chat: _Chat) -> None:
    """A system message that the template adds by itself becomes one of the chat's."""
    if chat.messages and chat.messages[0].get("role") == "system":
        return
    marked = chat.render([{"role": "system", "content": _MARK}, *chat.messages])
    if marked is None or marked.count(_MARK) != 1:
        return
    before, _, after = marked.partition(_MARK)
    if (
        len(before) + len(after) < len(chat.text)
        and chat.text.startswith(before)
        and chat.text.endswith(after)
    ):
        words = chat.text[len(before) : len(chat.text) - len(after)]
        messages = [{"role": "system", "content": words}, *chat.messages]
        if chat.render(messages) == chat.text:
            chat.messages = messages


def _located(chat: _Chat) -> tuple[list[_Said], list[str]]:
    """The messages in the order of the text; and which are left out of it."""
    found: list[_Said] = []
    left_out: list[str] = []
    for index, message in enumerate(chat.messages):
        said = _Said(str(message.get("role", "")))
        for path, text, is_thinking in _fields(message):
            place = _place(chat, index, path, text)
            if place is None:
                if text.strip() and not is_thinking:
                    left_out.append(said.role)
                continue
            said.texts.append(place)
            if is_thinking:
                said.thinking.append(place)
        said.texts.sort()
        if said.texts:
            found.append(said)
    if not found:
        raise _Unknown("the chat template shows no message’s text")
    found.sort(key=lambda said: (said.start, said.stop))
    if any(one.stop > other.start for one, other in itertools.pairwise(found)):
        raise _Unknown("the chat template mixes messages")
    notes = [f"The chat template leaves out what {role} says." for role in dict.fromkeys(left_out)]
    return found, notes


def _place(chat: _Chat, index: int, path: tuple[Any, ...], text: str) -> tuple[int, int] | None:
    """Where a text of a message stands in the chat's text, as characters; None where it does not.

    Raises:
        _Unknown: that cannot be told.
    """
    whole, role = chat.text, chat.messages[index].get("role", "")
    marked = chat.marked(index, path, _MARK)
    if marked == whole:
        return None
    if marked is not None and marked.count(_MARK) == 1:
        before, _, after = marked.partition(_MARK)
        start, stop = len(before), len(whole) - len(after)
        is_around = start <= stop and whole.startswith(before) and whole.endswith(after)
        if is_around and _bare(whole[start:stop]) in _bare(text):
            return start, stop
    # a template may look into the text: then only what comes after it can be marked
    marked = chat.marked(index, path, text + _MARK)
    if marked is not None and marked.count(_MARK) == 1:
        stop = len(whole) - len(marked.partition(_MARK)[2])
        start = _start_of(text, whole[:stop])
        if whole.endswith(marked.partition(_MARK)[2]) and start is not None:
            return start, stop
    raise _Unknown(f"the chat template does not put what {role} says in one place")


def _bare(text: str) -> str:
    return "".join(text.split())


def _start_of(text: str, whole: str) -> int | None:
    """Where a text begins that ends `whole`, white space aside."""
    left = list(_bare(text))
    for start in range(len(whole) - 1, -1, -1):
        if not left:
            return start + 1
        if not whole[start].isspace() and whole[start] != left.pop():
            return None
    return None if left else 0


def _edges(chat: _Chat, said: Sequence[_Said]) -> list[tuple[str, int, int]]:
    """Where each message begins and ends with what the template puts around it: role, start, stop."""
    whole = chat.text
    ends = [
        len(text)
        for n in range(1, len(chat.messages) + 1)
        if (text := chat.render(chat.messages[:n], add_generation_prompt=False)) and whole.startswith(text)
    ]
    edges: list[tuple[str, int, int]] = []
    start = 0
    for one, following in zip(said, [*said[1:], None], strict=True):
        limit = len(whole) if following is None else following.start
        stop = next((end for end in ends if one.stop <= end <= limit), None)
        if stop is None:
            stop = limit if following is None else one.stop
        edges.append((one.role, start, stop))
        start = stop
    if start < len(whole):  # what the template asks the model to go on with
        edges.append(("assistant", start, len(whole)))
    return edges


def _thinking(chat: _Chat, said: Sequence[_Said]) -> Iterator[tuple[int, int]]:
    """Where a message thinks: fields of that name, and what stands between tags that say so."""
    for one in said:
        yield from one.thinking
        if not one.thinking:
            for start, stop in one.texts:
                for tagged in _THINKING.finditer(chat.text, start, stop):
                    yield tagged.span()


def _check_decoded(chat: _Chat, ids: Sequence[int], text: str) -> None:
    """Refuse columns that do not say a message's text."""
    decoded = chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if _bare(text) not in _bare(decoded):
        raise _Unknown("the tokens do not decode to the messages’ own text")
