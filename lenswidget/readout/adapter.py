"""A model without its adapter, and back, with no second copy."""

import contextlib
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from torch import nn

from lenswidget.errors import ModelError
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import Run


class AdapterOffEngine(LocalEngine):
    """The engine of a model in this process that runs it without its adapter, and decodes with it.

    What the unembed and the final norm say must be the same with the adapter and without.
    """

    def run(self, *args: Any, **kwargs: Any) -> Run:
        """One forward without the adapter; sites that are captured later are captured without it too."""
        model = self.model
        with model.lock, adapter_off(model.hf_model):
            run = super().run(*args, **kwargs)
        capture = run._capture  # pyright: ignore[reportPrivateUsage]

        def without(site: str) -> Any:
            with model.lock, adapter_off(model.hf_model):
                return capture(site)

        # what runs the model again would run it with the adapter
        return replace(run, _capture=without, _model=None)


@contextlib.contextmanager
def adapter_off(hf_model: nn.Module) -> Generator[None, None, None]:
    """The model without its adapter; which of its weights are trained is put back afterwards.

    Raises:
        ModelError: it has no adapter, or one that is merged or off.
    """
    # what peft's layers have in common, of whatever method and however they came into the model
    layers: list[Any] = [
        module
        for module in hf_model.modules()
        if callable(getattr(module, "enable_adapters", None))
        and hasattr(module, "active_adapters")
        and hasattr(module, "merged")
    ]
    off = getattr(hf_model, "disable_adapter", None)
    _check(hf_model, layers, has_switch=callable(off))
    trained = {parameter: parameter.requires_grad for parameter in hf_model.parameters()}
    try:
        if callable(off):
            with off():  # pyright: ignore[reportGeneralTypeIssues]
                yield
        else:
            for layer in layers:
                layer.enable_adapters(False)
            try:
                yield
            finally:
                for layer in layers:
                    layer.enable_adapters(True)
    finally:
        for parameter, is_trained in trained.items():
            parameter.requires_grad_(is_trained)


def _check(hf_model: nn.Module, layers: list[Any], *, has_switch: bool) -> None:
    if not layers and not has_switch:
        raise ModelError(
            f"Asked to compare {type(hf_model).__name__} with its adapter on and off, and it has none. Pass "
            "two prompts, or another model."
        )
    if any(layer.merged for layer in layers):
        raise ModelError(
            "Asked to compare a model with its adapter on and off, and it is merged into the weights. "
            "Unmerge it first: hf_model.unmerge_adapter()."
        )
    if any(getattr(layer, "disable_adapters", False) is True for layer in layers):
        raise ModelError(
            "Asked to compare a model with its adapter on and off, and it is off. Switch it on first: "
            "hf_model.enable_adapter_layers()."
        )
