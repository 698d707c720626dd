"""A model split over two Ray actors: the numbers of the whole model, for several clients, through losses."""

import contextlib
import json
import os
import signal

import numpy as np
import pytest
import ray_cluster
import transformers
from ray_cluster import becomes, kept
from tiny import PROMPT, gpt2, llama, tokenizer

import lenswidget as lw
from lenswidget.errors import EngineLostError, ModelError
from lenswidget.tolerances import FIDELITY

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "DistributedConfig"), reason="this transformers has no DistributedConfig"
)
NUMBERS = ("log_probs", "entropy_nats", "kl_from_final", "tracked_log_probs")
# Another client that reads some prompts over and over, and says what it has read.
OTHER = """import json, sys
import ray_cluster, lenswidget as lw
address, folder, prompts = {given!r}
model = ray_cluster.connected(address, ray_cluster.split, tensor_parallel=2, folder=folder)
print("there", flush=True)
sys.stdin.readline()
for prompt in prompts:
    print(json.dumps(lw.read(model.run(prompt), k=3).log_probs.tolist()), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with its tokenizer, whose heads two processes can share."""
    found = tmp_path_factory.mktemp("llama")
    llama(num_attention_heads=4, num_key_value_heads=2).save_pretrained(found)
    tokenizer().save_pretrained(found)
    return str(found)


@pytest.fixture(scope="module")
def address():
    with ray_cluster.cluster(n_cpus=4) as found:
        yield found


@pytest.fixture(scope="module")
def far(address, folder):
    import ray

    model = ray_cluster.connected(address, ray_cluster.split, tensor_parallel=2, folder=folder)
    yield model
    model.close()
    ray.shutdown()


@pytest.fixture(scope="module")
def near(folder):
    return lw.LanguageModel(folder)


def close_to(found, expected):
    """Equal up to sums over d_model in another order: each half of a sum is added up by itself."""
    # log-probs are differences of logits, which are no larger; a bound in nats is one of logits
    bound = FIDELITY.bound(float(np.abs(expected).max()) + 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def read(run, **options):
    return lw.read(run, k=3, metrics=["entropy", "kl"], track=[7], **options)


def assert_close(found, expected):
    np.testing.assert_array_equal(found.ids[..., 0], expected.ids[..., 0])
    for name in NUMBERS:
        close_to(getattr(found, name), getattr(expected, name))


def test_two_ranks_read_what_the_whole_model_says(far, near):
    there, here = far.run(PROMPT), near.run(PROMPT)
    assert there.fidelity.ok
    assert_close(read(there), read(here))
    assert_close(read(there, site="attn_out"), read(here, site="attn_out"))
    close_to(lw.decode(there, 2, 3).log_probs, lw.decode(here, 2, 3).log_probs)
    found, expected = (lw.attribute(run, 3, 7, token=" Paris") for run in (there, here))
    close_to(found.predicted, expected.predicted)


def test_edits_and_the_widget_on_two_ranks_are_those_of_the_whole_model(far, near):
    grids = []
    for model in (far, near):
        w = model.lens(PROMPT, lens="logit")
        w.edits = [lw.Edit("steer", layers=1, positions=2, tokens=" Paris", strength=0.5)]
        said = [w.readout(k=2), w.generate(3)]
        w.prompt = PROMPT
        w.edits = [lw.Edit("zero", layers=2, positions=3)]
        said += [
            w.readout(k=2),
            w.causal_map(PROMPT.replace("Eiffel", "Paris"), answer=" Paris", foil=7).estimate,
        ]
        grids.append(said)
        w.close()
    for one, other in zip(*grids, strict=True):
        if isinstance(one, lw.Readout):
            close_to(one.log_probs, other.log_probs)
        elif isinstance(one, np.ndarray):
            close_to(one, other)
        else:
            assert one == other


def test_a_survey_on_two_ranks_is_that_of_the_whole_model(far, near):
    rows = [(f"{PROMPT}{' x' * n}", [" Paris", " France"]) for n in range(5)]
    found, expected = (lw.survey(model, rows, progress=False).measured for model in (far, near))
    assert [each.error for each in found] == [""] * 5
    for one, other in zip(found, expected, strict=True):
        close_to(one.log_probs, other.log_probs)
        np.testing.assert_array_equal(one.ranks, other.ranks)


def test_what_lies_in_pieces_is_refused_in_a_sentence(far):
    run = far.run(PROMPT)
    with pytest.raises(lw.LensError, match="split over 2 processes"):
        lw.attention(run, 1, 3)
    with pytest.raises(lw.LensError, match="split over 2 processes"):
        far.run(PROMPT, edits=lw.Edit("zero", site="attn_out", layers=1, positions=2, heads=[1]))
    assert lw.read(run, k=1).ids.shape  # and it goes on


def test_many_slices_are_the_same_on_both_ranks(far, near):
    from lenswidget.readout.query import Query
    from lenswidget.readout.reading import read_slices

    def steps(run):
        slices, n = read_slices(Query(run, k=3), tile_bytes=5000, slice_s=1000.0), 0
        while True:
            try:
                next(slices)
                n += 1
            except StopIteration as stop:
                return n, stop.value

    (n_there, found), (n_here, expected) = steps(far.run(PROMPT)), steps(near.run(PROMPT))
    assert n_here == 0  # by its clock: it is done long before
    assert n_there > 5  # after each tile
    close_to(found.log_probs, expected.log_probs)


def test_two_clients_at_once_get_right_answers(far, near, address, folder):
    prompts = [f"{PROMPT}{' x' * n}" for n in range(8)]
    expected = [lw.read(near.run(prompt), k=3).log_probs for prompt in prompts]
    other = ray_cluster.client(OTHER.format(given=(address, folder, prompts)))
    try:
        assert other.stdout.readline() == "there\n"
        assert kept(far)["clients"] == 2
        other.stdin.write("\n")
        other.stdin.flush()
        for prompt, numbers in zip(prompts, expected, strict=True):
            close_to(lw.read(far.run(prompt), k=3).log_probs, numbers)
        for numbers in expected:
            close_to(np.array(json.loads(other.stdout.readline())), numbers)
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    becomes(lambda: kept(far)["clients"], 1)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_lost_or_hangs_ends_the_group_which_starts_again(far, near, signal_number):
    run, here = far.run(PROMPT), near.run(PROMPT)
    pids = ranks_of(far)
    assert len(pids) == 2
    os.kill(pids[1], signal_number)
    with pytest.raises(EngineLostError, match="starts it again"):
        decode_over_and_over(run)
    assert_close(read(run), read(here))  # made again from its recipe
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[1], signal.SIGKILL)
    assert not set(pids) & set(ranks_of(far))


