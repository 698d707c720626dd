"""Tiny models of unlike make, by what sets their blocks apart."""

import transformers as hf
from tiny_models import tiny_config, tiny_model

import lenswidget as lw

MAKES = {
    "sequential": (hf.LlamaConfig, {}),
    "post-norms inside": (hf.Gemma2Config, {}),
    "residual multiplier": (hf.GraniteConfig, {"residual_multiplier": 0.3}),
    "tuple outputs": (hf.BloomConfig, {}),
    "parallel": (hf.GPTJConfig, {}),
    "parallel, summed in place": (hf.FalconConfig, {}),
    "state space": (hf.MambaConfig, {}),
    "experts": (hf.MixtralConfig, {}),
    "learnt positions": (hf.GPT2Config, {}),
}


def made(name):
    """A `LanguageModel` of one make, without a tokenizer."""
    config_class, changes = MAKES[name]
    config = tiny_config(config_class)
    for field, value in changes.items():
        setattr(config, field, value)
    return lw.LanguageModel(tiny_model(config))
