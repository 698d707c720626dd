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
    assert len(SNIPPETS) == 11


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
