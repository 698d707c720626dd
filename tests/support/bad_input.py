"""What people pass by mistake, and what they are told: run as a script, it prints that as JSON.

In a process of its own: the shapes and types that the tests check everywhere would refuse half of it first.
"""

import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import torch  # noqa: E402  (the hub is off from the start)
from tiny import PROMPT, language_model  # noqa: E402

import lenswidget as lw  # noqa: E402
from lenswidget.errors import LensError  # noqa: E402

model = language_model()
hf_model, run = model.hf_model, model.run(PROMPT)
readout = lw.read(run, k=3)
folder = Path(tempfile.mkdtemp())
texts = [PROMPT * 4, PROMPT * 5]
tuned = lw.TunedLens(torch.zeros(4, 32, 32), torch.zeros(4, 32))
tuned.save(folder / "tuned.safetensors")
(folder / "junk.safetensors").write_text("hello")
torch.save({"a": 1}, folder / "other.pt")
for name, config, state in (
    ("no_tensors", {"num_hidden_layers": 1, "d_model": 2}, {"0.weight": 1, "0.bias": 2}),
    ("no_layers", {"num_hidden_layers": 0, "d_model": 2}, {}),
):
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / name / "params.pt")


def fit(*args, kind=lw.JacobianLens, **options):
    return kind.fit(*args, progress=False, **options)


