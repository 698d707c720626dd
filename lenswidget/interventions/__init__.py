"""Declared changes of a run: what they are, where they act, and the forward that carries them."""

from lenswidget.interventions.recipe import Edit, RunSpec

__all__ = ["Edit", "RunSpec"]
