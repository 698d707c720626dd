"""A model split over two Ray actors: the numbers of the whole model, for several clients, through losses."""

import gc
import json
import os
import signal

import numpy as np
import pytest
import ray_cluster
import torch
from ray_cluster import becomes, kept
from tiny import PROMPT, llama, tokenizer

import lenswidget as lw
from lenswidget.tolerances import SPLIT_FORWARD

pytestmark = pytest.mark.skipif(
    not hasattr(pytest.importorskip("transformers"), "DistributedConfig"),
    reason="this transformers has no DistributedConfig",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with its tokenizer, whose heads two processes can share."""
    found = tmp_path_factory.mktemp("llama")
    llama(num_attention_heads=4, num_key_value_heads=2).save_pretrained(found)
    tokenizer().save_pretrained(found)
    return str(found)


@pytest.fixture(scope="module")
def address():
    with ray_cluster.cluster(n_cpus=4) as found:
        yield found


@pytest.fixture(scope="module")
def far(address, folder):
    import ray

    model = ray_cluster.connected(address, folder, tensor_parallel=2)
    yield model
    model.close()
    ray.shutdown()


@pytest.fixture(scope="module")
def near(folder):
    return lw.LanguageModel(folder)


def test_x(far, near):
    import time

    t = time.time()
    there, here = far.run(PROMPT), near.run(PROMPT)
    a, b = lw.read(there, k=3), lw.read(here, k=3)
    print(np.abs(a.log_probs - b.log_probs).max(), time.time() - t)
    for i in range(5):
        t = time.time()
        lw.decode(there, 2, i)
        print("click", time.time() - t)
