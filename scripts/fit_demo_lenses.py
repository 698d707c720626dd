"""Fits the lenses that the demo model comes with, and says how well they read it.

    python scripts/fit_demo_lenses.py jacobian     # hours; goes on from the checkpoint that it keeps
    python scripts/fit_demo_lenses.py tuned        # minutes
    python scripts/fit_demo_lenses.py report       # of what is shipped, on texts that neither was fitted on

The texts are those of `demo_texts.py`: the Jacobian lens takes the first ones, the tuned lens all but the
last 24, and the report those 24. The lenses are written to `demo-lenses/`, as int8; the report compares with
float32 where `--full` names a folder in which `jacobian` and `tuned` have left theirs.
"""

import argparse
from pathlib import Path

import torch
from demo_texts import demo_texts

import lenswidget as lw
from lenswidget.lenses.report import report

PACKAGE = Path(__file__).parent.parent / "demo-lenses" / "lenswidget_demo_lenses"
N_TOKENS, N_HELD_OUT = 128, 24
LAYERS = range(-1, 29)  # the embedding row too, so that the whole grid says something


def fit_jacobian(model, texts, options):
    """Resumable: the checkpoint is the lens over the texts so far."""
    checkpoint = options.full / "jacobian-sums.pt"
    if not options.as_it_is:
        lw.JacobianLens.fit(model, texts[: options.texts], layers=LAYERS, rows=16, checkpoint=checkpoint)
    ship(lw.load_lens(checkpoint, model), options.full, "jacobian")


def fit_tuned(model, texts, options):
    ship(lw.TunedLens.fit(model, texts[:-N_HELD_OUT], n_steps=options.steps), options.full, "tuned")


def ship(lens, full, name):
    full.mkdir(parents=True, exist_ok=True)
    lens.save(full / f"{name}.safetensors")
    lens.save(PACKAGE / f"{name}.safetensors", dtype=torch.int8)
    print(lens, (PACKAGE / f"{name}.safetensors").stat().st_size, "bytes")


def tell(model, texts, options):
    """A table by layer, Markdown: KL from the last layer (nats) and share of equal top tokens."""
    lenses = {"logit": None}
    for name in ("jacobian", "tuned"):
        lenses[f"{name}"] = lw.load_lens(PACKAGE / f"{name}.safetensors", model)
        if (options.full / f"{name}.safetensors").exists():
            lenses[f"{name}, float32"] = lw.load_lens(options.full / f"{name}.safetensors", model)
    rows = {name: report(lens, model, texts[-N_HELD_OUT:], skip_first=16) for name, lens in lenses.items()}
    print("| layer | " + " | ".join(rows) + " |")
    print("| --- |" + " --- |" * len(rows))
    for layer in (-1, 0, 4, 9, 14, 19, 24, 27, 28):
        cells = []
        for found in rows.values():
            at = found.layers.index(layer)
            cells.append(f"{found.kl_nats[at]:.2f} / {found.top1_agreement[at]:.1%}")
        print(f"| {layer} | " + " | ".join(cells) + " |")
    means = [sum(found.kl_nats[:-1]) / len(found.kl_nats[:-1]) for found in rows.values()]
    print("| mean KL | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["jacobian", "tuned", "report"])
    parser.add_argument("--texts", type=int, default=60, help="of the Jacobian lens")
    parser.add_argument("--steps", type=int, default=60, help="of Adam, of the tuned lens")
    parser.add_argument(
        "--full", type=Path, default=Path("build/demo-lenses"), help="float32 lenses and checkpoint"
    )
    parser.add_argument(
        "--as-it-is", action="store_true", help="ship the checkpoint, however far it has come"
    )
    given = parser.parse_args()
    demo = lw.demo_model()
    what = {"jacobian": fit_jacobian, "tuned": fit_tuned, "report": tell}[given.what]
    what(demo, demo_texts(demo.tokenizer, N_TOKENS), given)
