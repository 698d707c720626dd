"""What is asked of the host that a widget's messages go through."""

from typing import Any


def takes_turns(comm: Any) -> bool:
    """Whether messages leave while an event loop turns, so that long requests may take turns with it.

    Shiny hands messages on when it has handled what the page sent: a reply that a later turn of the loop sent
    would wait until the page sends more. There a request runs through at once.
    """
    return not type(comm).__module__.startswith("shinywidgets.")
