"""What the page and the table are told of rows and columns: passes of looped blocks, masked models, chats."""

import contextlib
import io
import json
import re

import pytest
import torch
import transformers as hf
from looped_models import IDS, MODELS
from tiny import seeded
from tokenizers import Tokenizer, models, pre_tokenizers

import lenswidget as lw
from lenswidget.anatomy.anatomy import Row
from lenswidget.anatomy.passes import passes_of
from lenswidget.widget import html_table

WORDS = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
BERT = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
BERT |= {"num_hidden_layers": 3, "max_position_embeddings": 32, "initializer_range": 0.3}


def tokenizer():
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=fast, mask_token="[MASK]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def masked():
    return lw.LanguageModel(seeded(hf.BertForMaskedLM, **BERT), tokenizer())


@pytest.fixture(params=MODELS)
def looped(request):
    return lw.LanguageModel(MODELS[request.param]())


def calls_by_hooks(model):
    """The path of each block in the order in which they run, and how often it had run before."""
    seen, counts = [], {}

    def hook(path):
        def note(*_):
            seen.append((path, counts.setdefault(path, 0)))
            counts[path] += 1

        return note

    handles = [
        model.hf_model.get_submodule(path).register_forward_hook(hook(path)) for path in model.anatomy.blocks
    ]
    with torch.no_grad():
        model.hf_model(input_ids=torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    return seen


def test_each_row_is_named_by_its_pass_and_block(looped):
    run = looped.lens(IDS).run
    seen = calls_by_hooks(looped)
    blocks = list(looped.anatomy.blocks)
    assert [row["path"] for row in run["rows"]] == [path for path, _ in seen]
    assert [row["name"] for row in run["rows"]] == [f"{call}.{blocks.index(path)}" for path, call in seen]
    assert run["rows"][0]["phrase"] == "pass 0, block 0"
    # every row is of one pass, and within one no block runs twice
    covered = [layer for each in run["passes"] for layer in range(each["start"], each["stop"])]
    assert covered == list(range(len(seen)))
    for each in run["passes"]:
        paths = [path for path, _ in seen[each["start"] : each["stop"]]]
        assert len(set(paths)) == len(paths)
        assert {call for _, call in seen[each["start"] : each["stop"]]} == {int(each["label"].split()[1])}


def test_blocks_before_and_after_a_loop_are_of_no_pass():
    order = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2), (3, 0)]
    found = passes_of([Row(block, call, f"blocks.{block}") for block, call in order])
    assert [(each.start, each.stop, each.label) for each in found] == [
        (1, 3, "pass 0"),
        (3, 5, "pass 1"),
        (5, 7, "pass 2"),
    ]
    assert passes_of([Row(block, 0, f"blocks.{block}") for block in range(4)]) == ()


def test_a_stack_within_a_stack_has_passes_of_its_own():
    # an inner stack of two blocks runs twice before each run of an outer block
    order = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (1, 2), (0, 3), (1, 3), (2, 1)]
    found = passes_of([Row(block, call, f"blocks.{block}") for block, call in order])
    assert [(each.start, each.stop, each.call) for each in found] == [
        (0, 2, 0),
        (2, 4, 1),
        (4, 5, 0),
        (5, 7, 2),
        (7, 9, 3),
        (9, 10, 1),
    ]


def test_copied_code_names_the_call_and_gives_the_cards_numbers(looped):
    w = looped.lens(IDS, selection={"layer": 2, "position": 3}, card_k=4)
    asked = {"run_id": w.run["id"], "layer": 2, "position": 3, "site": w.site, "lens": w.lens}
    code = lw.progress.drain(w._session.answer({"kind": "code", "k": 4, "track": [], **asked}))["code"]
    assert f"  # layer 2: {w.run['rows'][2]['phrase']}\n" in code
    scope = {"model": looped}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, scope)
    assert scope["top"].indices.tolist() == w.decoded["ids"]
    assert scope["top"].values.log().tolist() == pytest.approx(w.decoded["log_probs"], abs=1e-4)


