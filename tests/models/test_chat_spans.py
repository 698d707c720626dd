"""Which columns of a chat are whose: against the pieces that each template is written to make."""

import copy
import json

import pytest
from transformers import AutoTokenizer

from lenswidget.demo import demo_folder
from lenswidget.errors import PromptError
from lenswidget.models.bands import spans_of
from lenswidget.models.chat_spans import chat_bands
from lenswidget.models.prompts import chat_ids

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is the capital of France? "},
    {"role": "assistant", "content": "Paris, naïve 🙂."},
    {"role": "user", "content": "Paris, naïve 🙂."},
]
ASKED = CHAT[1:]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin|>{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}"
)
# a system message goes into the first turn; the answering role has another name; turns must alternate
GEMMA = (
    "<bos>{% if messages[0].role == 'system' %}{% set first = messages[0].content | trim + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Turns must alternate') }}{% endif %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# a system message goes into the last turn, as in Mistral's older templates
MISTRAL = (
    "<s>{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set sys = '' %}{% set turns = messages %}{% endif %}{% for m in turns %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and sys %}{{ sys + '\n\n' }}{% endif %}{{ m.content }}"
    "[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe a help.<|im_end|>\n{% endif %}" + CHATML
)
# thinking of earlier turns is left out, that of the last one is laid out anew
THINKING = (
    "{% for m in messages %}{% set text = m.content %}{% set mind = '' %}{% if '</think>' in text %}"
    "{% set mind = text.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set text = text.split('</think>')[-1].strip() %}{% endif %}"
    "{% if m.reasoning_content %}{% set mind = m.reasoning_content.strip() %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think>\n{{ mind }}\n</think>\n\n"
    "{% endif %}{{ text }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
TWICE = "{% for m in messages %}{{ m.content }} {{ m.content }}\n{% endfor %}"
LOUD = "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}"


# each one token, as in the tokenizers that come with such templates
MARKERS = ["<|begin|>", "<|header|>", "<|/header|>", "<|eot|>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
MARKERS += ["<s>", "</s>", "[INST]", "[/INST]"]


@pytest.fixture(scope="module")
def tokenizer():
    made = AutoTokenizer.from_pretrained(demo_folder())
    made.add_tokens(MARKERS, special_tokens=True)
    return made


@pytest.fixture
def found(tokenizer):
    """Of a template and a chat: the text of each band and of each span."""

    def find(template, messages, **options):
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        ids = chat_ids(messages, own, **options)
        bands, notes = chat_bands(messages, ids, own, **options)
        texts = [(band.kind, band.label, own.decode(ids[band.start : band.stop])) for band in bands]
        return [text for text in texts if text[0] != "template"], spans(bands, ids, own), notes

    return find


def spans(bands, ids, tokenizer):
    found = spans_of(bands)
    return {name: tokenizer.decode([ids[i] for i in columns]) for name, columns in found.items()}


def test_chatml_keeps_the_white_space_of_a_message(found):
    bands, said, notes = found(CHATML, CHAT)
    assert [text for _, _, text in bands] == [
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        "<|im_start|>user\n What is the capital of France? <|im_end|>\n",
        "<|im_start|>assistant\nParis, naïve 🙂.<|im_end|>\n",
        "<|im_start|>user\nParis, naïve 🙂.<|im_end|>\n",
        "<|im_start|>assistant\n",
    ]
    assert [label for _, label, _ in bands] == ["system", "user", "assistant", "user", "assistant"]
    assert said["system"] == "Be brief."
    # the same words said by two are told apart
    assert said["user"] == " What is the capital of France? Paris, naïve 🙂."
    assert said["assistant"] == "Paris, naïve 🙂."
    assert not notes


def test_llama_strips_and_begins_with_its_own_bos(found):
    bands, said, notes = found(LLAMA, CHAT)
    assert bands[0][2] == "<|begin|><|header|>system<|/header|>\n\nBe brief.<|eot|>"
    assert bands[1][2] == "<|header|>user<|/header|>\n\nWhat is the capital of France?<|eot|>"
    assert bands[-1] == ("message", "assistant", "<|header|>assistant<|/header|>\n\n")
    assert said["user"].strip() == "What is the capital of France?Paris, naïve 🙂."
    assert not notes


def test_gemma_puts_the_system_message_into_the_first_turn(found):
    bands, said, _ = found(GEMMA, CHAT)
    assert bands[:2] == [
        ("message", "system", "<bos><start_of_turn>user\nBe brief."),
        ("message", "user", "\n\nWhat is the capital of France?<end_of_turn>\n"),
    ]
    assert said["system"] == "Be brief."
    assert bands[2] == ("message", "assistant", "<start_of_turn>model\nParis, naïve 🙂.<end_of_turn>\n")
    bands, _, _ = found(GEMMA, ASKED)
    assert [label for _, label, _ in bands] == ["user", "assistant", "user", "assistant"]


def test_mistral_puts_the_system_message_into_the_last_turn(found):
    bands, said, _ = found(MISTRAL, CHAT)
    assert [label for _, label, _ in bands] == ["user", "assistant", "system", "user"]
    # one token has the template's space and the first word
    assert said["system"] == " Be brief."
    assert said["assistant"].strip() == "Paris, naïve 🙂."
    bands, _, _ = found(MISTRAL, ASKED)
    assert [text for _, _, text in bands] == [
        "<s>[INST]  What is the capital of France? [/INST]",
        " Paris, naïve 🙂.</s>",
        "[INST] Paris, naïve 🙂.[/INST]",
    ]


def test_a_system_message_that_the_template_adds_is_a_message(found):
    bands, said, _ = found(DEFAULT_SYSTEM, ASKED)
    assert bands[0] == ("message", "system", "<|im_start|>system\nBe a help.<|im_end|>\n")
    assert said["system"] == "Be a help."
    assert found(DEFAULT_SYSTEM, CHAT)[1]["system"] == "Be brief."


@pytest.mark.parametrize("form", ["tags", "field"])
def test_thinking_is_a_band_of_its_own(found, form):
    answer = {"role": "assistant", "content": "<think>Well, Rome.</think>Rome!"}
    if form == "field":
        answer = {"role": "assistant", "content": "Rome!", "reasoning_content": "Well, Rome."}
    asked = {"role": "user", "content": "And of Italy?"}
    bands, said, notes = found(THINKING, [asked, answer], add_generation_prompt=False)
    assert not notes
    thought = next(text for kind, _, text in bands if kind == "thinking")
    assert "Well, Rome." in thought
    assert "Rome!" not in thought.replace("Well, Rome.", "")
    assert "Well, Rome." in said["thinking"]
    # an earlier turn's thinking is left out by the template
    bands, said, notes = found(THINKING, [asked, answer, asked])
    assert said["assistant"] == "Rome!"
    assert "thinking" not in said
    assert not notes


def test_options_of_the_template_are_options_here(found):
    bands, _, _ = found(THINKING, ASKED[:1], enable_thinking=False)
    assert bands[-1] == ("message", "assistant", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    bands, _, _ = found(CHATML, ASKED, add_generation_prompt=False)
    assert bands[-1][1:] == ("user", "<|im_start|>user\nParis, naïve 🙂.<|im_end|>\n")


def test_a_message_in_parts_has_all_of_them(found):
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}"
        "{{ p.text if p.type == 'text' else '[img]' }}"
        "{% endfor %}{{ '\n' }}{% endfor %}"
    )
    parts = [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what is it?"}]
    bands, said, _ = found(template, [{"role": "user", "content": parts}], add_generation_prompt=False)
    assert bands == [("message", "user", "<|user|>Look: [img]what is it?\n")]
    assert "Look:" in said["user"]
    assert "what is it?" in said["user"]
    assert "img" not in said["user"]


def test_what_a_template_leaves_out_is_told(found):
    _, said, notes = found(NO_SYSTEM, CHAT)
    assert "system" not in said
    assert notes == ["The chat template leaves out what system says."]


@pytest.mark.parametrize("template", [TWICE, LOUD])
def test_where_the_text_is_not_found_nothing_is_said(found, template):
    bands, said, notes = found(template, CHAT)
    assert (bands, said) == ([], {})
    assert len(notes) == 1
    assert notes[0].startswith("Which columns are whose message is not known:")


def test_the_demo_models_own_template(demo_model):
    prompt = demo_model.run(ASKED).spec.prompt
    said = {
        name: demo_model.tokenizer.decode(prompt.column_ids[columns])
        for name, columns in prompt.spans.items()
    }
    assert said["user"] == " What is the capital of France? Paris, naïve 🙂."
    assert said["assistant"] == "Paris, naïve 🙂."
    assert said["system"].startswith("You are a helpful AI assistant")
    # every column is a message's or the template's, and none of them twice
    columns = sorted(column for of in prompt.spans.values() for column in of)
    assert columns == list(range(prompt.seq))


def test_a_chats_spans_are_in_the_widget_and_its_state(demo_model):
    w = demo_model.lens(ASKED)
    spans = w.spans
    assert demo_model.tokenizer.decode([w.run["tokens"][i] for i in spans["assistant"]]) == "Paris, naïve 🙂."
    state = json.loads(json.dumps(w.state))
    assert demo_model.lens(state=state).spans == spans
    state["recipe"]["bands"][0]["stop"] = 4000
    with pytest.raises(PromptError, match="does not fit"):
        demo_model.lens(state=state)
    w.prompt = CHAT
    assert demo_model.tokenizer.decode([w.run["tokens"][i] for i in w.spans["system"]]) == "Be brief."
    w.prompt = "no chat"
    assert w.spans == {}
    assert w.run["bands"] == []


def test_folded_bands_follow_their_messages_to_a_longer_chat(demo_model):
    w = demo_model.lens(CHAT)
    bands = w.run["bands"]
    places = [i for i, band in enumerate(bands) if band["kind"] == "message"]
    w.folded_bands = [places[0]]
    w.prompt = [*CHAT, {"role": "assistant", "content": "Yes."}]
    assert [w.run["bands"][i] for i in w.folded_bands] == [bands[places[0]]]
    w.prompt = "no chat"
    assert w.folded_bands == []
