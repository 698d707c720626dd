"""A model in a Ray actor on another node: the numbers of one here, for several clients, through losses."""

import asyncio
import gc
import json

import numpy as np
import pytest
import ray_cluster
import torch
from ray_cluster import becomes, kept

import lenswidget as lw
from lenswidget.engines import remote_workers
from lenswidget.errors import EngineLostError, TraceError
from lenswidget.survey import work

PROMPT = "The Eiffel Tower is in the city of"
NUMBERS = (
    "ids",
    "log_probs",
    "entropy_nats",
    "kl_from_final",
    "agrees",
    "tracked_log_probs",
    "tracked_ranks",
)
# A client that reads some prompts over and over, and says what it has read.
OTHER = """import gc, json, sys, torch
import ray_cluster, lenswidget as lw
address, prompts = {given!r}
model = ray_cluster.connected(address)
print("there", flush=True)
sys.stdin.readline()
for prompt in prompts:
    run = model.run(prompt)
    print(json.dumps(lw.read(run, k=3).log_probs.tolist()), flush=True)
print(sum(issubclass(type(each), torch.nn.Parameter) for each in gc.get_objects()), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def address():
    with ray_cluster.cluster() as found:
        yield found


@pytest.fixture(scope="module")
def far(address):
    """The demo model on the second node."""
    import ray

    model = ray_cluster.connected(address)
    yield model
    model.close()
    ray.shutdown()


@pytest.fixture(scope="module")
def near(demo_with_lenses):
    return demo_with_lenses


def read(run, **options):
    return lw.read(run, k=3, metrics=["entropy", "kl", "agrees"], track=[7042], **options)


def assert_equal(found, expected):
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_a_run_there_reads_bit_for_bit_as_one_here(far, near):
    there, here = far.run(PROMPT), near.run(PROMPT)
    assert there.fidelity == here.fidelity
    assert torch.equal(there.last_logits, here.last_logits)
    assert_equal(read(there), read(here))
    assert_equal(read(there, lens=far.lenses["jacobian"]), read(here, lens=near.lenses["jacobian"]))
    cards = [lw.decode(run, 20, 5, track=[7042]).to_dict() for run in (there, here)]
    assert {**cards[0], "run_id": ""} == {**cards[1], "run_id": ""}
    found, expected = (lw.attribute(run, 29, 8, token=" Paris", foil=" Rome") for run in (there, here))
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    assert found.tokenizer is far.tokenizer


def test_edits_made_there_come_out_as_here(far, near):
    edits = [lw.Edit("steer", layers=12, positions=4, tokens=" Rome", strength=0.5)]
    runs = [model.run(PROMPT, edits=edits) for model in (far, near)]
    assert_equal(*(read(run, against=run) for run in runs))
    patched = []
    for model in (far, near):
        source = model.run("The Louvre Tower is in the city of")
        patch = lw.Edit("patch", layers=5, positions=2, source=source)
        patched.append(read(model.run(PROMPT, edits=patch)))
    assert_equal(*patched)


def test_a_lens_that_was_fitted_here_is_sent_once_and_reads_as_here(far, near):
    from lenswidget.engines.crossing import dumps

    lens = near.lenses["tuned"]
    there, here = far.run(PROMPT), near.run(PROMPT)
    assert_equal(read(there, lens=lens), read(here, lens=lens))
    assert len(dumps(lens, far._calls._name_of)) < 1000


def test_the_widget_works_as_with_a_model_here(far, near):
    grids = []
    for model in (far, near):
        w = model.lens(PROMPT, lens="logit", selection={"layer": 20, "position": 8})
        w.edits = [lw.Edit("zero", layers=3, positions=4)]
        said = [w.run["edited"]["proof"]["text"], w.run["edited"]["effect"], w.generate(3), w.decoded["ids"]]
        w.prompt = "The Louvre Tower is in the town of"
        said += [
            w.run["fidelity"],
            w.readout(k=2).log_probs.tolist(),
            w.readout(show="lift").shown_ids.tolist(),
        ]
        answer = w.causal_map(PROMPT, answer=" Paris", foil=" Rome")
        said.append(np.asarray(answer.estimate).tolist())
        grids.append(said)
        w.close()
    assert grids[0] == grids[1]


def test_what_cannot_cross_is_refused_in_a_sentence(far, near):
    run = far.run(PROMPT)
    with pytest.raises(TraceError, match="another process"):
        far.trace(PROMPT)
    with pytest.raises(lw.LensError, match="send carried of"):
        lw.read(run, lens=carried)
    with pytest.raises(lw.LensError, match="not its own"):
        lw.read(run, against=near.run(PROMPT))
    with pytest.raises(lw.LensError, match="not in this process"):
        run.tail.project(torch.zeros(1, 576))
    with pytest.raises(lw.LensError, match="layer 99"):  # what is wrong there is said as here
        lw.decode(run, 99, 0)


def carried(_layer, states):
    return states


def test_runs_are_let_go_there_when_nothing_here_has_them(far):
    gc.collect()
    far.engine.let_go()
    before = kept(far)["runs"]
    runs = [far.run(PROMPT) for _ in range(3)]
    assert kept(far)["runs"] == before + 3
    del runs
    gc.collect()
    far.engine.let_go()
    assert kept(far)["runs"] == before


def test_two_clients_at_once_get_right_answers_and_a_lost_one_leaves_nothing(far, near, address):
    prompts = [f"{PROMPT} {n}," for n in range(6)]
    expected = [lw.read(near.run(prompt), k=3).log_probs for prompt in prompts]
    other = ray_cluster.client(OTHER.format(given=(address, prompts)))
    try:
        assert other.stdout.readline() == "there\n"
        assert kept(far)["clients"] == 2
        other.stdin.write("\n")
        other.stdin.flush()
        for prompt, numbers in zip(prompts, expected, strict=True):
            np.testing.assert_array_equal(lw.read(far.run(prompt), k=3).log_probs, numbers)
        for numbers in expected:
            found = np.array(json.loads(other.stdout.readline()), np.float32)
            np.testing.assert_array_equal(found, numbers)
        assert other.stdout.readline() == "0\n"  # parameters in its process
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    becomes(lambda: kept(far)["clients"], 1)


def test_a_killed_actor_gives_one_sentence_and_then_goes_on(far, near, monkeypatch):
    import ray

    run, here = far.run(PROMPT), near.run(PROMPT)
    w = far.lens(PROMPT, lens="logit")
    cells = w.snapshot
    ray.kill(far._calls._actor, no_restart=False)
    replies = []
    monkeypatch.setattr(w, "send", lambda content, buffers=None: replies.append(content))

    async def asked_by_the_page():
        cell = {"layer": 20, "position": 8, "site": "resid_post", "lens": "logit", "k": 5, "track": []}
        w._receive(w, {"id": "1", "kind": "decode", "run_id": w.run["id"], "temperature": 1.0, **cell}, [])
        states = [w.status["state"]]
        while states[-1] != "idle":
            await asyncio.sleep(0.1)
            states += [w.status["state"]]
        return set(states)

    assert asyncio.run(asked_by_the_page()) == {"connecting", "idle"}
    (reply,) = replies
    assert reply["error"]["type"] == "EngineLostError"
    assert "starts it again" in reply["error"]["message"]
    assert w.snapshot == cells  # what is shown stays
    assert far.state == "live"
    assert_equal(read(run), read(here))  # made again from its recipe
    w.selection = {"layer": 29, "position": 8}
    assert w.decoded["ids"][0] == 7042
    w.close()


def test_an_actor_that_nobody_uses_ends(far, address):
    import ray

    model = ray_cluster.connected(None, ray_cluster.small, keep_s=0.5, name="small")
    assert model.run("The Eiffel").fidelity.ok
    names = lambda: [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]  # noqa: E731
    assert "small" in names()
    model.close()
    becomes(lambda: "small" in names(), False)
    with pytest.raises(EngineLostError, match="was left"):
        model.run("The Eiffel")


def test_a_model_that_cannot_be_loaded_is_refused_in_its_own_words(far):
    with pytest.raises(lw.LensError, match="could not load '/no-such-model'"):
        lw.connect(None, "/no-such-model", resources=ray_cluster.HAS_MODEL, wait_s=120)


def test_a_survey_by_workers_is_the_local_one_row_by_row_though_one_is_lost(far, near, tmp_path, monkeypatch):
    import ray

    for module in (remote_workers, work):
        monkeypatch.setattr(module, "WINDOW", 4)
    rows = [
        {
            "prompt": f"{PROMPT} {n},",
            "target": " Paris",
            "foil": " Rome",
            "group": "even" if n % 2 == 0 else "odd",
        }
        for n in range(14)
    ]
    rows[5]["prompt"] = ""  # which the model refuses
    columns = {"foil": "foil", "group": "group", "progress": False}
    edits = lw.Edit("zero", layers=3, positions=2)
    expected = lw.survey(near, rows, **columns, edits=edits)
    workers = lw.connect_workers(None, ray_cluster.demo, 1, resources=ray_cluster.HAS_MODEL, wait_s=120)
    (actor,) = workers._actors
    killed = []

    def kill(done, _total):
        if done == 4 and not killed:
            killed.append(ray.kill(actor, no_restart=False))

    found = lw.survey(workers, rows, **{**columns, "progress": kill}, edits=edits, out=tmp_path / "out.jsonl")
    assert killed
    assert_same(found, expected)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * len(rows)  # nothing lost, nothing doubled
    half = "\n".join(lines[:12]) + "\n" + lines[12][:40]  # as one that was killed leaves it
    (tmp_path / "half.jsonl").write_text(half, encoding="utf-8")
    assert_same(lw.survey(workers, rows, **columns, edits=edits, out=tmp_path / "half.jsonl"), expected)
    workers.close()


def test_workers_grow_and_shrink_between_their_bounds_and_say_the_same(far, monkeypatch):
    import ray

    for module in (remote_workers, work):
        monkeypatch.setattr(module, "WINDOW", 4)
    rows = [(f"{PROMPT} {n},", " P") for n in range(200)]
    expected = lw.survey(ray_cluster.small(), rows, progress=False)
    workers = lw.connect_workers(None, ray_cluster.small, (1, 2), resources=ray_cluster.HAS_MODEL, wait_s=120)
    (first,) = workers._actors
    n_workers = []
    found = lw.survey(workers, rows, progress=lambda *_: n_workers.append(len(workers._actors)))
    assert_same(found, expected)
    assert max(n_workers) == 2  # a second one was asked for
    assert workers._actors == [first]  # and has ended
    assert workers._ready == [first]
    assert_same(lw.survey(workers, rows, progress=False), expected)
    with pytest.raises(lw.LensError, match="or two"):
        lw.connect_workers(None, ray_cluster.small, (2, 1))
    workers.close()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(first.hello.remote())


def assert_same(found, expected):
    assert len(found.measured) == len(expected.measured)
    for one, other in zip(found.measured, expected.measured, strict=True):
        for name in ("row", "group", "prompt", "model", "condition", "error"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("layers", "log_probs", "ranks", "foil_log_probs"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
