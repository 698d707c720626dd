"""The report of a lens against a loop in float64, cell by cell."""

import statistics

import pytest
import torch
from random_lenses import LENGTHS, random_lenses
from tiny import gpt2, language_model, llama

from lenswidget.errors import LensError, LensMismatchError, PromptError, UnknownLensError
from lenswidget.lenses import report as report_file
from lenswidget.lenses.report import report
from lenswidget.lenses.tuned import TunedLens


@pytest.fixture(scope="module", params=[gpt2, llama])
def model(request):
    return language_model(request.param)


@pytest.fixture(scope="module")
def texts():
    return [torch.randint(5, 290, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def by_hand(model, texts, carried, skip_first=0):
    """KL, share of equal tops and median rank for one layer, each cell in plain float64."""
    kls, ranks = [], []
    for ids in texts:
        with torch.no_grad():
            hidden, logits = carried(ids), model.hf_model(ids[None]).logits[0]
            own = model.tail(hidden)
        for position in range(skip_first, len(ids)):
            last, here = logits[position].double(), own[position].double()
            p, q = last.softmax(-1), here.softmax(-1)
            kls.append(sum(float(a) * (float(a.log()) - float(b.log())) for a, b in zip(p, q, strict=True)))
            answer = int(last.argmax())
            ranks.append(sum(float(score) > float(here[answer]) for score in here))
    return sum(kls) / len(kls), ranks.count(0) / len(ranks), statistics.median(ranks)


def hidden_state(model, ids, layer):
    return model.hf_model(ids[None], output_hidden_states=True).hidden_states[layer + 1][0]


@pytest.mark.parametrize("skip_first", [0, 3])
def test_a_report_is_the_loop_in_float64_for_every_lens_and_layer(model, texts, skip_first):
    tuned, jacobian = random_lenses()
    for lens, layers in ((None, range(-1, 4)), (tuned, range(-1, 4)), (jacobian, (0, 2, 3))):
        found = report(lens, model, texts, skip_first=skip_first, progress=False)
        assert found.layers == tuple(layers)
        assert found.n_positions == sum(LENGTHS) - 3 * skip_first
        for index, layer in enumerate(found.layers[:-1]):

            def carried(ids, lens=lens, layer=layer):
                states = hidden_state(model, ids, layer)
                return states if lens is None else lens.transport(layer, states)

            kl, top1, rank = by_hand(model, texts, carried, skip_first)
            # float32 logits of 300 tokens: about 1e-6 for each cell
            assert found.kl_nats[index] == pytest.approx(kl, abs=1e-5)
            assert found.top1_agreement[index] == pytest.approx(top1, abs=1e-12)
            assert found.median_rank[index] == rank
        assert (found.kl_nats[-1], found.top1_agreement[-1], found.median_rank[-1]) == (0, 1, 0)


def test_the_tiles_change_nothing_but_rounding(model, texts, monkeypatch):
    whole = report(None, model, texts, progress=False)
    monkeypatch.setattr(report_file, "TILE_BYTES", 4 * 300 * 2)
    tiled = report(None, model, texts, progress=False)
    assert tiled.kl_nats == pytest.approx(whole.kl_nats, abs=1e-5)
    assert tiled.median_rank == whole.median_rank


def test_a_report_is_a_value_that_can_be_read_and_made_a_table(model, texts):
    tuned, jacobian = random_lenses()
    told = []
    found = tuned.report(texts, model, progress=lambda *step: told.append(step))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert found == tuned.report(texts, model, progress=False)
    lines = repr(found).splitlines()
    assert lines[0].startswith("tuned lens on ")
    assert lines[0].endswith(": 28 positions of 3 texts")
    assert [line.split()[0] for line in lines[1:7]] == ["layer", "-1", "0", "1", "2", "3"]
    frame = jacobian.report(texts, model, progress=False).to_dataframe()
    assert list(frame.columns) == ["layer", "kl_nats", "top1_agreement", "median_rank"]
    assert frame["layer"].tolist() == [0, 2, 3]


def test_a_report_leaves_the_mode_of_a_model_in_training(model, texts):
    expected = report(None, model, texts, progress=False)
    model.hf_model.train()
    assert report(None, model, texts, progress=False) == expected
    assert model.hf_model.training
    model.hf_model.eval()


def test_what_cannot_be_reported_on_says_why(model, texts):
    with pytest.raises(PromptError, match="more than 40 tokens"):
        report(None, model, texts, skip_first=40, progress=False)
    with pytest.raises(UnknownLensError):
        report("tuned", model, texts, progress=False)
    with pytest.raises(LensMismatchError, match="d_model"):
        TunedLens(torch.zeros(4, 8, 8), torch.zeros(4, 8)).report(texts, model, progress=False)
    with pytest.raises(LensError, match="Give it a LanguageModel"):
        report(None, model.hf_model, texts, progress=False)
