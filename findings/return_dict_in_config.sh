#!/usr/bin/env bash
# return_dict=False in the config breaks the own forward of eight model types; as an argument it works on all.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: config.return_dict=False and return_dict=False as an argument do the same.
# What happens: in Llama, Mistral, GPT-2, NeoX, OPT, Lfm2, BART and T5 the outer class wants the inner one's output by
#   name, and the inner one follows the config: AttributeError: 'tuple' object has no attribute ... The argument is
#   taken off by the outer wrapper and gives a tuple. BLOOM, Falcon, Mamba, BERT and GPT-Neo give a tuple for both. For
#   T5 it matters when: set on the built model it gives a tuple, in the config before building it breaks.
# Where: transformers/utils/output_capturing.py, capture_outputs: return_dict from the keywords, else from the config.
# So: pass return_dict=True with each forward that is read by name.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
gpt = dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64)
BREAK = {
    "llama": llama, "mistral": {**llama, "num_key_value_heads": 2}, "gpt_neox": llama, "gpt2": gpt,
    "opt": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                word_embed_proj_dim=32),
    "lfm2": {**llama, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "pad_token_id": 0},
    "bart": dict(vocab_size=211, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
                 decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64),
    "t5": dict(d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=211),
}
WORK = {
    "bloom": dict(vocab_size=211, hidden_size=32, n_layer=2, n_head=2),
    "falcon": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    "mamba": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bert": {**llama, "is_decoder": True},
    "gpt_neo": dict(vocab_size=211, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]),
}
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def outcome(model, **kinds):
    given = dict(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    try:
        return type(model(**given, **kinds)).__name__
    except AttributeError as error:
        return type(error).__name__


print(f"{'return_dict=False':18} argument  config when built  config later")
for name, fields in (BREAK | WORK).items():
    auto = AutoModelForSeq2SeqLM if name in ("bart", "t5") else AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(name, **fields)).eval()
    argument = outcome(model, return_dict=False)
    built = outcome(auto.from_config(AutoConfig.for_model(name, **fields, return_dict=False)).eval())
    model.config.return_dict = False
    later = outcome(model)
    print(f"{name:18} {argument:9} {built:18} {later}")
    assert argument == "tuple"
    assert built == ("AttributeError" if name in BREAK else "tuple")
    assert later == ("tuple" if name in WORK or name == "t5" else "AttributeError")
END
