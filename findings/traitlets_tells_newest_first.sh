#!/usr/bin/env bash
# When an observer sets the trait that it observes, the observers after it hear the newest value first and the old last.
#
# Versions: traitlets 5.16.1, Python 3.11.
# One would guess: observers hear changes in the order in which they happen, so the last value heard is the trait's; and
#   an observer that raises does not keep the others from hearing.
# What happens: setting a trait tells all observers at once, within the assignment. If the first one corrects the value
#   (1 to 2), the second hears 2, and then, when the outer round goes on, 1: it ends with a value that is not the
#   trait's. Inside hold_trait_notifications it is the same, since the round begins when the hold ends. If an observer
#   raises, the value stays set, those after it never hear, and setting the same value again is no change and calls no
#   observer.
# Where: traitlets/traitlets.py, HasTraits.notify_change calls each observer in turn, with the bunch of its own change.
# So: read the trait itself in an observer, not change["new"]; correct values in a validator, not in an observer.
. "$(dirname "$0")/lib.sh"
packages traitlets==5.16.1
python <<'END'
import contextlib
import traitlets

print("traitlets", traitlets.__version__)


class Cell(traitlets.HasTraits):
    layer = traitlets.Int(0)


for held in (False, True):
    cell, heard, read = Cell(), [], []

    def correct(change):
        if change["new"] == 1:
            cell.layer = 2

    cell.observe(correct, "layer")
    cell.observe(lambda change: heard.append(change["new"]), "layer")
    cell.observe(lambda change: read.append(cell.layer), "layer")
    with cell.hold_trait_notifications() if held else contextlib.nullcontext():
        cell.layer = 1
    print("in a hold:" if held else "plain:", "layer is", cell.layer, "; the second observer heard", heard,
          ", read", read)
    assert cell.layer == 2 and heard == [2, 1] and read == [2, 2]

cell, heard = Cell(), []


def fail(change):
    raise RuntimeError("in an observer")


cell.observe(fail, "layer")
cell.observe(lambda change: heard.append(change["new"]), "layer")
with contextlib.suppress(RuntimeError):
    cell.layer = 7
after_error = list(heard)
cell.layer = 7
print("first observer raises: layer is", cell.layer, "; the second heard", after_error,
      ", after setting 7 again", heard)
assert cell.layer == 7 and heard == []
END
