"""Columns that belong together: as values, in a state, and as spans."""

import json

import pytest

from lenswidget.errors import PromptError
from lenswidget.models.bands import Band, band_to_json, bands_of_json, check_bands, spans_of

CHAT = (
    Band(0, 5, "message", "user"),
    Band(0, 2, "template", "template"),
    Band(4, 5, "template", "template"),
    Band(5, 9, "message", "assistant"),
    Band(5, 6, "template", "template"),
    Band(9, 12, "message", "user"),
    Band(10, 12, "image", "image", is_folded=True, names=("row 0", "row 1")),
)


def test_a_role_has_the_columns_of_all_its_messages_without_the_templates():
    assert spans_of(CHAT) == {
        "user": [2, 3, 9, 10, 11],
        "template": [0, 1, 4, 5],
        "assistant": [6, 7, 8],
        "image": [10, 11],
    }
    assert spans_of(()) == {}


def test_bands_come_back_from_json():
    written = json.loads(json.dumps([band_to_json(band) for band in CHAT]))
    assert bands_of_json(written) == CHAT


@pytest.mark.parametrize(
    "wrong", [7, "bands", [7], [{"start": 0}], [{**band_to_json(CHAT[0]), "start": True}]]
)
def test_other_json_is_refused(wrong):
    with pytest.raises(PromptError, match="state's recipe has the bands"):
        bands_of_json(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        Band(0, 13, "message", "user"),
        Band(3, 3, "message", "user"),
        Band(-1, 3, "message", "user"),
        Band(0, 3, "row", "user"),
        Band(0, 3, "image", "image", names=("one",)),
    ],
)
def test_a_band_that_does_not_fit_is_refused(wrong):
    with pytest.raises(PromptError, match="does not fit its 12 columns"):
        check_bands([wrong], 12)


def test_the_wider_of_two_bands_comes_first():
    assert check_bands(reversed(CHAT), 12) == tuple(sorted(CHAT, key=lambda band: (band.start, -band.stop)))
