"""A large grid under scrolls: recycled cells, one layer of labels, a picture of it. No kernel, no model."""

import pytest
from harness.big_grid import mount_big
from harness.pages import frames
from playwright.sync_api import expect

SCROLL_TO = """([left, top]) => {
  const grid = document.querySelector(".lw-grid");
  grid.scrollLeft = left;
  grid.scrollTop = top;
}"""
# What the eye sees beside what is read out: where rows, labels, cells and heads are, and in which order.
PLACES = """() => {
  const all = (name, within = document) => [...within.querySelectorAll(name)];
  const box = (node) => {
    const { left, top } = node.getBoundingClientRect();
    return [left, top].map(Math.round);
  };
  const index = (node) => Number(node.ariaColIndex);
  const rows = all(".lw-body > .lw-row");
  return {
    grid: box(document.querySelector(".lw-grid")),
    rows: rows.map((row) => [Number(row.ariaRowIndex), box(row)[1]]),
    headers: rows.map((row) => row.querySelector("[role=rowheader]").textContent),
    labels: all(".lw-rowlabels > *").map((node) => [node.textContent, ...box(node)]),
    heads: all(".lw-head .lw-colhead").map((node) => [index(node), box(node)[0], node.textContent]),
    cells: rows.map((row) => all("[role=gridcell]", row).map((node) => [index(node), box(node)[0]])),
  };
}"""
# The picture's colour of each cell in view that it holds, and the cell's own.
PICTURE = """() => {
  const canvas = document.querySelector(".lw-overview canvas");
  const pen = canvas.getContext("2d");
  const [n_positions, n_layers] = [4096, 101];
  const places = (n, most) =>
    new Map(Array.from({ length: most }, (_, i) => [Math.floor((i * n) / most), i]));
  const [xs, ys] = [places(n_positions, canvas.width), places(n_layers, canvas.height)];
  const found = [];
  for (const row of document.querySelectorAll(".lw-body > .lw-row"))
    for (const cell of row.querySelectorAll("[role=gridcell]:not(.is-missing)")) {
      const [x, y] = [xs.get(cell.ariaColIndex - 2), ys.get(row.ariaRowIndex - 2)];
      if (x === undefined || y === undefined) continue;
      const [r, g, b] = pen.getImageData(x, y, 1, 1).data;
      found.push([`rgb(${r}, ${g}, ${b})`, getComputedStyle(cell).backgroundColor]);
    }
  return found;
}"""


# Leaps of so many pixels, a frame each; then the colours of the picture that stands for the cells, by row and
# column of the grid, or null where there is none.
LEAPS = """async ([px, n]) => {
  const grid = document.querySelector(".lw-grid");
  const picture = document.querySelector(".lw-flight");
  for (let i = 0; i < n; i++) {
    grid.scrollLeft += px;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
  }
  if (picture.hidden) return null;
  const { width, height } = picture;
  const { data } = picture.getContext("2d").getImageData(0, 0, width, height);
  const at = picture.getBoundingClientRect();
  const body = document.querySelector(".lw-body").getBoundingClientRect();
  const head_px = document.querySelector(".lw-rowlabels").offsetWidth;
  const c0 = Math.round((at.left - body.left - head_px) / (at.width / width));
  const r0 = Math.round((at.top - body.top) / (at.height / height));
  const found = {};
  for (let row = 0; row < height; row++)
    for (let col = 0; col < width; col++) {
      const [r, g, b, a] = data.slice(4 * (row * width + col), 4 * (row * width + col) + 4);
      if (a) found[`${r0 + row} ${c0 + col}`] = `rgb(${r}, ${g}, ${b})`;
    }
  return found;
}"""
COLOURS = """() => Object.fromEntries(
  [...document.querySelectorAll(".lw-body > .lw-row")].flatMap((row) =>
    [...row.querySelectorAll("[role=gridcell]")].map((cell) => [
      `${row.ariaRowIndex - 2} ${cell.ariaColIndex - 2}`, getComputedStyle(cell).backgroundColor])))"""


@pytest.fixture
def big(page):
    page.set_viewport_size({"width": 1200, "height": 900})
    mount_big(page)
    expect(page.locator(".lw-body .is-missing")).to_have_count(0)
    return page


