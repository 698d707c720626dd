#!/usr/bin/env bash
# BART and six relatives make up a decoder text when none is given: the input, shifted by one.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: model(input_ids=ids) of an encoder-decoder needs decoder_input_ids and says so, as T5 does.
# What happens: BART, mBART, PLBart, MVP, LED, BigBird-Pegasus and FSMT run their decoder on the input shifted one to
#   the right. There are as many rows of logits as input tokens, so they look like the rows of the input; they are
#   those of a decoder that copies it. The relatives do not agree on the shift: BART, MVP, LED and BigBird-Pegasus put
#   decoder_start_token_id first, mBART, PLBart and FSMT rotate the last non-pad token to the front. Pegasus, Marian,
#   Blenderbot, M2M-100, ProphetNet and T5 raise, four of them with "cannot specify both", where neither was.
# Where: transformers/models/bart/modeling_bart.py, BartModel.forward, shift_tokens_right.
# So: take the columns of a reading from decoder_input_ids, and ask for them where they are missing.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
import transformers as hf

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
START = 4
base = dict(vocab_size=211, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, init_std=0.3,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=START)
long = {**base, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8}
fsmt = {key: value for key, value in base.items() if key != "vocab_size"}
INVENT = {
    "BartForConditionalGeneration": base,
    "MvpForConditionalGeneration": base,
    "LEDForConditionalGeneration": long,
    "BigBirdPegasusForConditionalGeneration": {**base, "attention_type": "original_full"},
    "MBartForConditionalGeneration": base,
    "PLBartForConditionalGeneration": base,
    "FSMTForConditionalGeneration": {**fsmt, "langs": ["en", "de"], "src_vocab_size": 211, "tgt_vocab_size": 211},
}
REFUSE = {
    "PegasusForConditionalGeneration": base,
    "MarianMTModel": base,
    "BlenderbotForConditionalGeneration": base,
    "M2M100ForConditionalGeneration": base,
    "ProphetNetForConditionalGeneration": dict(
        vocab_size=211, hidden_size=32, encoder_ffn_dim=64, num_encoder_layers=2, num_encoder_attention_heads=2,
        decoder_ffn_dim=64, num_decoder_layers=2, num_decoder_attention_heads=2, max_position_embeddings=64),
    "T5ForConditionalGeneration": dict(d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=211),
}
ids = torch.randint(5, 211, (1, 8), generator=torch.Generator().manual_seed(1))
shifted = {"starts with the start token": torch.cat([torch.tensor([[START]]), ids[:, :-1]], 1),
           "starts with the last token": ids.roll(1, 1)}


def build(name, fields):
    cls = getattr(hf, name)
    torch.manual_seed(0)
    return cls(cls.config_class(**fields)).eval()


for name, fields in INVENT.items():
    model = build(name, fields)
    logits = model(input_ids=ids).logits
    # FSMT: see fsmt_cache_looks_ahead.sh
    gaps = {label: (logits - model(input_ids=ids, decoder_input_ids=text, use_cache=False).logits).abs().max().item()
            for label, text in shifted.items()}
    found = [label for label, value in gaps.items() if value < 1e-4]
    print(f"{name:40} {tuple(logits.shape)} {found}")
    rotates = name.startswith(("MBart", "PLBart", "FSMT"))
    assert found == ["starts with the last token" if rotates else "starts with the start token"]
for name, fields in REFUSE.items():
    try:
        build(name, fields)(input_ids=ids)
        raise AssertionError(name)
    except ValueError as error:
        print(f"{name:40} {error}")
        assert ("both" in str(error)) == (name not in ("ProphetNetForConditionalGeneration",
                                                       "T5ForConditionalGeneration"))
END
