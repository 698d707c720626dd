"""The product of states with a weight on a CPU, two ways; which is the faster here is measured, once.

oneDNN can keep a weight in an order of its own. What that earns depends on the processor and on the number of
threads: both ways are timed side by side when one is first needed. The two differ in the last digits, so
what was found is kept on the machine, for all processes to come: a notebook that is run again shows the same
digits, and so does an actor beside it.
"""

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenswidget.files import cache_folder, write_first
from lenswidget.tolerances import PACKED_PRODUCT, within

# A product of the shape of a tile's, small enough that all rounds take some tenths of a second at most.
PROBE_ROWS, PROBE_WIDTH, PROBE_VOCABULARY, PROBE_ROUNDS = 64, 768, 8192, 7

# A packed weight is a second copy: beyond this many bytes, of all in one use, it is not worth its memory.
PACK_BYTES = 1 << 30


@dataclass(frozen=True)
class Timing:
    """What the two ways took for one product, on this machine and with so many threads.

    Attributes:
        n_threads: torch's, while it was measured.
        packed_ms: least of some rounds with the weight in oneDNN's order; None where that cannot be had.
        plain_ms: least of some rounds of `torch.mm`.
    """

    n_threads: int
    packed_ms: float | None
    plain_ms: float

    @property
    def is_packed(self) -> bool:
        """Whether the packed weight is used."""
        return self.packed_ms is not None and self.packed_ms < self.plain_ms

    def __str__(self) -> str:
        packed = "cannot be had" if self.packed_ms is None else f"{self.packed_ms:.2f} ms"
        way = "packed weight" if self.is_packed else "plain"
        return f"{way} ({packed} packed, {self.plain_ms:.2f} ms plain, {self.n_threads} threads)"


# What reading a file raises that is damaged, or that may not be read.
_NOT_READ = (OSError, ValueError, TypeError, LookupError)
_timings: dict[int, Timing] = {}


def timing() -> Timing:
    """The two ways side by side: measured at the first call on this machine for torch's number of threads."""
    n_threads = torch.get_num_threads()
    if n_threads not in _timings:
        _timings[n_threads] = _kept_or_measured(n_threads)
    return _timings[n_threads]


def timing_file() -> Path:
    """Where the measurement for torch's number of threads is kept; without that file it is made anew."""
    return cache_folder() / "product" / f"{hashlib.sha256(_machine().encode()).hexdigest()[:16]}.json"


def pack(weight: Tensor) -> Tensor | None:
    """A float32 weight `[d_out, d_in]` (the unembed's: `[d_vocab, d_unembed]`) in oneDNN's order, or None.

    It is reached through private operators of torch, so what they give is compared with the plain product.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 128)
        probe = torch.linspace(-1, 1, weight.shape[1], device="cpu").expand(2, -1).contiguous()
        plain = probe @ weight.T
        is_same = within(packed_product(probe, packed), plain, PACKED_PRODUCT, plain.abs())
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return None
    return packed if is_same else None


def packed_product(states: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """States `[n, d_in]` with a packed weight, float32 `[n, d_out]`."""
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")


@contextlib.contextmanager
def full_float32(device: torch.device) -> Generator[None, None, None]:
    """No autocast, TF32 or bfloat16 products inside, whatever was set outside: 10 bits would change ids."""
    backends: dict[str, Any] = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}
    # oneDNN has had one since torch 2.9
    matmul = getattr(backends.get(device.type), "matmul", None)
    with torch.autocast(device.type, enabled=False):
        if matmul is None:
            yield
            return
        # torch 2.9 renamed it, and refuses the old name once the new one was used
        name, full = (
            ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        )
        was = getattr(matmul, name)
        setattr(matmul, name, full)
        try:
            yield
        finally:
            setattr(matmul, name, was)


def _machine() -> str:
    """What a measurement holds for; a home folder may be that of several machines."""
    processor = platform.processor()
    with contextlib.suppress(OSError, StopIteration, IndexError):  # a file of Linux, where the other is empty
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{processor}, {vectors}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _kept_or_measured(n_threads: int) -> Timing:
    path = timing_file()
    try:
        return _read(path.read_text(encoding="utf-8"), n_threads)
    except FileNotFoundError:
        pass
    except _NOT_READ:
        with contextlib.suppress(OSError):
            path.unlink()
    with full_float32(torch.device("cpu")):
        found = _measured(n_threads)
    if found.packed_ms is None:  # there is no choice to keep, and another process may have one
        return found
    text = json.dumps({"machine": _machine(), **asdict(found)}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _read(write_first(path, text), n_threads)
    except _NOT_READ:  # nothing can be kept there: it holds for this process
        return found


def _read(text: str, n_threads: int) -> Timing:
    """A kept measurement; one of those errors where it is none."""
    kept = json.loads(text)
    packed_ms = None if kept["packed_ms"] is None else float(kept["packed_ms"])
    if kept["n_threads"] != n_threads:
        raise ValueError(f"Of {kept['n_threads']} threads.")
    return Timing(n_threads, packed_ms, float(kept["plain_ms"]))


def _measured(n_threads: int) -> Timing:
    source = torch.Generator(device="cpu").manual_seed(0)
    weight = torch.rand(PROBE_VOCABULARY, PROBE_WIDTH, generator=source, device="cpu") - 0.5
    states = torch.rand(PROBE_ROWS, PROBE_WIDTH, generator=source, device="cpu") - 0.5
    out = torch.empty(PROBE_ROWS, PROBE_VOCABULARY, device="cpu")
    packed, packed_s, plain_s = pack(weight), torch.inf, torch.inf
    for _ in range(PROBE_ROUNDS):
        started = time.perf_counter()
        torch.mm(states, weight.T, out=out)
        plain_s = min(plain_s, time.perf_counter() - started)
        if packed is not None:
            started = time.perf_counter()
            packed_product(states, packed)
            packed_s = min(packed_s, time.perf_counter() - started)
    return Timing(n_threads, None if packed is None else 1000 * packed_s, 1000 * plain_s)
