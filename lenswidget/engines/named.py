"""Values that two processes name alike, so that each keeps one object for them."""

import uuid
import weakref
from collections import deque
from typing import Any

from lenswidget.interventions.recipe import Edit, RunSpec, Sampling
from lenswidget.lenses.lens import CallableLens, Lens, LogitLens
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout.background import Background

# Whether two runs share an edit, or a prompt, is told by whether it is one object.
_RECIPES = (EncodedPrompt, Edit, RunSpec, Sampling)


def is_named(value: Any) -> bool:
    """Whether a value has a name besides what it is."""
    return isinstance(value, _RECIPES) or is_large(value)


def is_large(value: Any) -> bool:
    """Whether a value is sent once: a fitted lens, or what is usual through one."""
    if isinstance(value, Background):
        return True
    is_ours = type(value).__module__.startswith("lenswidget.lenses.")
    return is_ours and isinstance(value, Lens) and not isinstance(value, (LogitLens, CallableLens))


class Names:
    """The names of a client's values: it keeps none of them alive, and knows which were let go."""

    def __init__(self) -> None:
        self._token_of: dict[int, str] = {}
        self._value_of: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self.released: deque[str] = deque()  # filled while garbage is collected, where no call can be made

    def name(self, value: Any, token: str | None = None) -> str:
        """The name of a value; a new one where it has none and none is given."""
        known = self._token_of.get(id(value))
        if known is not None:
            return known
        token = token or uuid.uuid4().hex
        self._token_of[id(value)] = token
        self._value_of[token] = value
        weakref.finalize(value, self._forget, id(value), token).atexit = False
        return token

    def value(self, token: str) -> Any:
        """The value of a name; None where it is no longer."""
        return self._value_of.get(token)

    def _forget(self, value_id: int, token: str) -> None:
        self._token_of.pop(value_id, None)
        self.released.append(token)

    def take_released(self) -> list[str]:
        """The names of values that were let go since this was last asked."""
        return [self.released.popleft() for _ in range(len(self.released))]
