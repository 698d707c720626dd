"""Messages: what is packed comes out the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lenswidget.checks import check_temperature
from lenswidget.errors import LensError
from lenswidget.widget.labels import Label
from lenswidget.widget.packing import json_number, pack, unpack
from lenswidget.widget.requests import DecodeRequest, ReadRequest


@st.composite
def rectangles(draw: st.DrawFn):
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)))
    return (
        draw(hnp.arrays("int32", shape)),
        draw(hnp.arrays("float32", shape)),
        draw(hnp.arrays("bool", shape[:2])),
    )


@given(rectangles())
def test_unpack_inverts_pack(arrays):
    ids, log_probs, agrees = arrays
    packed = pack({"ids": ids, "log_probs": log_probs, "agrees": agrees, "kl_to_final": None}, {}, run_id="r")
    back = unpack(packed.header, packed.buffers)
    np.testing.assert_array_equal(back["ids"], ids)
    np.testing.assert_array_equal(back["log_probs"], log_probs)  # NaN equals NaN here, and stays NaN
    np.testing.assert_array_equal(back["agrees"].astype(bool), agrees)
    assert "kl_to_final" not in back
    assert packed.header["run_id"] == "r"


def test_labels_travel_by_id():
    packed = pack({}, {7: Label("␣a", "text", " a")})
    assert packed.header["labels"] == {"7": ["␣a", "text", " a"]}


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True, False])
def test_a_temperature_that_is_none_is_refused(value):
    message = {"run_id": "r", "layer": 1, "position": 0, "site": "resid_post", "lens": "logit", "k": 5}
    with pytest.raises(LensError, match=r"temperature is .* above 0"):
        DecodeRequest.parse({**message, "temperature": value})


def test_a_temperature_of_numpy_becomes_a_plain_number():
    found = [check_temperature(value) for value in (2, np.float32(2.0), np.float64(2.0), np.int64(2))]
    assert found == [2.0] * 4
    assert {type(value) for value in found} == {float}


@pytest.mark.parametrize("field", ["run_id", "layers", "k"])
def test_a_malformed_request_names_its_field(field):
    message = {"run_id": "r", "layers": [0], "positions": [0], "site": "resid_post", "lens": "logit", "k": 1}
    with pytest.raises(LensError, match=field):
        ReadRequest.parse({**message, field: {"no": "such"}})


def test_json_has_no_nan():
    assert [json_number(v) for v in (1.5, float("nan"), float("-inf"))] == [1.5, "NaN", "-Infinity"]
