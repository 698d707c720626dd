"""See what a language model would say at every layer and token."""

from lenswidget.about import about
from lenswidget.demo import demo_model
from lenswidget.engines.connect import connect, connect_workers
from lenswidget.errors import LensError
from lenswidget.host_check import check_host
from lenswidget.interventions.causal_map import causal_map
from lenswidget.interventions.effects import CausalMap
from lenswidget.interventions.recipe import Edit
from lenswidget.language_model import LanguageModel
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import LogitLens
from lenswidget.lenses.lens_report import LensReport
from lenswidget.lenses.load import load_lens
from lenswidget.lenses.report import report
from lenswidget.lenses.tuned import TunedLens
from lenswidget.readout.attention import Attention, attention
from lenswidget.readout.attribute import attribute
from lenswidget.readout.attribution import Attribution
from lenswidget.readout.background import Background
from lenswidget.readout.background_fit import fit_background
from lenswidget.readout.card import Card, decode
from lenswidget.readout.cells import Cells
from lenswidget.readout.compare import compare
from lenswidget.readout.compared import Comparison
from lenswidget.readout.reading import read
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import Run
from lenswidget.readout.spine import Spine, spine
from lenswidget.survey.survey import survey
from lenswidget.survey.survey_widget import SurveyWidget
from lenswidget.survey.table import Survey
from lenswidget.tracing.traced_model import TracedModel
from lenswidget.versions import __version__ as __version__
from lenswidget.widget.compare_widget import CompareWidget
from lenswidget.widget.film_widget import FilmWidget, film
from lenswidget.widget.widget import LensWidget

__all__ = [
    "Attention",
    "Attribution",
    "Background",
    "Card",
    "CausalMap",
    "Cells",
    "CompareWidget",
    "Comparison",
    "Edit",
    "FilmWidget",
    "JacobianLens",
    "LanguageModel",
    "LensError",
    "LensReport",
    "LensWidget",
    "LogitLens",
    "Readout",
    "Run",
    "Spine",
    "Survey",
    "SurveyWidget",
    "TracedModel",
    "TunedLens",
    "about",
    "attention",
    "attribute",
    "causal_map",
    "check_host",
    "compare",
    "connect",
    "connect_workers",
    "decode",
    "demo_model",
    "film",
    "fit_background",
    "load_lens",
    "read",
    "report",
    "spine",
    "survey",
]
