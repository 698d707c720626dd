"""What a run is made of, as values: a prompt, and the edits of its forward."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from lenswidget.anatomy.layers import SITES
from lenswidget.checks import is_integer
from lenswidget.errors import EditError
from lenswidget.models.encoded_prompt import EncodedPrompt

EMBED_SITE = "resid_post"
# Which layers: one, several, a slice, or None for all.
Layers: TypeAlias = int | slice | Iterable[int] | None
# Which positions: likewise, or "prompt" or "generated"; None is every one, those that are generated as well.
Positions: TypeAlias = int | slice | Iterable[int] | str | None
# Names of groups of positions.
GROUPS = ("prompt", "generated")
# What each op needs, and what else it takes, beside site, layers, positions and strength.
_NEEDS: dict[str, tuple[str, ...]] = {"add": ("vector",), "patch": ("source",)}
_TAKES: dict[str, tuple[str, ...]] = {
    "zero": ("heads", "neurons"),
    "mean": ("texts", "heads", "neurons"),
    "scale": ("heads", "neurons"),
    "add": ("vector",),
    "steer": ("tokens", "lens", "control_seed"),
    "project_out": ("tokens", "lens", "control_seed"),
    "swap": ("tokens", "lens", "control_seed", "is_live"),
    "patch": ("source", "from_layer", "from_positions", "heads", "neurons"),
}
OPS = tuple(_TAKES)
_N_TOKENS = {"steer": 1, "swap": 2}
# Of which site each kind of unit is a piece.
UNIT_SITES = {"heads": "attn_out", "neurons": "mlp_out"}
_COMMON = ("op", "site", "layers", "positions", "strength", "is_on")


@runtime_checkable
class HasRecipe(Protocol):
    """A `Run`, as far as a patch needs it."""

    @property
    def spec(self) -> "RunSpec": ...
    @property
    def is_current(self) -> bool: ...
    def states(self, site: str, layers: Any, positions: Any) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Edit:
    """A declared change of a run: where (site, layers, positions) and what.

    With `h` the states there, `[n, d_model]` in float32, and `s` the strength:

    | op | what `h` becomes |
    | --- | --- |
    | `zero` | `h + s (0 - h)` |
    | `mean` | `h + s (m - h)`; m is the site's mean over the prompt's positions, or over those of `texts` |
    | `scale` | `s h` |
    | `add` | `h + s vector` |
    | `steer` | `h + s n v`; v is the unit direction of a token through `lens`, n the median norm of `h` |
    | `project_out` | `h + s (p - h)`; p is `h` without its part in the span of the tokens' directions |
    | `swap` | `h + s V (c* - V^+ h)`; V holds two tokens' directions, c* their coordinates exchanged |
    | `patch` | `h + s (g - h)`; g is what stands in another run |

    A token's direction at a layer is the row of the unembed pulled back through the lens, `J_l^T w_t`. The
    coordinates of a swap are those of the run without edits, unless `is_live`: exchanged live in several
    layers one after the other, they change places and back.

    With `heads`, or `neurons`, `h` is what these give before the last projection of the part, and all else of
    the part stays: a head that is set to 0 adds nothing to the stream.

    A strength of 0 leaves every bit as it is, except of `scale`, whose strength is its factor.

    Args:
        op: one of the above.
        site: `resid_pre`, `attn_out`, `resid_mid`, `mlp_out` or `resid_post`.
        layers: an integer, several, a slice, or None for all; -1 of `resid_post` is the embedding.
        positions: columns of the prompt: an integer (-1 is the last), several, a slice; "prompt" for all of
            them, "generated" for those that a generation adds, None for all of both.
        strength: any finite number.
        vector: of `add`, `[d_model]`.
        tokens: of `steer` one, of `swap` two, of `project_out` some: ids, or texts that are one token.
        lens: that gives the tokens' directions; None is the logit lens.
        texts: whose mean is taken.
        source: the run, or the recipe of one, that a patch is taken from.
        from_layer: of the source; the edited layer's own unless given.
        from_positions: of the source, as many as `positions`; the same ones unless given.
        is_live: see above.
        control_seed: random directions in place of the tokens', of the same norms and angles to one another.
        heads: of `attn_out`, of `zero`, `mean`, `scale` and `patch`: one or several; None for the whole part.
        neurons: of `mlp_out`, likewise.
        is_on: an edit that is off changes nothing and keeps its place.
    Raises:
        EditError: an op that is not known, or fields that it lacks or does not take.
    Source: Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models",
        section 5, for `steer`, `project_out` and `swap`.
    """

    op: str
    site: str = EMBED_SITE
    layers: Layers = None
    positions: Positions = None
    strength: float = 1.0
    vector: Tensor | None = None
    tokens: Any = ()
    lens: Any = None
    texts: Sequence[str] = ()
    source: "HasRecipe | RunSpec | None" = None
    from_layer: int | None = None
    from_positions: Positions = None
    is_live: bool = False
    control_seed: int | None = None
    heads: int | Iterable[int] | None = None
    neurons: int | Iterable[int] | None = None
    is_on: bool = True

    def __post_init__(self) -> None:
        given: Any = self  # as it may have been given, whatever the types say
        takes = _TAKES.get(given.op) if isinstance(given.op, str) else None
        if takes is None:
            raise EditError(f"Asked for the edit {self.op!r}. Name one of {', '.join(OPS)}.")
        if self.site not in SITES:
            raise EditError(f"Asked to edit {self.site!r}. Name one of {', '.join(SITES)}.")
        is_one = isinstance(given.tokens, str) or not isinstance(given.tokens, Iterable)
        self._set("tokens", (given.tokens,) if is_one else tuple(given.tokens))
        self._set("texts", (given.texts,) if isinstance(given.texts, str) else tuple(given.texts))
        self._set("layers", _places("layers", self.layers))
        for name in ("positions", "from_positions"):
            self._set(name, _places(name, getattr(self, name), GROUPS if name == "positions" else ()))
        for kind, site in UNIT_SITES.items():
            self._set(kind, _unit_ids(kind, getattr(self, kind), site, self.site))
        if not _is_number(self.strength):
            raise EditError(f"The strength of {self.op} is {self.strength!r}. Give a finite number.")
        for field in fields(self):
            if field.name in _COMMON:
                continue
            is_given = getattr(self, field.name) is not field.default and getattr(self, field.name) != ()
            if is_given and field.name not in takes:
                raise EditError(
                    f"Asked for {field.name} with the edit {self.op}, which has none: leave it out."
                )
            if not is_given and field.name in _NEEDS.get(self.op, ()):
                raise EditError(f"The edit {self.op} was given no {field.name}. Pass {field.name}=.")
        self._check_values()

    def _check_values(self) -> None:
        needed = _N_TOKENS.get(self.op)
        if "tokens" in _TAKES[self.op]:
            n = len(self.tokens)
            if n == 0 or (needed is not None and n != needed):
                wanted = {1: "one token", 2: "two tokens"}.get(needed or 0, "one token or more")
                raise EditError(f"The edit {self.op} was given {n} tokens. Pass tokens= with {wanted}.")
            if len(set(self.tokens)) < n:
                raise EditError(f"The edit {self.op} was given the same token twice: {self.tokens!r}.")
        given: Any = self
        vector, source = given.vector, given.source
        if vector is not None and (not isinstance(vector, Tensor) or vector.ndim != 1):
            found = list(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise EditError(f"The vector to add is {found}. Pass a tensor [d_model].")
        if source is not None and not isinstance(source, (RunSpec, HasRecipe)):
            raise EditError(
                f"The source of a patch is a {type(source).__name__}. Pass a run, or its recipe run.spec."
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def source_spec(self) -> "RunSpec | None":
        """The recipe that a patch is taken from."""
        return self.source if self.source is None or isinstance(self.source, RunSpec) else self.source.spec

    @property
    def units(self) -> tuple[str, tuple[int, ...]] | None:
        """Which "heads" or "neurons" are edited; None where it is the whole site."""
        found: dict[str, Any] = {kind: getattr(self, kind) for kind in UNIT_SITES}
        return next(((kind, ids) for kind, ids in found.items() if ids is not None), None)

    @property
    def has_control(self) -> bool:
        """Whether the edit moves states along directions, so that others of the same size are its control."""
        return "control_seed" in _TAKES[self.op] and self.control_seed is None

    def control(self, seed: int = 0) -> "Edit":
        """The same edit along random directions of the same norms and angles: what its size alone does.

        Raises:
            EditError: it has no direction.
        """
        if "control_seed" not in _TAKES[self.op]:
            raise EditError(f"The edit {self.op} has no direction, so no control. Compare with another cell.")
        return replace(self, control_seed=seed)

    def __repr__(self) -> str:
        written = [repr(self.op)]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not field.default and value != field.default:
                written.append(f"{field.name}={_brief(value)}")
        return f"Edit({', '.join(written)})"


@dataclass(frozen=True)
class Sampling:
    """How the end of a prompt was generated; its ids are in the prompt.

    Attributes:
        n_prompt: the first column that was generated.
        temperature: 0 took the most probable token each time.
        top_p: drawn from the most probable tokens that together have this probability.
        seed: of the draws.
    """

    n_prompt: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RunSpec:
    """The recipe of a run: run it again, and the same comes out.

    Attributes:
        prompt: with everything that came with it.
        sites: captured by the first forward; other sites are captured when they are first read.
        edits: of every forward of the run.
        sampling: how the end of the prompt was generated; None where it was given.
    """

    prompt: EncodedPrompt
    sites: tuple[str, ...] = (EMBED_SITE,)
    edits: tuple[Edit, ...] = ()
    sampling: Sampling | None = None

    @property
    def active_edits(self) -> tuple[Edit, ...]:
        """The edits that are switched on."""
        return tuple(edit for edit in self.edits if edit.is_on)


def check_edits(edits: Any) -> tuple[Edit, ...]:
    """The edits of a run, as a tuple.

    Raises:
        EditError: anything else.
    """
    listed = [edits] if isinstance(edits, Edit) else edits
    found: list[Any] = list(listed) if isinstance(listed, Iterable) else [listed]
    if not all(isinstance(edit, Edit) for edit in found):
        raise EditError(f"The edits are {edits!r:.80}. Pass a list of lw.Edit(...).")
    return tuple(found)


def _places(name: str, value: Any, groups: Sequence[str] = ()) -> Any:
    """Layers or positions in one of their forms, with plain integers."""
    if value is None or (isinstance(value, str) and value in groups):
        return value
    if is_integer(value):
        return int(value)
    if isinstance(value, slice):
        if all(part is None or is_integer(part) for part in (value.start, value.stop, value.step)):
            return value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        listed = list(value)
        if listed and all(is_integer(item) for item in listed):
            if len(set(listed)) < len(listed):
                raise EditError(f"The edit's {name} name a place twice: {listed!r:.80}.")
            return tuple(int(item) for item in listed)
    also = f", or {' or '.join(map(repr, groups))}" if groups else ""
    raise EditError(f"The edit's {name} are {value!r:.80}. Pass an integer, several, a slice, or None{also}.")


def _unit_ids(kind: str, value: Any, site: str, edited: str) -> tuple[int, ...] | None:
    """Heads or neurons, rising."""
    if value is None:
        return None
    if edited != site:
        raise EditError(f"Asked to edit {kind} of {edited}. They are pieces of {site}: pass site={site!r}.")
    listed = _places(kind, (value,) if is_integer(value) else value)
    if not isinstance(listed, tuple) or min(listed) < 0:
        raise EditError(f"The edit's {kind} are {value!r:.80}. Pass integers from 0, or None for all.")
    return tuple(sorted(listed))


def _is_number(value: Any) -> bool:
    return value is not True and value is not False and isinstance(value, Real) and math.isfinite(value)


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{'x'.join(map(str, value.shape))} tensor>"
    if isinstance(value, RunSpec):
        return f"<recipe of {value.prompt.as_given!r:.40}>"
    if isinstance(value, HasRecipe):
        return f"<run of {value.spec.prompt.as_given!r:.40}>"
    return repr(value)
