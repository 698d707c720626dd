"""What crosses to a model's process comes out there as it was; what cannot is refused. Without a cluster."""

import subprocess
import sys
from types import MappingProxyType

import pytest
import tiny
import torch

import lenswidget as lw
from lenswidget.engines.crossing import content_of, dumps, loads, rebuilt
from lenswidget.engines.host import Host
from lenswidget.engines.named import Names
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.proof import prove


def crossed(value):
    return loads(dumps(value, lambda _each: None), lambda name: name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_crosses_bit_for_bit_and_a_view_without_what_it_is_a_view_of(dtype):
    whole = torch.randn(100, 300).to(dtype)
    view = whole[3:5, ::7]
    sent = dumps(view, lambda _each: None)
    found = loads(sent, lambda name: name)
    assert found.dtype == dtype
    assert torch.equal(found, view)
    assert len(sent) < view.numel() * view.element_size() + 1000
    found.zero_()  # it may be written to


def test_a_prompt_crosses_whole_options_that_cannot_be_written_included():
    prompt = tiny.language_model().run(tiny.PROMPT).spec.prompt
    found = rebuilt(crossed(content_of(prompt)))
    assert isinstance(found.options, MappingProxyType)
    assert found.text == prompt.text
    assert torch.equal(found.model_inputs["input_ids"], prompt.model_inputs["input_ids"])


class OfOnesOwn:
    name = "own"

    def transport(self, _layer, states):
        return states


def test_functions_and_classes_of_ones_own_are_refused_and_those_of_this_package_cross():
    assert crossed(prove) is prove
    for value in (
        lambda: None,
        test_functions_and_classes_of_ones_own_are_refused_and_those_of_this_package_cross,
    ):
        with pytest.raises(lw.LensError, match="does not have it"):
            crossed(value)
    with pytest.raises(lw.LensError, match="OfOnesOwn"):
        crossed(OfOnesOwn())


def test_names_keep_nothing_alive_and_tell_what_was_let_go():
    names, edit = Names(), lw.Edit("zero")
    token = names.name(edit)
    assert names.name(edit) == token
    assert names.value(token) is edit
    del edit
    assert names.value(token) is None
    assert names.take_released() == [token]
    assert names.take_released() == []


def test_what_each_client_has_goes_when_it_leaves_and_the_host_ends_after_the_last():
    host = Host(tiny.language_model, {}, keep_s=0)
    message = dumps((LocalEngine.run, (EngineThere(), tiny.PROMPT), {}), EngineThere.name_of)
    replies = [host.call(client, "", [], message) for client in ("one", "two", "two")]
    assert [kind for kind, *_ in replies] == ["value"] * 3
    assert host.kept()["clients"] == 2
    assert host.kept()["runs"] == 3
    host.leave("two")
    assert host.kept()["runs"] == 1
    host.tend(lambda _lease: False, host.leave)  # whose lease is gone has left; then nobody is there
    assert host.kept() == {"clients": 0, "runs": 0, "values": 0, "works": 0}


class EngineThere:
    @staticmethod
    def name_of(value):
        return ("engine",) if isinstance(value, EngineThere) else None


def test_ray_is_not_imported_before_it_is_asked_for_and_its_lack_is_one_sentence(monkeypatch):
    code = "import sys, lenswidget; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(lw.LensError, match=r"pip install 'lenswidget\[ray\]'"):
        lw.connect("local", "gpt2")
