"""Tiny models whose blocks run several times in one forward."""

import torch
import transformers as hf
from tiny import seeded
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

IDS = [5, 17, 99, 3, 42, 120, 7, 64]
SMALL = {"vocab_size": 211, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
SMALL |= {"max_position_embeddings": 64, "initializer_range": 0.3}
ALBERT = {**SMALL, "num_hidden_layers": 4, "embedding_size": 16, "pad_token_id": 0}


class Universal(nn.Module):
    """A decoder whose two blocks run three times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = nn.Embedding(211, 32), nn.LayerNorm(32), nn.Linear(32, 211)
        self.blocks = nn.ModuleList(AddsAnMlp() for _ in range(2))

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for _ in range(3):
            for block in self.blocks:
                x = block(x)
        return CausalLMOutput(logits=self.out(self.norm(x)))


class AddsAnMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(32), nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


MODELS = {
    "ALBERT": lambda: seeded(hf.AlbertForMaskedLM, **ALBERT),
    "ALBERT of two groups": lambda: seeded(hf.AlbertForMaskedLM, **{**ALBERT, "num_hidden_groups": 2}),
    "HRM text": lambda: seeded(hf.HrmTextForCausalLM, **SMALL, num_layers_per_stack=2, head_dim=8),
    "universal": Universal,
}
