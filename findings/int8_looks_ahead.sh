#!/usr/bin/env bash
# An LLM.int8() model looks ahead: a later token, or another row of the batch, moves the logits before it.
#
# Versions: bitsandbytes 0.50.2, transformers 5.23.0, accelerate 1.15.0, torch 2.13.0, Python 3.11, on the CPU.
# One would guess: 8-bit weights make a causal model coarser, and leave it causal: activations are quantised row by
#   row, with a scale for each token.
# What happens: with llm_int8_threshold above 0 (6.0 unless given) a feature that exceeds the threshold in *any* row
#   of the call is taken out of the int8 product for *all* rows and multiplied unrounded. So whether a token's features
#   are rounded depends on the tokens after it and on its neighbours in the batch. With threshold 0 each row stands
#   alone, and NF4, which quantises weights only, does too.
# Where: bitsandbytes, autograd MatMul8bitLt: int8_vectorwise_quant returns the outlier columns of the whole matrix.
# So: on such a model nothing "before the edit" is bit-equal, a kept prefix is not the prefix of the longer text, and
#   a batched reading is not the single one. Check the threshold, or measure.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2
python <<'END'
import logging
import bitsandbytes, torch, transformers
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

logging.disable(logging.WARNING)  # bitsandbytes says at each product that float32 inputs are cast
print("bitsandbytes", bitsandbytes.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)


def gap(one, other):
    return (one - other).abs().max().item()


# One layer: the second row alone decides how the first is computed.
torch.manual_seed(0)
layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=6.0)
layer.weight = bitsandbytes.nn.Int8Params(torch.randn(64, 64), requires_grad=False, has_fp16_weights=False)
layer.to("cpu").eval()
row, calm, outlier = torch.randn(3, 1, 64).half()
outlier[0, 7] = 8.0
beside = {name: layer(torch.cat([row, second]))[:1] for name, second in (("calm", calm), ("outlier", outlier))}
alone = layer(row)
print("one layer, first of two rows: beside a calm row off by", gap(beside["calm"], alone),
      ", beside one with an 8.0 off by", round(gap(beside["outlier"], alone), 3))
assert gap(beside["calm"], alone) == 0 < gap(beside["outlier"], alone)

torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                             num_attention_heads=2, initializer_range=0.3)).save_pretrained("saved")
text, others = (torch.randint(3, 211, (n, 16), generator=torch.Generator().manual_seed(n)) for n in (1, 7))
changed = text.clone()
changed[0, -1] = (text[0, -1] + 7) % 200 + 3
print("logits of the first 15 of 16 tokens, moved by: the last token; seven other rows")
for label, quantised in (
    ("int8, threshold 6", BitsAndBytesConfig(load_in_8bit=True)),
    ("int8, threshold 0", BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)),
    ("nf4", BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)),
):
    model = LlamaForCausalLM.from_pretrained("saved", quantization_config=quantised, dtype=torch.float32,
                                             device_map="cpu")
    logits = model(text).logits[:, :15]
    ahead = gap(model(changed).logits[:, :15], logits)
    batched = gap(model(torch.cat([text, others])).logits[:1, :15], logits)
    print(f"{label:18} {ahead:.1e}  {batched:.1e}")
    if label == "int8, threshold 6":
        assert ahead > 0.05 and batched > 0.05
    else:
        assert ahead < 1e-4 and batched < 1e-4
END
