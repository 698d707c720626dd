#!/usr/bin/env bash
# TransformerLens's logit_attrs leaves the final norm's weight out, so its terms do not add up to the logit.
#
# Versions: transformer-lens 4.3.0, transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: the terms of decompose_resid through logit_attrs, embedding and biases included, sum to the model's
#   own logit at that cell, since the final norm's scale is applied.
# What happens: on a bridge (weights as they are, nothing folded) the sum is off by what the weight of the final norm does.
#   With that weight set to 1 the same sum closes to rounding.
# Where: ActivationCache.logit_attrs divides by the norm's scale and multiplies with W_U; the elementwise weight between
#   the two is expected to have been folded into W_U, which a bridge does not do unless it is asked to.
# So: fold the norm first, multiply W_U by it, or compare the sum with the logit before believing a term.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 transformer-lens==4.3.0
python <<'END'
import importlib.metadata, tempfile
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

print("transformer-lens", importlib.metadata.version("transformer-lens"))
torch.set_grad_enabled(False)
words = Tokenizer(WordLevel({str(i): i for i in range(100)}, unk_token="0"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", bos_token="2", pad_token="3")
ids, token = torch.arange(5, 14)[None], 42


def gap(weight):
    """How far the sum of the terms is from the logit, with the final norm's weight drawn or 1."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.3)
    model.model.norm.weight.copy_(torch.ones(32) if weight == "1" else 1 + 0.5 * torch.randn(32))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder), tokenizer.save_pretrained(folder)
        known = AutoTokenizer.from_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=known, device="cpu")
        logit = model(ids).logits[0, -1, token]
        _, cache = bridge.run_with_cache(ids)
        terms = cache.logit_attrs(cache.decompose_resid(layer=-1, pos_slice=-1), tokens=torch.tensor([token]), pos_slice=-1)
        return float(abs(terms.sum() - logit)), float(logit)


for weight in ("1", "drawn"):
    off, logit = gap(weight)
    print(f"weight {weight}: the logit is {logit:.3f}, the sum of the terms is off by {off:.1e}")
    assert (off < 1e-3) == (weight == "1")
END
