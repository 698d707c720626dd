"""What was measured of a lens: kept with it and in its file, judged by one rule, drawn in the switch."""

import gc
import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from random_lenses import LENGTHS, random_lenses
from tiny import gpt2, language_model, tokenizer

import lenswidget as lw
from lenswidget.errors import LensFileError
from lenswidget.lenses.lens import CallableLens
from lenswidget.lenses.lens_report import known_report
from lenswidget.widget.quality import HEIGHT, WIDTH, quality_message

TEXTS = [torch.randint(5, 290, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


@pytest.fixture
def model():
    return language_model(gpt2)


def of(model, lens, **options):
    return lw.report(lens, model, TEXTS, progress=False, **options)


def a_report(kl, top1=None, layers=None, fixed=5.0):
    n = len(kl)
    return lw.LensReport(
        lens="mine",
        model="m",
        layers=tuple(layers or range(-1, n - 1)),
        kl_nats=tuple(map(float, kl)),
        top1_agreement=tuple(top1 or [0.5] * n),
        median_rank=(0.0,) * n,
        n_texts=2,
        n_positions=10,
        texts="",
        fixed_kl_nats=fixed,
    )


@pytest.mark.parametrize("skip_first", [0, 3])
def test_the_fixed_list_is_the_mean_of_the_other_half_in_a_float64_loop(model, skip_first):
    predictions = []
    for ids in TEXTS:
        with torch.no_grad():
            logits = model.hf_model(ids[None]).logits[0, skip_first:]
        predictions.append(torch.softmax(logits.double(), -1).numpy())
    halves = (np.concatenate([predictions[0], predictions[2]]), predictions[1])
    kls = [
        float((p * (np.log(p) - np.log(other.mean(0)))).sum())
        for own, other in (halves, halves[::-1])
        for p in own
    ]
    assert len(kls) == sum(LENGTHS) - 3 * skip_first
    # the log-probs that it is made of are float32: about 1e-6 for each cell
    assert of(model, None, skip_first=skip_first).fixed_kl_nats == pytest.approx(np.mean(kls), abs=1e-5)


def test_a_single_text_has_no_other_half_and_no_layer_is_named(model):
    found = lw.report(None, model, TEXTS[:1], progress=False)
    assert found.fixed_kl_nats is None
    assert found.untrusted == ()


def test_layers_are_untrusted_that_say_no_more_than_the_fixed_list():
    found = a_report([9.0, 5.0, 4.999, float("nan"), 0.0])
    assert found.untrusted == (-1, 0, 2)
    told = repr(found)
    assert [line.split()[0] for line in told.splitlines() if line.endswith("  *")] == ["-1", "0", "2"]
    assert told.splitlines()[-1].startswith("* a fixed list of token probabilities has 5.0000 nats")
    assert not repr(a_report([1.0, 0.0])).count("*")


def test_a_lens_knows_the_model_it_was_loaded_with_and_keeps_its_report(model, tmp_path):
    tuned, jacobian = random_lenses()
    for lens in (tuned, jacobian):
        with pytest.raises(lw.LensError, match=r"which model to read.*load the lens with it"):
            lens.report(TEXTS, progress=False)
        before = tmp_path / "before.safetensors"
        lens.save(before)
        found = lens.report(TEXTS, model, progress=False)
        assert lens.measured is found is known_report(lens, model)
        after = tmp_path / f"{lens.name}.safetensors"
        lens.save(after)
        assert before.read_bytes() != after.read_bytes()
        again = lw.load_lens(after, model)
        assert again.measured == found
        assert known_report(again.to("cpu"), model) == found
        assert again.to("cpu").report(TEXTS, progress=False) == found
        # a lens with other numbers has no report
        assert replace(again, name="other").measured is None
        assert lw.load_lens(before, model).measured is None
    with pytest.raises(lw.LensError, match=r"Give the texts first"):
        tuned.report(model, TEXTS)


def test_a_lens_keeps_no_model_alive(tmp_path):
    tuned, _ = random_lenses()
    tuned.save(tmp_path / "tuned.safetensors")
    model = language_model(gpt2)
    lens = lw.load_lens(tmp_path / "tuned.safetensors", model)
    del model
    gc.collect()
    with pytest.raises(lw.LensError, match="which model to read"):
        lens.report(TEXTS, progress=False)


def test_reports_of_the_logit_lens_and_of_functions_are_kept_beside_the_model(model):
    def halved(layer, states):
        return states / 2

    logit, own = of(model, None), of(model, halved)
    # a widget makes both anew
    assert known_report(lw.LogitLens(), model) is logit
    assert known_report(CallableLens(halved, "another name"), model) is own
    assert known_report(lw.LogitLens(), language_model(gpt2)) is None


def test_a_report_of_a_model_of_another_name_is_not_shown(model):
    tuned, _ = random_lenses()
    tuned.report(TEXTS, model, progress=False)
    model.hf_model.config.name_or_path = "tuned-further"
    assert known_report(tuned, model) is None


def test_a_report_goes_through_json_and_what_is_none_is_refused(model, tmp_path):
    tuned, _ = random_lenses()
    found = tuned.report(TEXTS, model, progress=False)
    written = json.loads(json.dumps(asdict(found)))
    assert set(written) == {each.name for each in fields(lw.LensReport)}
    assert lw.LensReport.from_mapping({**written, "of_a_later_version": 1}) == found
    for harm in ({"kl_nats": [1.0]}, {"layers": []}, {"n_texts": "many"}, {"top1_agreement": None}):
        with pytest.raises(ValueError, match="its report"):
            lw.LensReport.from_mapping({**written, **harm})
    object.__setattr__(tuned, "measured", replace(found, kl_nats=(1.0,)))
    tuned.save(tmp_path / "tuned.safetensors")
    with pytest.raises(LensFileError, match="rows of unequal number"):
        lw.load_lens(tmp_path / "tuned.safetensors")


# --- what the page gets


def points(path):
    return [tuple(map(float, point.split())) for point in path.replace("M", "L").split("L") if point]


def test_the_curve_is_the_agreement_by_layer_with_the_poor_layers_apart():
    found = a_report([9.0, 8.0, 7.0, 2.0, 0.0], top1=[0.0, 0.1, 0.25, 0.5, 1.0])
    message = quality_message(found, 5, lambda layer: "embed" if layer < 0 else str(layer))
    poor, good = map(points, message["paths"])
    heights = [HEIGHT * (1 - share) for share in found.top1_agreement]
    expected = [(round(WIDTH * i / 5, 1), round(y, 1)) for i, y in enumerate(heights)]
    assert poor == expected[:4]
    assert good == expected[3:]
    assert message["poor"].startswith("embed to 1: ")
    assert "embed: 0%, 0: 10%, 1: 25%, 2: 50% (of 10 positions in 2 texts)" in message["text"]


def test_poor_layers_that_are_apart_are_named_apart_and_none_is_no_sentence():
    def told(kl, **more):
        return quality_message(a_report(kl, **more), 9, str)["poor"].split(":")[0]

    assert told([9, 1, 9, 9, 1, 0]) == "-1, 1 to 2"
    assert told([9, 9, 1, 0], layers=[2, 5, 7, 8]) == "2 to 5"
    assert told([1, 1, 0]) == ""


def test_a_widget_has_the_lines_of_measured_lenses_alone(model):
    tuned, jacobian = random_lenses()
    model = lw.LanguageModel(model.hf_model, tokenizer())
    of(model, None)
    tuned.report(TEXTS, model, progress=False)
    widget = model.lens("hello there", lenses=[tuned, jacobian])
    assert list(widget.run["lens_quality"]) == ["logit", "tuned"]
    found = widget.run["lens_quality"]["tuned"]
    assert found == quality_message(tuned.measured, 4, lambda layer: "embed" if layer < 0 else str(layer))
    widget.close()
