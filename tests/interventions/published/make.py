"""Writes this folder: what TransformerLens 4.3.0's interventions along a Jacobian lens give.

The model and the lens are those of `tests/lenses/published`. Run by hand, in an environment that has it:
    pip install torch==2.13.0 transformers==5.23.* transformer-lens==4.3.0
    python tests/interventions/published/make.py
"""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
PUBLISHED = HERE.parent.parent / "lenses" / "published"


def main():
    os.chdir(PUBLISHED)  # the lens knows its model by the name "model"
    model = AutoModelForCausalLM.from_pretrained("model").eval()
    bridge = TransformerBridge.boot_transformers("model", hf_model=model, device="cpu")
    lens = JacobianLens.load("jacobian.pt")
    ids = load_file("numbers.safetensors")["text_0"][None]
    _, clean = bridge.run_with_cache(ids)
    hooks = {
        "steer": lens.steering_hooks(bridge, 7, [0, 1], alpha=0.7),
        "steer_some": lens.steering_hooks(bridge, 9, [1], alpha=-0.5, positions=[2, 5, -1]),
        "project_out": lens.ablation_hooks(bridge, [7, 9], [0, 1], positions=[1, 4]),
        "swap_live": lens.swap_hooks(bridge, 7, 9, [1]),
        "swap_clamped": lens.swap_hooks(bridge, 7, 9, [0, 1], clamp_to=clean, positions=[3, -1]),
    }
    with torch.no_grad():
        numbers = {name: bridge.run_with_hooks(ids, fwd_hooks=each)[0] for name, each in hooks.items()}
    save_file({name: logits.contiguous() for name, logits in numbers.items()}, HERE / "numbers.safetensors")


if __name__ == "__main__":
    main()