CASES = {
    "lw.read": (
        lw.read,
        [
            [None],
            [model],
            [readout],
            [run, 5],
            [run, "all"],
            [run, (3, 4)],
            [run, [(0, 1, 2)]],
            [run, [("a", 0)]],
        ],
        {
            "metrics": [None, 3, "kl", [[]], ["prob"]],
            "k": [0, None, "5", 2.5, True, torch.tensor([1, 2])],
            "track": [None, 5, " Paris", [" Paris"], [-1], torch.tensor(3), torch.tensor([[3, 4]])],
            "site": [None, 3, []],
            "lens": [3, "tuned", lw.TunedLens, lw.LogitLens, lambda layer, states: None],
            "against": [3, model],
            "progress": [3, "yes"],
            "cancelled": [True],
            "tile_bytes": [None, "1 GB", -1],
            "slice_s": [None, "1"],
        },
    ),
    "lw.Cells": (
        lw.Cells,
        [["a", "b"], [[None], [0]], [[[1], [2, 3]], [0]], [slice(0, 2), [0]], [[10**30], [0]], [[0, 1], [0]]],
        {},
    ),
    "lw.decode": (
        lw.decode,
        [[3, 0, 0], [run, "a", 0], [run, 0, None], [run, [0], [0]], [run, slice(2), 0], [run, 9, 0]],
        {},
    ),
    "readout.at": (
        readout.at,
        [[1.5], ["a"], [object()], [[1, "a"]], [None, slice(-3, None)], [None, -1]],
        {},
    ),
    "readout.grid": (readout.grid, [["prob"], [None], [[]]], {}),
    "readout[...]": (readout.__getitem__, [["ids"], [1.5], [None], [(1, 2)], [[True]], [10**6]], {}),
    "lw.load_lens": (
        lw.load_lens,
        [
            [None],
            [3],
            [model],
            [folder / "gone"],
            [folder],
            [folder / "junk.safetensors"],
            [folder / "other.pt"],
        ],
        {},
    ),
    "TunedLens.load": (
        lw.TunedLens.load,
        [[None], [folder / "no_tensors"], [folder / "no_layers"], [folder / "junk.safetensors"]]
        + [[folder / "tuned.safetensors", given] for given in (3, "gpt2", hf_model, run)],
        {},
    ),
    "JacobianLens.load": (
        lw.JacobianLens.load,
        [[None], [folder / "other.pt"], [folder / "tuned.safetensors"]],
        {},
    ),
    "JacobianLens.merge": (
        lw.JacobianLens.merge,
        [[None], [3], [[]], [[3]], [[tuned]], [tuned], [lw.JacobianLens({0: torch.eye(3)}, 1)]],
        {},
    ),
    "tuned.report": (
        lambda *args, **options: tuned.report(*args, progress=False, **options),
        [[texts], [texts, 3], [texts, hf_model], [model, texts]]
        + [[given, model] for given in (None, [], [None], PROMPT)],
        {},
    ),
    "report": (
        lambda *args: lw.report(*args, progress=False),
        [[tuned, 3, texts], [tuned, hf_model, texts], [3, model, texts]]
        + [[None, model, given] for given in (None, [], [None], PROMPT)],
        {},
    ),
    "JacobianLens.fit": (
        fit,
        [[3, texts], [hf_model, texts]]
        + [[model, given] for given in (None, [], PROMPT, 3, [None], [["a"]], [[1.5] * 30], [[10**6] * 30])],
        {},
    ),
    "JacobianLens.fit(model, texts": (
        lambda **options: fit(model, texts, **options),
        [],
        {
            "layers": [3, ["a"], [1.5], [], [99]],
            "rows": [0, "a"],
            "skip_first": [None],
            "checkpoint": [3, folder / "other.pt"],
            "add_bos": ["yes", 1.5, True],
        },
    ),
    "TunedLens.fit(model, texts": (
        lambda **options: fit(model, texts, kind=lw.TunedLens, **options),
        [],
        {"n_steps": [-1, 1.5], "seed": ["a", None]},
    ),
    "tuned.save": (tuned.save, [[None], [folder / "lens.txt"]], {}),
    "lw.LanguageModel": (
        lw.LanguageModel,
        [
            [None],
            [3],
            [""],
            ["no/such-model"],
            [folder],
            [folder / "gone"],
            [model],
            [type(hf_model)],
            [hf_model.config],
        ]
        + [[hf_model, given] for given in (3, hf_model, "no/such-tokenizer", folder)],
        {},
    ),
    "lw.LanguageModel(hf_model": (
        lambda **options: lw.LanguageModel(hf_model, **options).anatomy,
        [],
        {"blocks": ["gone", 3], "unembed": ["gone"], "final_norm": ["gone"], "dtype": [torch.float16]},
    ),
    "lw.TracedModel": (lw.TracedModel, [[3], [None], [model]], {}),
    "model.layers[...]": (model.layers.__getitem__, [["a"], [1.5], [4], [-1], [slice(-2, None)]], {}),
}
prompts = [
    None,
    3,
    "",
    [],
    [[]],
    [1.5],
    ["a", 3],
    [-1],
    [10**9],
    "word " * 99,
    b"abc",
    {},
    {"input_ids": "a"},
]
prompts += [{"input_ids": [1.5]}, torch.tensor([True]), torch.tensor(3), {1, 2}, True, object()]
for name, function in {
    "model.trace": lambda prompt: model.trace(prompt).__enter__(),
    "model.run": model.run,
    "model.lens": model.lens,
}.items():
    CASES[name] = (function, [[prompt] for prompt in prompts], {})
CASES["model.lens(PROMPT"] = (
    lambda **options: model.lens(PROMPT, **options),
    [],
    {"lens": [3, "tuned"], "lenses": [3, tuned, [3]], "state": [3, ["a"], {1: 2}], "nonsense": [1]},
)
widget = model.lens(PROMPT)
for name in ("to_csv", "save"):
    CASES[f"widget.{name}"] = (getattr(widget, name), [[None], [folder], [folder / "gone" / "x.csv"]], {})
CASES["widget.track"] = (widget.track, [[None], [""], [1.5], [10**6], [[1]]], {})


def told(function, args, options):
    try:
        found = function(*args, **options)
    except LensError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return f"nothing: it gave {found!r:.200}"


def main():
    found = {}
    for name, (function, calls, options) in CASES.items():
        for args in calls:
            found[f"{name}({', '.join(f'{arg!r:.40}' for arg in args)})"] = told(function, args, {})
        for option, values in options.items():
            args = [run] if function is lw.read else []
            for value in values:
                found[f"{name} {option}={value!r:.40}"] = told(function, args, {option: value})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
