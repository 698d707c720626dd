"""The versions of this package and of those that it works with."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lenswidget.errors import LensError

__version__ = "0.1.0"


def version_of(package: str) -> str:
    """The installed version of a package; `unknown` for one that was never installed."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a clone
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def import_pandas() -> Any:
    """pandas, for the tables that a value gives.

    Raises:
        LensError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise LensError("to_dataframe() needs pandas, which is not installed: pip install pandas.") from None
    return pandas


def import_ray() -> Any:
    """Ray, which is optional, and is not imported before it is asked for.

    Raises:
        LensError: it is not installed.
    """
    try:
        ray: Any = import_module("ray")
        import_module("ray.util")
    except ImportError:
        raise LensError(
            "Asked for a model in a Ray cluster, and Ray is not installed here. Install it: "
            "pip install 'lenswidget[ray]'."
        ) from None
    return ray
