"""Causal maps: every cell patched or removed in turn, and what that does to the answer."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import Cancelled, LensError
from lenswidget.interventions.effects import CausalMap
from lenswidget.interventions.head_map import HeadMapper
from lenswidget.interventions.map_request import HEADS, MapRequest
from lenswidget.interventions.mapper import Mapper
from lenswidget.models.facts import held
from lenswidget.models.prompts import Prompt
from lenswidget.progress import Progress, reporting


def causal_map(
    model: ReadableModel,
    clean: Prompt,
    corrupt: Prompt | None = None,
    *,
    answer: Any,
    foil: Any = None,
    site: str = "resid_post",
    metric: str | None = None,
    ablate: str | None = None,
    measure: Collection[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> CausalMap:
    """Patch, or remove, each cell of a site in turn, and measure the answer at the prompt's end.

    Only what a change can reach is run: the blocks from its layer on and, where keys and values of the
    tokens before it can be kept, the tokens from its position on; several cells in a batch. That is compared
    with whole forwards in a few cells of every map; where it is not the same, whole forwards are run, and
    `CausalMap.way` says so. Memory holds one batch beside the streams of the prompts.

    Args:
        model: a `LanguageModel`.
        clean: the prompt that has the answer.
        corrupt: one of as many tokens that has not; None for a map of `ablate`.
        answer, foil: tokens, as ids or as texts that are one token.
        site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out` or `mlp_out`; or "heads", whose grid is
            `[layers, heads]`: each head in turn, at all of `positions` together.
        metric: "logit_diff", the answer's logit less the foil's, or "log_prob" of the answer in nats. Unless
            given, the first where there is a foil.
        ablate: "zero", or "mean" over the prompt's positions, in place of a corrupt prompt.
        measure: any of "denoising" (clean cells into the corrupt prompt), "noising" (corrupt cells into the
            clean prompt) and "estimate" (denoising to first order, by one backward pass); with `ablate`, of
            "ablation" and "estimate". All unless given.
        layers, positions: some of them; all unless given. -1 is the last position.
        progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
        cancelled: asked between batches; once it says True, `Cancelled` is raised.
    Raises:
        EditError: prompts that do not go together, or an argument that is not known.
        AnatomyError: a site that no layer offers.
        CellError: a layer or token that the model does not have.
        Cancelled: `cancelled` said so.
    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT"; Nanda 2023, "Attribution
        Patching: Activation Patching At Industrial Scale", for the estimate.
    """
    if not (cancelled is None or callable(cancelled)):
        raise LensError(f"The map's cancelled is {cancelled!r:.60}; pass a function that says True to stop.")
    asked = MapRequest.checked(
        model, clean, corrupt, answer, foil, site, metric, ablate, measure, layers, positions
    )
    # found before the model is taken for unchanged
    _ = model.anatomy.units if asked.site == HEADS else model.anatomy
    with held(model.hf_model), reporting(progress, "causal map", "cell") as report:
        if asked.site == HEADS:
            return HeadMapper(model, asked, report, cancelled).map()
        mapper = Mapper(model, asked)
        for done, total in mapper.steps():
            report(done, total)
            if cancelled is not None and cancelled():
                raise Cancelled(f"The causal map was stopped after {done} of {total} cells.")
    return mapper.value()
