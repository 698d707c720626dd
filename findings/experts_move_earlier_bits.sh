#!/usr/bin/env bash
# In a mixture of experts a later token moves the logits of the tokens before it, in their last bits.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: with causal attention what stands at a position depends on that token and those before it alone, so
#   that two texts with a common beginning agree there bit for bit, as they do in a dense model of the same make.
# What happens: a dense Llama agrees to the last bit whatever the last of 24 tokens is. In OLMoE and Qwen3-MoE many of 40
#   last tokens move the logits of earlier positions, by up to some 1e-6 where the logits reach 9: rounding, no leak.
# Where: each expert's tokens are gathered into one product; the later token makes the group of its experts larger, and
#   the product of another number of rows is summed in another order. With the 4 experts of a small Mixtral it may
#   not show at this length.
# So: "untouched" is to be compared bit for bit in dense models, and up to rounding in those with experts; a cached
#   prefix is not bit-equal to a whole forward there either.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers as hf

torch.set_num_threads(1)
print("transformers", hf.__version__, "torch", torch.__version__)
SIZES = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=None)
EXPERTS = dict(num_experts=8, num_experts_per_tok=2)
CASES = {
    "Llama": (hf.LlamaForCausalLM, {}),
    "OLMoE": (hf.OlmoeForCausalLM, EXPERTS),
    "Qwen3-MoE": (hf.Qwen3MoeForCausalLM, {**EXPERTS, "moe_intermediate_size": 96, "head_dim": 16}),
}
ids = torch.randint(3, 256, (1, 24), generator=torch.Generator().manual_seed(1))
for name, (kind, more) in CASES.items():
    torch.manual_seed(0)
    model = kind(kind.config_class(**SIZES, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        base = model(input_ids=ids, use_cache=False).logits[0, :-1]
        gaps = []
        for last in range(3, 43):
            other = ids.clone()
            other[0, -1] = last
            gaps.append(float((model(input_ids=other, use_cache=False).logits[0, :-1] - base).abs().max()))
    n_moved = sum(gap > 0 for gap in gaps)
    print(f"{name:10} {n_moved:2} of 40 last tokens move earlier logits, by at most {max(gaps):.0e} of {base.abs().max():.0f}")
    assert (n_moved == 0) == (name == "Llama")
    assert max(gaps) < 1e-4
END