@pytest.mark.parametrize("at", [(0, 0), (1037, 333), (150_000, 900), (10**7, 10**7)])
def test_labels_and_heads_stay_beside_their_rows_and_columns(big, at):
    big.evaluate(SCROLL_TO, list(at))
    frames(big, 3)
    expect(big.locator(".lw-body .is-missing")).to_have_count(0)
    found = big.evaluate(PLACES)
    # in the page's order as in the eye's
    rows = [row for row, _ in found["rows"]]
    assert rows == list(range(rows[0], rows[0] + len(rows)))
    for row, header, (_, top), (text, left, label_top) in zip(
        rows, found["headers"], found["rows"], found["labels"], strict=True
    ):
        assert text == header == ("embed" if row == 102 else str(101 - row))
        assert (left, label_top) == (found["grid"][0] + 1, top)
    columns = [(index, left) for index, left, _ in found["heads"]]
    assert [index for index, _ in columns] == list(range(columns[0][0], columns[0][0] + len(columns)))
    assert all([tuple(cell) for cell in cells] == columns for cells in found["cells"])
    assert all(text == f"token{(index - 2) % 500}" for index, _, text in found["heads"])


def test_a_scroll_keeps_the_elements_and_moves_them_every_other_column(big):
    cells = "[...document.querySelectorAll('.lw-body [role=gridcell]')]"
    big.evaluate(f"() => {cells}.forEach((cell, i) => {{ cell.nth = i; }})")
    firsts = set()
    for left in range(0, 72 * 24, 24):
        big.evaluate(SCROLL_TO, [left, 0])
        frames(big)
        firsts.add(big.evaluate(f"() => {cells}[0].ariaColIndex"))
    assert 11 <= len(firsts) <= 13
    nth = big.evaluate(f"() => {cells}.map((cell) => cell.nth)")
    assert nth == list(range(len(nth)))


def test_the_picture_of_all_positions_has_the_colours_of_the_cells_as_they_arrive(big):
    for at in ([0, 0], [150_000, 900]):
        big.evaluate(SCROLL_TO, at)
        frames(big, 3)
        expect(big.locator(".lw-body .is-missing")).to_have_count(0)
        big.wait_for_timeout(500)
        found = big.evaluate(PICTURE)
        assert len(found) >= 30
        assert all(drawn == own for drawn, own in found)
        assert len({own for _, own in found}) > 10


def test_a_wait_for_the_kernel_moves_nothing(big):
    # this page answers no decode
    place = "() => document.querySelector('.lw-grid').getBoundingClientRect().top"
    before = big.evaluate(place)
    big.locator(".lw-body [role=gridcell]").nth(12).click()
    expect(big.locator(".lw-state")).to_have_text("Waiting for the kernel")
    frames(big)
    assert big.evaluate(place) == before


def test_escape_after_the_list_of_keys_leads_back_to_the_cell(big):
    big.locator(".lw-body [role=gridcell]").nth(12).focus()
    index = big.evaluate("() => document.activeElement.ariaColIndex")
    big.keyboard.press("?")
    expect(big.get_by_role("heading", name="Keys in the grid")).to_be_visible()
    big.keyboard.press("Escape")
    expect(big.get_by_role("heading", name="Keys in the grid")).to_have_count(0)
    assert big.evaluate("() => document.activeElement.role") == "gridcell"
    assert big.evaluate("() => document.activeElement.ariaColIndex") == index


def test_cells_that_fly_past_are_a_picture_of_their_colours_and_come_back_when_the_grid_rests(big):
    for left in range(0, 4000, 500):
        big.evaluate(SCROLL_TO, [left, 0])
        expect(big.locator(".lw-body .is-missing")).to_have_count(0)
    big.wait_for_timeout(400)
    # one leap leads somewhere
    assert big.evaluate(LEAPS, [-640, 1]) is None
    big.wait_for_timeout(400)
    picture = big.evaluate(LEAPS, [-640, 4])
    assert len(picture) > 200
    expect(big.locator(".lw-flight")).to_be_hidden()
    expect(big.locator(".lw-body .is-missing")).to_have_count(0)
    own = big.evaluate(COLOURS)
    assert {at: own[at] for at in picture} == picture
