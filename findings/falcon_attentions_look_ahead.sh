#!/usr/bin/env bash
# Asked for its attention weights, Falcon under sdpa attends to later tokens: other weights, and other logits.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: output_attentions=True returns what the model computes anyway and changes no logits. Falcon is
#   causal, so the weights above the diagonal are 0, in sdpa as in eager attention.
# What happens: with attn_implementation="sdpa" and no padding, asking for the weights gives rows that put much of
#   their weight on later tokens, and the logits of every position but the last move, here by more than 1. Without
#   output_attentions the same model is causal, and so is one that was built with "eager", asked or not.
# Where: models/falcon/modeling_falcon.py: the mask is left out where sdpa's own is_causal can stand in for it, but the
#   branch that computes the weights by hand adds only the mask that it was given, which is none.
# So: take Falcon's weights from a model built eager (set_attn_implementation cannot change one that is built), or
#   compute them from its queries and keys.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import FalconConfig, FalconForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)


def made(kind):
    torch.manual_seed(0)
    config = FalconConfig(vocab_size=211, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    config._attn_implementation = kind
    model = FalconForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.5)
    return model


def ahead(out):
    """The largest weight on a later token, over layers and heads."""
    return max(float(weights.triu(1).max()) for weights in out.attentions)


ids = torch.randint(3, 211, (1, 9), generator=torch.Generator().manual_seed(1))
sdpa, eager = made("sdpa"), made("eager")
plain, asked = sdpa(ids), sdpa(ids, output_attentions=True)
true = eager(ids, output_attentions=True)
moved = (asked.logits - plain.logits).abs().amax(-1)[0]
print("sdpa: largest weight on a later token", round(ahead(asked), 3), "logits moved by at most", round(float(moved.max()), 2))
print("eager: largest weight on a later token", ahead(true))
print("sdpa unasked against eager:", f"{float((plain.logits - true.logits).abs().max()):.0e}")
assert ahead(asked) > 0.3 and moved.max() > 1
assert ahead(true) == 0 and torch.allclose(plain.logits, true.logits, atol=1e-4)
END
