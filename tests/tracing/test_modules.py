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
    # a module is one even where it holds none: `if model.lm_head:` asks whether there is one
    assert len(model.transformer.ln_f) == 0
    assert bool(model.transformer.ln_f)
    assert bool(model.transformer.h)
    assert {"h", "wte"} <= set(dir(model.transformer))


def test_a_model_takes_attributes_of_its_own_but_in_a_trace_of_it(model):
    other = language_model(gpt2)
    with model.trace("The city of Paris"):
        other.note = "of another model"
        with pytest.raises(AttributeError, match="Asked to set"):
            model.note = "of this one"
    model.note = "after the trace"
    assert (other.note, model.note) == ("of another model", "after the trace")
    del model.note


def test_a_misspelt_assignment_is_refused_and_changes_nothing(model):
    with model.trace("The city of Paris"):
        for node in (model, model.lm_head, model.transformer.h[0]):
            with pytest.raises(AttributeError, match=r"Asked to set .*\.outptu; .*Did you mean 'output'\?"):
                node.outptu = 0
        with pytest.raises(AttributeError, match=r"To change the module itself, use \.wrapped"):
            model.lm_head.weight = 0
        for holder in (model.lm_head.calls, model.layers, model.layers[0]):
            with pytest.raises(AttributeError):
                holder.outptu = 0
    before = model.lm_head
    for name in ("lm_head", "config", "hf_model"):  # the wrapper's would hide the model's
        with pytest.raises(AttributeError):
            setattr(model, name, None)
    assert model.lm_head == before


def test_a_subclass_has_attributes_of_its_own():
    class Named(lw.TracedModel):
        def __init__(self, module, nickname):
            super().__init__(module)
            self.nickname = nickname

    model = Named(nn.Linear(2, 2), "small")
    with model.trace(torch.ones(1, 2)):
        assert model.nickname == "small"


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
