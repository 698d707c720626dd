"""Small seeded models and a small tokenizer, built here: nothing is downloaded."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

import lenswidget as lw

TEXT = "The Eiffel Tower is in the city of Paris, the heart of France. " * 3
PROMPT = "The Eiffel Tower is in the city of"
ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def seeded(model_class, **fields):
    """A model of this class with random weights, the same each time."""
    torch.manual_seed(0)
    return model_class(model_class.config_class(**fields)).eval()


def gpt2(n_layer=4, **changes):
    """GPT-2's architecture with random weights: blocks return tuples or tensors, by release."""
    sizes = {"n_embd": 32, "n_head": 2, "n_positions": 64, "vocab_size": 300}
    return seeded(GPT2LMHeadModel, **{**sizes, **ENDS, "n_layer": n_layer, **changes})


def llama(n_layer=4, **changes):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 300,
        "max_position_embeddings": 64,
        "pad_token_id": None,
    }
    return seeded(LlamaForCausalLM, **{**sizes, **ENDS, "num_hidden_layers": n_layer, **changes})


@functools.cache
def tokenizer():
    """A byte-level BPE of 300 tokens, as GPT-2's is made."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=["input_ids", "attention_mask"])


def language_model(make=gpt2, **changes):
    return lw.LanguageModel(make(**changes), tokenizer())


def n_hooks(module: nn.Module) -> int:
    """How many hooks a model carries; transformers may add its own, so compare before with after."""
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    own_forwards = sum("forward" in part.__dict__ for part in module.modules())
    return own_forwards + sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


class Counted(nn.Module):
    """A stack of blocks that counts how often each has run."""

    def __init__(self, n_blocks=6, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(n_blocks))
        self.head = nn.Linear(width, width)
        self.runs = [0] * n_blocks

    def forward(self, x):
        x = self.embed(x)
        for index, block in enumerate(self.blocks):
            self.runs[index] += 1
            x = torch.tanh(block(x))
        return self.head(x)


IDS = [5, 17, 40, 200, 3, 99, 120, 7, 8, 250, 31]


def wide_vocabulary(kind, *, fresh=False):
    """A model whose vocabulary is no multiple of 64, with logits of several units; shared unless fresh."""
    return _wide_vocabulary.__wrapped__(kind) if fresh else _wide_vocabulary(kind)


@functools.cache
def _wide_vocabulary(kind):
    model = lw.LanguageModel(kind(n_layer=3), None)
    weight = torch.randn(5003, 32, generator=torch.Generator().manual_seed(1)) * 0.7
    model.hf_model.lm_head.weight = torch.nn.Parameter(weight)
    model.hf_model.lm_head.out_features = 5003
    return model


def other_tokenizer():
    """Another vocabulary, whose ids are others for the same texts."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<other>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=["input_ids", "attention_mask"])
