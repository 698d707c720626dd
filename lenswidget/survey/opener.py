"""Runs a prompt of a survey again, as it was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit, RunSpec
from lenswidget.lenses.lens import Lens
from lenswidget.readout.engine import Engine
from lenswidget.survey.answers import form_ids
from lenswidget.survey.measured import Measured


@dataclass(frozen=True)
class Opener:
    """The models of a survey by name, with the lens of each, and the edits of each condition."""

    engines: Mapping[str, Engine]
    lenses: Mapping[str, Lens]
    edits: Mapping[str, tuple[Edit, ...]]

    def spec(self, measured: Measured) -> RunSpec:
        """The recipe of a prompt under its condition.

        Raises:
            LensError: a model or condition that the survey does not have.
        """
        if measured.model not in self.engines or measured.condition not in self.edits:
            raise LensError(
                f"Asked to open a prompt of {measured.model!r:.40} ({measured.condition}), which this survey "
                f"does not have. It has {', '.join(self.engines)}."
            )
        encoded = self.engines[measured.model].encode(measured.prompt)
        return RunSpec(encoded, edits=self.edits[measured.condition])

    def first_ids(self, measured: Measured) -> Sequence[int]:
        """The first token of each form of the answer, which the prompt's last column speaks of."""
        info = self.engines[measured.model].info()
        found = (form_ids(form, info.tokenizer, info.d_vocab)[0] for form in measured.targets)
        return list(dict.fromkeys(found))
