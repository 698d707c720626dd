#!/usr/bin/env bash
# resize_token_embeddings replaces an untied head, with its hooks; the embedding and a tied head stay.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: resizing changes the weights in place, or replaces both ends; so hooks on both stay, or both go.
# What happens: the embedding stays the same module with a new weight, and its hooks fire. A tied lm_head stays too. An
#   untied one is a new module, in Llama, GPT-2 and OPT alike: hooks on it are gone without a word, and an old reference
#   computes the old logits. New rows are drawn around the mean of the old ones, and take part in the softmax at once:
#   19 added tokens have about a twelfth of the probability here, before any training.
# Where: transformers/modeling_utils.py, _resize_token_embeddings and _get_resized_lm_head.
# So: fetch the head with get_output_embeddings() at each reading; a kept module or hook may belong to an old model.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
llama = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
TYPES = {
    "llama": llama,
    "gpt2": dict(vocab_size=211, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "opt": dict(vocab_size=211, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
                word_embed_proj_dim=32),
}
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))
for name, fields in TYPES.items():
    for tied in (True, False):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields, tie_word_embeddings=tied)).eval()
        calls = []
        ends = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
        for end, module in ends.items():
            module.register_forward_hook(lambda module, inputs, output, end=end: calls.append(end))
        model.resize_token_embeddings(230)
        logits = model(ids).logits
        called = set(calls)
        same = [model.get_input_embeddings() is ends["embedding"], model.get_output_embeddings() is ends["head"]]
        fresh = logits.softmax(-1)[..., 211:].sum(-1).mean().item()
        print(f"{name:6} tied={tied!s:5} same embedding, same head: {same}; hooks called: {sorted(called)};",
              f"old head gives {ends['head'](torch.zeros(1, 32)).shape[-1]} logits, the model {logits.shape[-1]};",
              f"p(new tokens) {fresh:.3f}")
        assert logits.shape[-1] == 230 and same == [True, tied]
        assert called == ({"embedding", "head"} if tied else {"embedding"}) and fresh > 0.02
END
