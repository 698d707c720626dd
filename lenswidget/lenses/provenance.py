"""What fitted lenses share: where one comes from, and which model it belongs to."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensMismatchError, LensMismatchWarning
from lenswidget.models.hf_model import device_of
from lenswidget.versions import version_of


@dataclass(frozen=True)
class Provenance:
    """Where a fitted lens comes from; what is not known is empty.

    Attributes:
        model: the name or path that the model was loaded from.
        unembed: digest of the model's unembed, the same in float32 and bfloat16 (`unembed_digest`).
        texts: sha256 of the token ids that it was fitted on.
        versions: of the packages that fitted it.
        settings: how it was fitted; for an artifact made elsewhere, its own metadata.
        text_digests: of each text, in their order, so that a merge can tell which it has twice.
    """

    model: str = ""
    unembed: str = ""
    texts: str = ""
    n_texts: int = 0
    n_tokens: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    text_digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: ReadableModel, ids: Sequence[Tensor], **settings: Any) -> "Provenance":
        """That of a fit on `ids` (each `[seq]`) of a `LanguageModel`, with the versions installed now."""
        return cls(
            model=model_name(model),
            unembed=unembed_digest(model),
            texts=ids_digest(ids),
            n_texts=len(ids),
            n_tokens=sum(map(len, ids)),
            versions={name: version_of(name) for name in ("lenswidget", "torch", "transformers")},
            settings=settings,
            text_digests=text_digests(ids),
        )

    @property
    def told(self) -> str:
        """The model and the number of texts in a few words."""
        texts = f", {self.n_texts} text{'s' * (self.n_texts > 1)}" if self.n_texts else ""
        return f"of {self.model or 'an unnamed model'}{texts}"

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `json.dumps(asdict(self))`; fields of a later version are dropped.

        Raises:
            ValueError: not JSON, or a field of another type.
        """
        return cls.from_mapping(json.loads(text))

    @classmethod
    def from_mapping(cls, given: Any) -> "Provenance":
        """The inverse of `asdict`; fields of a later version are dropped.

        Raises:
            ValueError: no mapping, or a field of another type.
        """
        if not isinstance(given, dict):
            raise ValueError(f"its provenance is a {type(given).__name__}")
        found = {item.name: given[item.name] for item in fields(cls) if item.name in given}
        for name, value in found.items():
            kinds = {str: str, int: int, dict: dict, tuple: (list, tuple)}
            if isinstance(value, bool) or not isinstance(value, kinds[type(getattr(UNKNOWN, name))]):
                raise ValueError(f"the {name} of its provenance is {value!r:.40}")
        digests = cast(Sequence[Any], found.pop("text_digests", ()))
        if not all(isinstance(digest, str) for digest in digests):
            raise ValueError("the text_digests of its provenance are no strings")
        return cls(**found, text_digests=tuple(digests))


UNKNOWN = Provenance()


class FittedLens(Protocol):
    """What a tuned and a Jacobian lens have in common."""

    @property
    def name(self) -> str:
        """What a switch calls it."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        ...

    @property
    def n_layers(self) -> int | None:
        """Of the model; None if it is not known."""
        ...

    @property
    def layers(self) -> Sequence[int]:
        """Those that it can carry."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Where it comes from."""
        ...


def model_name(model: ReadableModel | Tail) -> str:
    """What a `LanguageModel`'s configuration says it was loaded from, else its class."""
    config = getattr(model.hf_model, "config", None)
    return getattr(config, "name_or_path", "") or type(model.hf_model).__name__


def ids_digest(ids: Sequence[Tensor]) -> str:
    """sha256 over token ids, text by text, so that the digest of a prefix of the texts can be had too."""
    digest = hashlib.sha256()
    for text in ids:
        digest.update(len(text).to_bytes(8, "little") + text.cpu().to(torch.int64).numpy().tobytes())
    return digest.hexdigest()


def text_digests(ids: Sequence[Tensor]) -> tuple[str, ...]:
    """The first 16 hexadecimal digits of `ids_digest` of each text alone."""
    return tuple(ids_digest([text])[:16] for text in ids)


def unembed_columns(model: ReadableModel | Tail, columns: Sequence[int]) -> Float[Tensor, "d_vocab n"]:
    """Columns of the unembed's matrix in float32, on the CPU; negative ones count from the end.

    Args:
        model: a `LanguageModel` or its `Tail`. Its unembed is a module, whose matrix is
            `[d_vocab, unembed_width(model)]`.
        columns: which.

    An offloaded or quantised weight holds no numbers of its own, so there the module is called on one-hot
    rows instead.
    """
    head = _unembed(model)
    with torch.no_grad():
        if type(head) is nn.Linear and not hasattr(head, "_hf_hook") and head.weight.is_floating_point():
            return head.weight[:, list(columns)].float().cpu()
        tail_dtype = next(iter(head.parameters())).dtype
        dtype: Any = tail_dtype if tail_dtype.is_floating_point else model.hf_model.dtype
        shape = (len(columns) + 1, unembed_width(model))
        one_hot = torch.zeros(shape, dtype=dtype, device=device_of(model.hf_model))
        for row, column in enumerate(columns):
            one_hot[row, column] = 1
        given = head(one_hot).float().cpu()
        return (given[:-1] - given[-1]).T.contiguous()


