"""The append-only file of a survey: what a stopped survey has found is there when it goes on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lenswidget.errors import LensError
from lenswidget.files import file_at


def encode_line(value: Mapping[str, Any]) -> str:
    """A mapping with arrays of numbers as one line of JSON; NaN and infinities as their names."""
    kept = {key: each.tolist() if isinstance(each, np.ndarray) else each for key, each in value.items()}
    return json.dumps(kept, ensure_ascii=False) + "\n"


class ResultFile:
    """Appends one line of JSON for each result; the first line says what was asked.

    Args:
        path: of the file, in a folder that is there.
        asked: what the survey is, as JSON; a file of another is refused.
    Raises:
        LensError: no such folder, or a file that holds another survey or none.
    """

    def __init__(self, path: str | Path, asked: Mapping[str, Any]) -> None:
        self.path, self._asked = file_at(path), dict(asked)
        self._file: IO[str] | None = None
        self._end = self._check()

    def _check(self) -> int:
        """Where the last whole line ends: a survey that was killed may have left half a line."""
        if not self.path.exists() or not self.path.stat().st_size:
            return 0
        whole = self.path.read_bytes()
        head = whole.partition(b"\n")[0]
        try:
            found = json.loads(head)["survey"]
        except (ValueError, KeyError, TypeError):
            raise LensError(
                f"{self.path} is there and holds no survey. Name another file, or delete it."
            ) from None
        differing = [
            name for name in self._asked if found.get(name) != json.loads(json.dumps(self._asked[name]))
        ]
        if differing:
            name = differing[0]
            raise LensError(
                f"{self.path} holds another survey ({name}: {found.get(name)!r:.60} there, "
                f"{self._asked[name]!r:.60} now). Ask what it asks, or name another file."
            )
        return whole.rfind(b"\n") + 1

    def found(self) -> Iterator[dict[str, Any]]:
        """The results that are there, in the order in which they were written."""
        if not self._end:
            return
        with self.path.open("rb") as file:
            file.readline()
            while file.tell() < self._end:
                yield json.loads(file.readline())

    def __enter__(self) -> "ResultFile":
        with self.path.open("ab") as file:
            file.truncate(self._end)
        self._file = self.path.open("a", encoding="utf-8", newline="\n")
        if not self._end:
            self._file.write(encode_line({"survey": self._asked}))
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, result: Mapping[str, Any]) -> None:
        """Add one result; it is on its way to the disk when this returns."""
        assert self._file is not None
        self._file.write(encode_line(result))
        self._file.flush()
