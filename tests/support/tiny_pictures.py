"""Tiny vision-language models of several families, each with a processor that is made here.

Image processors are those that work with pillow alone; nothing is downloaded.
"""

import copy

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tiny import tokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

D_VOCAB = 340
TEXT = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}MARK{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def picture(seed=0, size=32):
    """A picture of coloured noise."""
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def words(*tokens, **named):
    """The tiny tokenizer with special tokens of its own; some known by a name."""
    found = copy.deepcopy(tokenizer())
    found.add_special_tokens({"additional_special_tokens": [*tokens, *named.values()]})
    for name, token in named.items():
        setattr(found, name, token)
        setattr(found, f"{name}_id", found.convert_tokens_to_ids(token))
    return found


def _made(model_class, config, processor):
    torch.manual_seed(0)
    model = model_class(config).eval()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)  # a projection of zeros would show no picture
    return model, processor


def _chat(mark):
    return CHAT.replace("MARK", mark)


def llava():
    words_ = words("<image>")
    config = hf.LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **VISION},
        image_token_id=words_.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = hf.LlavaProcessor(
        CLIPImageProcessorPil(**size),
        words_,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat("<image>"),
    )
    return _made(hf.LlavaForConditionalGeneration, config, processor)


class StillQwen2VLProcessor(hf.Qwen2VLProcessor):
    """Without film, whose processor needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def qwen2_vl():
    words_ = words("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = words_.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    )
    config = hf.Qwen2VLConfig(
        text_config={
            **{name: value for name, value in TEXT.items() if name != "head_dim"},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "mlp_ratio": 2,
            "initializer_range": 0.3,
        },
        vision_start_token_id=ids[0],
        vision_end_token_id=ids[1],
        image_token_id=ids[2],
        video_token_id=ids[3],
    )
    images = Qwen2VLImageProcessorPil(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = StillQwen2VLProcessor(images, words_, chat_template=_chat(mark))
    return _made(hf.Qwen2VLForConditionalGeneration, config, processor)


def idefics3():
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    words_ = words(*marks, *(f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)))
    config = hf.Idefics3Config(
        text_config={"model_type": "llama", **TEXT},
        vision_config=VISION,
        image_token_id=words_.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = hf.Idefics3Processor(images, words_, image_seq_len=4, chat_template=_chat("<image>"))
    return _made(hf.Idefics3ForConditionalGeneration, config, processor)


def gemma3():
    words_ = words(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = hf.Gemma3Config(
        text_config={**TEXT, "layer_types": ["full_attention"] * 3},
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=words_.image_token_id,
        boi_token_index=words_.boi_token_id,
        eoi_token_index=words_.eoi_token_id,
    )
    processor = hf.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        words_,
        image_seq_length=4,
        chat_template=_chat("<start_of_image>"),
    )
    return _made(hf.Gemma3ForConditionalGeneration, config, processor)


def paligemma():
    words_ = words(image_token="<image>")
    # a tokenizer of this family begins every text with its BOS
    words_.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
    config = hf.PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT},
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        image_token_index=words_.image_token_id,
        projection_dim=32,
    )
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return _made(
        hf.PaliGemmaForConditionalGeneration,
        config,
        hf.PaliGemmaProcessor(images, words_, chat_template=_chat("<image>")),
    )


FAMILIES = {make.__name__: make for make in (llava, qwen2_vl, idefics3, gemma3, paligemma)}
