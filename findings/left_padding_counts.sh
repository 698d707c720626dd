#!/usr/bin/env bash
# Nine decoders count left padding as text: with the mask, with position_ids and in generate.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a prompt padded on the left, with its attention_mask, gives the logits of the prompt alone, at the
#   latest when position_ids are passed too; and generate, which makes both, is right on padded batches.
# What happens: BART, mBART, PLBart, Pegasus, Marian, Blenderbot, BlenderbotSmall and TrOCR as causal models number
#   the positions from the first pad. They have no parameter position_ids; one that is passed vanishes in **kwargs. RWKV
#   uses no mask either. generate continues with other tokens, and says nothing. OPT has learned positions as well, but
#   computes them from the mask. GPT-2 needs the position_ids (generate makes them). Mamba masks the pads out.
# Where: the models' forward; e.g. transformers/models/bart/modeling_bart.py, BartDecoder: positions come from
#   past_key_values_length and the shape alone.
# So: a batch of prompts of unequal length cannot be read on these models: one prompt at a time, or right padding.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import inspect
import torch, transformers
import transformers as hf

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
seq2seq = dict(vocab_size=211, d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64,
               max_position_embeddings=64, init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
               decoder_start_token_id=0, is_decoder=True, is_encoder_decoder=False)
wrong = {name: seq2seq for name in ("BartForCausalLM", "MBartForCausalLM", "PLBartForCausalLM", "PegasusForCausalLM",
                                    "MarianForCausalLM", "BlenderbotForCausalLM", "BlenderbotSmallForCausalLM",
                                    "TrOCRForCausalLM")}
wrong["RwkvForCausalLM"] = dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
right = {
    "OPTForCausalLM": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                           max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.3),
    "GPT2LMHeadModel": dict(vocab_size=211, n_embd=32, n_head=2, n_layer=2, n_positions=64, initializer_range=0.3),
    "MambaForCausalLM": dict(vocab_size=211, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3),
}


def gap(one, other):
    return (one - other).abs().max().item()


PADS, NEW = 5, 8
text = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))
padded = torch.nn.functional.pad(text, (PADS, 0))
mask = (torch.arange(padded.shape[1]) >= PADS).long()[None]
positions = (mask.cumsum(-1) - 1).clamp(min=0)
print(f"{'last logits off by':28} mask  mask + position_ids  generate's first step  new tokens alike")
for name, fields in (wrong | right).items():
    cls = getattr(hf, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields)).eval()
    alone = model(text).logits[:, -1]
    masked = gap(model(padded, attention_mask=mask).logits[:, -1], alone)
    placed = gap(model(padded, attention_mask=mask, position_ids=positions).logits[:, -1], alone)
    steps = [model.generate(ids, attention_mask=seen, max_new_tokens=NEW, do_sample=False, eos_token_id=None,
                            pad_token_id=0, output_logits=True, return_dict_in_generate=True)
             for ids, seen in ((text, torch.ones_like(text)), (padded, mask))]
    first = gap(steps[0].logits[0], steps[1].logits[0])
    alike = (steps[0].sequences[0, -NEW:] == steps[1].sequences[0, -NEW:]).sum().item()
    print(f"{name:28} {masked:4.1f}  {placed:4.1f}                 {first:4.1f}                   {alike} of {NEW}")
    if name in wrong:
        assert "position_ids" not in inspect.signature(model.forward).parameters
        assert min(masked, placed, first) > 0.5 and alike < NEW, name
    else:
        assert max(placed, first) < 1e-4 and alike == NEW, name
        assert (masked > 0.5) == (name == "GPT2LMHeadModel")
END
