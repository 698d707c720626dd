"""A survey beside loops over its prompts: `python benchmarks/survey.py [prompts]`.

Prompts of 8 to 24 tokens; wanted of each are the log-probability and the rank of one token at the prompt's
end, in every layer. Times are per prompt, of chunks that take turns in one process, and their ratios are
taken chunk by chunk; where nnsight is not installed, its loop is left out. Then what memory a survey takes.

    survey           `lw.survey`
    run + read       `model.run` and `lw.read` of each prompt: the cells of its last column
    run + read all   the same, with every cell of the grid
    nnsight          one trace for each prompt: norm, head, log-softmax and rank of each block's last column
    nnsight all      the same, with every column, as in its tutorial

`--memory` measures that alone (Linux): the most that a process has during a survey, above what it had once
the model was loaded and had read one prompt.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch

import lenswidget as lw

CHUNK = 50


def prompts(tokenizer, n):
    """`n` lists of 8 to 24 token ids and a token for each, out of text."""
    text = (
        "The Eiffel Tower is in the city of Paris, and the Colosseum is in Rome. Water boils at a hundred "
        "degrees, and freezes at zero. The capital of Japan is Tokyo; that of Germany is Berlin. "
    ) * 40
    ids = tokenizer(text)["input_ids"]
    lengths = [8 + (7 * i) % 17 for i in range(n)]
    starts = [(13 * i) % 1000 for i in range(n)]
    return [(ids[a : a + m], ids[a + m]) for a, m in zip(starts, lengths, strict=True)]


def survey(model):
    return lambda rows: lw.survey(model, rows, progress=False)


def run_and_read(model, *, is_whole):
    def loop(rows):
        for ids, token in rows:
            run = model.run(ids)
            cells = None if is_whole else lw.Cells.grid(range(-1, run.n_layers), [run.seq - 1])
            lw.read(run, cells, k=1, metrics=(), track=[token])

    return loop


def nnsight_loop(model, *, is_whole):
    from nnsight import LanguageModel

    traced = LanguageModel(model.hf_model, tokenizer=model.tokenizer)
    norm, head, blocks = traced.model.norm, traced.lm_head, traced.model.layers

    def loop(rows):
        for ids, token in rows:
            with torch.no_grad(), traced.trace(torch.tensor([ids])):
                found = [].save()
                for block in blocks:
                    state = block.output if is_whole else block.output[:, -1:]
                    logits = head(norm(state))[0, -1]
                    log_prob = logits.log_softmax(-1)[token]
                    found.append((log_prob, (logits > logits[token]).sum()))

    return loop


def loops(model):
    found = {
        "survey": survey(model),
        "run + read": run_and_read(model, is_whole=False),
        "run + read all": run_and_read(model, is_whole=True),
    }
    try:
        found["nnsight"] = nnsight_loop(model, is_whole=False)
        found["nnsight all"] = nnsight_loop(model, is_whole=True)
    except ImportError:
        print("nnsight is not installed: pip install nnsight==0.8.1")
    return found


def memory(model, n):
    """What a survey of `n` prompts takes at most, above the model; in MiB."""
    rows = prompts(model.tokenizer, n)
    lw.survey(model, rows[:1], progress=False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, began = status("VmRSS"), time.perf_counter()
    lw.survey(model, rows, progress=False)
    took = time.perf_counter() - began
    print(f"{n} prompts: at most {(status('VmHWM') - before) / 1024:.0f} MiB above the model ({took:.0f} s)")


def status(name):
    """A number of KiB that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prompts", nargs="?", type=int, default=200)
    parser.add_argument("--chunk", type=int, default=CHUNK, help="prompts between two turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure that alone")
    parser.add_argument("--loops", nargs="*", help="the loops to time; all unless given")
    options = parser.parse_args()
    # under other load the time of this process alone tells more, as long as it has one thread
    clock = time.process_time if options.threads == 1 else time.perf_counter
    n, chunk_size = options.prompts, options.chunk
    torch.set_num_threads(options.threads)
    model = lw.demo_model()
    if options.memory:
        memory(model, n)
        return
    rows = prompts(model.tokenizer, n)
    named = loops(model)
    named = {name: loop for name, loop in named.items() if name in ("survey", *(options.loops or named))}
    for loop in named.values():
        loop(rows[:4])
    lw.survey(model, rows[:chunk_size], progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = {name: [] for name in named}
    # the survey is timed whole: how many prompts of one length it finds is part of it
    begun = clock()
    lw.survey(model, rows, progress=False)
    whole = 1000 * (clock() - begun) / n
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, n, chunk_size):
        chunk = rows[start : start + chunk_size]
        for name in list(named)[:: 1 if (start // chunk_size) % 2 else -1]:
            begun = clock()
            named[name](chunk)
            times[name].append(1000 * (clock() - begun) / len(chunk))
    print(f"{n} prompts, survey of all at once: {whole:.1f} ms each")
    for name, found in times.items():
        ratios = [a / b for a, b in zip(times["survey"], found, strict=True)]
        print(
            f"{name:15} {statistics.median(found):7.1f} ms each; survey of {chunk_size} is "
            f"{statistics.median(ratios):.3f} of it, of all {whole / statistics.median(found):.3f}"
        )
    print(
        f"peak memory above what the first {chunk_size} prompts had taken: {(peak - before) / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
