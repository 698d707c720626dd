"""What can be chosen in a widget: a lens by name, a site, what stands in a cell, tokens of the vocabulary."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from lenswidget.checks import check_ids
from lenswidget.errors import LensError
from lenswidget.lenses.lens import Lens, LensLike, as_lens, lenses_by_name
from lenswidget.models.token_ids import token_id
from lenswidget.models.words import word_mask
from lenswidget.readout.model_info import ModelInfo
from lenswidget.readout.shown import SHOWS
from lenswidget.widget.labels import Labels


class Choices:
    """What can be chosen of a model.

    Args:
        info: what the model says of itself.
        lens: the lens to begin with: a name, a lens or a function; None for the first that comes with the
            model, or the logit lens where none does.
        lenses: more to switch between: a sequence, or a mapping from name to lens. One with the name of a
            lens that comes with the model takes its place.
        own: the lenses that come with the model.

    Attributes:
        info: what the model says of itself.
        labels: of its tokens.
        lenses: by name.
        first_lens: the name of the lens to begin with.
    """

    def __init__(
        self,
        info: ModelInfo,
        lens: LensLike | str,
        lenses: Collection[Any] | None,
        own: Mapping[str, Lens],
    ) -> None:
        self.info = info
        self.labels = Labels(info.tokenizer, info.d_vocab)
        self.lenses, self.first_lens = _named(lens, lenses, own)

    def lens(self, name: str) -> Lens:
        """The lens of that name."""
        self.check_known("lens", name)
        return self.lenses[name]

    def check_show(self, show: str) -> None:
        """Raise a LensError unless this can be shown: words need a tokenizer that has some."""
        if show not in SHOWS:
            raise LensError(f"Asked to show {show!r:.40}; choose one of {', '.join(SHOWS)}.")
        if show != "top" and not self.has_words:
            raise LensError(
                f"Asked to show {show}, but this model has no tokenizer that has words: show top."
            )

    @property
    def has_words(self) -> bool:
        """Whether any id of the vocabulary is known to be a word."""
        tokenizer = self.info.tokenizer
        return tokenizer is not None and bool(word_mask(tokenizer, self.info.d_vocab).any())

    def check_known(self, kind: str, name: str) -> None:
        """Raise a LensError unless there is a site, or a lens, of that name."""
        known = self.lenses if kind == "lens" else self.info.sites
        if name not in known:
            raise LensError(f"No {kind} is called {name!r} here: name one of {', '.join(known)}.")

    def check_ids(self, ids: Sequence[Any]) -> None:
        """Raise a CellError unless all are ids of the vocabulary."""
        check_ids(ids, self.info.d_vocab)

    def token_id(self, token: Any) -> int:
        """The id of a token given as id, as text that is exactly one token, or as a vocabulary entry.

        Raises:
            CellError: it is not an id of the vocabulary, or not one token.
            PromptError: it is text, and the model has no tokenizer.
        """
        return token_id(token, self.info.tokenizer, self.info.d_vocab, self.labels.entries)


def _named(lens: LensLike | str, lenses: Any, own: Mapping[str, Lens]) -> tuple[dict[str, Lens], str]:
    """The lenses to switch between, by name, and the name of the one to begin with.

    Args:
        own: those that come with the model.
    """
    given = lenses_by_name(lenses)
    named = {**given, **{name: each for name, each in own.items() if name not in given}}
    if lens is None:
        return named, next(iter(own), "logit")
    if isinstance(lens, str) and lens in named:
        return named, lens
    chosen = as_lens(cast(Any, lens))
    others = {name: each for name, each in named.items() if name in given or name != chosen.name}
    return {chosen.name: chosen, **others}, chosen.name
