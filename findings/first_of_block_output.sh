#!/usr/bin/env bash
# block_output[0] is the hidden states in some families and the first row of the batch in others, and fits either way.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a decoder block returns a tuple whose first member is the hidden states, as in every tutorial on
#   hooks: output[0][:, -1] is the last token.
# What happens: most blocks now return the tensor itself: Llama, Mistral, Qwen3, Gemma2, GPT-2, NeoX, OPT. There
#   output[0] is row 0 of the batch, and output[0][:, -1] = 0 zeroes the last *feature* of all its tokens: no error, an
#   edit in another place, and the other rows are left alone. BLOOM, Falcon, GPT-J, GPT-Neo, CodeGen and MPT return
#   tuples. A hook that returns (output[0] * 2, *output[1:]) is an error in the next block for the former.
# Where: each model's block; the annotations of some still say tuple.
# So: take the tensor of a block's output by its type, never by [0].
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             initializer_range=0.3)
grouped = {**llama, "num_key_value_heads": 2, "head_dim": 16}
gpt = dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)
TENSOR = {
    "llama": ("model.layers", llama), "mistral": ("model.layers", grouped), "qwen3": ("model.layers", grouped),
    "gemma2": ("model.layers", grouped), "gpt2": ("transformer.h", gpt), "gpt_neox": ("gpt_neox.layers", llama),
    "opt": ("model.decoder.layers", dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2,
                                         num_attention_heads=2, word_embed_proj_dim=32, init_std=0.3)),
}
TUPLE = {
    "bloom": ("transformer.h", dict(vocab_size=211, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3)),
    "falcon": ("transformer.h", dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                     initializer_range=0.3)),
    "gptj": ("transformer.h", {**gpt, "rotary_dim": 8}),
    "codegen": ("transformer.h", {**gpt, "n_head": 4, "rotary_dim": 4}),
    "gpt_neo": ("transformer.h", dict(vocab_size=211, hidden_size=32, num_layers=2, num_heads=2,
                                      attention_types=[[["global"], 2]], max_position_embeddings=64)),
    "mpt": ("transformer.blocks", dict(vocab_size=211, d_model=32, n_layers=2, n_heads=2, max_seq_len=64)),
}
ids = torch.randint(3, 211, (2, 6), generator=torch.Generator().manual_seed(1))


def zero_last_token(module, inputs, output):
    output[0][:, -1] = 0


for name, (blocks, fields) in (TENSOR | TUPLE).items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    block = model.get_submodule(blocks)[0]
    seen = []
    block.register_forward_hook(zero_last_token)
    block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(ids)
    states = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    tokens = [tuple(at) for at in (states == 0).all(-1).nonzero().tolist()]
    features = [tuple(at) for at in (states == 0).all(1).nonzero().tolist()]
    print(f"{name:9} {type(seen[0]).__name__:7} zero (row, token): {tokens};",
          f"zero in all tokens (row, feature): {features}")
    if name in TENSOR:
        assert tokens == [] and features == [(0, 31)]
    else:
        assert isinstance(seen[0], tuple) and tokens == [(0, 5), (1, 5)] and features == []

model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **llama)).eval()
model.model.layers[0].register_forward_hook(lambda module, inputs, output: (output[0] * 2, *output[1:]))
try:
    model(ids)
    raise AssertionError("a tuple went through")
except AttributeError as error:
    print("llama, hook returns a tuple:", type(error).__name__, error)
END
