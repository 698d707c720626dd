"""The k best of a row, against a stable sort of the whole row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenswidget.readout.top_k import top_k


def best_by_sorting(logits, k):
    """Largest first, ties by the lower id: a stable sort of the negated row in float64."""
    return np.argsort(-logits.double().numpy(), axis=1, kind="stable")[:, :k]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 2000), st.integers(1, 40), st.integers(1, 1000), st.integers(0, 2**31)
)
def test_top_k_equals_a_stable_sort_of_the_row(n_cells, d_vocab, k, n_values, seed):
    k = min(k, d_vocab)
    generator = torch.Generator().manual_seed(seed)
    # few distinct values: most entries tie; both signs, zeros of both signs, infinities
    values = torch.cat([torch.randn(n_values, generator=generator), torch.tensor([0.0, -0.0, -torch.inf])])
    logits = values[torch.randint(len(values), (n_cells, d_vocab), generator=generator)]
    assert np.array_equal(top_k(logits, k).numpy(), best_by_sorting(logits, k))


@pytest.mark.parametrize("d_vocab", [1, 63, 64, 65, 4096, 5003])
def test_equal_logits_come_in_the_order_of_ids(d_vocab):
    k = min(7, d_vocab)
    assert top_k(torch.full((2, d_vocab), -3.5), k).tolist() == [list(range(k))] * 2


def test_k_may_be_the_whole_vocabulary():
    logits = torch.randn(2, 700, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(top_k(logits, 700).numpy(), best_by_sorting(logits, 700))


def test_ids_in_the_short_last_block_are_found():
    logits = torch.zeros(1, 64 * 100 + 3)
    logits[0, -1] = logits[0, -3] = 1.0
    assert top_k(logits, 4).tolist() == [[6400, 6402, 0, 1]]
