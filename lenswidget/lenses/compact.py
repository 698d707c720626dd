"""Matrices of a lens in a quarter of float32's bytes: int8 by rows, a row's few large entries apart."""

from collections.abc import Mapping

import torch
from torch import Tensor

N_LARGE = (
    8  # of a row: without them a row with one large entry (a diagonal's) has no digits left for the others
)
LARGEST = 127
PARTS = (".scale", ".large", ".where")  # these follow the name of a matrix


def pack(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each matrix `[..., rows, d_model]` as int8 under its name; its parts under that name and an ending.

    The `N_LARGE` largest entries of a row are kept apart, in float16 (`.large` `[..., rows, N_LARGE]`, at the
    columns `.where`). Of what is left the largest becomes 127 or -127 (`.scale` `[..., rows]`, float32), so
    that an entry is off by at most 1/254 of it.

    Raises:
        ValueError: an entry that is not finite, or a large one that float16 does not hold.
    """
    packed: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        values = matrix.detach().cpu().float()
        where = values.abs().topk(min(N_LARGE, values.shape[-1]), dim=-1).indices.sort().values
        large = values.gather(-1, where).half()
        rest = values.scatter(-1, where, 0)
        scale = rest.abs().amax(-1) / LARGEST
        if not (large.isfinite().all() and scale.isfinite().all()):
            raise ValueError(f"matrix {name} has an entry that is not finite, or is too large for float16")
        divisor = torch.where(scale > 0, scale, 1)  # a row of zeros stays one
        packed[name] = (rest / divisor[..., None]).round().to(torch.int8)
        parts = scale, large, where.to(torch.int32)
        packed |= {name + part: value for part, value in zip(PARTS, parts, strict=True)}
    return packed


def unpack(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices, float32: of what `pack` made, and of those that were kept as floats.

    Raises:
        KeyError, RuntimeError, ValueError: parts that are missing or do not fit.
    """
    names = [name for name in kept if not name.endswith(PARTS)]
    n_parts = sum(len(PARTS) for name in names if kept[name].dtype == torch.int8)
    if len(kept) != len(names) + n_parts:
        raise ValueError(f"it has {len(kept) - len(names)} parts of matrices in int8 where {n_parts} belong")
    return {name: _unpacked(kept, name) for name in names}


def _unpacked(kept: Mapping[str, Tensor], name: str) -> Tensor:
    values = kept[name].float()
    if kept[name].dtype != torch.int8:
        return values
    scale, large, where = (kept[name + part] for part in PARTS)
    return (values * scale[..., None]).scatter(-1, where.long(), large.float())
