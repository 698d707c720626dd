"""The widget as a person meets it in a page: by its roles and names, wherever the host has put it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, expect

# The first widget of a kernel waits for torch, the model and a forward, on a machine with other work.
DRAW_TIMEOUT_MS = 120_000
ANSWER_TIMEOUT_MS = 60_000


@dataclass(frozen=True)
class CardRow:
    """One line of a card, as it is written there."""

    token_id: int
    text: str
    log_prob: float
    percent: str
    logit: float


class Lens:
    """One view of a widget under `scope` (a page, a frame or an element): the first one, unless told."""

    def __init__(self, scope: Any, n_layers: int, *, nth: int = 0):
        self.root: Locator = scope.locator(".lenswidget").nth(nth)
        self.n_layers = n_layers

    @property
    def grid(self) -> Locator:
        return self.root.get_by_role("grid").first

    @property
    def card(self) -> Locator:
        """The card that follows the selection."""
        return self.root.locator("[data-card=main]")

    @property
    def prompt(self) -> Locator:
        return self.root.get_by_role("textbox", name="Prompt")

    def wait_until_drawn(self) -> Lens:
        """Waits until the grid's top left cell in view shows a token."""
        expect(self.grid.get_by_role("gridcell").first).to_have_text(re.compile("."), timeout=DRAW_TIMEOUT_MS)
        return self

    def cell(self, layer: int, position: int) -> Locator:
        """The cell of a layer (-1: the embedding) and position, in a grid whose rows are all layers.

        The grid is virtual: a cell out of view is scrolled to first.
        """
        row = self.n_layers - 1 - layer
        found = self.grid.locator(
            f"[role=row][aria-rowindex='{row + 2}'] > [role=gridcell][aria-colindex='{position + 2}']"
        )
        if found.count() == 0:
            # rows and columns are each of one size, behind headers of about that size
            self.grid.evaluate(
                """(grid, [row, position]) => {
                     const part = (i, name) => i / Number(grid.getAttribute(name));
                     grid.scrollTo(part(position, "aria-colcount") * grid.scrollWidth,
                                   part(row, "aria-rowcount") * grid.scrollHeight);
                   }""",
                [row, position],
            )
        expect(found).to_be_attached()
        return found

    def open_card(self, layer: int, position: int) -> Locator:
        """Clicks a cell and waits for the kernel's card of it."""
        self.cell(layer, position).click()
        return self.wait_for_card(layer, position)

    def wait_for_card(self, layer: int, position: int) -> Locator:
        phrase = "embedding" if layer < 0 else f"layer {layer}"
        expect(self.card).to_have_attribute(
            "aria-label", f"Decoded cell, {phrase}, position {position}", timeout=ANSWER_TIMEOUT_MS
        )
        expect(self.card).to_have_attribute("aria-busy", "false", timeout=ANSWER_TIMEOUT_MS)
        return self.card

    def card_rows(self) -> list[CardRow]:
        """The tokens of the card, as they are written there."""
        rows = self.card.locator("table.lw-tokens tbody tr").evaluate_all(
            """rows => rows.map(row => {
                 const token = row.querySelector("bdi");
                 const [, prob, logit] = row.querySelectorAll("td");
                 return [token.title, token.textContent, prob.title, prob.textContent, logit.textContent];
               })"""
        )
        return [
            CardRow(int(title.rpartition("id ")[2]), text, _number(log_prob), percent, _number(logit))
            for title, text, log_prob, percent, logit in rows
        ]


def _number(text: str) -> float:
    """The number in a text, whose minus may be typographic; NaN for a dash, which says there is none."""
    if text == "–":
        return math.nan
    found = re.search(r"[-−]?\d+(\.\d+)?(e[-+]?\d+)?", text)
    assert found, f"no number in {text!r}"
    return float(found[0].replace("−", "-"))
