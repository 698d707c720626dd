"""The long campaign of faults: what `tests/test_torture.py` runs a share of.

    python scripts/torture.py --share 1.0 --only messages faults

Prints a table (kind, tries, failures) for `docs/reliability.md`, a line as soon as it is known. It runs
without pytest, so that nothing but the package itself is measured.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent.parent / "tests" / "support"
FLAT = 1.02  # what stays after all of it, of what stays after a tenth
Line = tuple[str, int, str]


def main() -> int:
    sys.path.insert(0, str(SUPPORT))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the tries of each kind (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(CAMPAIGNS), default=list(CAMPAIGNS))
    args = parser.parse_args()
    print("| kind | tries | failures | seconds |\n| --- | --- | --- | --- |", flush=True)
    failed = False
    for name in args.only:
        began = time.monotonic()
        for what, tries, failures in CAMPAIGNS[name](args.share, args.seed):
            print(f"| {what} | {tries:,} | {failures or 0} | {time.monotonic() - began:.0f} |", flush=True)
            failed |= bool(failures)
            began = time.monotonic()
    return int(failed)


def scaled(n: int, share: float) -> int:
    return max(10, round(n * share))


def failures_of(found: Any, *good: str) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(found.items()) if what not in good and n)


def messages(share: float, seed: int) -> Iterator[Line]:
    import torture

    n = scaled(20_000, share)
    yield "messages of a page", n, failures_of(torture.messages(n, seed), "ok")
    n = scaled(5_000, share)
    yield "traits that a page sets", n, failures_of(torture.traits(n, seed), "ok")


def faults(share: float, seed: int) -> Iterator[Line]:
    import torture

    n = scaled(1_000, share)
    for kind in torture.FAULTS:
        name = kind.__name__.replace("_", " ")
        yield f"traces: {name}", n, failures_of(torture.faults(kind, n, seed), "ok")


def files(share: float, seed: int) -> Iterator[Line]:
    import damages

    n = scaled(300, share)
    for kind in damages.KINDS:
        yield f"damaged files: {kind}", n, failures_of(damages.outcomes(kind, n, seed), "equal", "refused")


def interrupts(share: float, seed: int) -> Iterator[Line]:
    import torture_kernel

    n = scaled(200, share)
    found = torture_kernel.interrupts(n, seed)
    is_whole = found.pop("the widget as it should be afterwards")
    said = failures_of(found, "ok")
    yield "requests interrupted in a kernel", n, said if is_whole else f"{said} another widget afterwards"


def kept(share: float, seed: int) -> Iterator[Line]:
    import torture

    n = scaled(1_000, share)
    yield "prompts in one widget", n, growth(*torture.prompts(n, seed))
    yield "widgets made and closed", n, growth(*torture.widgets(n, seed))


def reruns(share: float, seed: int) -> Iterator[Line]:
    import torture_kernel

    n = scaled(1_000, share)
    for how in torture_kernel.SHOWN:
        # a container is ipywidgets' own, which keeps it: what is counted there is what is ours
        before, after = torture_kernel.reruns(how, n)
        is_plain = how in ("by itself", "displayed")
        yield f"runs of a cell: {how}", n, growth(before, after) if is_plain else more(before, after, "ours")
    yield "moves of a slider", n, growth(*torture_kernel.moves(n))


def growth(before: dict[str, float], after: dict[str, float]) -> str:
    grown = [name for name in before if after[name] > FLAT * before[name]]
    return ", ".join(f"{name} {before[name]:,} -> {after[name]:,}" for name in grown)


def more(before: dict[str, float], after: dict[str, float], name: str) -> str:
    return f"{name} {before[name]:,} -> {after[name]:,}" if after[name] > before[name] else ""


CAMPAIGNS: dict[str, Callable[[float, int], Iterator[Line]]] = {
    "messages": messages,
    "faults": faults,
    "files": files,
    "interrupts": interrupts,
    "kept": kept,
    "reruns": reruns,
}

if __name__ == "__main__":
    sys.exit(main())
