"""A readout as data: slicing, text, frames, and what it prints."""

import numpy as np
import pytest
from tiny import PROMPT, language_model

from lenswidget.errors import CellError, LensError
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.reading import read


@pytest.fixture(scope="module")
def run():
    return LocalEngine(language_model()).run(PROMPT)


@pytest.fixture(scope="module")
def readout(run):
    return read(run, metrics=("entropy", "kl", "agrees"), track=[65, 66], logits=True, k=3)


def test_the_whole_grid_is_read_unless_cells_are_given(run, readout):
    assert len(readout) == (run.n_layers + 1) * run.seq
    assert readout.grid("ids").shape == (run.n_layers + 1, run.seq, 3)
    assert len(read(run, site="mlp_out")) == run.n_layers * run.seq


def test_layers_and_positions_are_chosen_by_number(run, readout):
    assert set(readout.at(layer=2).layers) == {2}
    assert len(readout.at(layer=[0, 3], position=range(2))) == 4
    one = readout.at(layer=-1, position=1)
    assert (one.layers.tolist(), one.positions.tolist()) == ([-1], [1])
    assert np.array_equal(one.ids, readout.grid("ids")[0, 1][None])
    with pytest.raises(CellError, match="layer 9 of a readout that has layers -1 to 3"):
        readout.at(layer=9)


@pytest.mark.parametrize(
    ("layer", "position", "layers", "positions"),
    [
        (slice(-1, 2), None, [-1, 0, 1], range(8)),
        (slice(2, None), slice(None, 3), [2, 3], [0, 1, 2]),
        (slice(None, None, 2), slice(5, 99), [-1, 1, 3], [5, 6, 7]),
        (slice(0, None, 3), 7, [0, 3], [7]),
        (slice(np.int64(0), 1), range(0, 8, 7), [0], [0, 7]),
    ],
)
def test_slices_choose_layers_and_positions_by_number(readout, layer, position, layers, positions):
    found = readout.at(layer, position)
    assert list(zip(found.layers, found.positions, strict=True)) == [
        (i, j) for i in layers for j in positions
    ]
    again = readout.at(list(layers), list(positions))
    assert np.array_equal(found.ids, again.ids)


def test_a_slice_counts_from_where_it_starts_and_not_among_what_is_there(readout):
    odd = readout.at(position=[1, 2, 4, 5])
    assert sorted(set(odd.at(position=slice(1, None, 2)).positions)) == [1, 5]
    assert sorted(set(odd.at(position=slice(2, 5)).positions)) == [2, 4]


@pytest.mark.parametrize(
    ("layer", "position", "said"),
    [
        (
            None,
            slice(-3, None),
            r"positions slice\(-3, None, None\) .* has positions 0 to 7: .* from the end",
        ),
        (slice(None, -1), None, r"layers slice\(None, -1, None\) .* has layers -1 to 3"),
        (slice(4, 9), None, "layers -1 to 3: choose from those"),
        (slice(3, 0, -1), None, "upwards"),
        (slice("a", None), None, "by number"),
        (1.5, None, r"Asked for layers 1\.5\. Pass an integer"),
        ([[1]], None, "a list of integers"),
        (None, True, "positions True"),
    ],
)
def test_what_is_no_choice_of_layers_and_positions_is_refused(readout, layer, position, said):
    with pytest.raises(CellError, match=said):
        readout.at(layer, position)


def test_indices_slices_and_masks_choose_cells(readout):
    assert len(readout[3]) == 1
    assert np.array_equal(readout[2:5].entropy_nats, readout.entropy_nats[2:5])
    confident = readout[readout.log_probs[:, 0] > np.median(readout.log_probs[:, 0])]
    assert 0 < len(confident) < len(readout)
    assert confident.kl_from_reference is None
    for index in (40, "ids", 1.5, None, (1, 2), [True], np.zeros((2, 2), int)):
        with pytest.raises(CellError, match=r"of 40\. Pass an index.*\.at\(layer="):
            readout[index]
    assert len(list(readout)) == 40


def test_a_grid_needs_every_cell_once(run, readout):
    for cells in (Cells([0, 0, 1], [0, 1, 0]), Cells([0, 0], [1, 1])):
        with pytest.raises(CellError, match="do not fill"):
            read(run, cells).grid("ids")
    with pytest.raises(LensError, match="'kl_from_reference' of a readout that has layers"):
        readout.grid("kl_from_reference")
    shuffled = Cells([1, 0, 1, 0], [0, 3, 3, 0])
    assert np.array_equal(read(run, shuffled, k=3).grid("ids"), readout.at([0, 1], [0, 3]).grid("ids"))


def test_tokens_are_the_text_of_the_ids(run, readout):
    for token_id, text in zip(readout.ids.ravel(), readout.tokens().ravel(), strict=True):
        decoded = run.tokenizer.decode([token_id])
        assert text.startswith("<0x") if "\ufffd" in decoded else text == decoded
    assert readout.tokens().shape == readout.ids.shape


def test_a_frame_has_a_row_per_cell_and_top_token(readout):
    frame = readout.to_dataframe()
    assert len(frame) == len(readout) * 3
    row = frame[(frame.layer == 2) & (frame.position == 5) & (frame.place == 1)].iloc[0]
    cell = readout.at(layer=2, position=5)
    assert row.id == cell.ids[0, 1]
    assert row.token == cell.tokens()[0, 1]
    assert row.prob == pytest.approx(np.exp(cell.log_probs[0, 1]))
    assert row.entropy_nats == cell.entropy_nats[0]
    assert row.rank_66 == cell.tracked_ranks[0, 1]
    assert row.log_prob_65 == cell.tracked_log_probs[0, 0]
    assert "kl_from_reference" not in frame


def test_it_prints_what_it_holds(readout):
    lines = repr(readout).splitlines()
    assert lines[0].startswith("Readout(40 cells: layers -1 to 3, positions 0 to 7; top 3")
    assert "entropy_nats, kl_from_final" in lines[1]
    assert lines[2] == "  tracked ids [65, 66]"
    assert lines[-1].startswith("  layer 3, position 7: ")
    assert len(lines) == 6


def test_layers_that_do_not_follow_each_other_are_listed(readout):
    """A span is said as one only if it is: `to` for more than four in a row."""
    printed = {
        (-1, 4): "layers -1 to 3",
        (0, 4): "layers 0, 1, 2, 3",
        (2, 4): "layers 2, 3",
        (3, 4): "layer 3",
    }
    for (start, stop), said in printed.items():
        assert f": {said}, positions" in repr(readout.at(layer=slice(start, stop)))
    odd = readout.at(position=slice(0, 8, 2))
    assert "positions 0, 2, 4, 6;" in repr(odd)


def test_cells_print_their_extent():
    assert repr(Cells([0, 2], [5, 1])) == "Cells(2: layers 0 to 2, positions 1 to 5)"
    assert repr(Cells([], [])) == "Cells(none)"
