"""One answer in one run, layer by layer: its exact log-probability and its rank."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

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
from lenswidget.survey.together import Found, Wanted, is_plain

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
# The tokens of one form of an answer.
Ids: TypeAlias = tuple[int, ...]


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


def all_ids(forms: Sequence[Form], tokenizer: Any, d_vocab: int) -> list[Ids]:
    """The token ids of each form that differs from those before it."""
    return list(dict.fromkeys(tuple(form_ids(form, tokenizer, d_vocab)) for form in forms))


def by_beginning(answers: Iterable[Sequence[Ids]]) -> dict[Ids, list[Ids]]:
    """Forms by all their tokens but the last: those of one beginning are read in one run of prompt and it."""
    found: dict[Ids, list[Ids]] = {}
    for ids in dict.fromkeys(ids for forms in answers for ids in forms):
        found.setdefault(ids[:-1], []).append(ids)
    return found


def wanted_by(forms: Sequence[Ids], first: int) -> Wanted:
    """What forms of one beginning look for in a run of prompt and beginning.

    Args:
        first: the prompt's last column.
    """
    return tuple(dict.fromkeys((first + j, token) for ids in forms for j, token in enumerate(ids)))


def answer_of(ids: Ids, first: int, wanted: Wanted, found: Found) -> Answer:
    """One form, of what was found for all of its beginning."""
    places = [wanted.index((first + j, token)) for j, token in enumerate(ids)]
    return Answer(found.layers, found.log_probs[:, places].sum(-1), found.ranks[:, places].max(-1))


def joined(forms: Sequence[Answer]) -> Answer:
    """Forms of one answer: the sum of their probabilities, the best of their ranks."""
    log_probs = np.logaddexp.reduce([each.log_probs for each in forms])
    return Answer(forms[0].layers, log_probs, np.min([each.ranks for each in forms], axis=0))


def read_answers(
    engine: Engine, run: Run, answers: Sequence[Sequence[Form]], lens: Lens, site: str
) -> list[Answer]:
    """Answers at the end of a run's prompt, given by the forms of each; see `read_ids`."""
    listed = [all_ids(forms, run.tokenizer, run.d_vocab) for forms in answers]
    return read_ids(engine, run, listed, lens, site)


def read_ids(
    engine: Engine, run: Run, listed: Sequence[Sequence[Ids]], lens: Lens, site: str
) -> list[Answer]:
    """Answers at the end of a run's prompt, through a lens.

    Each form of n tokens above one takes another run, of the prompt and its first n - 1 tokens. The edits of
    the run are made in that too, at the same columns of the prompt.

    Args:
        listed: the forms of each answer, as token ids.
    Raises:
        PromptError: a form of several tokens after a prompt that is more than token ids.
    """
    first, found = run.answer_position, dict[Ids, Answer]()
    for beginning, forms in by_beginning(listed).items():
        longer = engine.run(_longer(engine, run, beginning), reuse=False) if beginning else run
        wanted = wanted_by(forms, first)
        told = read_wanted(engine, longer, wanted, lens, site)
        found |= {ids: answer_of(ids, first, wanted, told) for ids in forms}
    return [joined([found[ids] for ids in forms]) for forms in listed]


def read_wanted(engine: Engine, run: Run, wanted: Wanted, lens: Lens, site: str) -> Found:
    """Pairs of a column and a token, in every layer that the lens carries."""
    columns = sorted({column for column, _ in wanted})
    layers, tokens = rows(run, site, lens), list(dict.fromkeys(token for _, token in wanted))
    readout = engine.read(Query(run, Cells.grid(layers, columns), lens=lens, site=site, track=tokens))
    tracked = readout.tracked_ids.tolist()
    shape = (len(layers), len(columns), len(tracked))
    at = ([columns.index(column) for column, _ in wanted], [tracked.index(token) for _, token in wanted])
    return Found(
        np.array(layers),
        readout.tracked_log_probs.reshape(shape)[:, at[0], at[1]].astype(np.float64),
        readout.tracked_ranks.reshape(shape)[:, at[0], at[1]].astype(np.int64),
    )


def _longer(engine: Engine, run: Run, ids: Sequence[int]) -> RunSpec:
    """The recipe of a run with more tokens at the end of its prompt."""
    if not is_plain(run.spec.prompt) or run.answer_position != run.seq - 1 or run.model.predicts != "next":
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
