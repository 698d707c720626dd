"""What every test shares: checked shapes, the demo model loaded once, and a fixed number of threads."""

import os

from jaxtyping import install_import_hook

# Before the first import of the package: every annotated shape is checked while the tests run.
install_import_hook("lenswidget", "typechecker.check")

import pytest  # noqa: E402  (the hook must come first)
import torch  # noqa: E402

import lenswidget as lw  # noqa: E402
from lenswidget import demo  # noqa: E402

# One thread unless told otherwise: tests run side by side, and sums come out the same on every machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def demo_model():
    """SmolLM2-135M-Instruct as a `LanguageModel`, loaded once for the whole session. Leave it as it is.

    Without its fitted lenses: its widgets open on the logit lens. `demo_with_lenses` has them.
    """
    model = lw.demo_model()
    model.lenses = {}
    return model


@pytest.fixture(scope="session")
def demo_with_lenses(demo_model):
    """The same model as people get it, with the lenses that come with it."""
    model = lw.LanguageModel(demo_model.hf_model, demo_model.tokenizer)
    model.source, model.lenses = demo_model.source, demo.find_lenses(model)
    return model


@pytest.fixture(scope="session")
def demo_hf_model(demo_model):
    """The same model, as transformers sees it."""
    return demo_model.hf_model


@pytest.fixture(scope="session")
def demo_tokenizer(demo_model):
    return demo_model.tokenizer
