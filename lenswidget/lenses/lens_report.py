"""What was measured of a lens, and where it is kept: with a fitted lens itself, else beside the model."""

import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.lenses.lens import CallableLens, Lens, LogitLens
from lenswidget.lenses.provenance import is_same_name, model_name

BY_LAYER = ("layers", "kl_nats", "top1_agreement", "median_rank")


@dataclass(frozen=True)
class LensReport:
    """What a lens shows of the last layer's prediction, for each layer that it carries.

    Attributes:
        layers: -1 for the embedding; the last one is read as it is, so its numbers are the model's own.
        kl_nats: mean KL(last layer || this layer through the lens) over positions, in nats.
        top1_agreement: share of positions whose top token is the last layer's.
        median_rank: median over positions of the rank here of the last layer's top token; 0 is the top.
        n_texts, n_positions: how much was read.
        texts: sha256 of the token ids.
        fixed_kl_nats: the same KL of one fixed list of token probabilities, which knows nothing of the
            prompt: the mean of the last layer's predictions on the other half of the texts. None for a
            single text.
    """

    lens: str
    model: str
    layers: tuple[int, ...]
    kl_nats: tuple[float, ...]
    top1_agreement: tuple[float, ...]
    median_rank: tuple[float, ...]
    n_texts: int
    n_positions: int
    texts: str = field(repr=False)
    fixed_kl_nats: float | None = None

    @property
    def untrusted(self) -> tuple[int, ...]:
        """Layers that say less of the last layer's prediction than the fixed list of token probabilities.

        Those whose `kl_nats` is not below `fixed_kl_nats`; none where that is None.
        """
        if self.fixed_kl_nats is None:
            return ()
        pairs = zip(self.layers, self.kl_nats, strict=True)
        return tuple(layer for layer, kl in pairs if not kl < self.fixed_kl_nats)

    def __repr__(self) -> str:
        poor = set(self.untrusted)
        rows = [
            f"{layer:>5} {kl:>10.4f} {top1:>8.1%} {rank:>12g}{'  *' * (layer in poor)}"
            for layer, kl, top1, rank in zip(*(getattr(self, name) for name in BY_LAYER), strict=True)
        ]
        head = f"{self.lens} lens on {self.model}: {self.n_positions} positions of {self.n_texts} texts"
        told = (
            f"* a fixed list of token probabilities has {self.fixed_kl_nats:.4f} nats: these layers tell "
            "less of the model's answer"
        )
        lines = [head, f"{'layer':>5} {'KL (nats)':>10} {'top-1':>8} {'median rank':>12}", *rows]
        return "\n".join([*lines, *([told] if poor else [])])

    def to_dataframe(self) -> Any:
        """A row per layer: `layer`, `kl_nats`, `top1_agreement`, `median_rank`."""
        import pandas as pd

        columns = {"layer": self.layers} | {name: getattr(self, name) for name in BY_LAYER[1:]}
        return pd.DataFrame(columns)

    @classmethod
    def from_mapping(cls, given: Any) -> "LensReport":
        """The inverse of `dataclasses.asdict`; fields of a later version are dropped.

        Raises:
            ValueError: no mapping, a field that is missing or of another type, or rows of unequal number.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f"its report is a {type(given).__name__}")
        found = {str(name): value for name, value in cast(Mapping[Any, Any], given).items()}
        try:
            layers = tuple(int(layer) for layer in found["layers"])
            rows: dict[str, Any] = {
                name: tuple(float(value) for value in found[name]) for name in BY_LAYER[1:]
            }
            plain: dict[str, Any] = {name: kind(found[name]) for name, kind in _PLAIN.items()}
            fixed = found.get("fixed_kl_nats")
            fixed = None if fixed is None else float(fixed)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its report is not what was written ({error!r:.80})") from error
        if not layers or any(len(row) != len(layers) for row in rows.values()):
            raise ValueError("its report has rows of unequal number")
        return cls(layers=layers, **rows, **plain, fixed_kl_nats=fixed)


_PLAIN = {"lens": str, "model": str, "n_texts": int, "n_positions": int, "texts": str}

# Of the logit lens and of functions, which are made anew for each widget: by the model and what they are.
_beside: "weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, LensReport]]" = (
    weakref.WeakKeyDictionary()
)
_models: "weakref.WeakKeyDictionary[Any, weakref.ref[ReadableModel]]" = weakref.WeakKeyDictionary()


def keep_beside(lens: Lens, model: ReadableModel, report: LensReport) -> None:
    """Keep what was measured of a lens that has no place for it, as long as both are there."""
    with contextlib.suppress(TypeError):  # nothing that can be referred to weakly: it is kept nowhere
        _beside.setdefault(model.hf_model, weakref.WeakKeyDictionary())[_key(lens)] = report


def known_report(lens: Lens, model: ReadableModel | Tail) -> LensReport | None:
    """The last report that was made of a lens on this model, by its name; None where there is none."""
    found: Any = getattr(lens, "measured", None)
    if not isinstance(found, LensReport):
        found = None
        with contextlib.suppress(TypeError):
            found = _beside.get(model.hf_model, {}).get(_key(lens))
    return found if found is not None and is_same_name(found.model, model_name(model)) else None


def remember_model(lens: Any, model: ReadableModel) -> None:
    """Note the model that a lens was fitted to or loaded with, without keeping it."""
    _models[lens] = weakref.ref(model)


def remembered_model(lens: Any) -> ReadableModel | None:
    """The model that was noted, if it is still there."""
    found = _models.get(lens)
    return None if found is None else found()


def _key(lens: Lens) -> Any:
    """What a lens is known by, and lives as long as the reader has it."""
    if isinstance(lens, LogitLens):
        return LogitLens
    return lens.function if isinstance(lens, CallableLens) else lens
