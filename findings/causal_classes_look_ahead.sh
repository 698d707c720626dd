#!/usr/bin/env bash
# Sixteen model types of AutoModelForCausalLM see the tokens to come.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: what AutoModelForCausalLM builds is causal: the last token does not change the logits before it.
# What happens: fourteen BERT-like types build their causal class (BertLMHeadModel, ElectraForCausalLM, ...) with
#   attention in both directions unless the config says is_decoder=True; at most a line is logged. XLM and XLNet look
#   ahead even then: they have switches of their own, causal=True and attn_type="uni". The forward returns logits and a
#   loss in every case.
# Where: transformers/models/bert/modeling_bert.py: BertLMHeadModel.__init__ only warns; the mask follows
#   config.is_decoder.
# So: that a model is causal has to be measured (change the last token, compare the rows before), not read off its
#   class, before a prefix is reused or an edit is said to touch nothing before it.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
plain = dict(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             max_position_embeddings=64, initializer_range=0.3)
decoder = {"is_decoder": True}
TYPES = {  # config fields, the switch that makes the model causal
    **{name: (plain, decoder) for name in ("bert", "bert-generation", "camembert", "data2vec-text", "ernie",
                                           "megatron-bert", "roberta", "roberta-prelayernorm", "xlm-roberta",
                                           "xlm-roberta-xl")},
    "big_bird": ({**plain, "attention_type": "original_full"}, decoder),
    "electra": ({**plain, "embedding_size": 32}, decoder),
    "roformer": ({**plain, "embedding_size": 32}, decoder),
    "rembert": ({**plain, "input_embedding_size": 32, "output_embedding_size": 32}, decoder),
    "xlm": (dict(vocab_size=211, emb_dim=32, n_layers=2, n_heads=2, embed_init_std=0.3, init_std=0.3),
            {"causal": True}),
    "xlnet": (dict(vocab_size=211, d_model=32, n_layer=2, n_head=2, d_inner=64, initializer_range=0.3),
              {"attn_type": "uni"}),
}
text = torch.randint(5, 211, (1, 8), generator=torch.Generator().manual_seed(1))
other = text.clone()
other[0, -1] = (text[0, -1] + 5) % 200 + 5


def look_ahead(name, **fields):
    """By how much the last token of 8 moves the logits of the first 7."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields)).eval()
    return type(model).__name__, (model(text).logits[:, :7] - model(other).logits[:, :7]).abs().max().item()


print(f"{'':34} as it is  is_decoder=True  own switch")
for name, (fields, switch) in TYPES.items():
    cls, default = look_ahead(name, **fields)
    told = look_ahead(name, **fields, **decoder)[1]
    own = look_ahead(name, **fields, **switch)[1]
    print(f"{cls:34} {default:6.2f}    {told:6.2f}           {own:6.2f}  {switch}")
    assert default > 0.1 and own == 0
    assert (told > 0.1) == (name in ("xlm", "xlnet"))
END
