#!/usr/bin/env bash
# A cache that refuses to be cropped has been cropped in part, and goes on from there without a word.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: crop either works or leaves the cache as it was, so that catching its error is safe. And crop(n)
#   keeps the first n tokens, as in earlier releases.
# What happens: DynamicCache.crop goes layer by layer. The attention layers before the first sliding or convolution
#   layer are cut, then the error is raised. Lfm2 with layers attention, convolution, convolution says 12 tokens
#   afterwards and continues: its logits are off, since two of its layers still hold 16. With all layers of attention,
#   and after activate_past_recording() also with a window, crop is exact. A positive number is refused everywhere.
# Where: transformers/cache_utils.py, Cache.crop: a loop over the layers, each of which may raise.
# So: copy a cache before cropping it, or throw it away when crop raises.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
base = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2)
text = torch.randint(3, 211, (1, 24), generator=torch.Generator().manual_seed(1))


def build(name, **fields):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **base, **fields)).eval()


def continued(model, cache):
    """How far tokens 12 to 15 after the cropped cache are from the whole text of 16."""
    return (model(text[:, 12:16], past_key_values=cache).logits - model(text[:, :16]).logits[:, 12:]).abs().max().item()


def crop(cache, n):
    try:
        cache.crop(n)
        return None
    except (RuntimeError, ValueError) as error:
        return type(error).__name__


lfm2 = build("lfm2", layer_types=["full_attention", "conv", "conv"])
cache = lfm2(text[:, :16], use_cache=True).past_key_values
error, length = crop(cache, -4), cache.get_seq_length()
off = continued(lfm2, cache)
print("lfm2, 16 tokens, crop(-4):", error, "; the cache then says", length, f"; continued from 12: off by {off:.2f}")
assert error == "RuntimeError" and length == 12 and off > 1

window = dict(sliding_window=8, head_dim=16, layer_types=["full_attention", "sliding_attention", "full_attention"])
gemma = build("gemma3_text", **window)
cache = gemma(text[:, :16]).past_key_values
error, lengths = crop(cache, -4), [layer.get_seq_length() for layer in cache.layers]
print("gemma3, window 8, crop(-4):", error, "; its layers then say", lengths)
assert error == "RuntimeError" and lengths == [12, 16, 16]

cache = gemma(text[:, :12]).past_key_values
cache.activate_past_recording()
gemma(text[:, 12:16], past_key_values=cache)
error, off = crop(cache, -4), None
off = continued(gemma, cache)
print("the same with activate_past_recording:", error, f"; continued from 12: off by {off:.1e}")
assert error is None and off < 1e-4

llama = build("llama")
cache = llama(text[:, :16]).past_key_values
positive, negative = crop(cache, 12), crop(cache, -4)
off = continued(llama, cache)
print("llama, crop(12):", positive, "; crop(-4):", negative, f"; continued from 12: off by {off:.1e}")
assert positive == "ValueError" and negative is None and off < 1e-4
END
