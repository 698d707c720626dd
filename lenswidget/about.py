"""What this process computes with: versions, threads, and the ways that were measured to be the fastest."""

import platform

import torch

from lenswidget.models.product import PROBE_ROWS, PROBE_VOCABULARY, PROBE_WIDTH, timing, timing_file
from lenswidget.versions import version_of

PACKAGES = ("lenswidget", "torch", "transformers", "ipywidgets", "anywidget")
PROBE = f"{PROBE_ROWS} x {PROBE_WIDTH} x {PROBE_VOCABULARY:,}"


def about() -> str:
    """Versions, vector instructions, threads, devices, and how the unembed's product is computed here.

    Two ways of that product are timed side by side, once per machine and number of threads, which takes some
    tenths of a second; that is what a readout on the CPU goes by. It is kept in the file that is named,
    so that a later process gives the same last digits; without the file it is measured again.

    Returns:
        A line for each. `check_host` tells what a notebook's host will find.
    """
    versions = ", ".join(f"{package} {version_of(package)}" for package in PACKAGES)
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return "\n".join(
        [
            f"{versions}, Python {platform.python_version()}",
            f"CPU: {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads of torch's",
            f"CUDA: {', '.join(devices) or 'no device'}",
            f"product with the unembed, {PROBE} on the CPU: {timing()}, kept in {timing_file()}",
        ]
    )
