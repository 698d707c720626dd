"""Labels of mistral-common's tokenizers, whose own names of byte fragments are all the replacement sign."""

from pathlib import Path

import pytest
import torch
from tiny import llama
from transformers.tokenization_mistral_common import MistralCommonBackend

import lenswidget as lw
from lenswidget.widget.labels import Labels

mistral_common = pytest.importorskip(
    "mistral_common",
    reason="mistral-common, which carries real tokenizers, wants an older numpy than the pinned one: "
    "pip install --no-deps mistral-common tiktoken pydantic-extra-types pycountry sentencepiece",
)
DATA = Path(mistral_common.__file__).parent / "data"
TEXT = "héllo 😀 Paris"


@pytest.fixture(scope="module", params=["tekken_240911.json", "mistral_instruct_tokenizer_240323.model.v3"])
def tokenizer(request):
    return MistralCommonBackend(tokenizer_path=str(DATA / request.param))


@pytest.fixture(scope="module")
def tekken():
    return MistralCommonBackend(tokenizer_path=str(DATA / "tekken_240911.json"))


def test_fragments_show_their_bytes(tekken):
    labels = Labels(tekken, len(tekken))
    ids = tekken.encode(TEXT, add_special_tokens=False)
    assert [(labels[i].text, labels[i].kind) for i in ids[-4:-1]] == [
        ("20 F0 9F", "bytes"),
        ("98", "bytes"),
        ("80", "bytes"),
    ]
    assert labels.joined(ids)[-4:-1] == ["␣😀"] * 3
    # only what really is U+FFFD keeps that sign: its bytes in UTF-8, once and twice
    signs = [i for i in range(len(tekken)) if "\ufffd" in labels[i].raw]
    inner = tekken.tokenizer.instruct_tokenizer.tokenizer
    assert {inner.id_to_byte_piece(i) for i in signs} <= {b"\xef\xbf\xbd", b"\xef\xbf\xbd" * 2}


def test_every_label_is_the_vocabularys_own_bytes(tekken):
    labels = Labels(tekken, len(tekken))
    inner = tekken.tokenizer.instruct_tokenizer.tokenizer
    for token_id in range(inner.num_special_tokens, len(tekken), 97):
        label = labels[token_id]
        found = bytes.fromhex(label.raw) if label.kind == "bytes" else label.raw.encode()
        assert found == inner.id_to_byte_piece(token_id)


def test_ids_in_the_prompt_box_are_the_text(tokenizer):
    labels = Labels(tokenizer, len(tokenizer))
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert labels.text(ids).strip() == tokenizer.decode(ids, skip_special_tokens=True).strip() == TEXT


def test_a_widget_on_such_a_model(tokenizer):
    model = lw.LanguageModel(llama(vocab_size=len(tokenizer)), tokenizer)
    widget = model.lens(TEXT)
    ids = tokenizer.encode(TEXT)
    assert widget.run["tokens"] == ids
    paris = ids[-1]
    ranks = widget.track(" Paris").tracked_ranks
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([ids])).logits[0, -1]
    assert ranks[-1, 0] == int((logits > logits[paris]).sum())
    boxed = model.lens(ids).run
    assert not boxed["is_text"]
    assert boxed["prompt"].endswith(TEXT)
