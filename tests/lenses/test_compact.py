"""Lenses kept as int8: what comes back, how far off it is, and what is refused."""

import pytest
import torch

from lenswidget.errors import LensFileError
from lenswidget.lenses.compact import LARGEST, N_LARGE, pack, unpack
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.tuned import TunedLens


def matrix(seed=0, n=40):
    """Near the identity, as the upper matrices of a Jacobian lens are, and one row of zeros."""
    found = torch.eye(n) + 0.01 * torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    found[3] = 0
    return found


def test_the_large_entries_are_those_of_float16_and_the_rest_off_by_half_a_step_at_most():
    given = matrix()
    found = unpack(pack({"a": given}))["a"]
    for row, (asked, kept) in enumerate(zip(given.tolist(), found.tolist(), strict=True)):
        by_size = sorted(range(len(asked)), key=lambda i: -abs(asked[i]))
        step = abs(asked[by_size[N_LARGE]]) / LARGEST
        for rank, i in enumerate(by_size):
            allowed = abs(asked[i]) / 2048 if rank < N_LARGE else step / 2
            assert abs(kept[i] - asked[i]) <= allowed * 1.001 + 1e-12, (row, i)
    assert not found[3].any()


def test_without_its_large_entries_apart_the_same_matrix_would_lose_the_others():
    given = matrix()
    off = (unpack(pack({"a": given}))["a"] - given).norm() / given.norm()
    scale = given.abs().amax(-1, keepdim=True).clamp(min=1e-9) / LARGEST
    plain = ((given / scale).round() * scale - given).norm() / given.norm()
    assert off < plain / 8


def test_both_lenses_come_back_from_a_file_of_a_quarter_of_the_bytes(tmp_path):
    matrices = {layer: matrix(layer, 64) for layer in (0, 1)}
    jacobian = JacobianLens(matrices, 5, 3)
    jacobian.save(tmp_path / "j.safetensors", dtype=torch.int8)
    jacobian.save(tmp_path / "whole.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("j.safetensors", "whole.safetensors")]
    assert sizes[0] < 0.5 * sizes[1]  # the parts count more here than at the width of a real model
    again = load_lens(tmp_path / "j.safetensors")
    assert isinstance(again, JacobianLens)
    assert (again.n_prompts, again.n_layers) == (5, 3)
    packed = unpack(pack({str(layer): each for layer, each in matrices.items()}))
    assert all(torch.equal(again.matrices[layer], packed[str(layer)]) for layer in (0, 1))
    tuned = TunedLens(torch.stack([matrix(2), matrix(3)]), torch.randn(2, 40))
    tuned.save(tmp_path / "t.safetensors", dtype=torch.int8)
    found = load_lens(tmp_path / "t.safetensors")
    assert isinstance(found, TunedLens)
    assert torch.equal(found.bias, tuned.bias)
    assert torch.allclose(found.weight, tuned.weight, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.bool])
def test_another_dtype_is_refused_in_one_sentence(tmp_path, dtype):
    with pytest.raises(LensFileError, match=r"in torch\.\w+: a lens is kept in float32, .* or int8"):
        JacobianLens({0: matrix()}, 1, 3).save(tmp_path / "j.safetensors", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_the_published_format_holds_floats_only(tmp_path):
    with pytest.raises(LensFileError, match=r"published format holds floats.*\.safetensors"):
        JacobianLens({0: matrix()}, 1, 3).save(tmp_path / "j.pt", dtype=torch.int8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_float16_cannot_hold_is_refused(tmp_path, value):
    given = matrix()
    given[1, 1] = value
    with pytest.raises(LensFileError, match="matrix 0 has an entry that is not finite, or is too large"):
        JacobianLens({0: given}, 1, 3).save(tmp_path / "j.safetensors", dtype=torch.int8)


@pytest.mark.parametrize("part", [".scale", ".large", ".where"])
def test_a_missing_part_is_refused(part):
    kept = pack({"a": matrix()})
    del kept["a" + part]
    with pytest.raises(ValueError, match="it has 2 parts of matrices in int8 where 3 belong"):
        unpack(kept)
