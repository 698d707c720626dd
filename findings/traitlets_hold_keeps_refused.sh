#!/usr/bin/env bash
# A value that a validator refuses stays, if it refuses inside hold_trait_notifications with anything but TraitError.
#
# Versions: traitlets 5.16.1, Python 3.11.
# One would guess: a @validate method that raises keeps the old value, whatever it raises and wherever the trait is set.
# What happens: outside of a hold that is so. Inside `with hold_trait_notifications()` values are set first and
#   validated at the end. A TraitError then rolls all of them back, and no observer hears of it. A ValueError (or an
#   exception of one's own) comes through, but the refused values stay, and observers are told of them as of good ones,
#   before the caller sees the error. A good value that was set in the same hold shares the fate: rolled back with
#   TraitError, kept with ValueError. ipywidgets applies each message from the page inside such a hold.
# Where: traitlets/traitlets.py, HasTraits.hold_trait_notifications: `except TraitError` rolls back, `finally` notifies.
# So: a validator's error has to be a TraitError (a subclass will do).
. "$(dirname "$0")/lib.sh"
packages traitlets==5.16.1
python <<'END'
import traitlets

print("traitlets", traitlets.__version__)


class OwnTraitError(traitlets.TraitError, ValueError):
    pass


class Cell(traitlets.HasTraits):
    layer = traitlets.Int(0)
    position = traitlets.Int(0)
    error = None

    @traitlets.validate("layer")
    def _check(self, proposal):
        if proposal["value"] < 0:
            raise self.error("no such layer")
        return proposal["value"]


def attempt(change):
    try:
        change()
        return None
    except Exception as error:
        return type(error).__name__


for error in (traitlets.TraitError, OwnTraitError, ValueError):
    cell, told = Cell(layer=1, position=1), []
    cell.error = error
    cell.observe(lambda change: told.append((change["name"], change["new"])))
    plain = attempt(lambda: setattr(cell, "layer", -2))
    assert plain == error.__name__ and cell.layer == 1 and not told

    def held():
        with cell.hold_trait_notifications():
            cell.position = 5
            cell.layer = -3

    raised = attempt(held)
    print(f"{error.__name__:14} alone: refused, layer 1; held: {raised}, layer {cell.layer}, position {cell.position},",
          "observers told", told)
    assert raised == error.__name__
    if issubclass(error, traitlets.TraitError):
        assert (cell.layer, cell.position) == (1, 1) and not told
    else:
        assert (cell.layer, cell.position) == (-3, 5) and sorted(told) == [("layer", -3), ("position", 5)]
END