def decode_over_and_over(run):
    for _ in range(1000):
        lw.decode(run, 2, 3)


def ranks_of(model):
    """The processes of a group, the first first; all are on this machine."""
    import ray

    return ray.get(model._calls._actor.pids.remote())


@pytest.mark.parametrize(
    ("fields", "n", "told"),
    [
        ({}, 3, "do not divide its 4 attention heads. Pass one of 2"),
        ({"num_key_value_heads": 1}, 2, "do not divide its 1 key-value heads. Use device_map"),
    ],
)
def test_heads_that_do_not_divide_are_refused_before_anything_is_loaded(tmp_path, fields, n, told):
    config = llama(num_attention_heads=4, **{"num_key_value_heads": 2, **fields}).config
    config.save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ModelError, match=told):
        lw.LanguageModel(str(tmp_path), distributed_config={"tp_size": n})


def test_a_model_without_a_plan_and_a_pipeline_are_refused(tmp_path, folder):
    gpt2().config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no tensor-parallel plan for GPT2Config"):
        lw.LanguageModel(str(tmp_path), distributed_config=transformers.DistributedConfig(tp_size=2))
    for asked in ({"pp_size": 2}, transformers.DistributedConfig(pp_size=2)):
        with pytest.raises(ModelError, match="in a pipeline"):
            lw.LanguageModel(folder, distributed_config=asked)


def test_what_cannot_be_split_in_the_cluster_is_told_from_there(far, tmp_path):
    gpt2().config.save_pretrained(tmp_path)
    options = {"resources": ray_cluster.HAS_MODEL, "wait_s": 240, "tensor_parallel": 2}
    with pytest.raises(ModelError, match="no tensor-parallel plan"):
        lw.connect(None, str(tmp_path), **options)
    with pytest.raises(ModelError, match="gave a whole one"):
        lw.connect(None, ray_cluster.whole_though_split, **options)
    with pytest.raises(lw.LensError, match="tensor_parallel=0"):
        lw.connect(None, str(tmp_path), tensor_parallel=0)
