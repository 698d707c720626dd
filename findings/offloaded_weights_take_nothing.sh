#!/usr/bin/env bash
# On an offloaded model edits of weights have no effect, and a product with a weight gives numbers that mean nothing.
#
# Versions: accelerate 1.15.0, torch 2.13.0, transformers 5.23.0, Python 3.11.
# One would guess: an offloaded weight is on the meta device, so whatever needs its values raises; and loading or
#   assigning other weights changes the model.
# What happens: multiplying it in place, assigning a new Parameter and load_state_dict ("All keys matched successfully")
#   are accepted, and the next forward has the old weights, which come from the offload map before each call. Replacing
#   the *module* does work. And `h @ weight.T`, F.linear and addmm with a real h return a CPU tensor of the right shape
#   whose values were never written: torch checks the devices in elementwise operations, indexing and norms, but not
#   in these. So a logit lens by `h @ model.lm_head.weight.T` gives some numbers. model.lm_head(h) is exact.
# Where: accelerate/hooks.py, AlignDevicesHook: weights_map; the second part is torch's own, see the last lines.
# So: call modules, never read weights of a model with hf_device_map or hooks; refuse to edit weights there.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
python <<'END'
import accelerate, torch, transformers
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

print("accelerate", accelerate.__version__, "torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)
ids = torch.randint(3, 211, (1, 8), generator=torch.Generator().manual_seed(1))


def new():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=211, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                        num_attention_heads=2, initializer_range=0.3)).eval()


plain = new()
logits = plain(ids).logits
zeros = {name: torch.zeros_like(weight) for name, weight in plain.state_dict().items()}
CHANGES = {
    "weight.mul_(0)": lambda model: model.lm_head.weight.data.mul_(0),
    "weight = Parameter(zeros)": lambda model: setattr(model.lm_head, "weight",
                                                       torch.nn.Parameter(zeros["lm_head.weight"])),
    "load_state_dict(zeros)": lambda model: print("    load_state_dict:", model.load_state_dict(zeros)),
    "lm_head = another Linear": lambda model: setattr(model, "lm_head", torch.nn.Linear(32, 211)),
}
for label, change in CHANGES.items():
    moved = []
    for model in (new(), accelerate.cpu_offload(new(), execution_device=torch.device("cpu"))):
        assert torch.equal(model(ids).logits, logits)
        change(model)
        moved.append((model(ids).logits - logits).abs().max().item())
    print(f"{label:26} moves the logits: in memory {moved[0]:.1f}, offloaded {moved[1]:.1f}")
    assert moved[0] > 1 and (moved[1] > 1) == (label == "lm_head = another Linear")

model = accelerate.cpu_offload(new(), execution_device=torch.device("cpu"))
h = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
right = plain.lm_head(h)
assert torch.equal(model.lm_head(h), right)
for label, weight in (("offloaded", model.lm_head.weight), ("plain meta tensor", torch.empty(211, 32, device="meta"))):
    outcome = {}
    for name, product in (("h @ weight.T", lambda: h @ weight.T), ("linear", lambda: linear(h, weight)),
                          ("addmm", lambda: torch.addmm(h.new_zeros(2, 211), h, weight.T)),
                          ("h * weight[5]", lambda: h * weight[5]),
                          ("weight.norm().item()", lambda: weight.norm().item())):
        try:
            result = product()
            assert result.shape == right.shape and not torch.equal(result, right)
            outcome[name] = str(result.device)
        except RuntimeError as error:
            outcome[name] = type(error).__name__
    print(f"{label}, on {weight.device}:", outcome)
    assert list(outcome.values()) == ["cpu"] * 3 + ["RuntimeError"] * 2
END
