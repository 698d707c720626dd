"""Models in other processes: what crosses to them, and what stands for them here."""

from lenswidget.engines.connect import connect, connect_workers
from lenswidget.engines.remote_model import RemoteModel

__all__ = ["RemoteModel", "connect", "connect_workers"]
