"""A tiny, seeded instance of any transformers causal LM, from what its configuration's fields are called.

One list of rules for all; `EXCEPTIONS` holds what a single configuration needs besides, and why.
"""

import inspect
import re
from typing import Any

import torch
import transformers as hf
from torch import nn

N_LAYERS, D_MODEL, N_HEADS, D_VOCAB = 4, 64, 4, 512
MAX_PARAMETERS = 40_000_000

# The first pattern that matches a whole field name decides; a value is only ever made smaller.
RULES: list[tuple[str, int]] = [
    # each its own: what stands for a picture does not stand for a film
    (r"image_token_(id|index)", D_VOCAB - 12),
    (r"video_token_(id|index)", D_VOCAB - 13),
    (r"audio_token_(id|index)", D_VOCAB - 14),
    (r"vision_start_token_id", D_VOCAB - 15),
    (r"vision_end_token_id", D_VOCAB - 16),
    (r"\w*_(token_id|token_index)", D_VOCAB - 1),
    (r"\w*vocab_size\w*", D_VOCAB),
    (r"(num|n)_(expert_)?groups?|num_expert_group|topk_group", 1),
    (r"(n_|num_|en|de)?(hidden_|encoder_|decoder_|coder_)?(layers?|blocks)|first_k_dense_replace", N_LAYERS),
    (r"\w*(num_key_value_heads|num_kv_heads|kv_n_heads|num_query_groups)", 2),
    (r"mamba_(num|n)_heads", 2 * N_HEADS),
    (r"\w*(num|n)_(attention_|index_|mamba_|key_|value_)?heads?|\w*attention_heads", N_HEADS),
    (r"\w*(head_?dim|head_size|d_head|dim_head|kv_channels|d_kv|rotary_dim)", 16),
    (
        r"\w*(hidden_size|d_model|n_embd|embedding_dim|emb_dim|embedding_size|embed_proj_dim)|lru_width",
        D_MODEL,
    ),
    (r"\w*(intermediate_size\w*|ffn_dim|ffn_hidden_size|d_ff|dff|dim_ff|d_inner|feed_forward_size)", 128),
    (r"\w*num_(local_|routed_)?experts|n_routed_experts", 4),
    (r"\w*(experts_per_tok\w*|topk|top_k|moe_k)", 2),
    (r"\w*rank", 16),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_\w+_positions", 128),
    (r"\w*(state_size|d_state|chunk_size|embed_dim|rel_extent|per_layer_input)", 16),
    # a picture of 4 by 4 patches
    (r"image_size", 32),
    (r"(spatial_|vision_)?patch_size", 8),
    (r"mm_tokens_per_image", 4),
    (r"encoder_hash_byte_group_vocab|ngram_vocab_size_base", D_VOCAB),
]

# What a configuration cannot even be made without.
REQUIRED: dict[str, dict[str, Any]] = {
    "Gemma4AssistantConfig": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        }
    },
}

# What a single configuration needs besides.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    # left empty by default, though the model cannot do without
    "Dots1Config": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "HunYuanDenseV1Config": {"head_dim": 16},
    "HunYuanMoEV1Config": {"head_dim": 16},
    "MinistralConfig": {"head_dim": 16},
    "DeepseekV2Config": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "Qwen4ExpTextConfig": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 16,
    },
    "NemotronConfig": {"num_key_value_heads": 2},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"] * 2},
    "XmodConfig": {"default_language": "en_XX"},
    # sizes tied to one another in a way of their own
    "Mamba2Config": {"num_heads": 8, "head_dim": 16},
    "CohereCompassTextConfig": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "DbrxAttentionConfig": {"rope_theta": 1e4, "clip_qkv": 8.0},
    "Dots3NoteTextConfig": {"per_layer_config": {}, "head_dim": 32},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "Gemma3nTextConfig": {"num_kv_shared_layers": 2},
    "Qwen2_5_VLTextConfig": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    },
    **{
        name: {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
        for name in (
            "Qwen2VLTextConfig",
            "Qwen2_5OmniTextConfig",
            "Glm4vTextConfig",
            "GlmOcrTextConfig",
            "PaddleOCRTextConfig",
            "Cosmos3EdgeTextConfig",
        )
    },
    "Glm4vMoeTextConfig": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        }
    },
    "Step3p7TextConfig": {"sliding_window": 64},
    "ReformerConfig": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [32, 32], "hidden_size": 64},
}


