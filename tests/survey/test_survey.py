"""Surveys: numbers against whole forwards, rows out of several holders, a file to go on from, curves."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import gpt2, language_model, llama

import lenswidget as lw
from lenswidget.errors import LensError, PromptError
from lenswidget.lenses.lens import LogitLens
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.survey.answers import form_ids, read_ids
from lenswidget.survey.measured import Measured
from lenswidget.survey.table import Survey

N_LAYERS = 4
ROWS = [([5, 17, 40], 7), ([9, 3, 3, 8], [11, 12])]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return language_model(llama)


def states_and_logits(model, ids):
    """What each block leaves, `[rows, seq, d_model]`, and the logits, from hooks and the model alone."""
    hf_model, found = model.hf_model, []
    with torch.no_grad():
        hooks = [
            block.register_forward_hook(
                lambda _m, _a, out: found.append(out if torch.is_tensor(out) else out[0])
            )
            for block in hf_model.model.layers
        ]
        logits = hf_model(torch.tensor([ids])).logits[0]
        for hook in hooks:
            hook.remove()
        embed = hf_model.model.embed_tokens(torch.tensor([ids]))
    return torch.stack([embed[0], *(each[0] for each in found)]), logits


def log_probs(model, ids):
    """`[rows, seq, d_vocab]` through the logit lens, written out."""
    states, logits = states_and_logits(model, ids)
    with torch.no_grad():
        read = model.hf_model.lm_head(model.hf_model.model.norm(states))
    assert torch.allclose(read[-1], logits, atol=1e-5)
    return read.double().log_softmax(-1).numpy()


def test_one_token_is_what_the_logit_lens_says_at_the_end(model):
    found = lw.survey(model, [([5, 17, 40], 7)], **QUIET).measured[0]
    expected = log_probs(model, [5, 17, 40])[:, -1]
    assert found.layers.tolist() == list(range(-1, N_LAYERS))
    assert found.log_probs == pytest.approx(expected[:, 7], abs=1e-5)
    assert found.ranks.tolist() == [int((row > row[7]).sum()) for row in expected]


class Words:
    """A tokenizer of numbers: `"4 9"` is the tokens 4 and 9."""

    def encode(self, text, add_special_tokens=True):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def __call__(self, text, **options):
        return {"input_ids": self.encode(text)}

    def __len__(self):
        return 64


def test_text_of_several_tokens_counts_with_its_exact_log_probability(model):
    assert form_ids("4 9 2", Words(), 64) == [4, 9, 2]
    engine, prompt, answer = LocalEngine(model), [5, 17, 40], (4, 9, 2)
    run = engine.run(prompt)
    found = read_ids(engine, run, [[answer]], LogitLens(), "resid_post")[0]
    whole = log_probs(model, [*prompt, *answer])
    parts = np.stack([whole[:, 2 + j, token] for j, token in enumerate(answer)])
    ranks = np.stack([(whole[:, 2 + j] > whole[:, 2 + j, [token]]).sum(-1) for j, token in enumerate(answer)])
    assert found.log_probs == pytest.approx(parts.sum(0), abs=3e-5)
    assert found.ranks.tolist() == ranks.max(0).tolist()
    # forms of one answer: the sum of their probabilities, the best of their ranks
    both = read_ids(engine, run, [[(7,), (11,)]], LogitLens(), "resid_post")[0]
    last = log_probs(model, prompt)[:, -1]
    assert both.log_probs == pytest.approx(np.log(np.exp(last[:, [7, 11]]).sum(-1)), abs=1e-5)
    assert both.ranks.tolist() == np.minimum(*((last > last[:, [i]]).sum(-1) for i in (7, 11))).tolist()


def test_on_the_demo_model_a_city_of_two_tokens_has_the_probability_of_both(demo_model):
    prompt, answer = "The Golden Gate Bridge is in", " San Francisco"
    found = lw.survey(
        demo_model, [{"prompt": prompt, "target": answer, "foil": " Paris"}], foil="foil", **QUIET
    )
    measured = found.measured[0]
    ids = demo_model.tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = demo_model.hf_model(ids).logits[0].double().log_softmax(-1)
    expected = logits[-3, ids[0, -2]] + logits[-2, ids[0, -1]]
    assert measured.log_probs[-1] == pytest.approx(expected.item(), abs=1e-3)
    paris = demo_model.tokenizer.encode(" Paris")[0]
    assert measured.foil_log_probs[-1] == pytest.approx(logits[-3, paris].item(), abs=1e-3)
    table = found.to_dataframe()
    assert table["foil_difference"][0] == pytest.approx(expected.item() - logits[-3, paris].item(), abs=2e-3)


@pytest.mark.parametrize(
    ("positions", "columns"),
    [
        (-1, [2]),
        ([0, -1], [0, 2]),
        (slice(-2, None), [1, 2, 3]),
        (None, [0, 1, 2, 3]),
        ("prompt", [0, 1, 2]),
    ],
)
def test_edits_stay_at_the_prompts_columns_where_an_answer_follows(model, positions, columns):
    """With an answer of two tokens the prompt is run with the first of them behind it."""
    prompt, answer = [5, 17, 40], (4, 9)
    edit = lw.Edit("zero", site="mlp_out", layers=1, positions=positions)
    engine = LocalEngine(model)
    found = read_ids(engine, engine.run(prompt, edits=edit), [[answer]], LogitLens(), "resid_post")[0]
    whole = lw.read(
        model.run([*prompt, answer[0]], edits=lw.Edit("zero", site="mlp_out", layers=1, positions=columns)),
        track=answer,
    )
    shape = (N_LAYERS + 1, 4, 2)
    expected = whole.tracked_log_probs.reshape(shape)[:, [2, 3], [0, 1]].sum(-1)
    assert found.log_probs == pytest.approx(expected, abs=1e-5)


def test_with_edits_each_prompt_is_measured_without_and_with_them(model):
    edit = lw.Edit("zero", site="mlp_out", layers=1)
    found = lw.survey(model, [([5, 17, 40], 7)], edits=edit, **QUIET).measured
    assert [each.condition for each in found] == ["plain", "edited"]
    edited = lw.read(model.run([5, 17, 40], edits=edit), track=[7])
    expected = edited.tracked_log_probs[edited.positions == 2, 0]
    assert found[1].log_probs == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(found[0].log_probs[:2], found[1].log_probs[:2])
    assert not np.allclose(found[0].log_probs[2:], found[1].log_probs[2:])


def test_several_models_stand_side_by_side(model):
    other = language_model(gpt2)
    table = lw.survey({"one": model, "two": other}, [([5, 17], 7)], **QUIET).to_dataframe()
    assert table["model"].tolist() == ["one", "two"]
    last = other.hf_model(torch.tensor([[5, 17]])).logits[0, -1].log_softmax(-1)
    assert table["log_prob"][1] == pytest.approx(last[7].item(), abs=1e-5)


@pytest.mark.parametrize("layer", [-1, 0, 2])
def test_the_layer_of_arrival_is_the_one_that_a_lens_puts_it_in(model, layer):
    direction = model.hf_model.lm_head.weight.detach()[7]

    def planted(at, states):
        return direction.expand_as(states) * (1.0 if at >= layer else -1.0)

    found = lw.survey(model, [([5, 17, 40], 7)], lens=planted, **QUIET)
    row = found.to_dataframe().iloc[0]
    assert (row["first_layer"], row["holds_from"], row["is_right"]) == (layer, layer, True)
    arrived = found.arrivals()
    assert (arrived["layer"].tolist(), arrived["n"].tolist()) == ([layer], [1])


def holders(tmp_path):
    rows = [{"q": [5, 17, 40], "a": 7, "kind": "x"}, {"q": [9, 3], "a": [11, 12], "kind": "y"}]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    yield rows
    yield (row for row in rows)
    yield pd.DataFrame(rows)
    yield pd.DataFrame({**pd.DataFrame(rows), "q": [np.array(row["q"]) for row in rows]})
    yield lines
    yield str(lines)


def test_rows_may_lie_in_a_list_a_frame_or_a_file(model, tmp_path):
    columns = {"prompt": "q", "target": "a", "group": "kind", **QUIET}
    tables = [lw.survey(model, rows, **columns).to_dataframe() for rows in holders(tmp_path)]
    assert tables[0]["group"].tolist() == ["x", "y"]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_survey_that_was_stopped_goes_on_and_ends_with_the_same_table(model, tmp_path, n):
    rows = [([5, 17, 40], 7), ([9, 3, 3, 8], 11), ([1, 2], 4)]
    whole = lw.survey(model, rows, **QUIET).by_layer()
    out, ran = tmp_path / "survey.jsonl", []

    def stop(done, total):
        if done == n + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lw.survey(model, rows, out=out, progress=stop)
    with out.open("a") as file:
        file.write('{"row": 2, "gro')  # killed in the middle of a line
    assert len(out.read_text().splitlines()) == n + 3
    again = lw.survey(model, rows, out=out, progress=lambda done, total: ran.append(done))
    pd.testing.assert_frame_equal(again.by_layer(), whole)
    before = out.read_bytes()
    pd.testing.assert_frame_equal(lw.survey(model, rows, out=out, **QUIET).by_layer(), whole)
    assert out.read_bytes() == before  # nothing was run again
    # more rows go on from the same file, and a row that has changed is measured anew
    longer = lw.survey(model, [*rows[:2], ([1, 3], 4), ([6], 4)], out=out, **QUIET)
    expected = lw.survey(model, [*rows[:2], ([1, 3], 4), ([6], 4)], **QUIET)
    pd.testing.assert_frame_equal(longer.by_layer(), expected.by_layer())


def test_a_file_of_another_survey_or_of_something_else_is_left_alone(model, tmp_path):
    out = tmp_path / "survey.jsonl"
    lw.survey(model, ROWS[:1], out=out, **QUIET)
    before = out.read_bytes()
    with pytest.raises(LensError, match=r"holds another survey \(site: 'resid_post' there, 'mlp_out' now\)"):
        lw.survey(model, ROWS[:1], out=out, site="mlp_out", **QUIET)
    assert out.read_bytes() == before
    (tmp_path / "notes.txt").write_text("dear diary\n")
    with pytest.raises(LensError, match="is there and holds no survey"):
        lw.survey(model, ROWS[:1], out=tmp_path / "notes.txt", **QUIET)
    assert (tmp_path / "notes.txt").read_text() == "dear diary\n"


def test_a_prompt_that_fails_is_told_and_the_others_go_on(model):
    found = lw.survey(model, [([5, 17], 7), ([], 7), ([5, 999], 7), ([9, 3], 7)], **QUIET)
    table = found.to_dataframe()
    assert [bool(error) for error in table["error"]] == [False, True, True, False]
    assert "4 prompts, 2 of them failed" in repr(found)
    assert found.curves()["n"].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "survey no rows"),
        (5, r"Asked to survey 5\. Pass a list of rows"),
        ([{"prompt": [1]}], r"Row 0 has no 'target', but 'prompt'"),
        ([{"prompt": [1], "target": []}], r"Row 0 has \[\] as its 'target'"),
        ([{"prompt": [1], "target": ""}], r"Row 0 has '' as its 'target'"),
        ([{"prompt": [1], "target": 1.5}], r"Row 0 has 1\.5 as its 'target'"),
        ([7], r"Row 0 is 7\. Pass a mapping"),
        ("no-such-file.jsonl", "cannot be read"),
    ],
)
def test_rows_that_are_none_are_refused_in_one_sentence(model, rows, message):
    with pytest.raises((PromptError, LensError), match=message):
        lw.survey(model, rows, **QUIET)


def test_settings_that_do_not_fit_are_refused(model):
    for options, message in (
        ({"k": 0}, "Asked for the top k=0"),
        ({"site": "nonsense"}, "has the sites"),
        ({"lens": {"another": None}}, "The lenses name no"),
    ):
        with pytest.raises(LensError, match=message):
            lw.survey(model, ROWS[:1], **options, **QUIET)
    with pytest.raises(LensError, match="models without names"):
        lw.survey({}, ROWS[:1], **QUIET)


def made(n, seed=0):
    generator = np.random.default_rng(seed)
    return Survey(
        1,
        "logit",
        "resid_post",
        tuple(
            Measured(
                i,
                "",
                [1],
                "m",
                "plain",
                np.arange(-1, 3),
                generator.normal(size=4),
                generator.integers(0, 2, 4),
            )
            for i in range(n)
        ),
    )


def test_curves_are_means_and_their_bands_those_of_resampled_prompts():
    found = made(40)
    values = np.stack([each.log_probs for each in found.measured])
    curves = found.curves("log_prob")
    assert curves["mean"].to_numpy() == pytest.approx(values.mean(0))
    generator = np.random.default_rng(1)
    drawn = [values[generator.integers(0, 40, 40)].mean(0) for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    assert curves["low"].to_numpy() == pytest.approx(low, abs=0.03)
    assert curves["high"].to_numpy() == pytest.approx(high, abs=0.03)
    shares = found.curves("pass")["mean"].to_numpy()
    assert shares == pytest.approx(np.mean([each.ranks == 0 for each in found.measured], axis=0))
    pd.testing.assert_frame_equal(found.curves("log_prob"), curves)  # seeded
    with pytest.raises(LensError, match="but there was none"):
        found.curves("foil_difference")
    with pytest.raises(LensError, match="Name one of"):
        found.curves("nonsense")


def test_prompts_that_the_plain_model_gets_wrong_can_be_left_out():
    found = made(40)
    right = [each for each in found.measured if each.ranks[-1] == 0]
    curves = found.curves("log_prob", only_right=True)
    assert curves["n"].unique().tolist() == [len(right)]
    assert curves["mean"].to_numpy() == pytest.approx(np.mean([each.log_probs for each in right], axis=0))


def test_holding_from_a_layer_means_up_to_the_last():
    layers = np.arange(-1, 3)
    ranks = {
        (5, 0, 3, 0): (0, 2),
        (0, 0, 0, 0): (-1, -1),
        (1, 1, 1, 1): (None, None),
        (0, 0, 0, 1): (-1, None),
    }
    for given, (first, held) in ranks.items():
        each = Measured(0, "", "", "m", "plain", layers, np.zeros(4), np.array(given))
        assert (each.first_layer(1), each.holds_from(1)) == (first, held)
