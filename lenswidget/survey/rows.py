"""The rows of a survey, out of whatever holds them: one prompt each, with the answers that are looked for."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lenswidget.checks import is_integer
from lenswidget.errors import PromptError

# A list of mappings or pairs, a DataFrame of pandas or polars, a Dataset, or a file of JSON lines.
Rows: TypeAlias = Iterable[Any] | str | Path
# One form of an answer: text, or the id of a token.
Form: TypeAlias = str | int


@dataclass(frozen=True)
class SurveyRow:
    """One prompt of a survey.

    Attributes:
        index: its place among the rows, from 0.
        prompt: text, token ids or a chat.
        targets: the forms of the answer, any of which counts.
        foils: the forms of the answer that it is measured against; empty for none.
        group: what it is counted with.
    """

    index: int
    prompt: Any
    targets: tuple[Form, ...]
    foils: tuple[Form, ...] = ()
    group: str = ""

    @property
    def digest(self) -> str:
        """Of all that decides a row's numbers, to know it again in a file."""
        told = json.dumps([self.prompt, self.targets, self.foils, self.group], sort_keys=True, default=repr)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def survey_rows(
    rows: Rows,
    prompt: str = "prompt",
    target: str = "target",
    foil: str | None = None,
    group: str | None = None,
) -> Iterator[SurveyRow]:
    """Rows one after the other, so that a data set need not fit into memory.

    Args:
        rows: mappings with the columns below, or pairs (prompt, target); a DataFrame of pandas or polars; a
            `datasets.Dataset`; or the path of a file of JSON lines.
        prompt, target, foil, group: names of columns. A target or foil is text, a token id, or a list of
            such, which are forms of one answer.
    Raises:
        PromptError: no rows, or one that lacks a column or holds something else there; says which.
    """
    names = {"prompt": prompt, "target": target, "foil": foil, "group": group}
    for index, given in enumerate(_mappings(rows, prompt, target)):
        values = {part: _value(given, name, index) for part, name in names.items() if name is not None}
        yield SurveyRow(
            index,
            _plain(values["prompt"]),
            _forms(values["target"], target, index),
            () if foil is None else _forms(values["foil"], foil, index),
            "" if group is None else str(values["group"]),
        )


def _mappings(rows: Any, prompt: str, target: str) -> Iterator[Any]:
    if isinstance(rows, (str, Path)):
        return _json_lines(Path(rows))
    if hasattr(rows, "iter_rows"):  # polars
        return rows.iter_rows(named=True)
    if hasattr(rows, "columns") and hasattr(
        rows, "itertuples"
    ):  # pandas, whose names need not be identifiers
        names = [str(name) for name in rows.columns]
        return (dict(zip(names, each, strict=True)) for each in rows.itertuples(index=False, name=None))
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise PromptError(
            f"Asked to survey {rows!r:.80}. Pass a list of rows, each with a {prompt!r} and a {target!r}, a "
            "DataFrame, a Dataset, or the path of a file of JSON lines."
        )
    return (
        {prompt: each[0], target: each[1]} if isinstance(each, (tuple, list)) and len(each) == 2 else each
        for each in rows
    )


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise PromptError(
                            f"Line {number} of {path} is not JSON ({error}). Mend it."
                        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"Asked to survey the rows of {path}, which cannot be read ({error}).") from error


def _value(given: Any, name: str, index: int) -> Any:
    if not isinstance(given, Mapping):
        raise PromptError(
            f"Row {index} is {given!r:.80}. Pass a mapping with the columns that are asked for, or a pair "
            "(prompt, target)."
        )
    if name not in given:
        raise PromptError(
            f"Row {index} has no {name!r}, but {', '.join(map(repr, given)) or 'nothing'}. Name the column: "
            "survey(model, rows, prompt=, target=, foil=, group=)."
        )
    return given[name]


def _plain(value: Any) -> Any:
    """An array of ids, as a DataFrame may hold one, as a list."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, (str, bytes)) else value


def _forms(value: Any, name: str, index: int) -> tuple[Form, ...]:
    value = _plain(value)
    listed = [value] if isinstance(value, str) or is_integer(value) else value
    is_listed = isinstance(listed, (list, tuple)) and len(listed) > 0
    if not is_listed or not all((isinstance(form, str) and form) or is_integer(form) for form in listed):
        raise PromptError(
            f"Row {index} has {value!r:.80} as its {name!r}. Give text, a token id, or a list of such."
        )
    return tuple(form if isinstance(form, str) else int(form) for form in listed)
