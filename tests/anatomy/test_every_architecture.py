"""Every entry of transformers' language-model mappings, tiny and random (see `scripts/survey.py`).

The survey runs once for all tests of this file. After a change: `python scripts/survey.py`, which writes
the table in docs/models.md.
"""

import re
from pathlib import Path

import pytest
import transformers as hf
from survey import MAPPINGS, PAGE, Row, survey, table

# Models are made to run here that nobody trained or runs in float64: what they warn of is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

PACKAGE = Path(__file__).parents[2] / "lenswidget"


@pytest.fixture(scope="module")
def rows() -> tuple[Row, ...]:
    verbosity = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()
    found = survey()
    hf.logging.set_verbosity(verbosity)
    print(table(found))
    return found


def test_every_entry_has_a_row(rows):
    assert len(rows) == sum(
        len(found) if isinstance(found, tuple) else 1
        for mapping in MAPPINGS.values()
        for found in mapping.values()
    )


@pytest.mark.parametrize(
    ("mapping", "n"), [("causal", 170), ("encoder-decoder", 30), ("masked", 45), ("pictures", 64)]
)
def test_most_entries_run(rows, mapping, n):
    assert sum(row.status != "no instance" for row in rows if row.mapping == mapping) >= n


@pytest.mark.parametrize(
    ("mapping", "share"), [("causal", 0.97), ("encoder-decoder", 1.0), ("masked", 0.91), ("pictures", 0.95)]
)
def test_those_that_run_are_exact(rows, mapping, share):
    running = [row for row in rows if row.mapping == mapping and row.status != "no instance"]
    exact = [row for row in running if row.status == "exact"]
    assert len(exact) >= share * len(running)


def test_columns_and_what_they_speak_of_are_those_of_the_mapping(rows):
    exact = [row for row in rows if row.status == "exact"]
    both_sides = [row for row in exact if "decoder's columns" in row.reads]
    # some entries of that mapping hand the encoder's states to a plain decoder, among its tokens
    assert {row.mapping for row in both_sides} <= {"encoder-decoder", "masked", "pictures"}
    assert len(both_sides) >= 25
    masked = [row for row in exact if row.mapping == "masked" and row not in both_sides]
    # MRA's attention is a CUDA kernel, and zeros without it: there no position sees another
    assert [row.model for row in masked if "its own token" not in row.reads] in ([], ["MraForMaskedLM"])
    causal = [row for row in exact if row.mapping == "causal" and "sees later ones" not in row.reads]
    assert len(causal) >= 160
    assert [row.model for row in causal if row.reads.split(", ")[0] != "next token"] == []


def test_pictures_are_read_with_their_text_and_never_left_out_in_silence(rows):
    said = [row.picture for row in rows if row.mapping == "pictures" and row.status == "exact"]
    # pixels are made up here in a few shapes; what takes another shape is looked at on text alone
    assert set(said) <= {"exact", "exact, no placeholders", "no picture made here was taken"}
    assert sum(each != "no picture made here was taken" for each in said) >= 36


def test_none_is_silently_off(rows):
    # refusing is honest; decoding wrongly is not
    assert [row.model for row in rows if row.status == "off"] == []


def test_the_tail_is_as_near_to_float64_as_the_models_own_logits(rows):
    # another order of summation over d_model = 64 moves log-probs by less than 2e-6
    measured = [row for row in rows if row.from_float64 is not None and row.own_from_float64 is not None]
    assert len(measured) >= 150
    assert [row for row in measured if row.from_float64 > row.own_from_float64 + 2e-6] == []


def test_the_tail_gives_the_models_own_logits_on_another_prompt(rows):
    assert [row for row in rows if row.status == "exact" and row.from_own > 5e-6] == []


def test_sites_sum_to_what_the_block_does_on_another_prompt(rows):
    assert [(row.model, row.sum_error) for row in rows if row.sum_error > 2e-6] == []


def test_most_offer_all_sites_and_the_others_say_why(rows):
    exact = [row for row in rows if row.status == "exact"]
    full = [row for row in exact if len(row.sites) == 5]
    assert len(full) >= 120
    assert [row.model for row in exact if len(row.sites) < 5 and not row.reason] == []


def test_every_failure_has_a_reason(rows):
    assert [row.model for row in rows if row.status != "exact" and not row.reason] == []


def test_the_page_names_every_entry_under_its_status(rows):
    text = PAGE.read_text()
    for row in rows:
        name = re.escape(f"| {row.model} ({row.config}) | ")
        status = {"exact": "(fast|own forward) ", "off": "off "}.get(row.status, f"{row.status}:")
        assert re.search(name + status, text), f"{row.model} is not up to date: python scripts/survey.py"


def test_no_line_of_the_package_names_a_family():
    families = {config.model_type for config in hf.MODEL_FOR_CAUSAL_LM_MAPPING}
    # words that are also English, or what the demo and the docs speak of
    families -= {"beam", "flint", "git", "inkling", "laguna", "lightning", "persimmon", "fuyu"}
    discovery = [*(PACKAGE / "anatomy").glob("*.py"), PACKAGE / "models" / "hf_model.py"]
    assert len(discovery) > 12
    for path in discovery:
        words = set(re.findall(r"\w+", path.read_text().lower()))
        assert words & families == set()
    assert not [path for path in PACKAGE.rglob("*.py") if "model_type" in path.read_text()]
