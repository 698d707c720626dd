"""Fitting a Jacobian lens, against TransformerLens 4.3.0 on the same texts in one process.

    pip install transformer-lens==4.3.0       # beside torch and lenswidget, in an environment of its own
    OMP_NUM_THREADS=2 python benchmarks/jacobian.py [--tokens 32 64 128] [--folder FOLDER]
    OMP_NUM_THREADS=2 python benchmarks/jacobian.py --ways     # packed gradients beside torch's own

Both fits run on copies of one model, text by text in turns, so that a busy machine is busy for both.
"""

import argparse
import os
import statistics
import time
import warnings
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lenswidget.language_model import LanguageModel
from lenswidget.lenses import jacobian_fit
from lenswidget.lenses.jacobian import JacobianLens

N_PASSES = 4  # of each way, twice
TEXT = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is "
    "named after the engineer Gustave Eiffel, whose company designed and built the tower from 1887 to"
    " 1889. Locally nicknamed the iron lady, it was constructed as the centrepiece of the 1889 "
    "World's Fair, and although criticised at first by some of the leading artists of the country for"
    " its design, it has since become an icon of the whole country and one of the most recognisable "
    "structures in the world. It is the most visited monument with an entrance fee, and almost seven "
    "million people go up every year."
)


def timed(function):
    """Result, seconds on the wall, seconds of processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def theirs(folder, ids):
    """TransformerLens's fit as a function of nothing, on a copy of the model and the very same ids."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens as Theirs

    copy = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=copy, tokenizer=tokenizer, device="cpu"
    )
    bridge.to_tokens = lambda one: one[None]
    return lambda: Theirs.fit(bridge, [ids], corpus="benchmark", show_progress=False).jacobians


def compare(folder, n_tokens, repeats):
    model = LanguageModel(str(folder))
    ids = model.tokenize(TEXT)["input_ids"][0, :n_tokens].cpu()
    model.anatomy  # noqa: B018 - watched once per model, not per fit
    their_fit = theirs(folder, ids)
    ours, other = [], []
    for _ in range(repeats):
        matrices, *spent = timed(lambda: JacobianLens.fit(model, [ids], progress=False).matrices)
        ours.append(spent)
        expected, *spent = timed(their_fit)
        other.append(spent)
    error = max(
        float((matrices[layer] - expected[layer]).norm() / expected[layer].norm()) for layer in expected
    )
    (our_wall, our_cpu), (wall, cpu) = (
        [min(column) for column in zip(*rows, strict=True)] for rows in (ours, other)
    )
    print(
        f"{len(ids):6d} {our_wall:9.1f} {wall:9.1f} {our_wall / wall:7.2f} {our_cpu:9.1f} {cpu:9.1f} "
        f"{our_cpu / cpu:7.2f} {error:10.1e}",
        flush=True,
    )


class _Enough(Exception):
    """Some passes of a fit were timed."""


def passes(model, ids, packed_gradients):
    """Seconds of some passes of 16 rows, their gradients going one of the two ways."""
    ends = []

    def note(*_):
        ends.append(time.perf_counter())
        if len(ends) > N_PASSES:
            raise _Enough

    jacobian_fit.packed_gradients = packed_gradients
    with suppress(_Enough):
        JacobianLens.fit(model, [ids], rows=16, progress=note)
    return [end - start for start, end in pairwise(ends)]


def compare_ways(folder, n_tokens):
    model = LanguageModel(str(folder))
    ids = model.tokenize(TEXT)["input_ids"][0, :n_tokens].cpu()
    ways = {"packed": jacobian_fit.packed_gradients, "plain": lambda _: nullcontext()}
    took = {name: [] for name in ways}
    for _ in range(2):
        for name, way in ways.items():
            took[name] += passes(model, ids, way)
    jacobian_fit.packed_gradients = ways["packed"]
    packed, plain = (statistics.median(each) for each in took.values())
    print(
        f"{len(ids)} tokens, a pass: {packed:.2f} s packed, {plain:.2f} plain, {packed / plain:.2f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of a model; the demo model unless given")
    parser.add_argument("--ways", action="store_true", help="both ways of the gradients, no peer")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.folder is None:
        from lenswidget.demo import demo_folder

        asked.folder = demo_folder()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if asked.ways:
        for n_tokens in asked.tokens:
            compare_ways(asked.folder, n_tokens)
        return
    try:
        import transformer_lens  # noqa: F401
    except ImportError:
        print("transformer-lens 4.3.0 is not installed here; see the top of this file")
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; one text, all layers; seconds")
    print("                wall                     processor")
    print("tokens      ours    theirs   ratio      ours    theirs   ratio  difference")
    for n_tokens in asked.tokens:
        compare(asked.folder, n_tokens, asked.repeats)


if __name__ == "__main__":
    main()
