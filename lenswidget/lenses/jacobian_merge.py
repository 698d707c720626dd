"""Merging Jacobian lenses that were fitted on parts of the texts: the mean over all of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import LensError, LensMismatchError
from lenswidget.lenses.jacobian_file import OF_THE_RUN, Parts
from lenswidget.lenses.provenance import Provenance


def merge(lenses: Sequence[Parts]) -> Parts:
    """The mean of lenses by their numbers of texts, summed in float64, and where it comes from.

    Raises:
        LensError: no lenses, or one that does not say how many texts it is the mean of.
        LensMismatchError: models, layers or settings differ, or some texts are in two of them.
    """
    if not lenses:
        raise LensError("Asked to merge no lenses; pass a list of Jacobian lenses.")
    for lens in lenses:
        if lens.n_prompts < 1:
            raise LensError(
                f"Asked to merge a lens {lens.provenance.told} that does not say how many texts it is the "
                "mean of, so its share is unknown; set n_prompts with dataclasses.replace if you know it."
            )
    for one, other in combinations(lenses, 2):
        _check_alike(one, other)
        _check_apart(one, other)
    first, n_prompts = lenses[0], sum(lens.n_prompts for lens in lenses)
    matrices: dict[int, Tensor] = {}
    for layer in sorted(first.matrices):
        total = torch.zeros_like(first.matrices[layer], dtype=torch.float64, device="cpu")
        for lens in lenses:
            total += lens.matrices[layer].detach().cpu().double() * lens.n_prompts
        matrices[layer] = (total / n_prompts).float()
    n_layers = next((lens.n_layers for lens in lenses if lens.n_layers is not None), None)
    return Parts(matrices, n_prompts, n_layers, _joined([lens.provenance for lens in lenses], n_prompts))


def _check_alike(one: Parts, other: Parts) -> None:
    """Refuses two lenses that are not of one model and one way of fitting; what is not known may be equal."""
    for what, ours, theirs in _facts(one, other):
        if ours != theirs:
            raise LensMismatchError(
                f"Asked to merge Jacobian lenses that differ in {what}: {_short(ours)} and {_short(theirs)}. "
                "Merge lenses of one model that were fitted alike."
            )


def _facts(one: Parts, other: Parts) -> list[tuple[str, Any, Any]]:
    """What two lenses must share: the name of a fact and what each lens says. Only facts that both know."""
    ours, theirs = one.provenance, other.provenance
    width, other_width = (next(iter(lens.matrices.values())).shape[-1] for lens in (one, other))
    pairs: list[tuple[str, Any, Any]] = [
        ("d_model", width, other_width),
        ("the layers that have matrices", sorted(one.matrices), sorted(other.matrices)),
    ]
    maybe: list[tuple[str, Any, Any]] = [
        ("the model's number of layers", one.n_layers, other.n_layers),
        ("the model", ours.model or None, theirs.model or None),
        ("the unembed's digest", ours.unembed or None, theirs.unembed or None),
    ]
    settings = [name for name in ours.settings if name in theirs.settings and name not in OF_THE_RUN]
    # None says something here: that only some texts begin with a BOS, say
    pairs += [(name, ours.settings[name], theirs.settings[name]) for name in settings]
    return pairs + [fact for fact in maybe if fact[1] is not None and fact[2] is not None]


def _check_apart(one: Parts, other: Parts) -> None:
    """Refuses two lenses that share a text, which would count twice in the mean."""
    known = [lens.provenance.text_digests for lens in (one, other)]
    if all(known):
        shared = len(set(known[0]) & set(known[1]))
    else:  # a file of others, or of an earlier version
        same = all(torch.equal(one.matrices[layer], other.matrices[layer]) for layer in one.matrices)
        texts = [lens.provenance.texts for lens in (one, other)]
        shared = one.n_prompts if same or (texts[0] and texts[0] == texts[1]) else 0
    if shared:
        raise LensMismatchError(
            f"Asked to merge Jacobian lenses that share {shared} text{'s' * (shared > 1)}, which would count "
            "twice. Merge lenses of different texts."
        )


def _joined(found: Sequence[Provenance], n_prompts: int) -> Provenance:
    """Where a mean comes from; the digest of all texts does not depend on the order of merging."""
    if len(found) == 1:
        return found[0]
    digests = tuple(digest for one in found for digest in one.text_digests)
    is_known = all(one.text_digests for one in found)
    settings = {name: value for one in reversed(found) for name, value in one.settings.items()}
    # texts of one part alone would say less than they seem to
    return replace(
        found[0],
        texts=hashlib.sha256("".join(sorted(digests)).encode()).hexdigest() if is_known else "",
        n_texts=n_prompts,
        n_tokens=sum(one.n_tokens for one in found) if all(one.n_tokens for one in found) else 0,
        versions=_versions([one.versions for one in found]),
        settings=settings,
        text_digests=digests if is_known else (),
    )


def _versions(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Of each package the version, or all versions where they differ."""
    names = sorted({name for versions in found for name in versions})
    return {
        name: ", ".join(sorted({versions[name] for versions in found if name in versions})) for name in names
    }


def _short(value: Any) -> str:
    return f"{value!r:.60}"
