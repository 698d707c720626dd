"""The tree of a traced model mirrors the model."""

import pytest
import torch
from tiny import gpt2, language_model
from torch import nn

import lenswidget as lw
from lenswidget.errors import TraceError


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


def test_every_module_is_reached_by_its_path(model):
    for path, module in model.hf_model.named_modules():
        node = model.get(path)
        assert node.path == path
        assert node.wrapped is module


def test_attributes_and_indices_lead_to_the_same_node(model):
    assert model.transformer.h[1].mlp == model.get("transformer.h.1.mlp")
    assert model.transformer.h[-1] == model.transformer.h[3]
    assert hash(model.transformer.h[-1]) == hash(model.transformer.h[3])
    assert model.transformer.h[0] != model.transformer.h[1]
    assert [block.path for block in model.transformer.h] == [f"transformer.h.{i}" for i in range(4)]
    assert [block.path for block in model.transformer.h[1:3]] == ["transformer.h.1", "transformer.h.2"]
    assert len(model.transformer.h) == 4
    assert {"h", "wte"} <= set(dir(model.transformer))


def test_sequentials_and_dicts_are_indexed_as_torch_indexes_them():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.Linear(2, 2), nn.Tanh())})
    model = lw.TracedModel(net)
    assert model["b"][1].wrapped is net["b"][1]
    with pytest.raises(TypeError, match="not indexed by number"):
        model[0]
    with pytest.raises(IndexError, match="has 2 modules"):
        model["b"][2]
    with pytest.raises(TraceError, match="modules are: a, b"):
        model["c"]


def test_a_submodule_whose_name_is_taken_is_reached_by_its_path():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(2, 2)

        def forward(self, x):
            return self.output(x)

    model = lw.TracedModel(Layer())
    with model.trace(torch.ones(1, 2)):
        inner = model.get("output").output
        assert model.output is inner


def test_a_module_replaced_after_wrapping_is_the_one_that_is_traced():
    net = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    model = lw.TracedModel(net)
    with model.trace(torch.ones(1, 2)) as tracer:
        _ = tracer.result
    net[0] = nn.Linear(2, 3)
    with model.trace(torch.ones(1, 2)):
        assert model[1].output.shape == (1, 3)
        assert model[0].output.shape == (1, 3)
