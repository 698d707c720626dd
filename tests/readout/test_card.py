"""A card's numbers against a float64 computation of the same cell, from the model's own modules."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import IDS, gpt2, language_model, wide_vocabulary
from tiny import PROMPT as TINY_PROMPT
from torch.utils._python_dispatch import TorchDispatchMode

import lenswidget as lw
from lenswidget.checks import check_temperature
from lenswidget.errors import CellError, LensError
from lenswidget.readout.card import decode, ranks

PROMPT = "The Eiffel Tower is in the city of"


class UpperLayers:
    """A lens that carries the layers from 10 on, and says so."""

    name = "upper"
    layers = range(10, 30)

    def transport(self, layer, states):
        return states


@pytest.fixture(scope="module")
def run(demo_model):
    return demo_model.run(PROMPT)


def float64_logits(demo_model, layer: int, position: int) -> torch.Tensor:
    """Hugging Face's own hidden state, through the final norm and the head written out in float64."""
    hf = demo_model.hf_model
    ids = demo_model.tokenizer(PROMPT, return_tensors="pt").input_ids
    grabbed = []
    module = hf.model.embed_tokens if layer < 0 else hf.model.layers[layer]
    hook = module.register_forward_hook(
        lambda _m, _a, out: grabbed.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        hf(ids)
    hook.remove()
    state = grabbed[0][0, position].double()
    norm = hf.model.norm
    normed = state / torch.sqrt(state.pow(2).mean() + norm.variance_epsilon) * norm.weight.double()
    return normed @ hf.lm_head.weight.double().T


@pytest.mark.parametrize(("layer", "position"), [(-1, 0), (0, 3), (12, 4), (20, 8), (29, 8)])
def test_card_equals_float64(demo_model, run, layer, position):
    card = decode(run, layer, position, k=20)
    logits = float64_logits(demo_model, layer, position)
    log_probs = logits.log_softmax(-1)
    order = logits.argsort(descending=True)
    assert card.ids == order[:20].tolist()
    # float32 rounding of a 576-wide product of values up to a few hundred
    torch.testing.assert_close(torch.tensor(card.logits).double(), logits[card.ids], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(torch.tensor(card.log_probs).double(), log_probs[card.ids], rtol=0, atol=1e-4)
    assert card.entropy_nats == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-4)
    if layer >= 0:
        below = float64_logits(demo_model, layer - 1, position)
        assert card.rank_below == [(below > below[i]).sum().item() for i in card.ids]
        change = log_probs.exp() - below.log_softmax(-1).exp()
        assert card.promoted[0][0] == change.argmax().item()
        assert card.suppressed[0][0] == change.argmin().item()
    else:
        assert card.layer_below is None
        assert card.rank_below == [None] * 20


def test_last_row_says_paris(demo_model, run):
    card = decode(run, 29, run.seq - 1, k=1)
    assert demo_model.tokenizer.decode(card.ids) == " Paris"


def test_temperature_divides_the_logits(run):
    plain, warm = decode(run, 20, 8), decode(run, 20, 8, temperature=2.0)
    assert warm.logits == plain.logits
    gap = (plain.log_probs[0] - plain.log_probs[5]) / 2
    assert warm.log_probs[0] - warm.log_probs[5] == pytest.approx(gap, abs=1e-5)


def test_a_grid_reads_only_rows_that_the_lens_carries(run):
    with pytest.raises(CellError, match="layer 9 through the lens 'upper'"):
        lw.read(run, [(12, 0), (9, 0)], lens=UpperLayers())
    card = decode(run, 10, 0, lens=UpperLayers())
    assert card.layer_below is None


def test_tracked_tokens_have_their_rank(demo_model, run):
    paris = demo_model.tokenizer.encode(" Paris")[0]
    (token, log_prob, rank), *_ = decode(run, 29, run.seq - 1, track=(paris,)).tracked
    assert (token, rank) == (paris, 0)
    assert -math.log(2) < log_prob < 0


@pytest.mark.parametrize(
    ("layer", "position", "options", "said"),
    [
        (30, 0, {}, "layer 30"),
        (-2, 0, {}, "layer -2"),
        (0, 99, {}, "position 99"),
        (0, 0, {"k": 0}, "the 0 best"),
        (0, 0, {"track": (10**6,)}, "token 1000000"),
        (
            0,
            0,
            {"lens": UpperLayers()},
            "layer 0 through the lens 'upper', which carries 20 layers from 10 to 29",
        ),
    ],
)
def test_cells_outside_the_run_are_refused(run, layer, position, options, said):
    with pytest.raises(CellError, match=said):
        decode(run, layer, position, **options)
    assert issubclass(CellError, LensError)


def test_a_cell_that_is_not_finite_has_no_best_tokens_and_no_ranks(run):
    streams = run._streams["resid_post"].clone()
    streams[12 + 1, 4, 3] = torch.nan
    spoiled = replace(run, _streams={"resid_post": streams})
    card = decode(spoiled, 12, 4, track=(5,))
    assert (card.ids, card.log_probs, card.logits, card.rank_below) == ([], [], [], [])
    assert math.isnan(card.entropy_nats)
    (token, log_prob, rank) = card.tracked[0]
    assert (token, rank) == (5, None)
    assert math.isnan(log_prob)
    above, clean = decode(spoiled, 13, 4), decode(run, 13, 4)
    assert (above.ids, above.log_probs) == (clean.ids, clean.log_probs)
    assert above.rank_below == [None] * 20
    assert (above.promoted, above.suppressed) == ([], [])


def test_near_a_temperature_of_0_the_best_token_has_all_the_probability(run):
    card = decode(run, 20, 8, temperature=1e-40)
    assert card.ids == decode(run, 20, 8).ids
    assert card.log_probs[:2] == [0.0, -math.inf]
    assert card.entropy_nats == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 10**400, "1", None, True])
