"""A tuned lens as the tuned-lens package keeps it: a folder with `config.json` and `params.pt`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lenswidget.errors import LensFileError
from lenswidget.files import sha256
from lenswidget.lenses.lens_file import DAMAGE, PUBLISHED, load_pickled, saving

DIGESTS = "SHA256SUMS"  # in the format of sha256sum; the package passes it over


def save_folder(folder: Path, config: Mapping[str, Any], weight: Tensor, bias: Tensor) -> None:
    """Write the package's two files and their digests, all of them or none.

    Args:
        weight: `[n_layers, d_model, d_model]`, that of the embedding row first.
        bias: `[n_layers, d_model]`.
    Raises:
        LensFileError: they cannot be written.
    """
    state: dict[str, Tensor] = {}
    for index in range(len(weight)):
        # clones: torch.save would keep the whole stack for each view of it
        state[f"{index}.weight"] = weight[index].cpu().clone()
        state[f"{index}.bias"] = bias[index].cpu().clone()
    with saving(*(folder / name for name in (*PUBLISHED, DIGESTS))) as (config_file, params_file, digests):
        config_file.write_text(json.dumps(config))
        torch.save(state, params_file)
        lines = [f"{sha256(file)}  {file.name}\n" for file in (config_file, params_file)]
        digests.write_text("".join(lines))


def load_folder(folder: Path) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The configuration, weights and biases.

    Translator `i` takes what enters block `i`, so it is that of our layer `i - 1`.

    Raises:
        LensFileError: files that are missing, damaged, or that do not fit each other.
    """
    _check_digests(folder)
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        n_layers, d_model = int(config["num_hidden_layers"]), int(config["d_model"])
        has_bias = bool(config.get("bias", True))
        if n_layers < 1 or d_model < 1:
            raise ValueError
    except DAMAGE as error:
        raise LensFileError(
            f"{folder}/config.json is no configuration of a tuned lens: it needs num_hidden_layers "
            "and d_model."
        ) from error
    state = load_pickled(folder / "params.pt")
    check_state(folder, state, n_layers, d_model, has_bias)
    weight = torch.stack([state[f"{index}.weight"].float() for index in range(n_layers)])
    bias = torch.zeros(n_layers, d_model, device="cpu")
    if has_bias:
        bias = torch.stack([state[f"{index}.bias"].float() for index in range(n_layers)])
    return config, weight, bias


def check_state(folder: Path, state: Any, n_layers: int, d_model: int, has_bias: bool) -> None:
    """Refuses a state dict that does not hold what its configuration says.

    Raises:
        LensFileError: says what it holds.
    """
    parts = ("weight", "bias")[: 1 + has_bias]
    holds = isinstance(state, dict) and len(state) == n_layers * len(parts)
    if not holds or set(state) != {f"{index}.{part}" for index in range(n_layers) for part in parts}:
        found = sorted(map(str, state))[:4] if isinstance(state, dict) else type(state).__name__
        raise LensFileError(
            f"{folder}/params.pt should hold weights for {n_layers} layers (0.weight, 0.bias, ...), "
            f"as its config.json says, but holds {found}."
        )
    for name, value in state.items():
        shape = (d_model, d_model) if name.endswith("weight") else (d_model,)
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if found != list(shape):
            raise LensFileError(
                f"{folder}/params.pt holds {found} as {name}, but its config.json says d_model = {d_model}."
            )


def check_maps(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The two as they are, if they are a matrix and a vector for each layer.

    Raises:
        ValueError: they are not.
    """
    shape = (len(weight), weight.shape[-1], weight.shape[-1])
    if not len(weight) or weight.shape != shape or bias.shape != shape[:2]:
        raise ValueError(f"its weight is {list(weight.shape)} and its bias {list(bias.shape)}")
    return weight, bias


def _check_digests(folder: Path) -> None:
    """Refuses files that are not those that were published, where the folder says which those were."""
    path = folder / DIGESTS
    if not path.exists():
        return
    try:
        lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        told = {name: digest for digest, name in cast(list[tuple[str, str]], lines)}
        wrong = [name for name in PUBLISHED if told[name] != sha256(folder / name)]
    except (OSError, KeyError, ValueError) as error:
        raise LensFileError(f"{path} cannot be read ({error!r:.100}); get the lens again.") from error
    if wrong:
        raise LensFileError(
            f"{folder / wrong[0]} is not what was written: its digest in {DIGESTS} differs. Get the lens "
            f"again, or remove {DIGESTS} if you changed it yourself."
        )
