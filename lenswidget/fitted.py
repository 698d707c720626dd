"""What fitted lenses share: where one comes from, which model it belongs to, and the file it is kept in."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lenswidget.errors import LensFileError, LensMismatchError
from lenswidget.watch import device_of


@dataclass(frozen=True)
class Provenance:
    """Where a fitted lens comes from; what is not known is empty.

    Attributes:
        model: the name or path that the model was loaded from.
        unembed: digest of the model's unembed, the same in float32 and bfloat16 (`unembed_digest`).
        texts: sha256 of the token ids that it was fitted on.
        versions: of the packages that fitted it.
        settings: how it was fitted; for an artifact made elsewhere, its own metadata.
    """

    model: str = ""
    unembed: str = ""
    texts: str = ""
    n_texts: int = 0
    n_tokens: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, ids: Sequence[Tensor], **settings: Any) -> "Provenance":
        """That of a fit on `ids` (each `[seq]`) of a `LanguageModel`, with the versions installed now."""
        return cls(
            model=model_name(model),
            unembed=unembed_digest(model),
            texts=ids_digest(ids),
            n_texts=len(ids),
            n_tokens=sum(map(len, ids)),
            versions={name: _version(name) for name in ("lenswidget", "torch", "transformers")},
            settings=settings,
        )

    @property
    def told(self) -> str:
        """The model and the number of texts in a few words."""
        texts = f", {self.n_texts} text{'s' * (self.n_texts > 1)}" if self.n_texts else ""
        return f"of {self.model or 'an unnamed model'}{texts}"

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `json.dumps(asdict(self))`; fields of a later version are dropped."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


UNKNOWN = Provenance()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a clone that was never installed
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def model_name(model: Any) -> str:
    """What a `LanguageModel`'s configuration says it was loaded from, else its class."""
    config = getattr(model.hf_model, "config", None)
    return getattr(config, "name_or_path", "") or type(model.hf_model).__name__


def ids_digest(ids: Sequence[Tensor]) -> str:
    """sha256 over token ids, text by text, so that the digest of a prefix of the texts can be had too."""
    digest = hashlib.sha256()
    for text in ids:
        digest.update(len(text).to_bytes(8, "little") + text.cpu().to(torch.int64).numpy().tobytes())
    return digest.hexdigest()


def unembed_columns(model: Any, columns: Sequence[int]) -> Float[Tensor, "d_vocab n"]:
    """Columns of the unembed's matrix in float32, on the CPU; negative ones count from the end.

    Args:
        model: a `LanguageModel` or its `Tail`. Its unembed is a module, whose matrix is
            `[d_vocab, unembed_width(model)]`.
        columns: which.

    An offloaded or quantised weight holds no numbers of its own, so there the module is called on one-hot
    rows instead.
    """
    head: nn.Module = model.hf_model.get_submodule(model.anatomy.unembed)
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


def unembed_width(model: Any) -> int:
    """What the unembed takes per cell: `d_model`, unless the model projects the stream before it."""
    head = model.hf_model.get_submodule(model.anatomy.unembed)
    return int(getattr(head, "in_features", model.anatomy.d_model))


def unembed_digest(model: Any) -> str:
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


def check_model(lens: Any, model: Any) -> None:
    """Refuses a lens (with `name`, `d_model`, `n_layers | None` and `provenance`) of another model.

    Raises:
        LensMismatchError: width, number of layers, or unembed differ.
    """
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


def check_states(lens: Any, states: Tensor, layer: int) -> None:
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


# --- the file ---------------------------------------------------------------------------------


def write(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], provenance: Provenance, **own: Any
) -> None:
    """One safetensors file that says which kind of lens it is, where it comes from, and its `own` facts."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise LensFileError(
            f"Asked to save a lens as {path.name}; give the file a name that ends in .safetensors."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"lens": kind, "provenance": json.dumps(asdict(provenance)), "own": json.dumps(own)}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], Provenance, dict[str, Any]]:
    """What `write` wrote.

    Raises:
        LensFileError: no such file, not a safetensors file, or not a lens of this kind.
    """
    found = kind_of(path)
    if found != kind:
        raise LensFileError(
            f"{path} holds a lens of kind {found!r}, not {kind!r}; lw.load_lens(path) reads either."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return tensors, Provenance.from_json(metadata["provenance"]), json.loads(metadata["own"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise LensFileError(f"{path} is no lens that can be read ({error}); save it again.") from error


def kind_of(path: Path) -> str:
    """Which kind of lens is kept at a path: "tuned", "jacobian", or whatever a safetensors file says.

    Raises:
        LensFileError: nothing is there, or nothing that holds a lens.
    """
    if not path.exists():
        raise LensFileError(f"Asked for a lens at {path}, found nothing there; check the path.")
    if path.is_dir():
        if (path / "config.json").exists() and (path / "params.pt").exists():
            return "tuned"
        raise LensFileError(
            f"{path} is a folder without config.json and params.pt, so it holds no tuned lens."
        )
    if path.suffix in (".pt", ".pth", ".bin"):
        return "jacobian"
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {})["lens"]
    except (SafetensorError, KeyError) as error:
        raise LensFileError(
            f"{path} is no lens: expected a .safetensors file that a lens was saved to, a Jacobian "
            "lens's .pt, or a folder with config.json and params.pt."
        ) from error


def load_pickled(path: Path) -> Any:
    """A `torch.save`d file read with `weights_only=True`, so that nothing in it is run; tensors on the CPU.

    Raises:
        LensFileError: no such file, or one that holds more than tensors and plain values.
    """
    if not path.is_file():
        raise LensFileError(f"Asked for a lens at {path}, found nothing there; check the path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file raises
        raise LensFileError(
            f"{path} cannot be read as tensors and plain values alone, so it was not loaded "
            f"({str(error).splitlines()[0][:120]}); get the lens from whoever published it."
        ) from error
