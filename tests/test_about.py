"""What `lw.about()` says of this process."""

import torch

import lenswidget as lw
from lenswidget.models import product


def test_it_tells_versions_threads_and_the_way_that_readouts_go_by():
    versions, cpu, cuda, way = lw.about().splitlines()
    assert f"lenswidget {lw.__version__}" in versions
    assert f"torch {torch.__version__.partition('+')[0]}" in versions
    assert f"{torch.get_num_threads()} threads" in cpu
    assert cuda.startswith("CUDA: ")
    assert way.endswith(f"{product.timing()}, kept in {product.timing_file()}")