def unembed_width(model: ReadableModel | Tail) -> int:
    """What the unembed takes per cell: `d_model`, unless the model projects the stream before it."""
    head = _unembed(model)
    return int(getattr(head, "in_features", model.anatomy.d_model))


def _unembed(model: ReadableModel | Tail) -> nn.Module:
    """The module that makes logits; callers have seen that there is one."""
    assert model.anatomy.unembed is not None
    return model.hf_model.get_submodule(model.anatomy.unembed)


def unembed_digest(model: ReadableModel | Tail) -> str:
    """sha256 of 16 evenly spaced columns of the unembed, rounded to bfloat16, and its shape.

    Rounded, so that one model stored in float32 and in bfloat16 is one model. Empty for a model that calls
    no module to make its logits.
    """
    if model.anatomy.unembed is None:
        return ""
    width = unembed_width(model)
    columns = unembed_columns(model, [width * i // 16 for i in range(16)])
    rounded = columns.bfloat16().contiguous().view(torch.int16).numpy()
    return hashlib.sha256(repr((width, columns.shape[0])).encode() + rounded.tobytes()).hexdigest()


def check_model(lens: FittedLens, model: ReadableModel | Tail) -> None:
    """Refuses a lens of another model.

    Raises:
        LensError: the model is none.
        LensMismatchError: width, number of layers, or unembed differ.
    Warns:
        LensMismatchWarning: it was fitted to a model of another name, or with another start of texts.
    """
    check_is_model(model, "A lens", or_tail=True)
    anatomy, source = model.anatomy, lens.provenance.model or "a model that it does not name"
    pairs = [("d_model", lens.d_model, anatomy.d_model), ("layers", lens.n_layers, anatomy.n_layers)]
    for what, own, found in pairs:
        if own is not None and own != found:
            raise LensMismatchError(
                f"This {lens.name} lens was fitted to {source} with {what} = {own}, but {model_name(model)} "
                f"has {what} = {found}. Load the lens of this model, or fit one."
            )
    if lens.provenance.unembed and lens.provenance.unembed != unembed_digest(model):
        raise LensMismatchError(
            f"This {lens.name} lens was fitted to {source}, whose unembed is not that of "
            f"{model_name(model)}: their digests differ. Load the model that it was fitted to, "
            "or fit a lens to this one."
        )
    _warn_of_differences(lens, model)


def _warn_of_differences(lens: FittedLens, model: ReadableModel | Tail) -> None:
    """Warns of what may make a lens worse than it should be, but does not make it another model's."""
    own, found = lens.provenance.model, model_name(model)
    if own and not is_same_name(own, found):
        same = "though their unembeds are the same" if lens.provenance.unembed else "by their names"
        warnings.warn(
            f"This {lens.name} lens was fitted to {own}, and the model is {found}: not the same model, "
            f"{same}. Fit a lens to this one for what its own layers hold.",
            LensMismatchWarning,
            stacklevel=4,
        )
    had, has = lens.provenance.settings.get("add_bos"), adds_bos(getattr(model, "tokenizer", None))
    if isinstance(had, bool) and has is not None and had != has:
        words = ("with", "puts none") if had else ("without", "puts one")
        warnings.warn(
            f"This {lens.name} lens was fitted on texts {words[0]} a BOS token in front, and the model's "
            f"tokenizer {words[1]} there: states near the start of a prompt differ. Fit with add_bos={has}, "
            "or give prompts as token ids.",
            LensMismatchWarning,
            stacklevel=4,
        )


def is_same_name(name: str, other: str) -> bool:
    """Whether two names are one model's, wherever each was loaded from."""
    return _short(name) == _short(other)


def _short(name: str) -> str:
    """A model's name without its owner or folder, which depend on where it was loaded from."""
    return name.rstrip("/\\").replace("\\", "/").split("/")[-1].lower()


def adds_bos(tokenizer: Any) -> bool | None:
    """Whether a tokenizer puts its BOS token in front of a text; None where it has none."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return None if bos is None else list(tokenizer("a")["input_ids"][:1]) == [bos]


def check_states(lens: FittedLens, states: Tensor, layer: int) -> None:
    """Refuses states of another width, and layers that the lens has nothing for.

    Raises:
        LensMismatchError: either.
    """
    if states.ndim != 2 or states.shape[-1] != lens.d_model:
        raise LensMismatchError(
            f"This {lens.name} lens carries states [cells, {lens.d_model}] but was given "
            f"{list(states.shape)}. Pass states of the model that it was fitted to."
        )
    if layer not in lens.layers:
        have = sorted(lens.layers)
        hint = " Load it with its model, lw.load_lens(path, model), to read the last layer."
        raise LensMismatchError(
            f"This {lens.name} lens has nothing for layer {layer}; it carries {len(have)} layers from "
            f"{have[0]} to {have[-1]}: read one of those.{hint if lens.n_layers is None else ''}"
        )
