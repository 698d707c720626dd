"""Writes this folder: what tuned-lens 0.2.0 and TransformerLens 4.3.0 publish for a tiny model, and their
numbers.

Run by hand, in an environment that has both (they ask for other versions of much, so not the tests' own):
    pip install torch==2.13.0 transformers==5.23.* transformer-lens==4.3.0
    pip install --no-deps tuned-lens==0.2.0
    python tests/lenses/published/make.py
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_TOKENS = (21, 26)
SKIP_FIRST = 4


def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def tuned(model, ids):
    """The package's lens with random translators, as it saves it, and its logits for every layer."""
    sys.modules["transformer_lens"] = (
        None  # tuned-lens 0.2.0 asks TransformerLens for a class that 4.0 dropped
    )
    from tuned_lens.nn.lenses import TunedLens

    del sys.modules["transformer_lens"]
    lens = TunedLens.from_model(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in lens.layer_translators.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    lens.save("tuned")
    with torch.no_grad():
        hidden = model(ids[None], output_hidden_states=True).hidden_states
        return torch.stack([lens(hidden[index], idx=index)[0] for index in range(len(lens))])


def jacobian(model, texts):
    """TransformerLens's fit, its artifact, and that artifact's readout of the first text."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import JacobianLens

    model.save_pretrained("model")
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="t1", eos_token="t2", unk_token="t0"
    )
    tokenizer.save_pretrained("model")
    bridge = TransformerBridge.boot_transformers("model", hf_model=model, device="cpu")
    bridge.to_tokens = lambda ids: ids[None]  # the texts are ids already
    lens = JacobianLens.fit(bridge, texts, corpus="random ids", skip_first_positions=SKIP_FIRST)
    lens.save("jacobian.pt")
    published = JacobianLens.load("jacobian.pt")  # float16, unlike the fit
    logits = published.readout(bridge, texts[0][None], return_full_logits=True).lens_logits
    return lens.jacobians, torch.stack([logits[layer] for layer in sorted(logits)])


def main():
    os.chdir(Path(__file__).parent)
    model = tiny_model()
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(3, 64, (n,), generator=generator) for n in N_TOKENS]
    tuned_logits = tuned(model, texts[0])
    matrices, jacobian_logits = jacobian(model, texts)
    numbers = {f"text_{index}": text for index, text in enumerate(texts)}
    numbers |= {f"J_{layer}": matrix for layer, matrix in matrices.items()}
    numbers |= {"tuned_logits": tuned_logits, "jacobian_logits": jacobian_logits}
    save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, "numbers.safetensors")


if __name__ == "__main__":
    main()
