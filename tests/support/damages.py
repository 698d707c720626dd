"""Damaged lens files, seeded: run as a script, it prints how each kind of file took N damages.

python tests/support/damages.py 300
"""

import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch

from lenswidget.errors import LensError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.provenance import Provenance
from lenswidget.lenses.tuned import TunedLens

D_MODEL, N_LAYERS = 6, 3
PROVENANCE = Provenance(
    "a model", "ab" * 32, "cd" * 32, 2, 40, {"torch": "2"}, {"layers": [0, 1], "target_layer": 2}, ("1", "2")
)


def lenses():
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(N_LAYERS, D_MODEL, D_MODEL, generator=generator)
    jacobian = JacobianLens({0: square[0], 1: square[1]}, 2, N_LAYERS, PROVENANCE)
    return jacobian, TunedLens(square, square[:, 0], PROVENANCE, "ef" * 32)


def write(kind, folder):
    """One file or folder of a kind, and the files in it that can be damaged."""
    jacobian, tuned = lenses()
    if kind == "published":
        tuned.publish(folder / "lens")
        return folder / "lens", sorted((folder / "lens").iterdir())
    lens = tuned if kind.startswith("tuned") else jacobian
    lens.save(folder / kind, **({"dtype": torch.int8} if "int8" in kind else {}))
    return folder / kind, [folder / kind]


KINDS = ("jacobian.safetensors", "jacobian.int8.safetensors", "jacobian.pt", "tuned.safetensors", "published")


def damage(data, rng):
    """The bytes cut off, flipped in one to eight places, or with two pieces exchanged."""
    how = rng.choice(["truncate", "flip", "flip", "swap"])
    data = bytearray(data)
    if how == "truncate":
        del data[rng.randrange(len(data)) :]
    elif how == "flip":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    else:
        size = rng.randrange(1, len(data) // 2)
        one, other = sorted(
            (rng.randrange(len(data) - 2 * size + 1), rng.randrange(size, len(data) - size + 1))
        )
        other = max(other, one + size)
        data[one : one + size], data[other : other + size] = (
            data[other : other + size],
            data[one : one + size],
        )
    return bytes(data)


def facts(lens):
    """What makes two lenses equal: their numbers, and all that they say of themselves."""
    tensors = lens.matrices if isinstance(lens, JacobianLens) else {"w": lens.weight, "b": lens.bias}
    bits = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    rest = {name: value for name, value in vars(lens).items() if not isinstance(value, (torch.Tensor, dict))}
    return bits, {**rest, "measured": lens.measured}


def outcomes(kind, n, seed=0):
    """How `n` damages of one kind of file ended: equal, refused, other (another lens), or the raw error."""
    rng = random.Random(f"{seed} {kind}")
    found = Counter()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        path, files = write(kind, folder)
        whole = facts(load_lens(path))
        kept = {file: file.read_bytes() for file in files}
        for _ in range(n):
            file = rng.choice(files)
            file.write_bytes(damage(kept[file], rng))
            try:
                found["equal" if facts(load_lens(path)) == whole else "other"] += 1
            except LensError as error:
                found["refused" if "\n" not in str(error) else f"several lines {error}"] += 1
            except Exception as error:
                found[f"raw {error!r:.100}"] += 1
            shutil.copyfile(file, folder / "last-damage")
            file.write_bytes(kept[file])
    return found


if __name__ == "__main__":
    print(json.dumps({kind: outcomes(kind, int(sys.argv[1])) for kind in KINDS}, indent=1))
