"""The engine of a model in this process: runs prompts, keeps their streams, reads cells."""

import functools
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity, compare
from lenswidget.errors import LensError, PromptError
from lenswidget.lenses.provenance import model_name
from lenswidget.models.hf_model import takes, uncached
from lenswidget.readout import reading
from lenswidget.readout.cells import Cells
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.unembed import Unembed, free_bytes, full_float32

# How many of the last positions every run can be checked at; of a short prompt only the last, since the
# model's own unembed would spend a tenth of the whole time on the others.
CHECKED_POSITIONS, SHORT_PROMPT = 4, 64
# Streams stay on the device while they leave this share of its free memory to everything else.
FREE_SHARE = 0.5


class LocalEngine:
    """The engine of a model in this process.

    Args:
        model: a `LanguageModel`.
        streams: where runs keep their streams: "device" (the unembed's), "cpu", or "auto", which is the
            device unless it is short of memory.
    """

    def __init__(self, model: Any, *, streams: str = "auto"):
        if streams not in ("auto", "device", "cpu"):
            raise LensError(f'Asked to keep streams on {streams!r}; pass "auto", "device" or "cpu".')
        self.model = model
        self._place = streams

    def run(
        self,
        prompt: Any,
        *,
        sites: Sequence[str] = (EMBED_SITE,),
        progress: Callable[[int, int], None] | None = None,
    ) -> Run:
        """Run the model once on one prompt, without gradients, and keep its residual stream.

        Args:
            prompt: a string, token ids, or an encoding of one prompt.
            sites: captured now; the others are when they are first read, by one more forward.
            progress: called with `(layers passed, layers)`.
        Raises:
            PromptError: a prompt that the model cannot take, or several.
        """
        model = self.model
        with model.lock, torch.no_grad():
            tail = model.tail
            inputs = model.tokenize(prompt)
            ids = inputs.get("input_ids")
            if ids is None or ids.shape[0] != 1:
                found = "embeddings" if ids is None else f"{ids.shape[0]} prompts"
                raise PromptError(
                    f"Asked to run {found} for a readout. Give one prompt, as text or token ids."
                )
            capture = _Capture(model, inputs, self._place)
            streams, own = capture(EMBED_SITE, progress, want_logits=True)
            assert own is not None
            run = Run(
                id=uuid.uuid4().hex,
                prompt=prompt,
                token_ids=ids[0].cpu(),
                n_layers=model.anatomy.n_layers,
                sites=model.layers.offered,
                model=_describe(model),
                tail=tail,
                tokenizer=model.tokenizer,
                lock=model.lock,
                _streams={EMBED_SITE: streams},
                _capture=lambda site: capture(site)[0],
                _own=own,
                _check=functools.partial(_fidelity, tail, streams[-1], own),
            )
            for site in sites:
                run.states(site, [0], [0])
        return run

    def read(self, run: Run, cells: Cells | None = None, **options: Any) -> Readout:
        """What some cells of a run say: `lenswidget.readout.read`."""
        return reading.read(run, cells, **options)

    def read_slices(
        self, run: Run, cells: Cells | None = None, **options: Any
    ) -> Generator[tuple[int, int], None, Readout]:
        """The same in slices: `lenswidget.readout.read_slices`."""
        return reading.read_slices(run, cells, **options)


class _Capture:
    """Forwards of one prompt, each of which fills one site's streams."""

    def __init__(self, model: Any, inputs: Any, place: str):
        self._model = model
        self._inputs = dict(inputs)
        self._place = place
        self._options: dict[str, Any] = uncached(model.hf_model)
        # the second is the name before transformers 4.50
        names = ("logits_to_keep", "num_logits_to_keep")
        self._keep = next((name for name in names if takes(model.hf_model, name)), None)

    def __call__(
        self, site: str, progress: Any = None, *, want_logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """`[rows, seq, d_model]`, lowest layer first, and the model's own logits of the last positions.

        A layer that has no such site leaves NaN, which readouts report as not finite.
        """
        model, layers = self._model, list(self._model.layers)
        n_layers, lowest = len(layers), -1 if site == EMBED_SITE else 0
        n_checked = CHECKED_POSITIONS if self._inputs["input_ids"].shape[1] >= SHORT_PROMPT else 1
        keep = {self._keep: n_checked} if self._keep else {}
        streams: Tensor | None = None
        own: Tensor | None = None
        with model.lock, torch.no_grad(), model.trace(self._inputs, **self._options, **keep) as tracer:
            for layer in range(lowest, n_layers):
                if layer >= 0 and site not in layers[layer].offered:
                    continue
                state = layers[0].resid_pre if layer < 0 else getattr(layers[layer], site)
                if streams is None:
                    streams = self._room(n_layers - lowest, state)
                streams[layer - lowest].copy_(state[0])
                if progress is not None:
                    progress(layer + 1, n_layers)
            if want_logits:
                result = tracer.result
                own = getattr(result, "logits", None)
                # a copy: where all positions' logits were computed, it is not to hold them
                own = (result[0] if own is None else own)[0, -n_checked:].clone()
        assert streams is not None
        return streams, own

    def _room(self, n_rows: int, like: Tensor) -> Tensor:
        """NaN, `[n_rows, seq, d_model]`, where this engine keeps streams like one, `[1, seq, d_model]`."""
        shape = (n_rows, *like.shape[1:])
        may_be_short = self._place == "auto" and like.device.type == "cuda"
        is_short = may_be_short and like.nbytes * n_rows > FREE_SHARE * free_bytes(like.device)
        device = torch.device("cpu") if self._place == "cpu" or is_short else like.device
        return torch.full(shape, torch.nan, dtype=like.dtype, device=device)


def _fidelity(tail: Any, last: Tensor, own: Tensor, decoded: Tensor | None) -> Fidelity:
    """The last block's states `[seq, d_model]` decoded as readouts do, against the model's own logits.

    Args:
        own: `[n, d_vocab]`, of the last positions.
        decoded: the same positions', where a readout has decoded them; else they are decoded now.
    """
    head = Unembed(tail)
    # the coarser of the two: a model stored in 16 bits may give float32 logits, and one of float32, under
    # autocast, 16 bits
    own = own.to(max(head.stored_dtype or own.dtype, own.dtype, key=lambda dtype: torch.finfo(dtype).eps))
    if decoded is None:
        with full_float32(head.device):
            decoded = head(head.prepare(last[-len(own) :]))
    return compare(decoded.to(own.device), own)


def _describe(model: Any) -> dict[str, Any]:
    hf_model: Any = model.hf_model
    config = getattr(hf_model, "config", None)
    quantised = getattr(config, "quantization_config", None)
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    method = getattr(method, "quant_method", method)
    lengths = (
        getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    return {
        "name": model_name(model),
        "dtype": str(getattr(hf_model, "dtype", "")).removeprefix("torch."),
        "quantization": None if method is None else str(getattr(method, "value", method)),
        "max_length": next((length for length in lengths if length is not None), None),
    }
