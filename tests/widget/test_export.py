"""One file that needs nothing else: what is in it, how large it is, and that token text stays text."""

import base64
import csv
import json
import re

import numpy as np
import pytest

import lenswidget as lw
from lenswidget.widget import export

PROMPT = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def widget(demo_model):
    return lw.LensWidget(demo_model, PROMPT)


@pytest.fixture(scope="module")
def saved(widget, tmp_path_factory):
    return widget.save(tmp_path_factory.mktemp("export") / "lens.html")


def data_of(path):
    found = re.search(
        r'<script type="application/json" id="lens-data">(.*?)</script>', path.read_text(), re.S
    )
    return json.loads(found[1])


def test_file_holds_the_numbers_of_every_cell(saved, widget):
    snapshot = data_of(saved)["state"]["snapshot"]
    header = snapshot["header"]
    assert header["layers"] == list(range(-1, 30))
    assert header["positions"] == list(range(9))
    arrays = {
        entry["name"]: np.frombuffer(base64.b64decode(buffer), entry["dtype"]).reshape(entry["shape"])
        for entry, buffer in zip(header["arrays"], snapshot["buffers"], strict=True)
    }
    readout = widget.readout(k=10, metrics=("entropy", "kl", "agrees"))
    assert arrays["ids"].shape == (31, 9, 10)
    np.testing.assert_array_equal(arrays["ids"].reshape(-1, 10), readout.ids)
    np.testing.assert_array_equal(arrays["log_probs"].reshape(-1, 10), readout.log_probs)
    np.testing.assert_array_equal(arrays["entropy_nats"].ravel(), readout.entropy_nats)
    assert {str(i) for i in np.unique(readout.ids)} <= set(header["labels"])


def test_file_says_that_no_kernel_is_behind_it_and_keeps_the_looks(demo_model, tmp_path):
    widget = lw.LensWidget(demo_model, PROMPT, metric="entropy")
    widget.selection = {"layer": 20, "position": 8}
    widget.track(" Paris")
    state = data_of(widget.save(tmp_path / "lens.html"))["state"]
    assert state["status"]["state"] == "offline"
    assert state["metric"] == "entropy"
    assert state["selection"] == {"layer": 20, "position": 8}
    assert state["decoded"]["ids"] == widget.decoded["ids"]
    assert [pin["label"] for pin in state["pins"]] == [pin["label"] for pin in widget.pins]
    assert "tracked_log_probs" in [entry["name"] for entry in state["snapshot"]["header"]["arrays"]]


def test_thirty_layers_of_sixty_four_tokens_stay_under_a_megabyte(demo_model, tmp_path):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    ids = demo_model.tokenizer((words + " ") * 6)["input_ids"][:64]
    path = lw.LensWidget(demo_model, ids).save(tmp_path / "lens.html")
    assert data_of(path)["state"]["snapshot"]["header"]["arrays"][0]["shape"] == [31, 64, 10]
    assert path.stat().st_size <= 1_000_000


def test_page_names_no_address_and_forbids_requests(saved):
    text = saved.read_text()
    shell = text.replace(re.search(r'id="lens-data">(.*?)</script>', text, re.S)[1], "")
    assert "http" not in shell.replace("http-equiv", "")
    assert "default-src 'none'" in shell
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)=", shell)


def test_text_that_looks_like_markup_cannot_leave_its_script():
    hostile = "</script><img src=x onerror=alert(1)><!--"
    text = export.page({"run": {"prompt": hostile}, "token": hostile}, esm="//", css="")
    assert text.count("<img") == 0
    assert text.count("</script>") == 2
    assert "<title>&lt;/script&gt;" in text
    inline = re.search(r'id="lens-data">(.*?)</script>', text, re.S)[1]
    assert json.loads(inline)["state"]["token"] == hostile


def test_nan_is_refused_rather_than_written_as_something_else():
    with pytest.raises(ValueError, match="JSON"):
        export.inline_json({"x": float("nan")})


@pytest.mark.parametrize("write", ["save", "to_csv"])
def test_what_cannot_be_written_is_refused_before_anything_is_read(widget, tmp_path, write, monkeypatch):
    monkeypatch.setattr(widget, "_session", None)  # whatever is read would fail otherwise
    with pytest.raises(lw.LensError, match="does not exist"):
        getattr(widget, write)(tmp_path / "nowhere" / "lens")
    with pytest.raises(lw.LensError, match="it is a folder"):
        getattr(widget, write)(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("k", [0, 101])
def test_a_number_of_tokens_that_a_file_does_not_store_is_refused(widget, tmp_path, k):
    with pytest.raises(lw.LensError, match=f"the {k} best tokens of each cell: choose k from 1 to 100"):
        widget.save(tmp_path / "lens.html", k=k)


def test_progress_counts_up_to_every_cell(widget, tmp_path):
    seen = []
    widget.save(tmp_path / "lens.html", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (31 * 9, 31 * 9)
    assert seen == sorted(seen)


def test_csv_has_a_row_for_each_cell_and_top_token(widget, tmp_path):
    path = widget.to_csv(tmp_path / "lens.csv", k=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31 * 9 * 3
    assert {(int(row["layer"]), int(row["position"])) for row in rows} == {
        (layer, position) for layer in range(-1, 30) for position in range(9)
    }
