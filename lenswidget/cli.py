"""The terminal command: a prompt and a model in, one HTML file out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lenswidget.demo import demo_model
from lenswidget.errors import LensError, PromptError
from lenswidget.host_check import doctor
from lenswidget.language_model import LanguageModel
from lenswidget.versions import __version__
from lenswidget.widget.widget import LensWidget

EPILOG = """\
examples:
  lenswidget "The Eiffel Tower is in the city of"
      the small demo model, into lens.html
  lenswidget "The Eiffel Tower is in the city of" --model openai-community/gpt2 -o eiffel.html
      a model of the Hugging Face hub, or a folder that holds one
  lenswidget "..." -o grid.csv
      a row per cell and top token, for a spreadsheet or pandas
  lenswidget - --model ./my-model --force < prompt.txt
      the prompt from a file, UTF-8; an output file that exists is written over
  lenswidget doctor
      runs nothing: what is installed, and whether notebooks will find the widget's scripts

The HTML file needs no kernel, no network and no other file: open it, or send it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for what went wrong or is missing, 2 for bad usage."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # that word alone; as a prompt it comes with an option, or on standard input
    if given == ["doctor"]:
        report, is_sound = doctor()
        print(report)
        return 0 if is_sound else 1
    parser = _parser()
    args = parser.parse_args(arguments)
    target = Path(os.path.expanduser(args.output))  # Path's own fails on an unknown user
    if target.suffix.lower() not in (".html", ".htm", ".csv"):
        parser.error(f"-o {args.output}: the name must end in .html or .csv")
    if not target.parent.is_dir():
        parser.error(f"-o {args.output}: the folder {target.parent} does not exist")
    if target.exists() and not args.force:
        parser.error(f"-o {args.output}: that file exists; name another, or write over it with --force")
    try:
        prompt = _from_input() if args.prompt == "-" else args.prompt
        _write(prompt, args.model, target, k=args.k, device=args.device)
    except (LensError, OSError) as error:
        print(f"lenswidget: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlenswidget: stopped; nothing was written.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lenswidget",
        description="Show what a language model would say at every layer and token of a prompt.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", help="the text to run; - reads it from standard input")
    parser.add_argument(
        "-m", "--model", metavar="NAME", help="a hub name or a folder (default: the demo model, SmolLM2-135M)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="lens.html", help=".html or .csv (default: lens.html)"
    )
    parser.add_argument(
        "-k",
        type=_top_k,
        default=10,
        metavar="N",
        help="top tokens kept for each cell, 1 to 100 (default: 10)",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="where to run, cuda or cpu (default: where it loads)"
    )
    parser.add_argument("-f", "--force", action="store_true", help="write over a file that exists")
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _from_input() -> str:
    """The prompt on standard input, UTF-8 whatever the terminal's own encoding is.

    Raises:
        PromptError: the bytes are no UTF-8.
    """
    try:
        # a stream of text alone has no bytes beneath it
        buffer = getattr(sys.stdin, "buffer", None)
        text = sys.stdin.read() if buffer is None else buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(
            f"The bytes on standard input are no UTF-8 text: byte {error.start} is "
            f"0x{error.object[error.start]:02x}. Convert the text, with iconv -t UTF-8, say."
        ) from None
    return text.replace("\r\n", "\n").rstrip("\n")


def _top_k(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return int(text)


def _version() -> str:
    return f"lenswidget {__version__}"


def _write(prompt: str, name: str | None, target: Path, *, k: int, device: str | None) -> None:
    _say(f"Loading {name or 'the demo model'} ...")
    if device:
        _check_device(device)
    model = LanguageModel(name) if name else demo_model()
    if device:
        model.hf_model.to(device)
    _say("Running the prompt ...")
    widget = LensWidget(model, prompt)
    if target.suffix.lower() == ".csv":
        widget.to_csv(target, k=k)
    else:
        widget.save(target, k=k, progress=_bar)
    _say(f"Wrote {target} ({target.stat().st_size / 1000:,.0f} kB).")


def _check_device(device: str) -> None:
    """Refuses a device that this machine does not have, before a model is loaded for it."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has a kind for each reason
        reason = str(error).splitlines()[0].rstrip(".")
        raise LensError(f"--device {device}: {reason}. Name another, or leave it out.") from None


def _bar(done: int, total: int) -> None:
    # On a terminal one line is drawn over and over; a log file gets the last one alone.
    is_last = done >= total
    if sys.stderr.isatty():
        filled = 30 * done // max(total, 1)
        end = "\n" if is_last else ""
        print(
            f"\rReading cells [{'#' * filled:<30}] {done:,}/{total:,}", end=end, file=sys.stderr, flush=True
        )
    elif is_last:
        _say(f"Read {total:,} cells.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
