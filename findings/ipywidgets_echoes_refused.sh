#!/usr/bin/env bash
# A value from the page that the kernel refuses is echoed to all pages, and never corrected.
#
# Versions: ipywidgets 8.1.9, traitlets 5.16.1, comm 0.2.3, Python 3.11 (the comm records what it is given to send).
# One would guess: the page hears that its value was refused, or gets the old one back; other values in the same
#   message are taken.
# What happens: the kernel echoes each message before it applies it. If a validator raises TraitError, all values of the
#   message are rolled back, good ones too, and nothing else is sent: every page shows the refused state, the kernel
#   has the old one. A value that the validator changes (clamps) is sent. With ValueError the refused value is kept and
#   observed (see traitlets_hold_keeps_refused.sh).
#   In hold_sync the order is not that of the calls: messages by send() go at once, the state when the hold ends.
# Where: ipywidgets/widgets/widget.py, Widget.set_state: echo_update first, then hold_trait_notifications.
# So: after a refusal send the state of the named keys again (send_state), and validate each key by itself.
. "$(dirname "$0")/lib.sh"
packages ipywidgets==8.1.9 traitlets==5.16.1 comm==0.2.3
python <<'END'
import json
import comm, ipywidgets, traitlets
from comm.base_comm import BaseComm, CommManager

print("ipywidgets", ipywidgets.__version__, "traitlets", traitlets.__version__, "comm", comm.__version__)
sent = []


class Recorder(BaseComm):
    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        sent.append(json.loads(json.dumps(data or {})))


# The hooks by which a kernel gives its own comms to the comm package.
manager = CommManager()
comm.create_comm, comm.get_comm_manager = Recorder, lambda: manager


class Cell(ipywidgets.Widget):
    layer = traitlets.Int(0).tag(sync=True)
    position = traitlets.Int(0).tag(sync=True)
    error = traitlets.TraitError

    @traitlets.validate("layer")
    def _check(self, proposal):
        if proposal["value"] < 0:
            raise self.error("no such layer")
        return min(proposal["value"], 10)


def from_page(widget, state):
    """What the kernel sends when the page sets `state`."""
    sent.clear()
    widget.comm.handle_msg({"content": {"data": {"method": "update", "state": state, "buffer_paths": []}},
                            "buffers": [], "header": {"msg_id": "1"}, "parent_header": {}})
    return [(message["method"], message["state"]) for message in sent]


for error in (traitlets.TraitError, ValueError):
    widget = Cell()
    widget.error = error
    clamped = from_page(widget, {"layer": 50})
    print(error.__name__, ": page sets layer 50:", clamped)
    assert clamped == [("echo_update", {"layer": 50}), ("update", {"layer": 10})]
    refused = from_page(widget, {"layer": -1, "position": 9})
    print("    page sets layer -1, position 9:", refused, "; kernel has", (widget.layer, widget.position))
    assert refused == [("echo_update", {"layer": -1, "position": 9})]
    assert (widget.layer, widget.position) == ((10, 0) if error is traitlets.TraitError else (-1, 9))

widget = Cell()
sent.clear()
with widget.hold_sync():
    widget.layer = 1
    widget.send({"say": "layer is 1 now"})
    widget.layer = 2
order = [(message["method"], message.get("content", message.get("state"))) for message in sent]
print("hold_sync: layer = 1, send, layer = 2:", order)
assert order == [("custom", {"say": "layer is 1 now"}), ("update", {"layer": 2})]
END
