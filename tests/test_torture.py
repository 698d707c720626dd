"""A quick seeded share of the campaigns that `make torture` runs; `docs/reliability.md` has the figures."""

import pytest
import torture
import torture_kernel


@pytest.mark.parametrize("kind", torture.FAULTS, ids=lambda kind: kind.__name__)
def test_a_trace_that_fails_leaves_nothing(kind):
    assert torture.faults(kind, 15) == {"ok": 15}


def test_each_message_gets_one_reply_and_changes_nothing_that_it_should_not():
    assert torture.messages(300) == {"ok": 300}


def test_what_a_page_sets_is_taken_or_refused():
    assert torture.traits(300) == {"ok": 300}


@pytest.mark.parametrize("campaign", [torture.prompts, torture.widgets], ids=lambda each: each.__name__)
def test_what_stays_is_flat(campaign):
    before, after = campaign(20)
    assert (after["widgets"], after["comms"]) == (before["widgets"], before["comms"])
    assert after["objects"] <= before["objects"] * 1.005


def test_a_request_that_is_interrupted_in_a_kernel_gets_one_reply():
    found = torture_kernel.interrupts(10)
    assert found == {"ok": 10, "the widget as it should be afterwards": 1, "lock or hooks left": 0}