# Entries for which this recipe makes no instance that takes text, and why.
WHY_NOT: dict[str, str] = {
    "BltConfig": "bytes in patches of a second model's making; its four nested sizes depend on one another",
    "Dots3NoteConfig": "its vision and audio towers' sizes depend on one another; Dots3NoteTextConfig runs",
    "Gemma3nConfig": "needs timm and pillow for its vision tower; Gemma3nTextConfig runs",
    "Gemma4AssistantConfig": "a drafter: it reads another model's hidden states, not text alone",
    "Gemma4UnifiedAssistantConfig": "a drafter: it reads another model's hidden states, not text alone",
    "MusicgenConfig": "reads four codebooks of audio, not text",
    "MusicgenMelodyConfig": "reads four codebooks of audio, not text",
}


def tiny_config(config_class: type[hf.PretrainedConfig]) -> hf.PretrainedConfig:
    """The configuration with every size made small, nested ones too, and every kind of layer kept."""
    return config_class(**_small_fields(config_class))


def _small_fields(config_class: type[hf.PretrainedConfig]) -> dict[str, Any]:
    exceptions = EXCEPTIONS.get(config_class.__name__, {})
    default = config_class(**REQUIRED.get(config_class.__name__, {}))
    declared = inspect.signature(config_class).parameters
    depths = {v for k, v in vars(default).items() if "layers" in k and isinstance(v, int)}
    fields: dict[str, Any] = {}
    for name, value in vars(default).items():
        is_derived = name not in declared or (declared[name].default is None and isinstance(value, int))
        small = value if is_derived or isinstance(value, hf.PretrainedConfig) else _small(name, value, depths)
        if small is not value:
            fields[name] = small
    own = vars(default)
    if "num_key_value_heads" in fields and own["num_key_value_heads"] == own["num_attention_heads"]:
        fields["num_key_value_heads"] = N_HEADS
    for name in config_class.sub_configs:
        own = getattr(default, name, None)
        if isinstance(own, hf.PretrainedConfig):
            fields[name] = _small_fields(type(own)) | {"model_type": own.model_type}
    return fields | exceptions


def _small(name: str, value: Any, depths: set[int]) -> Any:
    if name == "is_decoder":
        return True
    if isinstance(value, (list, tuple)) and len(value) in depths:
        kinds = [kind for i, kind in enumerate(value) if kind not in value[:i]]
        return [kinds[i % len(kinds)] for i in range(N_LAYERS)]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    for pattern, limit in RULES:
        if re.fullmatch(pattern, name):
            return min(value, limit)
    return value


def _part_for(config: hf.PretrainedConfig, model_class: type[hf.PreTrainedModel]) -> hf.PretrainedConfig:
    """The configuration, or the nested one that the class takes."""
    nested = [getattr(config, name) for name in type(config).sub_configs]
    wanted = [c for c in (config, *nested) if isinstance(c, model_class.config_class)]
    return wanted[0] if wanted else config


def tiny_model(
    config: hf.PretrainedConfig, model_class: type[hf.PreTrainedModel] | None = None, seed: int = 0
) -> nn.Module:
    """A seeded float32 instance in evaluation mode; none of its weights is left at zero or one.

    Raises:
        ValueError: it would have more than `MAX_PARAMETERS` (counted without allocating them).
    """
    make = model_class or hf.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config = _part_for(config, make)
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in make(config).parameters())
    if n_parameters > MAX_PARAMETERS:
        raise ValueError(f"{n_parameters:,} parameters")
    torch.manual_seed(seed)
    model = make(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.tie_weights()
    return model
