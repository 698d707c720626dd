"""Fits the lenses that the demo model comes with, and says how well they read it.

    python scripts/fit_demo_lenses.py jacobian     # hours; goes on from the checkpoint that it keeps
    python scripts/fit_demo_lenses.py tuned        # minutes
    python scripts/fit_demo_lenses.py report       # of what is shipped, on texts that neither was fitted on

Whenever a lens is shipped anew, `report` must follow (some minutes of one processor): it writes
`demo-lenses/lenswidget_demo_lenses/reports.json`, from which the widget draws its quality lines, and prints
the tables of `docs/lenses.md`. That file names the content of the lenses that it is of: only one that has
changed is measured again, and a test fails until that is done.

The texts are those of `demo_texts.py`: the Jacobian lens takes the first ones, the tuned lens all but the
last 24, and the report those 24. The lenses are written to `demo-lenses/`, as int8; the report compares with
float32 where `--full` names a folder in which `jacobian` and `tuned` have left theirs.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from demo_texts import demo_texts

import lenswidget as lw
from lenswidget.demo import LENSES as SHIPPED
from lenswidget.demo import REPORTS
from lenswidget.lenses.lens_file import content_digest
from lenswidget.lenses.lens_report import LensReport
from lenswidget.lenses.provenance import ids_digest

PACKAGE = Path(__file__).parent.parent / "demo-lenses" / "lenswidget_demo_lenses"
N_TOKENS, N_HELD_OUT, SKIP_FIRST = 128, 24, 16
PROMPT = "The Eiffel Tower is in the city of"
# what stands on top there in some layer of some lens and is a city
CITIES = {
    "Paris",
    "Istanbul",
    "Kyoto",
    "Venice",
    "Tokyo",
    "Vienna",
    "London",
    "Dubai",
    "Rome",
    "Calcutta",
    "Moscow",
}
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
    """Measure what is shipped, keep that beside it, and print the tables, Markdown."""
    lenses = {"logit": None}
    for name in SHIPPED:
        lenses[name] = lw.load_lens(PACKAGE / f"{name}.safetensors", model)
        if (options.full / f"{name}.safetensors").exists():
            lenses[f"{name}, float32"] = lw.load_lens(options.full / f"{name}.safetensors", model)
    held_out = [torch.tensor(ids) for ids in texts[-N_HELD_OUT:]]
    kept, found = kept_reports(ids_digest(held_out)), {}
    for name, lens in lenses.items():
        of = content_digest(PACKAGE / f"{name}.safetensors") if name in SHIPPED else ""
        earlier = kept.get(name)
        if earlier is not None and earlier["of"] == of:
            found[name] = LensReport.from_mapping(earlier["report"])
            continue
        found[name] = lw.report(lens, model, held_out, skip_first=SKIP_FIRST)
        if name in ("logit", *SHIPPED):
            kept[name] = {"of": of, "report": asdict(found[name])}
            (PACKAGE / REPORTS).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    table(found)
    print()
    first_layers(model, {name: lenses[name] for name in ("logit", *SHIPPED)})


def kept_reports(texts):
    """Those that are kept, of the same texts."""
    try:
        kept = json.loads((PACKAGE / REPORTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: each for name, each in kept.items() if each["report"]["texts"] == texts}


def table(found):
    """KL from the last layer (nats) and share of equal top tokens, by layer; a trusted KL is in bold."""
    print("| layer | " + " | ".join(found) + " |")
    print("| --- |" + " --- |" * len(found))
    for layer in (-1, 0, 4, 9, 14, 19, 24, 27, 28):
        cells = []
        for each in found.values():
            at = each.layers.index(layer)
            mark = "" if layer in each.untrusted else "**"
            cells.append(
                f"{mark}{each.kl_nats[at]:.2f}{mark}, {each.top1_agreement[at]:.1%}".replace("%", " %")
            )
        print(f"| {layer} | " + " | ".join(cells) + " |")
    means = [sum(each.kl_nats[:-1]) / len(each.kl_nats[:-1]) for each in found.values()]
    print("| mean | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    logit = found["logit"]
    print(f"\nA fixed list of token probabilities: {logit.fixed_kl_nats:.2f} nats.")
    for name, each in found.items():
        print(f"{name}: rows that say less than it: {list(each.untrusted)}")


def first_layers(model, lenses):
    """For the README's prompt: the first layer where a city stands on top at the last token, by lens."""
    run = model.run(PROMPT)
    print("| lens | first layer with a city on top | that city | for good from | *Paris* from |")
    print("| --- | --- | --- | --- | --- |")
    for name, lens in lenses.items():
        tops = lw.read(run, lw.Cells.grid(range(-1, 30), [run.seq - 1]), lens=lens, k=1).ids[:, 0].tolist()
        words = [model.tokenizer.decode([token]).strip() for token in tops]
        cities = [word in CITIES for word in words]
        first = cities.index(True)
        good = max((at for at, is_city in enumerate(cities) if not is_city), default=-1) + 1
        paris = max((at for at, word in enumerate(words) if word != "Paris"), default=-1) + 1
        print(f"| {name} | {first - 1} | *{words[first]}* | {good - 1} | {paris - 1} |")
        print(f"<!-- {name}: {words} -->")


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
