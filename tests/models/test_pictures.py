"""Pictures with text, on tiny models of several families, against the processor and the model themselves."""

import json
import re

import pytest
import torch
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import PromptError
from lenswidget.models.bands import Band
from lenswidget.models.patches import patch_grid
from lenswidget.models.pictures import placeholder_ids
from lenswidget.widget.widget import LensWidget

pytest.importorskip("PIL", reason="pictures need pillow, which is among the development extras")
from tiny_pictures import D_VOCAB, FAMILIES, picture

# transformers' own processor of PaliGemma hands tensors to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

TEXT = "<image> What is in the city?"
# The text as each family's own processor takes it.
OWN = {"qwen2_vl": "<|image_pad|> What is in the city?", "gemma3": "<start_of_image> What is in the city?"}
ENDS = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    hf_model, processor = FAMILIES[request.param]()
    return request.param, lw.LanguageModel(hf_model, processor)


def encoded(name, model, seed=0):
    """What the processor by itself makes of the text and a picture."""
    found = dict(model.processor(text=OWN.get(name, TEXT), images=[picture(seed)], return_tensors="pt"))
    found.pop("labels", None)
    return found


def own_logits(model, inputs):
    with torch.no_grad():
        return model.hf_model(**inputs).logits


def log_probs(run, layer, position):
    found = lw.read(run, [(layer, position)], k=D_VOCAB)
    row = torch.empty(D_VOCAB, dtype=torch.float64)
    row[torch.from_numpy(found.ids[0]).long()] = torch.from_numpy(found.log_probs[0]).double()
    return row


def test_the_processor_brings_its_tokenizer(family):
    _, model = family
    assert model.tokenizer is model.processor.tokenizer
    run = model.run("What is in the city?")
    expected = own_logits(model, model.tokenizer("What is in the city?", return_tensors="pt"))
    gap = log_probs(run, 2, run.seq - 1) - expected[0, -1].double().log_softmax(-1)
    assert float(gap.abs().max()) < 1e-4
    assert run.spec.prompt.bands == ()


