#!/usr/bin/env bash
# A model's forward accepts any keyword: a misspelt mask is no mask, and nothing is said.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: model(ids, atention_mask=mask) raises a TypeError for an unexpected keyword, as it did for years.
# What happens: the forwards end in **kwargs. All 16 classes tried accept a misspelt attention_mask, an
#   output_hidden_state without its s, and a word that means nothing, and give the logits of the call without them. The
#   same holds for real names that a class has no use for: T5 and BART return all rows for logits_to_keep=1, BLOOM and
#   BART ignore position_ids. generate does check its names.
# Where: e.g. transformers/models/gpt2/modeling_gpt2.py, GPT2LMHeadModel.forward(..., **kwargs).
# So: look a keyword up in the forward's signature before trusting that it did something.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
import transformers as hf

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
gpt = dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64)
seq2seq = dict(vocab_size=211, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
               decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64)
CLASSES = {
    "LlamaForCausalLM": llama, "MistralForCausalLM": {**llama, "num_key_value_heads": 2},
    "Gemma2ForCausalLM": {**llama, "head_dim": 16, "num_key_value_heads": 2}, "GPTNeoXForCausalLM": llama,
    "BertLMHeadModel": {**llama, "is_decoder": True}, "GPT2LMHeadModel": gpt,
    "GPTJForCausalLM": {**gpt, "rotary_dim": 8}, "CTRLLMHeadModel": {**gpt, "dff": 64},
    "OPTForCausalLM": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                           word_embed_proj_dim=32, max_position_embeddings=64),
    "BloomForCausalLM": dict(vocab_size=211, hidden_size=32, n_layer=2, n_head=2),
    "MptForCausalLM": dict(vocab_size=211, d_model=32, n_layers=2, n_heads=2, max_seq_len=64),
    "FalconForCausalLM": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, num_attention_heads=2),
    "MambaForCausalLM": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, state_size=8),
    "XLNetLMHeadModel": dict(vocab_size=211, d_model=32, n_layer=2, n_head=2, d_inner=64),
    "T5ForConditionalGeneration": dict(d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=211),
    "BartForConditionalGeneration": seq2seq,
}
ids = torch.randint(5, 211, (1, 8), generator=torch.Generator().manual_seed(1))
wrong = dict(atention_mask=torch.zeros_like(ids), output_hidden_state=True, no_such_word=object())
models = {}
for name, fields in CLASSES.items():
    cls = getattr(hf, name)
    torch.manual_seed(0)
    model = models[name] = cls(cls.config_class(**fields)).eval()
    model.inputs = dict(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    out = model(**model.inputs, **wrong)
    assert torch.equal(out.logits, model(**model.inputs).logits) and out.get("hidden_states") is None, name
print("accepted", ", ".join(wrong), "by", ", ".join(CLASSES))
for name in ("T5ForConditionalGeneration", "BartForConditionalGeneration"):
    shape = tuple(models[name](**models[name].inputs, logits_to_keep=1).logits.shape)
    print(name, "logits_to_keep=1:", shape)
    assert shape == (1, 8, 211)
shape = tuple(models["LlamaForCausalLM"](ids, logits_to_keep=1).logits.shape)
print("LlamaForCausalLM logits_to_keep=1:", shape)
assert shape == (1, 1, 211)
for name in ("BloomForCausalLM", "BartForConditionalGeneration"):
    model = models[name]
    moved = model(**model.inputs, position_ids=torch.arange(8)[None] + 20).logits - model(**model.inputs).logits
    print(name, "with other position_ids moves by", moved.abs().max().item())
    assert not moved.any()
try:
    models["LlamaForCausalLM"].generate(ids, max_new_tokens=1, atention_mask=torch.ones_like(ids))
    raise AssertionError("generate accepted it")
except ValueError as error:
    print("generate:", type(error).__name__, str(error)[:70])
END
