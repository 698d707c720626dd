"""Runs that take columns over from earlier ones, against the same run whole."""

import contextlib
import dataclasses
import gc
import random

import numpy as np
import pytest
import torch
import transformers as hf
from makes import MAKES, made
from tiny import language_model, llama
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.interventions.shared_prefix import shared_prefix
from lenswidget.models.split_forward import gap_of, split_forward
from lenswidget.readout import kept as kept_module
from lenswidget.readout.proof import prove
from lenswidget.readout.query import Query
from lenswidget.readout.reading import read_slices
from lenswidget.readout.taking_over import Run
from lenswidget.readout.unembed import Unembed

SPLITTABLE = [name for name in MAKES if name != "state space"]
# Log-probs of states that differ by the rounding of a forward in two parts.
NATS = 2e-3


def edited(ids, random_numbers, n_vocab):
    """The ids after one random edit: a token or several put in, taken out or replaced, anywhere."""
    ids = list(ids)
    at = random_numbers.choice([0, len(ids) // 2, len(ids) - 1, random_numbers.randrange(len(ids))])
    some = [random_numbers.randrange(1, n_vocab) for _ in range(random_numbers.choice([1, 1, 2, 7]))]
    match random_numbers.choice(["insert", "delete", "replace", "paste at the end", "special"]):
        case "insert":
            ids[at:at] = some
        case "delete" if len(ids) > 12:
            del ids[at : at + len(some)]
        case "replace":
            ids[at : at + len(some)] = some
        case "special":
            ids[at:at] = [0]
        case _:
            ids += some
    return ids[:60]


def check_same(reused, whole):
    """All numbers of two runs of one recipe agree, and so do their readouts."""
    assert reused.spec.prompt.column_ids.tolist() == whole.spec.prompt.column_ids.tolist()
    metrics = ("entropy", "kl", "agrees")
    ours, theirs = (lw.read(run, k=3, metrics=metrics, track=[5]) for run in (reused, whole))
    assert (ours.layers == theirs.layers).all()
    assert (ours.positions == theirs.positions).all()
    assert np.abs(ours.tracked_log_probs - theirs.tracked_log_probs).max() < NATS
    assert np.abs(ours.entropy_nats - theirs.entropy_nats).max() < NATS
    assert np.abs(ours.kl_from_final - theirs.kl_from_final).max() < NATS
    # top tokens may change places only where their log-probs tie
    assert np.abs(ours.log_probs - theirs.log_probs).max() < NATS
    assert reused.fidelity.ok


@pytest.mark.parametrize("name", SPLITTABLE)
def test_random_edits_of_a_prompt_read_as_whole_runs_do(name):
    model, numbers = made(name), random.Random(name)
    run = model.run([numbers.randrange(1, 400) for _ in range(40)])
    n_taken = 0
    for _ in range(12):
        ids = edited(run.token_ids.tolist(), numbers, 400)
        lw.read(run, k=3, metrics=("entropy", "kl", "agrees"), track=[5])
        reused = model.run(ids, reuse=run)
        check_same(reused, model.run(ids, reuse=False))
        n_taken += reused.reuse.n_columns
        assert reused.reuse.gap <= reused.reuse.bound
        run = reused
    assert n_taken > 60


def test_a_model_of_states_is_run_whole_and_says_so():
    model = made("state space")
    run = model.run([3, 4, 5, 6])
    again = model.run([3, 4, 5, 7], reuse=run)
    assert again.reuse.n_columns == 0
    assert "takes no past_key_values" in again.reuse.text
    assert "always run whole, because its forward takes no past_key_values" in str(model.anatomy)


def test_the_anatomy_says_that_a_prefix_is_taken_over():
    assert "reuse       a prefix that was run before is taken over" in str(made("sequential").anatomy)


@pytest.mark.parametrize(
    ("config_class", "changes", "why"),
    [
        (hf.BertConfig, {"is_decoder": False}, "each position of this model sees later ones"),
        (hf.T5Config, {"decoder_start_token_id": 0}, "decoder beside an encoder"),
        (hf.RecurrentGemmaConfig, {}, ""),
        (hf.JambaConfig, {"use_mamba_kernels": False}, ""),
        (hf.RwkvConfig, {}, "takes no past_key_values"),
    ],
)
def test_what_cannot_be_split_is_run_whole(config_class, changes, why):
    config = tiny_config(config_class)
    for name, value in changes.items():
        setattr(config, name, value)
    kinds = {hf.T5Config: hf.T5ForConditionalGeneration, hf.BertConfig: hf.BertLMHeadModel}
    model = lw.LanguageModel(tiny_model(config, kinds.get(config_class)))
    run = model.run([3, 4, 5, 6, 7, 8])
    again = model.run([3, 4, 5, 6, 7, 9], reuse=run)
    assert again.reuse.n_columns == 0
    assert why in again.reuse.why_whole
    assert again.reuse.why_whole


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_past_the_border_where_the_prefix_turns_runs_are_whole(rope):
    given = {"rope_type": rope, "rope_theta": 1e4, "factor": 4.0}
    if rope == "longrope":
        given |= {"original_max_position_embeddings": 16, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    model = language_model(llama, max_position_embeddings=16, rope_parameters=given)
    assert split_forward(model.hf_model).longest == 16
    ids = list(range(3, 17))
    run = model.run(ids)
    inside = model.run([*ids[:-1], 99], reuse=run)
    assert inside.reuse.n_columns == 13
    check_same(inside, model.run([*ids[:-1], 99], reuse=False))
    if rope == "dynamic":  # whose border is how long a prompt may be at all
        return
    model.hf_model.config.max_position_embeddings = 64
    beyond = model.run([*ids, 20, 21, 22, 23], reuse=run)
    assert beyond.reuse.n_columns == 0
    assert "turn with the length of a text of over 16" in beyond.reuse.text
    # which is why: the prefix of the longer text is another
    whole = model.run([*ids, 20, 21, 22, 23], reuse=False)
    shorter = model.run([*ids[:-1], 98], reuse=whole)
    assert shorter.reuse.n_columns == 0
    assert "longer than 16 tokens" in shorter.reuse.text
    assert gap_of(whole.states("resid_post", [3], [5]), run.states("resid_post", [3], [5])) > 1e-3


def test_a_window_that_has_rolled_over_is_not_gone_on_from():
    config = tiny_config(hf.MistralConfig)
    config.sliding_window = 16
    model = lw.LanguageModel(tiny_model(config))
    short, long = list(range(3, 15)), list(range(3, 30))
    run = model.run(short)
    check_same(model.run([*short[:-1], 50], reuse=run), model.run([*short[:-1], 50], reuse=False))
    grown = model.run(long, reuse=run)
    check_same(grown, model.run(long, reuse=False))
    again = model.run([*long[:-1], 50], reuse=grown)
    assert again.reuse.n_columns == 0
    assert "kept no keys" in again.reuse.why_whole
    check_same(again, model.run([*long[:-1], 50], reuse=False))


def test_numbers_of_taken_columns_are_those_that_were_shown():
    model = made("sequential")
    run = model.run(list(range(3, 30)))
    before = lw.read(run)
    grown = model.run([*range(3, 29), 77], reuse=run)
    n = grown.reuse.n_columns
    assert n == 26
    after = lw.read(grown)
    for name in ("ids", "log_probs", "entropy_nats"):
        assert (before.grid(name)[:, :n] == after.grid(name)[:, :n]).all()
    for layer in (-1, 0, 3):
        states = [each.states("resid_post", [layer] * n, range(n)) for each in (run, grown)]
        assert torch.equal(*states)


def test_taken_columns_are_not_decoded_again(monkeypatch):
    model = made("sequential")
    run = model.run(list(range(3, 30)))
    lw.read(run)
    grown = model.run([*range(3, 29), 77], reuse=run)
    n_rows = []
    plain = Unembed.__call__
    monkeypatch.setattr(Unembed, "__call__", lambda self, x: n_rows.append(len(x)) or plain(self, x))
    slices = read_slices(lw_query(grown), slice_s=0.0)
    done = list(slices)
    assert sum(n_rows) == 5  # one column of five rows
    assert all(total == 27 * 5 for _, total in done)
    # what is the run's own is decoded whenever it is asked for, and so is all of a run that took nothing over
    n_rows.clear()
    lw.read(run)
    assert sum(n_rows) == 27 * 5


def lw_query(run):
    return Query(run, k=5, metrics=("entropy",))


def test_only_what_is_its_own_takes_memory():
    model = made("sequential")
    run = model.run(list(range(3, 43)))
    grown = model.run([*range(3, 43), 77, 78], reuse=run)
    parts = grown.stream("resid_post").parts
    assert [part.shape[1] for part in parts] == [40, 2]
    assert parts[0].data_ptr() == run.stream("resid_post").data_ptr()
    assert parts[1].untyped_storage().nbytes() == parts[1].nbytes
    own_keys = grown.kept.keys[-1]
    assert own_keys.n_columns == 2
    assert all(k.untyped_storage().nbytes() == k.nbytes for pair in own_keys.pairs for k in pair)


def test_the_oldest_runs_give_up_their_keys_when_memory_runs_short(monkeypatch):
    model = made("sequential")
    first = model.run(list(range(3, 30)))
    one = sum(part.nbytes for part in first.kept.keys)
    monkeypatch.setattr(kept_module, "MOST_BYTES", int(2.5 * one))
    others = [model.run(list(range(5 + i, 32 + i))) for i in range(2)]
    assert not first.kept.keys
    assert all(run.kept.keys for run in others)
    again = model.run([*range(3, 29), 99], reuse=first)
    assert "kept no keys" in again.reuse.text
    assert model.run([*range(3, 29), 98], reuse=again).reuse.n_columns == 26


def test_reuse_false_keeps_nothing():
    model = made("sequential")
    run = model.run([3, 4, 5, 6, 7], reuse=False)
    assert run.kept is None
    assert run.reuse.text == "Run whole."


def test_a_changed_model_is_run_whole():
    model = made("sequential")
    run = model.run([3, 4, 5, 6, 7])
    with torch.no_grad():
        model.hf_model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    again = model.run([3, 4, 5, 6, 8], reuse=run)
    assert again.reuse.n_columns == 0
    assert "the model has changed" in again.reuse.text
    assert model.run([3, 4, 5, 6, 9], reuse=again).reuse.n_columns == 4


def test_a_run_of_another_model_is_not_taken_over():
    one, other = made("sequential"), made("learnt positions")
    again = other.run([3, 4, 5, 6, 8], reuse=one.run([3, 4, 5, 6, 7]))
    assert again.reuse.n_columns == 0
    assert "another model" in again.reuse.text


def test_what_was_not_as_it_is_shown_is_found_and_run_whole():
    """The last column taken over is run again each time: here, one whose states somebody has spoiled."""
    model = made("sequential")
    run = model.run([3, 4, 5, 6, 7, 8, 9])
    spoiled = run.stream("resid_post").clone()
    spoiled[:, 5] *= 1.01
    spoiled = dataclasses.replace(run, _streams={"resid_post": spoiled})
    again = model.run([3, 4, 5, 6, 7, 8, 10], reuse=spoiled)
    assert again.reuse.n_columns == 0
    assert "by more than rounding" in again.reuse.text
    check_same(again, model.run([3, 4, 5, 6, 7, 8, 10], reuse=False))


# --- edits

IDS = list(range(3, 35))
EDITS = {
    "zero": lambda: lw.Edit("zero", site="mlp_out", layers=1, positions=-1),
    "scale": lambda: lw.Edit("scale", layers=[0, 2], positions=slice(24, 28), strength=0.3),
    "steer": lambda: lw.Edit("steer", layers=1, positions=[28, 31], tokens=7),
    "project_out": lambda: lw.Edit("project_out", layers=1, positions=20, tokens=(7, 8)),
    "swap": lambda: lw.Edit("swap", layers=2, positions=[29, 30], tokens=(7, 8)),
    "live swap": lambda: lw.Edit("swap", layers=2, positions=[29, 30], tokens=(7, 8), is_live=True),
    "patch": lambda: lw.Edit(
        "patch", layers=1, positions=30, source=made("sequential").run(IDS[:9]), from_positions=4
    ),
    "embedding": lambda: lw.Edit("zero", layers=-1, positions=30),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("make", ["sequential", "learnt positions", "parallel"])
def test_an_edited_run_takes_over_what_comes_before_its_edits(name, make):
    model, edit = made(make), EDITS[name]()
    if name == "patch":
        source = model.run(IDS[:9])
        edit = dataclasses.replace(edit, source=source)
    base = model.run(IDS)
    lw.read(base, k=3, metrics=("entropy", "kl", "agrees"), track=[5])
    run, whole = (model.run(IDS, edits=edit, reuse=reuse) for reuse in (base, False))
    assert run.reuse.n_columns == min(shared_prefix(base.spec, run.spec), 31) >= 20
    check_same(run, whole)
    # what the edits cannot reach is bit-equal, also where it was run again
    proof = prove(run, base)
    assert proof.n_equal == proof.n_untouched > 20 * 5 - 1
    # and back: the run without edits takes over from the edited one
    check_same(model.run(IDS, reuse=run), base)


def test_an_edit_at_the_first_columns_runs_whole():
    model = made("sequential")
    edit = lw.Edit("zero", layers=1, positions=3)
    run = model.run(IDS, edits=edit, reuse=model.run(IDS))
    assert run.reuse.n_columns == 0
    assert "begin in the first half" in run.reuse.text


def test_the_mean_over_all_positions_is_never_split():
    model = made("sequential")
    edit = lw.Edit("mean", layers=1, positions=-1)
    base = model.run(IDS)
    run = model.run(IDS, edits=edit, reuse=base)
    assert run.reuse.n_columns == 0
    check_same(run, model.run(IDS, edits=edit, reuse=False))


def test_the_same_edits_go_along_with_a_longer_prompt():
    model = made("sequential")
    everywhere = lw.Edit("project_out", layers=1, tokens=(7, 8))
    at_one = lw.Edit("steer", layers=2, positions=[3, 5], tokens=9)
    run = model.run(IDS, edits=[everywhere, at_one])
    longer = [*IDS, 50, 51]
    again = model.run(longer, edits=[everywhere, at_one], reuse=run)
    assert again.reuse.n_columns == len(IDS)
    check_same(again, model.run(longer, edits=[everywhere, at_one], reuse=False))
    # the last position is another one now
    last = lw.Edit("zero", layers=1, positions=-1)
    again = model.run(longer, edits=last, reuse=model.run(IDS, edits=last))
    assert again.reuse.n_columns == len(IDS) - 1
    check_same(again, model.run(longer, edits=last, reuse=False))


def test_steering_of_columns_on_both_sides_is_not_split():
    model = made("sequential")
    edit = lw.Edit("steer", layers=1, positions=None, tokens=9)
    again = model.run([*IDS, 50], edits=edit, reuse=model.run(IDS, edits=edit))
    assert again.reuse.n_columns == 0
    check_same(again, model.run([*IDS, 50], edits=edit, reuse=False))


# --- the real model


def test_random_edits_on_the_demo_model():
    model, numbers = lw.demo_model(), random.Random(4)
    text = "The Eiffel Tower is in the city of Paris, and the Colosseum is in the city of"
    run = model.run(text)
    lw.read(run, k=3, metrics=("entropy", "kl", "agrees"), track=[5])
    for _ in range(4):
        ids = edited(run.token_ids.tolist(), numbers, 40_000)
        reused = model.run(ids, reuse=run)
        check_same(reused, model.run(ids, reuse=False))
        run = reused
    typed = model.run(text + " Rome", reuse=model.run(text))
    assert typed.reuse.n_columns == len(model.tokenize(text)["input_ids"][0])
    assert isinstance(typed, Run)


def nbytes_held():
    """Bytes of all tensors and arrays that anything holds, memory that several share counted once."""
    gc.collect()
    found = {}
    for each in gc.get_objects():
        if issubclass(type(each), torch.Tensor):
            with contextlib.suppress(NotImplementedError):  # a weight as a kernel of the CPU packs it
                storage = each.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
        elif type(each) is dict and each and all(type(value) is np.ndarray for value in each.values()):
            found |= {id(value): value.nbytes for value in each.values()}
    return sum(found.values())


def test_a_branch_holds_little_more_than_its_own_columns():
    model, numbers = language_model(llama, max_position_embeddings=700), random.Random(0)
    prefix = [numbers.randrange(1, 300) for _ in range(512)]
    run = model.run(prefix)
    lw.read(run)
    branches, sizes = [], [nbytes_held()]
    for _ in range(4):
        branch = model.run(prefix + [numbers.randrange(1, 300) for _ in range(40)], reuse=run)
        assert branch.reuse.n_columns == 512
        lw.read(branch)
        branches.append(branch)
        sizes.append(nbytes_held())
    layers, own = model.anatomy.n_layers, np.diff(sizes)[1:]
    states, keys = 40 * (layers + 1) * 32 * 4, 40 * layers * 2 * 16 * 4
    one = lw.read(branch, lw.Cells.grid(range(-1, layers), range(512, 552)))
    decoded = sum(array.nbytes for array in (one.ids, one.log_probs, one.entropy_nats, one.is_finite))
    last_logits = 4 * 300
    assert (own < 1.2 * (states + keys + decoded + last_logits)).all()


def test_what_a_branch_took_over_stays_as_it_was_whatever_its_source_reads_later():
    model = made("sequential")
    run = model.run(list(range(3, 35)))
    lw.read(run, lw.Cells.grid(range(2), range(32)))
    branches = [model.run([*range(3, 30), 7, i], reuse=run) for i in range(12)]
    before = [lw.read(branch).log_probs for branch in branches]
    lw.read(run)
    after = [lw.read(branch).log_probs for branch in branches]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    for branch, found in zip(branches, before, strict=True):
        whole = lw.read(model.run(branch.token_ids.tolist(), reuse=False)).log_probs
        assert np.abs(found - whole).max() < NATS
    # a chain of many small parts
    for i in range(20):
        run = model.run([*run.token_ids.tolist(), 5 + i], reuse=run)
        found = lw.read(run).log_probs
    whole = lw.read(model.run(run.token_ids.tolist(), reuse=False)).log_probs
    assert np.abs(found - whole).max() < NATS
