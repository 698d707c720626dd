#!/usr/bin/env bash
# tie_word_embeddings=False unties nothing in T5 and LongT5: it changes the scale of the logits.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: config.tie_word_embeddings says whether lm_head.weight is the embedding, before and after loading.
# What happens: a T5 or LongT5 that is built with False is tied all the same; what changes is that the head's input is
#   no longer multiplied by d_model**-0.5, so all logits are sqrt(d_model) times as large. mT5 and UMT5 ignore the flag.
#   SwitchTransformers does untie. In the first four the config says True afterwards, also of a model whose checkpoint
#   holds a head of its own, which is loaded untied.
# Where: transformers/models/t5/configuration_t5.py: scale_decoder_outputs = tie_word_embeddings is not False.
# So: compare the weights to know whether a head is tied; find the scale by measuring, not in the config.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
import transformers as hf

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
D_MODEL = 36
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def build(name, **fields):
    cls = getattr(hf, f"{name}ForConditionalGeneration")
    torch.manual_seed(0)
    return cls(cls.config_class(d_model=D_MODEL, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=211,
                                **fields)).eval()


def is_tied(model):
    return model.lm_head.weight is model.get_input_embeddings().weight


def logits(model):
    return model(input_ids=ids, decoder_input_ids=ids).logits


for name in ("T5", "LongT5", "MT5", "UMT5", "SwitchTransformers"):
    experts = {"num_experts": 2} if name == "SwitchTransformers" else {}
    models = {flag: build(name, tie_word_embeddings=flag, **experts) for flag in (True, False)}
    tied = {flag: is_tied(model) for flag, model in models.items()}
    says = {flag: model.config.tie_word_embeddings for flag, model in models.items()}
    ratio = logits(models[False]) / logits(models[True])
    model = models[False]
    model.lm_head.weight = torch.nn.Parameter(torch.randn(211, D_MODEL))
    model.save_pretrained("saved")
    loaded = type(model).from_pretrained("saved")
    assert torch.equal(logits(loaded), logits(model)) and not is_tied(loaded)
    print(f"{name:18} built with True, False: tied {list(tied.values())}, config says {list(says.values())};",
          f"logits, False over True: {ratio.median().item():.3f};",
          f"loaded with a head of its own: config says {loaded.config.tie_word_embeddings}")
    assert tied[True] and says[True]
    if name == "SwitchTransformers":
        assert not tied[False] and not says[False] and not loaded.config.tie_word_embeddings
    else:
        assert tied[False] and says[False] and loaded.config.tie_word_embeddings
        expected = D_MODEL**0.5 if name in ("T5", "LongT5") else 1
        assert torch.allclose(ratio, torch.tensor(float(expected)), rtol=1e-3)
END
