"""What a causal map is asked for, checked before anything is run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.layers import SITES
from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.errors import AnatomyError, EditError
from lenswidget.interventions.places import layers_of, positions_of
from lenswidget.interventions.recipe import Edit
from lenswidget.models.encoded_prompt import EncodedPrompt, encode_prompt
from lenswidget.models.token_ids import token_id

# In place of a site: each head of each layer.
HEADS = "heads"
METRICS = ("logit_diff", "log_prob")
ABLATIONS = ("zero", "mean")
# Two metrics nearer than this are one, up to rounding: nothing is there to be recovered.
LEAST_GAP = 1e-3


@dataclass(frozen=True)
class Metric:
    """What is measured of the logits at the prompt's end.

    Attributes:
        name: "logit_diff", the answer's logit less the foil's; or "log_prob" of the answer, in nats.
    """

    name: str
    answer_id: int
    foil_id: int | None

    def __call__(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, " rows"]:
        """The metric of each row, float64 where the device has it."""
        wide = logits if logits.device.type == "mps" else logits.double()
        if self.name == "log_prob":
            return wide[:, self.answer_id] - wide.logsumexp(-1)
        assert self.foil_id is not None
        return wide[:, self.answer_id] - wide[:, self.foil_id]


@dataclass(frozen=True, eq=False)
class MapRequest:
    """The arguments of a causal map, all of which fit the model; only `checked` makes one.

    Attributes:
        layers, positions: the grid's, rising.
        measure: of "denoising", "noising", "ablation", "estimate".
    """

    clean: EncodedPrompt
    corrupt: EncodedPrompt | None
    metric: Metric
    site: str
    ablate: str | None
    measure: frozenset[str]
    layers: list[int]
    positions: list[int]

    @classmethod
    def checked(
        cls,
        model: ReadableModel,
        clean: Any,
        corrupt: Any,
        answer: Any,
        foil: Any,
        site: Any,
        metric: Any,
        ablate: Any,
        measure: Any,
        layers: Any,
        positions: Any,
    ) -> "MapRequest":
        """The request; `causal_map` explains the arguments and what is raised."""
        check_is_model(model, "The causal map")
        if site != HEADS:
            _check_site(model, site)
        elif not any(units.heads for units in model.anatomy.units):
            reason = model.anatomy.units[0].refused.get(HEADS, "not found")
            raise AnatomyError(
                f"Asked for a map of the heads of {model.anatomy.model_class}, which no layer offers: "
                f"{reason}. Use site='attn_out'."
            )
        if (ablate is None) == (corrupt is None):
            raise EditError(
                "A causal map needs a second prompt or a removal, and was given "
                f'{"none" if ablate is None else "both"}. Pass corrupt="..." or ablate="zero".'
            )
        if ablate is not None and ablate not in ABLATIONS:
            raise EditError(f"Asked for ablate={ablate!r:.40}. Pass one of {', '.join(ABLATIONS)}.")
        prompts = [_encoded(model, prompt) for prompt in (clean, corrupt) if prompt is not None]
        if len(prompts) == 2:
            _check_pair(*prompts)
        n_layers, seq = model.anatomy.n_layers, prompts[0].seq
        columns = sorted(positions_of(_listed("positions", positions), seq, "patch"))
        rows = layers_of(Edit("zero", site="mlp_out", layers=_listed("layers", layers)), n_layers)
        return cls(
            clean=prompts[0],
            corrupt=prompts[1] if len(prompts) == 2 else None,
            metric=_metric(model, answer, foil, metric),
            site=site,
            ablate=ablate,
            measure=_measure(measure, is_ablation=ablate is not None, is_by_head=site == HEADS),
            layers=rows,
            positions=columns,
        )

    def check_apart(self, clean: float, corrupt: float) -> None:
        """Refuse two prompts that say the same of the answer.

        Raises:
            EditError: a recovery would be a division by nothing.
        """
        if not abs(clean - corrupt) > LEAST_GAP:
            raise EditError(
                f"The answer's {self.metric.name} is {clean:.4f} in the clean prompt and {corrupt:.4f} in "
                "the corrupt one, so there is nothing to recover. Choose prompts that differ in it."
            )


def _check_site(model: ReadableModel, site: Any) -> None:
    if not isinstance(site, str) or site not in SITES:
        raise EditError(f"Asked for a map of site {site!r:.40}. Use one of {', '.join((*SITES, HEADS))}.")
    offered = model.layers.offered
    if site not in offered:
        reason = model.anatomy.sites[0].refused.get(site, "not found")
        raise AnatomyError(
            f"Asked for a map of {site} of {model.anatomy.model_class}, which no layer offers: {reason}. Use "
            f"one of {', '.join(offered)}."
        )


def _encoded(model: ReadableModel, prompt: Any) -> EncodedPrompt:
    spec = getattr(prompt, "spec", prompt)  # a run is asked by its recipe
    if getattr(spec, "active_edits", ()):
        raise EditError("Asked for a map of a run with edits. Pass its prompt, or a run without edits.")
    prompt = getattr(spec, "prompt", spec)
    with model.lock, torch.no_grad():
        return encode_prompt(prompt, model.tokenizer, model.hf_model, model.device)


def _check_pair(clean: EncodedPrompt, corrupt: EncodedPrompt) -> None:
    if clean.seq != corrupt.seq:
        raise EditError(
            f"The clean prompt has {clean.seq} tokens and the corrupt one {corrupt.seq}, and a map patches "
            "position by position. Make them equally long, with a name of as many tokens say."
        )
    if clean.column_ids.equal(corrupt.column_ids) and not {*clean.extras, *corrupt.extras}:
        raise EditError("The clean and the corrupt prompt are the same. Change what the answer hangs on.")


def _metric(model: ReadableModel, answer: Any, foil: Any, name: Any) -> Metric:
    if name is None:
        name = "log_prob" if foil is None else "logit_diff"
    if name not in METRICS:
        raise EditError(f"Asked for the metric {name!r:.40}. Use one of {', '.join(METRICS)}.")
    if (foil is None) == (name == "logit_diff"):
        remedy = "Pass foil=" if foil is None else "Leave foil= out"
        raise EditError(f"Asked for {name} {'without' if foil is None else 'with'} a foil. {remedy}.")
    d_vocab = model.anatomy.d_vocab
    ids = [token_id(token, model.tokenizer, d_vocab) for token in (answer, foil) if token is not None]
    if len(ids) == 2 and ids[0] == ids[1]:
        raise EditError(f"The answer and the foil are the same token, {answer!r}. Choose another foil.")
    if not ids:
        raise EditError('No answer was given. Pass answer=" Paris" say.')
    return Metric(name, ids[0], ids[1] if len(ids) == 2 else None)


def _measure(measure: Any, *, is_ablation: bool, is_by_head: bool) -> frozenset[str]:
    known = ("ablation",) if is_ablation else ("denoising", "noising")
    known = known if is_by_head else (*known, "estimate")
    if measure is None:
        return frozenset(known)
    listed = [measure] if isinstance(measure, str) else list(measure) if _is_listed(measure) else []
    if not listed or not all(name in known for name in listed):
        raise EditError(f"Asked to measure {measure!r:.60}. Name some of {', '.join(known)}.")
    return frozenset(listed)


def _is_listed(value: Any) -> bool:
    return isinstance(value, (Sequence, Collection))


def _listed(name: str, value: Any) -> Any:
    """Layers or positions as an edit takes them, groups of positions aside."""
    checked = Edit("zero", layers=value) if name == "layers" else Edit("zero", positions=value)
    if isinstance(value, str):
        raise EditError(f"The map's {name} are {value!r:.40}. Pass integers, a slice, or None for all.")
    return checked.layers if name == "layers" else checked.positions
