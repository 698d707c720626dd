"""A run in one line, for terminals, logs and captions."""

import math
from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 60


def quoted_prompt(run: Mapping[str, Any]) -> str:
    """The prompt of a run between quotes, on one line; of a long one its end, which the answer follows."""
    text = " ".join(str(run.get("prompt", "")).split())
    return f"“{text if len(text) <= MOST_CHARACTERS else '…' + text[1 - MOST_CHARACTERS :]}”"


def one_line(run: Mapping[str, Any]) -> str:
    """Model, prompt and answer: the next token, or what a masked model says at a position.

    Args:
        run: the widget's trait of that name; empty before the first run.
    """
    if not run:
        return "no run yet"
    answer = run["next"]
    label = run["labels"][str(answer["id"])][0]
    log_prob = answer["log_prob"]
    # numbers that JSON does not have come as text
    p = math.exp(log_prob) if isinstance(log_prob, (int, float)) else math.nan
    says = f"at position {answer['position']} says" if run.get("predicts") == "same" else "predicts"
    return f"{run['model']}, {quoted_prompt(run)} {says} “{label}” {p:.1%}"