def test_folded_passes_are_a_choice(looped):
    w = looped.lens(IDS, folded_passes=[1])
    state = json.loads(json.dumps(w.state))
    assert state["folded_passes"] == [1]
    assert looped.lens(state=state).folded_passes == [1]


def test_other_models_have_no_passes(masked):
    run = masked.lens("the cat sat").run
    assert (run["rows"], run["passes"], run["bands"]) == ([], [], [])


@pytest.mark.parametrize(
    ("text", "position"), [("the cat [MASK] on a mat", 2), ("[MASK] sat on [MASK] mat", 3), ("the cat", 1)]
)
def test_a_masked_models_answer_is_at_its_last_mask(masked, text, position):
    run = masked.lens(text).run
    with torch.no_grad():
        logits = masked.hf_model(**masked.tokenizer(text, return_tensors="pt")).logits[0].double()
    log_probs = logits.log_softmax(-1)
    assert run["predicts"] == "same"
    assert run["next"]["position"] == position
    assert run["next"]["id"] == int(log_probs[position].argmax())
    assert run["next"]["log_prob"] == pytest.approx(float(log_probs[position].max()), abs=1e-5)


def test_a_masked_model_has_no_surprise_and_is_shown_without(masked):
    widget = masked.lens("the cat sat", show_spine=True)
    assert widget.run["id"]
    assert not widget.spine
    widget.prompt = "the cat sat on"
    assert not widget.spine


def test_an_edits_effect_on_a_masked_model_is_at_its_last_mask(masked):
    text, layer = "the cat [MASK] on a mat", 1
    w = masked.lens(text, edits=lw.Edit("zero", layers=layer, positions=2))
    effect = w.run["edited"]["effect"]
    inputs = masked.tokenizer(text, return_tensors="pt")
    block = masked.hf_model.bert.encoder.layer[layer]

    def zero(_module, _args, output):
        (output[0] if isinstance(output, tuple) else output)[0, 2] = 0
        return output

    with torch.no_grad():
        before = masked.hf_model(**inputs).logits[0, 2].double().log_softmax(-1)
        handle = block.register_forward_hook(zero)
        after = masked.hf_model(**inputs).logits[0, 2].double().log_softmax(-1)
        handle.remove()
    assert effect["id"] == int(before.argmax())
    assert effect["before"] == pytest.approx(float(before.max()), abs=1e-5)
    assert effect["after"] == pytest.approx(float(after[effect["id"]]), abs=1e-5)


def heads(table):
    """The head cells of each row, `(colspan, text)`."""
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [re.findall(r'<th(?: colspan="(\d+)")?[^>]*>([^<]*)</th>', row) for row in rows]


def test_the_table_names_passes_and_says_what_a_masked_cell_says(looped):
    w = looped.lens(IDS)
    table = html_table.table(w.run, w.snapshot)
    names = [row[0][1] for row in heads(table)]
    assert names == ["layer", *[row["name"] for row in reversed(w.run["rows"])], "embed"]
    assert ("Each cell: the token that stands there" in table) == (looped.anatomy.predicts == "same")


def test_the_table_says_whose_message_each_column_is(demo_model):
    w = demo_model.lens([{"role": "user", "content": "Hi"}, {"role": "<b>", "content": "Ho"}])
    row = heads(html_table.table(w.run, w.snapshot))[0]
    messages = [band for band in w.run["bands"] if band["kind"] == "message"]
    assert row[0] == ("", "role")
    assert [text for _, text in row[1:]] == [
        band["label"].replace("<", "&lt;").replace(">", "&gt;") for band in messages
    ]
    # the snapshot has the newest columns, as many as fit
    first = w.snapshot["header"]["positions"][0]
    assert [int(n) for n, _ in row[1:]] == [b["stop"] - max(b["start"], first) for b in messages]
