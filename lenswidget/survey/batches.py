"""Prompts of one length run together, where that was seen to give what single runs give."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from lenswidget.errors import LensError
from lenswidget.interventions.recipe import RunSpec
from lenswidget.lenses.lens import Lens
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.models.facts import held
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.model_info import ModelInfo
from lenswidget.readout.query import Query
from lenswidget.readout.unembed import Unembed
from lenswidget.survey.answers import (
    Answer,
    Ids,
    all_ids,
    answer_of,
    by_beginning,
    joined,
    read_wanted,
    wanted_by,
)
from lenswidget.survey.rows import SurveyRow
from lenswidget.survey.together import Found, Sequel, is_plain, is_same, read_together, states_together

# Of one forward: more would only take memory, as a product of so many rows is as fast as it gets.
MOST_TOKENS, MOST_SEQUENCES = 512, 64


@dataclass
class Job:
    """One row: the sequences that it takes, by beginning of its answers, and what was found of them."""

    row: SurveyRow
    listed: list[list[Ids]]
    sequels: dict[Ids, Sequel]
    first: int
    found: dict[Ids, Found] = field(default_factory=dict[Ids, Found])

    @property
    def is_done(self) -> bool:
        return len(self.found) == len(self.sequels)

    def answers(self) -> list[Answer]:
        """The target, and the foil where there is one."""
        each: dict[Ids, Answer] = {}
        for beginning, forms in by_beginning(self.listed).items():
            wanted, found = self.sequels[beginning].wanted, self.found[beginning]
            each |= {ids: answer_of(ids, self.first, wanted, found) for ids in forms}
        return [joined([each[ids] for ids in forms]) for forms in self.listed]


class Batches:
    """Measures rows of one model, several at a time.

    The first batch is compared with single runs of two of its sequences: states that differ by more than
    rounding mean that this model's rows do not stay apart, and each sequence is run by itself from then on.
    Sequences of a length of their own are run by themselves too, so that a row's numbers hang on the rows of
    its window and on nothing else.

    Args:
        engine: of a model in this process.
        lens, site: how it is read.
    """

    def __init__(self, engine: LocalEngine, lens: Lens, site: str) -> None:
        self._engine, self._lens, self._site = engine, lens, site
        self._unembed: Unembed | None = None
        self.is_exact: bool | None = None

    def jobs(self, rows: Sequence[SurveyRow]) -> list[Job]:
        """Rows as sequences of ids, without those that are more than ids, or cannot be taken."""
        # asked once: whether the model is what it was is looked up each time
        with held(self._engine.model.hf_model):
            info = self._engine.info()
            if info.predicts != "next":
                return []
            return [job for row in rows if (job := self._job(row, info)) is not None]

    def _job(self, row: SurveyRow, info: ModelInfo) -> Job | None:
        try:
            prompt = self._engine.encode(row.prompt)
            if not is_plain(prompt):
                return None
            listed = [
                all_ids(forms, info.tokenizer, info.d_vocab) for forms in (row.targets, row.foils) if forms
            ]
            first = prompt.seq - 1
            sequels = {
                beginning: Sequel(self._longer(prompt, beginning), wanted_by(forms, first))
                for beginning, forms in by_beginning(listed).items()
            }
        except LensError:
            return None
        return Job(row, listed, sequels, first)

    def measured(self, jobs: Sequence[Job], needed: set[int]) -> Iterator[Job]:
        """Run batches until all rows that are needed are done; yields each of them once it is.

        Args:
            needed: the places of rows. Others are run only where they share a batch with one of these.
        """
        lengths: dict[int, list[tuple[Job, Ids]]] = defaultdict(list)
        for job in jobs:
            for beginning, sequel in job.sequels.items():
                lengths[sequel.prompt.seq].append((job, beginning))
        told: set[int] = set()
        for length in sorted(lengths):
            n = max(1, min(MOST_SEQUENCES, MOST_TOKENS // length))
            for start in range(0, len(lengths[length]), n):
                batch = lengths[length][start : start + n]
                if not any(job.row.index in needed for job, _ in batch):
                    continue
                found = self._read([job.sequels[beginning] for job, beginning in batch])
                for (job, beginning), each in zip(batch, found, strict=True):
                    job.found[beginning] = each
                for job, _ in batch:
                    if job.is_done and job.row.index in needed - told:
                        told.add(job.row.index)
                        yield job

    def _longer(self, prompt: EncodedPrompt, beginning: Ids) -> EncodedPrompt:
        if not beginning:
            return prompt
        return self._engine.encode(torch.cat([prompt.column_ids, torch.tensor(beginning)]).tolist())

    def _read(self, sequels: Sequence[Sequel]) -> list[Found]:
        if len(sequels) == 1 or self.is_exact is False:
            return [self._alone(sequel) for sequel in sequels]
        model = self._engine.model
        try:
            with held(model.hf_model):
                states = states_together(model, sequels, self._site)
        except (RuntimeError, ValueError, TypeError, IndexError):
            if self.is_exact:
                raise
            self.is_exact = False  # a model that takes one sequence at a time
            return self._read(sequels)
        if self.is_exact is None:
            self.is_exact = self._is_as_alone(sequels, states)
            if not self.is_exact:
                return self._read(sequels)
        with held(model.hf_model):
            self._unembed = self._unembed or Unembed(model.tail)
            return read_together(model, self._unembed, sequels, states, self._lens, self._site)

    def _alone(self, sequel: Sequel) -> Found:
        run = self._engine.run(RunSpec(sequel.prompt), reuse=False)
        return read_wanted(self._engine, run, sequel.wanted, self._lens, self._site)

    def _is_as_alone(self, sequels: Sequence[Sequel], states: torch.Tensor) -> bool:
        """Whether the first and the last sequence of a batch have the states of runs of their own."""
        start = 0
        for place, sequel in enumerate(sequels):
            stop = start + len(sequel.wanted)
            if place in (0, len(sequels) - 1):
                run = self._engine.run(RunSpec(sequel.prompt), reuse=False)
                # which warns where the last row is not the model's own logits
                self._engine.read(Query(run, Cells([run.n_layers - 1], [run.seq - 1])))
                lowest = run.lowest_layer(self._site)
                cells = [
                    (layer, column) for layer in range(lowest, run.n_layers) for column, _ in sequel.wanted
                ]
                alone = run.states(self._site, *zip(*cells, strict=True))
                together = states[:, start:stop]
                if not is_same(together, alone.view_as(together)):
                    return False
            start = stop
        return True
