"""Every snippet of docs/tracing.md runs, in order, and says what the page says."""

import re
from pathlib import Path

import pytest
import torch
from tiny import PROMPT, gpt2, tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "tracing.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def names():
    """What the page's code leaves behind, having run from top to bottom."""
    found = {"hf_model": gpt2(), "tokenizer": tokenizer()}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"docs/tracing.md, snippet {number}", "exec"), found)
    return found


def test_every_snippet_runs(names):
    assert len(SNIPPETS) == 15


def test_what_the_page_claims_is_so(names):
    model = names["model"]
    expected = model.hf_model(**model.tokenize(PROMPT)).logits
    assert torch.equal(names["hidden_states"], expected)
    assert torch.equal(names["whole"].logits, expected)
    assert names["gradient"].shape == (1, expected.shape[1], 32)
    assert len(names["chosen"]) == 3
    assert names["hidden"].shape == (1, 4)
    assert names["batch"].shape[0] == 2
    assert names["batch"].ndim == 3
    assert "never" not in names
    assert torch.equal(names["same_gradient"], names["gradient"])
    assert names["last_logits"].shape == (300,)
    assert not torch.equal(names["last_logits"], expected[0, -1])
    mixed = hooked_output(
        model.hf_model.transformer.h[1].attn, lambda: model.hf_model(**model.tokenize(PROMPT))
    )
    assert torch.equal(names["mixed"][0], mixed[0])


def hooked_output(module, call):
    found = []
    handle = module.register_forward_hook(lambda module, args, output: found.append(output))
    call()
    handle.remove()
    return found[0]


ROWS = PAGE.read_text().partition("## Coming from nnsight")[2]


def test_the_table_names_what_exists_and_no_more(names):
    """What the right column names is there; what only the left one names says what to write."""
    model = names["model"]
    with model.trace(PROMPT) as tracer:
        for name in ("result", "steps", "stop", "cache"):
            assert f"tracer.{name}" in ROWS
            assert hasattr(tracer, name)
        for name in ("invoke", "iter", "all"):
            assert f"tracer.{name}" in ROWS
            with pytest.raises(AttributeError, match=f"{name!r}: .*model\\.trace|{name!r}: .*tracer\\.steps"):
                getattr(tracer, name)
        tracer.stop()
    for name in ("edit", "scan", "session"):
        assert f"model.{name}()" in ROWS
        with pytest.raises(AttributeError, match=f"no attribute {name!r}"):
            getattr(model, name)
    with pytest.raises(AttributeError, match="Read the inputs and outputs"):
        _ = model.lm_head.source
    assert model.source is None