def test_every_column_is_the_models_own_with_its_picture(family):
    name, model = family
    inputs = encoded(name, model)
    expected = own_logits(model, inputs)[0].double().log_softmax(-1)
    streams = []
    blocks = [model.hf_model.get_submodule(path) for path in model.anatomy.blocks]
    hooks = [
        block.register_forward_hook(
            lambda module, args, out: streams.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    own_logits(model, inputs)
    for hook in hooks:
        hook.remove()
    for run in (model.run(TEXT, images=[picture()]), model.run(TEXT, images=picture()), model.run(inputs)):
        assert run.token_ids.tolist() == inputs["input_ids"][0].tolist()
        assert run.fidelity.ok
        for position in range(run.seq):
            assert float((log_probs(run, 2, position) - expected[position]).abs().max()) < 1e-4
        for layer, stream in enumerate(streams):
            found = run.states("resid_post", [layer] * run.seq, range(run.seq))
            torch.testing.assert_close(found, stream.reshape(run.seq, -1), rtol=1e-4, atol=1e-4)


def test_another_picture_gives_other_numbers(family):
    _, model = family
    one, other = (model.run(TEXT, images=[picture(seed)]) for seed in (0, 1))
    assert float((log_probs(one, 2, one.seq - 1) - log_probs(other, 2, other.seq - 1)).abs().max()) > 0.05


def test_placeholders_without_a_picture_are_refused(family):
    name, model = family
    inputs = encoded(name, model)
    ids = inputs["input_ids"]
    bare = own_logits(model, {"input_ids": ids})[0, -1].log_softmax(-1)
    right = own_logits(model, inputs)[0, -1].log_softmax(-1)
    assert float((bare - right).abs().max()) > 0.5  # what transformers does, and says nothing
    n = int((ids == next(iter(placeholder_ids(model.hf_model)))).sum())
    for ask in (model.run, model.lens, model.trace, model.generate):
        with pytest.raises(PromptError, match=f"has {n} placeholders for an image .* nothing to put there"):
            ask(ids)


def test_a_picture_without_a_placeholder_is_refused(family):
    name, model = family
    inputs = {**encoded(name, model)}
    ids = model.tokenizer("What is it?", return_tensors="pt")["input_ids"]
    pixels = {key: value for key, value in inputs.items() if key.startswith(("pixel", "image"))}
    for ask in (model.run, model.trace):
        with pytest.raises(PromptError, match=r"pictures .* but no placeholder"):
            ask({"input_ids": ids, **pixels})
    if name != "paligemma":  # whose processor puts the placeholders before any text
        with pytest.raises(PromptError):
            model.run("What is it?", images=[picture()])


def test_a_trace_and_a_generation_take_pictures(family):
    name, model = family
    inputs = encoded(name, model)
    with torch.no_grad(), model.trace(TEXT, images=[picture()]) as tracer:
        found = tracer.result.logits
    torch.testing.assert_close(found, own_logits(model, inputs), rtol=1e-4, atol=1e-4)
    with torch.no_grad(), model.trace(inputs["input_ids"], **_without_ids(inputs)) as tracer:
        torch.testing.assert_close(tracer.result.logits, found, rtol=1e-4, atol=1e-4)
    expected = model.hf_model.generate(**inputs, **ENDS)
    with torch.no_grad(), model.generate(TEXT, images=[picture()], **ENDS) as tracer:
        assert tracer.result.tolist() == expected.tolist()


def _without_ids(inputs):
    return {key: value for key, value in inputs.items() if key != "input_ids"}


def test_chats_hold_pictures(family):
    _, model = family
    text = {"type": "text", "text": "What is it?"}
    held = [{"role": "user", "content": [{"type": "image", "image": picture()}, text]}]
    empty = [{"role": "user", "content": [{"type": "image"}, text]}]
    rendered = model.processor.apply_chat_template(empty, tokenize=False, add_generation_prompt=True)
    inputs = dict(model.processor(text=rendered, images=[picture()], return_tensors="pt"))
    expected = own_logits(model, inputs)[0, -1].double().log_softmax(-1)
    for run in (model.run(held), model.run(empty, images=[picture()])):
        assert run.token_ids.tolist() == inputs["input_ids"][0].tolist()
        assert float((log_probs(run, 2, run.seq - 1) - expected).abs().max()) < 1e-4
        spans = run.spec.prompt.spans
        said = model.tokenizer.decode([run.token_ids[i] for i in spans["user"]])
        assert said.endswith("What is it?")
        assert set(spans["image"]) <= set(spans["user"])
    with torch.no_grad(), model.trace(held) as tracer:
        torch.testing.assert_close(
            tracer.result.logits[0, -1].double().log_softmax(-1), expected, rtol=1e-4, atol=1e-4
        )
    with pytest.raises(PromptError, match="2 images were given, and the chat has 1 empty places"):
        model.run(empty, images=[picture(), picture(1)])
    with pytest.raises(PromptError, match=r"placeholder|refused"):
        model.run(empty)


def test_a_band_covers_each_pictures_columns(family):
    name, model = family
    widget = model.lens(TEXT, images=[picture()])
    ids = widget.run["tokens"]
    of_pictures = [i for i, token in enumerate(ids) if token in placeholder_ids(model.hf_model)]
    bands = widget.run["bands"]
    assert [i for band in bands for i in range(band["start"], band["stop"])] == of_pictures
    for band in bands:
        assert (band["kind"], band["label"], band["is_folded"]) == ("image", "image", True)
        side = int((band["stop"] - band["start"]) ** 0.5)
        assert band["names"] == [f"r{r + 1} c{c + 1}" for r in range(side) for c in range(side)]
    assert widget.spans == {"image": of_pictures}
    assert len(bands) == (5 if name == "idefics3" else 1)


def test_two_pictures_are_two_bands_and_stand_in_order():
    hf_model, processor = FAMILIES["llava"]()
    model = lw.LanguageModel(hf_model, processor)
    text = "<image> and <image>: which?"
    inputs = dict(processor(text=text, images=[picture(0), picture(1)], return_tensors="pt"))
    run = model.run(text, images=[picture(0), picture(1)])
    expected = own_logits(model, inputs)[0, -1].double().log_softmax(-1)
    assert float((log_probs(run, 2, run.seq - 1) - expected).abs().max()) < 1e-4
    assert [(band.kind, len(band.names)) for band in run.spec.prompt.bands] == [("image", 16)] * 2


def test_a_wide_picture_has_its_own_rows_and_columns():
    hf_model, processor = FAMILIES["qwen2_vl"]()
    run = lw.LanguageModel(hf_model, processor).run(TEXT, images=[picture().resize((64, 32))])
    (band,) = run.spec.prompt.bands
    assert run.spec.prompt.model_inputs["image_grid_thw"].tolist() == [[1, 4, 8]]  # patches, four to a column
    assert band.names[3:5] == ("r1 c4", "r2 c1")


def test_patches_are_not_named_where_the_states_stand_otherwise():
    hf_model, processor = FAMILIES["llava"]()
    model = lw.LanguageModel(hf_model, processor)
    inputs = dict(model.run(TEXT, images=[picture()]).spec.prompt.model_inputs)
    assert patch_grid(0, [16], inputs, hf_model) == (4, 4)
    shuffled, own = FAMILIES["llava"]()[0], hf_model.get_image_features

    def features(pixel_values, **kwargs):
        found = own(pixel_values=pixel_values, **kwargs)
        found.pooler_output = [each.flip(0) for each in found.pooler_output]
        return found

    shuffled.get_image_features = features
    assert patch_grid(0, [16], inputs, shuffled) is None
    assert patch_grid(0, [15], inputs, hf_model) is None


def test_pictures_without_a_processor_are_refused():
    hf_model, processor = FAMILIES["llava"]()
    model = lw.LanguageModel(hf_model, processor.tokenizer)
    for ask in (model.run, model.lens, model.trace, model.generate):
        with pytest.raises(PromptError, match=re.escape("LanguageModel(hf_model, processor)")):
            ask(TEXT, images=[picture()])
    with pytest.raises(PromptError, match=r"with a prompt that is a list\. Give text or a chat"):
        lw.LanguageModel(hf_model, processor).run([5, 6], images=[picture()])
    with pytest.raises(PromptError, match="The processor refused the prompt with its pictures"):
        lw.LanguageModel(hf_model, processor).run("no place", images=["no such file.png"])


def test_a_generation_goes_on_from_a_cache_that_holds_the_picture():
    hf_model, processor = FAMILIES["llava"]()
    model = lw.LanguageModel(hf_model, processor)
    inputs = encoded("llava", model)
    with torch.no_grad():
        out = hf_model(**inputs, use_cache=True)
    ids = torch.cat([inputs["input_ids"], out.logits[:, -1:].argmax(-1)], dim=1)
    whole = own_logits(model, {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with torch.no_grad(), model.trace(ids[:, -1:], past_key_values=out.past_key_values) as tracer:
        torch.testing.assert_close(tracer.result.logits[0, -1], whole[0, -1], rtol=1e-4, atol=1e-4)


def test_a_widget_keeps_its_pictures_as_state_as_code_and_for_edited_text(family):
    name, model = family
    page = Page(LensWidget(model, TEXT, images=[picture()]))
    widget = page.widget
    assert (widget.prompt, widget.run["is_text"], widget.run["extras"]) == (TEXT, True, [])
    state = json.loads(json.dumps(widget.state))
    again = LensWidget(model, state=state)
    assert (again.readout().log_probs == widget.readout().log_probs).all()
    assert again.run["bands"] == widget.run["bands"]
    asked = {"layer": 2, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    card = page.ask("decode", run_id=widget.run["id"], track=[], **asked)[0]["value"]
    code = page.ask("code", run_id=widget.run["id"], track=[], **asked)[0]["value"]["code"]
    assert "# images: the pictures that you gave\n" in code
    names = {"model": model, "torch": torch, "images": [picture()]}
    exec(code, names)
    assert names["top"].indices.tolist() == card["ids"]
    torch.testing.assert_close(names["top"].values.log(), torch.tensor(card["log_probs"]), rtol=0, atol=1e-4)
    page.ask("run", prompt="<image> Who is in Paris?")
    run = widget._session.run
    expected = model.run("<image> Who is in Paris?", images=[picture()])
    assert run.token_ids.tolist() == expected.token_ids.tolist()
    assert (log_probs(run, 2, run.seq - 1) == log_probs(expected, 2, run.seq - 1)).all()
    if name != "paligemma":
        page.ask("run", prompt="Who is in Paris?")  # no place for a picture any more
        assert widget._session.run.spec.prompt.extras == ()
        assert widget.run["bands"] == []


def test_bands_given_for_an_encoding_stay():
    hf_model, processor = FAMILIES["llava"]()
    model = lw.LanguageModel(hf_model, processor)
    given = (Band(0, 3, "image", "sky"),)
    assert model.run(encoded("llava", model), bands=given).spec.prompt.bands == given
