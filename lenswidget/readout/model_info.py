"""What a model says of itself."""

from dataclasses import dataclass
from typing import Any, Literal

from lenswidget.anatomy.anatomy import Row
from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.lenses.provenance import model_name


@dataclass(frozen=True)
class ModelInfo:
    """What the page, copied code and tables say of a model; what a model does not say is None.

    Attributes:
        name: what it was loaded from, else its class.
        dtype: "float32" say; empty where the model does not say.
        max_length: tokens that its positions reach.
        sites: what can be read of its layers.
        tokenizer: the model's, or None.
        source: the code that loads it again; None if unknown.
        class_name: of the transformers model.
        is_causal: whether what is said at a position depends on that token and those before it alone.
        predicts: which token a position speaks of: the "next" one, or the "same" in a masked language model.
        rows: the call of a block that each layer is, where blocks run in a loop; else empty.
    """

    name: str
    dtype: str
    quantization: str | None
    max_length: int | None
    n_layers: int
    d_vocab: int
    sites: tuple[str, ...]
    tokenizer: Any
    source: str | None
    class_name: str
    is_causal: bool = True
    predicts: Literal["next", "same"] = "next"
    rows: tuple[Row, ...] = ()


def describe(of: ReadableModel | Tail) -> ModelInfo:
    """What a model says of itself; its tail alone knows of no sites and no tokenizer."""
    hf_model: Any = of.hf_model
    anatomy = of.anatomy
    model = of if isinstance(of, ReadableModel) else None
    config = getattr(hf_model, "config", None)
    quantised = getattr(config, "quantization_config", None)
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    method = getattr(method, "quant_method", method)
    lengths = (
        getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    return ModelInfo(
        name=model_name(of),
        dtype=str(getattr(hf_model, "dtype", "")).removeprefix("torch."),
        quantization=None if method is None else str(getattr(method, "value", method)),
        max_length=next((length for length in lengths if length is not None), None),
        n_layers=anatomy.n_layers,
        d_vocab=anatomy.d_vocab,
        sites=() if model is None else model.layers.offered,
        tokenizer=None if model is None else model.tokenizer,
        source=None if model is None else model.source,
        class_name=type(hf_model).__name__,
        is_causal=anatomy.is_causal,
        predicts=anatomy.predicts,
        rows=anatomy.rows if anatomy.is_looped else (),
    )