def test_a_temperature_that_is_no_finite_number_above_0_is_refused(temperature):
    with pytest.raises(LensError, match=r"temperature is .* above 0"):
        check_temperature(temperature)
    assert check_temperature(np.float32(2)) == 2


def test_ranks_count_what_scores_strictly_higher():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0])
    assert ranks(logits, torch.tensor([3, 4, 0])).tolist() == [0, 2, 4]


def test_ids_without_a_token_count_but_are_not_shown(demo_model, run):
    """A vocabulary padded beyond the tokenizer's, as many models have: here the tokenizer knows less."""

    class Smaller:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getattr__(self, name):
            return getattr(demo_model.tokenizer, name)

    paris = demo_model.tokenizer.encode(" Paris")[0]
    padded = replace(run, model=replace(run.model, tokenizer=Smaller(paris)))
    cell = lw.Cells([29], [run.seq - 1])
    whole, shown = lw.read(run, cells=cell, k=50), lw.read(padded, cells=cell, k=20)
    kept = whole.ids[0] < paris
    assert whole.ids[0, 0] == paris
    n = min(20, int(kept.sum()))
    assert shown.ids[0, :n].tolist() == whole.ids[0][kept][:n].tolist()
    np.testing.assert_allclose(shown.log_probs[0, :n], whole.log_probs[0][kept][:n], atol=1e-5)
    assert shown.entropy_nats == pytest.approx(whole.entropy_nats, abs=1e-6)
    card = decode(padded, 29, run.seq - 1, k=20)
    assert card.ids == shown.ids[0].tolist()
    assert all(token_id < paris for token_id, _ in (*card.promoted, *card.suppressed))


class LargestFloat64(TorchDispatchMode):
    """Notes the largest tensor of float64 that any operation gives while it is on."""

    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype is torch.float64:
                self.n_elements = max(self.n_elements, tensor.numel())
        return result


def test_a_card_makes_no_float64_copy_of_the_unembed():
    """The exact product is of the best tokens: over the whole vocabulary it would take gigabytes."""
    run = wide_vocabulary(gpt2).run(IDS)
    expected = decode(run, 1, 3, k=20)
    with LargestFloat64() as seen:
        card = decode(run, 1, 3, k=20)
    assert card == expected
    d_vocab, d_model = 5003, 32
    assert d_vocab < 2 * d_vocab * d_model  # what it would be, for the cell and the row below
    assert 20 * d_model <= seen.n_elements < d_vocab


def test_what_did_not_change_is_neither_promoted_nor_suppressed():
    model = language_model(gpt2)
    block = model.hf_model.transformer.h[1]
    with torch.no_grad():
        for part in (block.attn.c_proj, block.mlp.c_proj):  # this block adds nothing to the stream
            part.weight.zero_()
            part.bias.zero_()
    still = decode(model.run(TINY_PROMPT), 1, 2)
    assert still.layer_below == 0
    assert still.promoted == []
    assert still.suppressed == []
    moved = decode(model.run(TINY_PROMPT), 2, 2)
    assert len(moved.promoted) == len(moved.suppressed) == 5
    assert all(change > 0 for _, change in moved.promoted)
    assert all(change < 0 for _, change in moved.suppressed)
