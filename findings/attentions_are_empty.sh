#!/usr/bin/env bash
# output_attentions=True under sdpa returns an empty tuple: neither the weights, nor None, nor an error.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: sdpa computes no weights, so asking for them falls back to eager attention, raises, or gives None.
# What happens: on Llama, Mistral, GPT-2, NeoX, OPT and T5 the forward gives `()`, which is not None, so the usual
#   test passes and attentions[layer] is an IndexError elsewhere. Falcon computes some, which look ahead. Setting
#   config.output_attentions = True on a built model raises for these; the same field given to the config before the
#   model is built does not, and gives `()` again. After set_attn_implementation("eager") all are there.
# Where: transformers/utils/output_capturing.py: the hook drops output[1] when it is None; the tuple is what is left.
# So: test `if attentions`, not `is not None`; compute the weights from q and k, or switch and compare the logits.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModel

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
TYPES = {
    "llama": llama,
    "mistral": {**llama, "num_key_value_heads": 2},
    "gpt_neox": llama,
    "gpt2": dict(vocab_size=211, n_embd=32, n_layer=3, n_head=2, n_positions=64),
    "opt": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=2,
                word_embed_proj_dim=32, max_position_embeddings=64),
    "t5": dict(d_model=32, d_ff=64, num_layers=3, num_heads=2, d_kv=16, vocab_size=211),
    "falcon": dict(vocab_size=211, hidden_size=32, num_hidden_layers=3, num_attention_heads=2),
}
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def attentions(model, **kinds):
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=ids, **kinds).decoder_attentions
    return model(ids, **kinds).attentions


def count(value):
    return value if value is None else len(value)


for name, fields in TYPES.items():
    model = AutoModel.from_config(AutoConfig.for_model(name, **fields), attn_implementation="sdpa").eval()
    asked = attentions(model, output_attentions=True)
    built = AutoModel.from_config(AutoConfig.for_model(name, **fields, output_attentions=True),
                                  attn_implementation="sdpa").eval()
    by_config = attentions(built)
    try:
        model.config.output_attentions = True
        later = "accepted"
    except ValueError as error:
        later = type(error).__name__
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    eager = attentions(model, output_attentions=True)
    print(f"{name:9} {before}: as argument {count(asked)}, in the config when built {count(by_config)},",
          f"in the config later: {later}; eager: {count(eager)}")
    assert before == "sdpa" and count(eager) == 3 and later == "ValueError"
    assert count(asked) == count(by_config) == (3 if name == "falcon" else 0)
END
