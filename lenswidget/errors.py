"""Every mistake a user can make, as one tree: catch `LensError` to catch them all.

Messages follow one form: what was asked, what was found, what to do.
"""


class LensError(Exception):
    """Root of everything that lenswidget raises on purpose."""


class ModelError(LensError, ValueError):
    """A model or tokenizer that cannot be loaded or used, or a model that changed after a run."""


class PromptError(LensError, ValueError):
    """A prompt that is empty, too long for the model, or of a kind that cannot be tokenised."""


class CellError(LensError, IndexError):
    """A layer, position or token id outside the run."""


class ShapeError(LensError, ValueError):
    """A tensor whose shape, dtype or device does not fit the place it was given to."""


class AnatomyError(LensError, ValueError):
    """A model in which the decoder blocks, the unembed or a site could not be found or verified."""


class FidelityError(LensError, ValueError):
    """A tail that does not reproduce the model's own logits."""


class FidelityWarning(UserWarning):
    """Numbers were read from a run whose last row is not the model's own logits."""


class LensMismatchError(LensError, ValueError):
    """A fitted lens that belongs to another model."""


class LensMismatchWarning(UserWarning):
    """A fitted lens whose model or texts differ from those it is used with, though it can be read."""


class LensFileError(LensError, ValueError):
    """A lens that is missing from where it was asked for, or a file that holds none."""


class UnknownLensError(LensError, LookupError):
    """A lens that was asked for by a name or a value that is no lens."""


class EditError(LensError, ValueError):
    """An edit that is not complete, or does not fit the model or the prompt."""


class TraceError(LensError, RuntimeError):
    """A trace that was asked for something it cannot give."""


class OutOfOrderError(TraceError):
    """A write to a module that the forward has already passed."""


class NotReachedError(TraceError):
    """A read of a module that did not run in this forward."""


class EngineLostError(LensError, RuntimeError):
    """A model in another process that does not answer any more."""


class Cancelled(LensError):
    """A readout that was stopped before its end."""
