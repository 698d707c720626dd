"""Where in a picture the state of each of its columns lies, where the model shows it."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import inference
from lenswidget.nested import leaves
from lenswidget.tracing.isolation import random_state, set_random_state

Grid = tuple[int, int]
# Which patches are changed to see whose states move: places as shares of the height and width.
_TRIED = ((0.2, 0.7), (0.6, 0.1), (0.8, 0.9))


def patch_grid(
    place: int, sizes: Sequence[int], inputs: Mapping[str, Any], hf_model: nn.Module
) -> Grid | None:
    """Rows and columns of a picture's states; None where that is not known.

    They are as the processor says, or else as the picture's size and the model's patches give them, where
    changing some patches moves the states at just those places most.

    Args:
        place: of the picture among those of the prompt.
        sizes: how many columns each picture has.
        inputs: the model's.
    """
    told = inputs.get("image_grid_thw")
    if isinstance(told, Tensor) and told.shape == (len(sizes), 3):
        n_frames, height, width = (int(size) for size in told[place])
        return _pooled(height, width, sizes[place]) if n_frames == 1 else None
    pixels = inputs.get("pixel_values")
    patch = _patch_size(hf_model)
    if not isinstance(pixels, Tensor) or pixels.ndim < 4 or patch is None:
        return None
    height, width = pixels.shape[-2:]
    grid = _pooled(height // patch, width // patch, sizes[place])
    if grid is None or math.prod(pixels.shape[:-3]) != len(sizes) or height % patch or width % patch:
        return None
    key = ("patches", tuple(pixels.shape), grid)
    return grid if facts_of(hf_model).get(key, lambda: _is_seen(inputs, grid, hf_model)) else None


def _pooled(height: int, width: int, n: int) -> Grid | None:
    """The grid of n states over so many patches, where each state stands for a square of them."""
    side = math.isqrt(height * width // n) if 0 < n <= height * width else 0
    if side < 1 or side * side * n != height * width or height % side or width % side:
        return None
    return height // side, width // side


def _patch_size(hf_model: nn.Module) -> int | None:
    config = getattr(hf_model, "config", None)
    found = getattr(getattr(config, "vision_config", None), "patch_size", None)
    found = found[0] if isinstance(found, (list, tuple)) and found else found
    return found if isinstance(found, int) and found > 0 else None


def _is_seen(inputs: Mapping[str, Any], grid: Grid, hf_model: Any) -> bool:
    """Whether the states at some patches' places are those that move most when these patches change."""
    features = getattr(hf_model, "get_image_features", None)
    if features is None:
        return False
    taken = inspect.signature(features).parameters
    given = {name: value for name, value in inputs.items() if name in taken}
    changed, expected = _changed(given["pixel_values"], grid)
    random = random_state()
    try:
        with inference(hf_model):
            before, after = (
                _rows(features(**{**given, "pixel_values": pixels}), math.prod(grid))
                for pixels in (given["pixel_values"], changed)
            )
    except Exception:  # whatever it needs besides is not known: then nothing is said of patches
        return False
    finally:
        set_random_state(random)
    if before is None or after is None:
        return False
    moved = (after - before).float().norm(dim=-1).topk(len(expected)).indices
    return set(moved.tolist()) == expected


def _changed(pixels: Tensor, grid: Grid) -> tuple[Tensor, set[int]]:
    """The pictures with some patches of the first turned to noise, and the places of these patches."""
    changed = pixels.clone()
    first = changed.flatten(0, -4)[0]  # a view
    high, wide = first.shape[-2] // grid[0], first.shape[-1] // grid[1]
    generator = torch.Generator("cpu").manual_seed(0)
    places: set[int] = set()
    for down, right in _TRIED:
        row, column = int(down * grid[0]), int(right * grid[1])
        noise = 3 * torch.randn(first.shape[0], high, wide, generator=generator, device="cpu")
        area = first[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        area.copy_(noise.to(area))
        places.add(row * grid[1] + column)
    return changed, places


def _rows(output: Any, n: int) -> Tensor | None:
    """The first picture's states `[n, width]` in what a model gives for pictures."""
    found = getattr(output, "pooler_output", None)
    for tensor in leaves(output if found is None else found):
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim >= 2:
            rows = tensor.reshape(-1, tensor.shape[-1])
            return rows[:n] if len(rows) >= n and len(rows) % n == 0 else None
    return None
