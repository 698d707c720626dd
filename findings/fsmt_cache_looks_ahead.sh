#!/usr/bin/env bash
# FSMT's decoder is causal only with use_cache=False; as it comes, it sees the tokens to come.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: use_cache changes what is returned, not the logits.
# What happens: the causal mask of the decoder is made only where use_cache is false. The config has it true, which
#   suits generate, one token at a time. A forward over a whole decoder text has no causal mask then: its last token
#   moves the rows before it. With labels the forward sets use_cache=False itself, which is why a training loss does not
#   show it. BART, Marian and T5 are causal either way.
# Where: transformers/models/fsmt/modeling_fsmt.py, FSMTModel.forward: `if not use_cache and input_ids is not None`.
# So: pass use_cache=False for readings, and measure that a decoder is causal with the very arguments of the run.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
import transformers as hf

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
base = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, init_std=0.3)
CLASSES = {
    "FSMTForConditionalGeneration": {**base, "langs": ["en", "de"], "src_vocab_size": 211, "tgt_vocab_size": 211},
    "BartForConditionalGeneration": {**base, "vocab_size": 211},
    "MarianMTModel": {**base, "vocab_size": 211, "decoder_vocab_size": 211, "pad_token_id": 0},
    "T5ForConditionalGeneration": dict(d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=211),
}
source = torch.randint(5, 211, (1, 8), generator=torch.Generator().manual_seed(1))
target = torch.randint(5, 211, (1, 6), generator=torch.Generator().manual_seed(4))
other = target.clone()
other[0, -1] = (target[0, -1] + 5) % 200 + 5
print("decoder rows before the last token, moved by it: with a cache; without; the two against each other")
for name, fields in CLASSES.items():
    cls = getattr(hf, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields)).eval()

    def rows(decoder, **kinds):
        return model(input_ids=source, decoder_input_ids=decoder, **kinds).logits[:, :5]

    assert model.config.use_cache and torch.equal(rows(target), rows(target, use_cache=True))
    with_cache = (rows(target) - rows(other)).abs().max().item()
    without = (rows(target, use_cache=False) - rows(other, use_cache=False)).abs().max().item()
    apart = (rows(target) - rows(target, use_cache=False)).abs().max().item()
    print(f"{name:30} {with_cache:.1e}  {without:.1e}  {apart:.1e}")
    assert without == 0
    assert (with_cache > 0.05) == (apart > 0.05) == name.startswith("FSMT")
END
