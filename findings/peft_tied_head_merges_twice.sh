#!/usr/bin/env bash
# Merging LoRA on a tied head or embedding gives another model than the adapter did.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: merge_and_unload gives the adapter's logits up to rounding; with tied weights at the latest once
#   ensure_weight_tying=True is set.
# What happens: the adapter changes one end, the merge writes into the weight that both ends share, so the other end
#   changes too: the merged model is neither the base nor the adapted one. With ensure_weight_tying=True both ends are
#   adapted, and the merge adds the update to the shared weight twice: base + 2 * delta. With an untied head, all
#   agree.
#   A LoRA layer that was kept from before (as a wrapper keeps lm_head) computes the merged numbers after
#   merge_and_unload, and the adapter's after unload, when the model itself is the base again.
# Where: peft/tuners/lora/layer.py, merge: base_layer.weight.data += delta, for each layer in turn.
# So: compare logits before and after a merge; fetch the modules anew after every peft call.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 peft==0.21.2
python <<'END'
import peft, torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM

print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 12), generator=torch.Generator().manual_seed(1))


def adapted(tied, targets, ensure=False):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                        num_attention_heads=2, initializer_range=0.3, tie_word_embeddings=tied)).eval()
    weight, logits = base.lm_head.weight.clone(), base(ids).logits
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, ensure_weight_tying=ensure)
    return peft.get_peft_model(base, config).eval(), weight, logits


def gap(one, other):
    return (one - other).abs().max().item()


print("tied   targets                      ensure   adapter - base   merged - adapter   update of the head / delta")
for tied in (True, False):
    for targets in (["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]):
        for ensure in (False, True):
            model, weight, base = adapted(tied, targets, ensure)
            adapter = model(ids).logits
            layers = model.base_model.model
            layer = layers.lm_head if hasattr(layers.lm_head, "get_delta_weight") else layers.model.embed_tokens
            delta = layer.get_delta_weight("default")
            merged = model.merge_and_unload()
            update = merged.lm_head.weight - weight
            times = (update.flatten() @ delta.flatten() / delta.flatten().dot(delta.flatten())).item()
            off = gap(merged(ids).logits, adapter)
            print(f"{tied!s:5}  {targets!s:27}  {ensure!s:6}  {gap(adapter, base):8.1f}         {off:8.1e}"
                  f"            {times:5.2f}")
            assert (off > 1) == tied
            if tied and ensure:
                assert torch.allclose(update, 2 * delta, atol=1e-5)

head_input = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(2))
for leave in ("merge_and_unload", "unload"):
    model, weight, _ = adapted(False, ["lm_head"])
    kept = model.base_model.model.lm_head
    with_adapter = kept(head_input)
    left = getattr(model, leave)()
    print(f"{leave}: the kept layer against the adapter {gap(kept(head_input), with_adapter):.1e},",
          f"the model's head against the adapter {gap(left.lm_head(head_input), with_adapter):.1e}")
    assert gap(kept(head_input), with_adapter) < 1e-4
    assert (gap(left.lm_head(head_input), with_adapter) > 0.5) == (leave == "unload")
END
