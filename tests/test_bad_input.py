"""What people pass by mistake gets one sentence or two, never a traceback, and never a number."""

import json
import subprocess
import sys
from pathlib import Path


def test_every_bad_argument_is_refused_in_words_that_say_what_to_do():
    script = Path(__file__).parent / "support" / "bad_input.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 150
    assert not {case: told for case, told in found.items() if not is_a_refusal(told)}


def is_a_refusal(told):
    is_told = not told.startswith(("Traceback", "nothing:"))
    return is_told and told.endswith((".", ".)")) and "\n" not in told and len(told) < 500
