"""The same readout over many prompts: how early and how surely a model has an answer."""

from lenswidget.survey.survey import survey
from lenswidget.survey.survey_widget import SurveyWidget
from lenswidget.survey.table import Survey

__all__ = ["Survey", "SurveyWidget", "survey"]
