"""One answer in one run, layer by layer: its exact log-probability and its rank."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lenswidget.checks import check_ids, check_text
from lenswidget.errors import PromptError
from lenswidget.interventions.recipe import Edit, RunSpec
from lenswidget.lenses.lens import Lens
from lenswidget.readout.cells import Cells
from lenswidget.readout.engine import Engine
from lenswidget.readout.query import Query, rows
from lenswidget.readout.run import Run
from lenswidget.survey.rows import Form

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
# What a prompt may consist of so that ids can be added to its end.
_PLAIN_INPUTS = {"input_ids", "attention_mask", "position_ids"}


class Answer(NamedTuple):
    """An answer as each row of a site's grid has it at the prompt's end, lowest layer first.

    Attributes:
        layers: `[rows]` int64; -1 is the embedding.
        log_probs: `[rows]` float64, nats: of all its tokens one after the other, summed over its forms.
        ranks: `[rows]` int64, 0 is the top: of a form of several tokens the worst of theirs, each given those
            before it; of several forms the best.
    """

    layers: Ranks
    log_probs: Floats
    ranks: Ranks


def form_ids(form: Form, tokenizer: Any, d_vocab: int) -> list[int]:
    """The token ids of one form of an answer, as it would follow the prompt.

    Raises:
        CellError: an id that the vocabulary does not have, or half a character.
        PromptError: text without a tokenizer, or text of no tokens.
    """
    if not isinstance(form, str):
        return check_ids([form], d_vocab)
    if tokenizer is None:
        raise PromptError(f"The answer {form!r} is text, but this model has no tokenizer. Give token ids.")
    ids = list(tokenizer.encode(check_text(form, "The answer", PromptError), add_special_tokens=False))
    if not ids:
        raise PromptError(f"The answer {form!r} has no tokens. Give text that has.")
    return ids


def read_answer(engine: Engine, run: Run, forms: Sequence[Form], lens: Lens, site: str) -> Answer:
    """An answer at the end of a run's prompt, through a lens.

    Each form of n tokens above one takes another run, of the prompt and its first n - 1 tokens. The edits of
    the run are made in that too, at the same columns of the prompt.

    Raises:
        PromptError: a form of several tokens after a prompt that is more than token ids.
    """
    found = [
        _read_form(engine, run, ids, lens, site)
        for ids in dict.fromkeys(tuple(form_ids(form, run.tokenizer, run.d_vocab)) for form in forms)
    ]
    log_probs = np.logaddexp.reduce([each.log_probs for each in found])
    return Answer(found[0].layers, log_probs, np.min([each.ranks for each in found], axis=0))


def _read_form(engine: Engine, run: Run, ids: tuple[int, ...], lens: Lens, site: str) -> Answer:
    first = run.answer_position
    if len(ids) > 1:
        run = engine.run(_longer(engine, run, ids[:-1]))
    layers, n = rows(run, site, lens), len(ids)
    cells = Cells.grid(layers, range(first, first + n))
    readout = engine.read(Query(run, cells, lens=lens, site=site, track=ids))
    shape = (len(layers), n, len(readout.tracked_ids))
    columns = [readout.tracked_ids.tolist().index(each) for each in ids]
    log_probs = readout.tracked_log_probs.reshape(shape)[:, range(n), columns].astype(np.float64)
    ranks = readout.tracked_ranks.reshape(shape)[:, range(n), columns].astype(np.int64)
    return Answer(np.array(layers), log_probs.sum(-1), ranks.max(-1))


def _longer(engine: Engine, run: Run, ids: Sequence[int]) -> RunSpec:
    """The recipe of a run with more tokens at the end of its prompt."""
    prompt = run.spec.prompt
    is_plain = set(prompt.model_inputs) <= _PLAIN_INPUTS and prompt.columns is None
    if not is_plain or run.answer_position != run.seq - 1 or run.model.predicts != "next":
        raise PromptError(
            f"The answer has {len(ids) + 1} tokens, and they cannot be added to a prompt that is more than "
            "token ids to be continued. Give an answer of one token."
        )
    encoded = engine.encode(torch.cat([run.token_ids, torch.tensor(ids)]).tolist())
    edits = tuple(_at_the_prompt(edit, run.seq) for edit in run.spec.edits)
    return replace(run.spec, prompt=encoded, edits=edits)


def _at_the_prompt(edit: Edit, seq: int) -> Edit:
    """The same edit where more tokens follow: positions from the end become those from the start."""
    if edit.op == "mean" and not edit.texts:
        raise PromptError(
            "An edit to the prompt's own mean cannot be made before an answer of several tokens: they would "
            "be in the mean. Give the edit texts=, or an answer of one token."
        )
    given: Any = edit.positions
    if edit.op == "patch" and edit.from_positions is None and not isinstance(given, str):
        edit = replace(edit, from_positions=given)
    if isinstance(given, slice):
        positions: Any = slice(*_from_the_start(given, seq), given.step)
    elif isinstance(given, int):
        positions = given % seq if -seq <= given < 0 else given
    elif isinstance(given, (tuple, list)):
        positions = tuple(each % seq if -seq <= each < 0 else each for each in given)
    else:  # None, "prompt" and "generated": those that follow count as generated
        positions = tuple(range(seq)) if given == "prompt" else given
    return replace(edit, positions=positions)


def _from_the_start(given: slice, seq: int) -> tuple[Any, Any]:
    start, stop, _ = given.indices(seq)
    return start, None if given.stop is None else stop
