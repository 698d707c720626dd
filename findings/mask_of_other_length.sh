#!/usr/bin/env bash
# An attention_mask of the wrong length is accepted: what it does not cover is masked out.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a mask of 10 for a text of 20 is an error of shapes; and with a cache the mask belongs to the new
#   tokens, as input_ids do.
# What happens: Llama, GPT-2, NeoX, Mistral, Qwen3 and Falcon extend a short mask with zeros and cut a long one, and say
#   nothing. A mask made by the tokenizer for the *new* tokens of a cached text is short by the prefix: it is laid over
#   the prefix, and the new tokens see none of each other nor themselves. With the prefix as long as the new part, not
#   even the count of ones looks odd. OPT and BLOOM raise an error.
# Where: transformers/masking_utils.py, prepare_padding_mask pads the mask to the length of the keys.
# So: compare the length of a mask with that of the cache and the new tokens together before the forward.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             max_position_embeddings=64, initializer_range=0.3)
TYPES = {
    "llama": llama,
    "mistral": {**llama, "num_key_value_heads": 2},
    "qwen3": {**llama, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_neox": llama,
    "gpt2": dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3),
    "falcon": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3),
    "opt": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.3),
    "bloom": dict(vocab_size=211, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3),
}
text = torch.randint(3, 211, (1, 20), generator=torch.Generator().manual_seed(1))
ones = {n: torch.ones(1, n, dtype=torch.long) for n in (10, 20, 30)}
zeros_after_10 = torch.nn.functional.pad(ones[10], (0, 10))


def gap(one, other):
    return (one - other).abs().max().item()


def off(call, expected):
    try:
        return gap(call(), expected)
    except (RuntimeError, ValueError) as error:
        return type(error).__name__


print("20 tokens, mask of:  10        30        10, against ten ones and ten zeros   10 after 10 cached, mask of 10")
for name, fields in TYPES.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    whole = model(text).logits
    short = off(lambda: model(text, attention_mask=ones[10]).logits, whole)
    long = off(lambda: model(text, attention_mask=ones[30]).logits, whole)
    padded = off(lambda: model(text, attention_mask=ones[10]).logits,
                 model(text, attention_mask=zeros_after_10).logits)
    cache = model(text[:, :10]).past_key_values
    new = off(lambda: model(text[:, 10:], past_key_values=cache, attention_mask=ones[10]).logits, whole[:, 10:])
    shown = [value if isinstance(value, str) else f"{value:.1e}" for value in (short, long, padded, new)]
    print(f"{name:20}", *(f"{value:14}" for value in shown))
    if name in ("opt", "bloom"):
        assert short == long == new == "RuntimeError"
    else:
        assert short > 1 and new > 1 and long == padded == 0
END
