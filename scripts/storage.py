"""The demo model in every storage that runs on this machine: `python scripts/storage.py` prints a table.

Not collected by pytest: it needs torchao, bitsandbytes and optimum-quanto, which nothing else here does.
"""

import logging
import tempfile
from collections.abc import Callable

import torch
import transformers as hf
from torch import nn

from lenswidget.demo import demo_model
from lenswidget.language_model import LanguageModel

_folder = tempfile.TemporaryDirectory()
FOLDER = _folder.name
PROMPT = torch.tensor([[504, 28, 1, 17, 99, 300]])


def plain(**options) -> nn.Module:
    return hf.AutoModelForCausalLM.from_pretrained(FOLDER, **options)


def torchao(config_name: str) -> nn.Module:
    from torchao import quantization

    model = plain()
    config = getattr(quantization, config_name)()
    quantization.quantize_(model, config, lambda m, path: isinstance(m, nn.Linear) and path != "lm_head")
    return model


def bitsandbytes(**options) -> nn.Module:
    return plain(quantization_config=hf.BitsAndBytesConfig(**options), device_map="cpu")


def quanto() -> nn.Module:
    from optimum.quanto import freeze, qint8, quantize

    model = plain()
    quantize(model, weights=qint8, exclude="lm_head")
    freeze(model)
    return model


STORAGES: dict[str, Callable[[], nn.Module]] = {
    "float32": plain,
    "bfloat16": lambda: plain(dtype=torch.bfloat16),
    "float16": lambda: plain(dtype=torch.float16),
    "torchao int8, weights only": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao int8, dynamic activations": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "bitsandbytes int8": lambda: bitsandbytes(load_in_8bit=True),
    "bitsandbytes nf4": lambda: bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "quanto int8": quanto,
    "torch.compile, eager backend": lambda: torch.compile(plain(), backend="eager"),
}


def main() -> None:
    """Prints, per storage, the tail's distance from the model's own logits and the sites that verify."""
    logging.disable(logging.WARNING)
    demo_model().hf_model.save_pretrained(FOLDER)
    for name, load in STORAGES.items():
        model = LanguageModel(load())
        with torch.no_grad(), model.trace(PROMPT) as tracer:
            states = model.layers[len(model.layers) - 1].resid_post.clone()
            own = tracer.result.logits.float().log_softmax(-1)
            off = float((model.tail(states).log_softmax(-1) - own).abs().max())
        n_sites = {len(sites.offered) for sites in model.anatomy.sites}
        print(f"{name:<34} off by {off:.1e} nats, {n_sites} sites per layer")


if __name__ == "__main__":
    main()
