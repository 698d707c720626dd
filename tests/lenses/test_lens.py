"""The lens protocol, and the lenses with nothing to fit."""

import re
from pathlib import Path

import pytest
import torch

import lenswidget as lw
from lenswidget.errors import UnknownLensError
from lenswidget.lenses.lens import Lens, LogitLens, as_lens, covered_layers, lenses_by_name

STATES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def double(layer, states):
    return 2 * states


class Halfway:
    """A lens from outside the package, which carries layers 0 and 1 only."""

    name = "halfway"
    layers = (0, 1)

    def transport(self, layer, states):
        return states / 2


def test_logit_lens_returns_the_very_states():
    assert LogitLens().transport(-1, STATES) is STATES
    assert LogitLens().transport(3, STATES) is STATES


def test_as_lens_takes_none_a_lens_or_a_function():
    assert as_lens(None) == LogitLens()
    mine = Halfway()
    assert isinstance(mine, Lens)
    assert as_lens(mine) is mine
    doubled = as_lens(double)
    assert doubled.name == "double"
    assert torch.equal(doubled.transport(0, STATES), 2 * STATES)


def test_a_function_is_given_float32_whatever_the_model_keeps():
    seen = []
    as_lens(lambda layer, states: seen.append((layer, states.dtype)) or states).transport(
        2, STATES.bfloat16()
    )
    assert seen == [(2, torch.float32)]


@pytest.mark.parametrize("bad", ["tuned", 3, object(), LogitLens, lw.TunedLens])
def test_as_lens_refuses_what_is_no_lens_and_says_what_is(bad):
    with pytest.raises(UnknownLensError, match=r"lw\.load_lens\(path\)"):
        as_lens(bad)


def test_lenses_by_name_puts_the_logit_lens_first_and_keeps_the_order_given():
    assert list(lenses_by_name()) == ["logit"]
    assert list(lenses_by_name([Halfway(), double])) == ["logit", "halfway", "double"]
    named = lenses_by_name({"mine": double, "other": Halfway()})
    assert list(named) == ["logit", "mine", "other"]
    assert list(lenses_by_name([LogitLens(), double])) == ["logit", "double"]


def test_two_lenses_of_one_name_are_refused_and_the_remedy_works():
    with pytest.raises(UnknownLensError, match="'double'"):
        lenses_by_name([double, double])
    assert list(lenses_by_name({"a": double, "b": double})) == ["logit", "a", "b"]


def test_covered_layers_are_all_unless_a_lens_says_otherwise():
    assert covered_layers(LogitLens(), 3) == {-1, 0, 1, 2}
    assert covered_layers(Halfway(), 3) == {0, 1}
    assert covered_layers(Halfway(), 1) == {0}


def test_every_snippet_of_the_lenses_page_runs(demo_with_lenses, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "lenses.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) == page.count("```python") >= 9
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lw, "demo_model", lambda: demo_with_lenses)  # loaded once for all tests
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/lenses.md", "exec"), names)
    # what the page says of them
    for name in ("plain", "centred", "tuned_readout", "jacobian_readout"):
        readout = names[name]
        last = (readout.layers == 29) & (readout.positions == readout.positions.max())
        assert names["model"].tokenizer.decode(readout.ids[last][0][0]) == " Paris"
    assert "has d_model = 576" in capsys.readouterr().out
    assert torch.equal(names["again"].weight, names["tuned"].weight)
    assert set(names["jacobian_readout"].layers.tolist()) == {27, 28, 29}
    assert names["published"].n_prompts == 2
