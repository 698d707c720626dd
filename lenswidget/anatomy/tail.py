"""Last-block states to logits: the model's own tail, and the fast way where it was verified equal."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.fidelity import compare
from lenswidget.errors import ShapeError
from lenswidget.models.hf_model import evaluation, inference
from lenswidget.tolerances import TAIL_MODULES, TAIL_POST_OPS, UNIT_SCALE, largest, within


@dataclass(frozen=True)
class PostOps:
    """What happens to the unembed's output: `cap * tanh(scale * z / cap)`, or only `scale * z`."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Applied in place where autograd does not forbid it; float32 in, float32 out."""
        if self.scale == 1.0 and self.cap is None:
            return logits
        if logits.requires_grad:
            scaled = logits * self.scale
            return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)
        if self.cap is None:
            return logits.mul_(self.scale)
        return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)


class Tail:
    """Maps last-block states to float32 logits as the model itself would.

    `tail(states) == tail.project(tail.prepare(states))`: `prepare` is what comes before the unembed (once
    for all cells), `project` the unembed and what follows (tile by tile). Both call the model's own
    modules where that was verified equal to the model's own forward, and that forward itself elsewhere;
    in evaluation mode, whatever the model's own mode is.

    Attributes:
        is_fast: whether neither half needs the model's own forward.
        how: one line that says which way is taken.
        fidelity: the probe's last-block states decoded by this tail, against the model's own logits.
    """

    def __init__(self, hf_model: nn.Module, anatomy: Anatomy):
        self.hf_model = hf_model
        self.anatomy = anatomy
        self._modules = dict(hf_model.named_modules())
        self._unembed = self._modules[anatomy.unembed] if anatomy.unembed is not None else None
        self._steps = anatomy.tail_steps
        self._post: PostOps | None = None
        self._is_split = False
        with inference(hf_model):
            self._verify()

    def __call__(self, states: Tensor) -> Tensor:
        """`[..., d_model]`, any float dtype and device, to float32 logits `[..., d_vocab]`."""
        if states.shape[-1] != self.anatomy.d_model:
            raise ShapeError(
                f"Asked to decode states of shape {list(states.shape)}, found d_model = "
                f"{self.anatomy.d_model} in {self.anatomy.model_class}. Pass states [..., d_model]."
            )
        flat = states.reshape(-1, states.shape[-1])
        return self.project(self.prepare(flat)).view(*states.shape[:-1], -1)

    def prepare(self, states: Tensor) -> Tensor:
        """`[cells, d_model]` to what the unembed takes, `[cells, d_unembed]`: the final norm and its like."""
        states = self._at_home(states)
        if self._steps is not None:
            return self._walk(states)
        return self._by_model_to_unembed(states) if self._is_split else states

    def project(self, prepared: Tensor) -> Tensor:
        """`[n, d_unembed]`, from `prepare`, to float32 logits `[n, d_vocab]`."""
        if not self._is_split:
            return self.anatomy.bypass.logits(self.hf_model, prepared).float()
        assert self._unembed is not None
        with evaluation(self._unembed):
            logits = self._unembed(prepared.to(self._unembed_dtype))
        return self.post(logits.reshape(len(prepared), -1))

    def post(self, logits: Tensor) -> Tensor:
        """What the model does to the unembed's output `[n, d]`; in place where it can. Float32 out."""
        if self._post is not None:
            return self._post(logits.float())
        return self.anatomy.bypass.after_unembed(self.hf_model, logits.to(self._unembed_dtype)).float()

    def linear(self) -> nn.Linear | None:
        """The unembed where it is a plain, local, unquantised, unhooked `nn.Linear`, else None.

        Then `project(x)` is `post(linear(x))`, and a readout may compute the product as it likes.
        """
        unembed = self._unembed
        if not self._is_split or type(unembed) is not nn.Linear or "forward" in unembed.__dict__:
            return None
        if any(unembed.__dict__.get(name) for name in ("_forward_hooks", "_forward_pre_hooks", "_hf_hook")):
            return None
        plain = all(type(t) is nn.Parameter and t.device.type != "meta" for t in unembed.parameters())
        return unembed if plain and unembed.weight.is_floating_point() else None

    @property
    def is_fast(self) -> bool:
        return self._is_split and self._steps is not None and self._post is not None

    @property
    def post_ops(self) -> PostOps | None:
        """What follows the unembed, where that is known to act on each logit alone; else None."""
        return self._post

    @property
    def how(self) -> str:
        if not self._is_split:
            return "the model's own forward with its blocks skipped"
        before = "its own forward" if self._steps is None else " > ".join(self._step_names()) or "nothing"
        after = "its own forward" if self._post is None else self._post_text()
        return f"before the unembed: {before}; {self.anatomy.unembed}; after it: {after}"

    def _step_names(self) -> list[str]:
        names: list[str] = []
        for step in self._steps or ():
            names += [f"x {step.scale:.6g}"] if step.scale != 1.0 else []
            names += [step.path] if step.path else []
        return names

    def _post_text(self) -> str:
        post = self._post or PostOps()
        scale = f"x {post.scale:.6g}" if post.scale != 1.0 else ""
        cap = f"soft-cap {post.cap:.6g}" if post.cap is not None else ""
        return ", ".join(part for part in (scale, cap) if part) or "nothing"

    def _at_home(self, states: Tensor) -> Tensor:
        """States in the dtype and on the device that the last block gives them."""
        last = self.anatomy.bypass.outputs[-1]
        home = self.anatomy.streams[-1].target.get(last)
        return states.to(device=home.device, dtype=home.dtype)

    def _walk(self, states: Tensor) -> Tensor:
        x = states
        for step in self._steps or ():
            x = x * step.scale if step.scale != 1.0 else x
            if step.path:
                module = self._modules[step.path]
                with evaluation(module):
                    x = step.target.get(module(x))
        return x

    def _by_model_to_unembed(self, states: Tensor) -> Tensor:
        return self.anatomy.bypass.unembed_input(self.hf_model, states)

    # --- verification, once -------------------------------------------------------------------

    def _verify(self) -> None:
        """Takes each fast part only if it equals the model's own forward on the probe's states."""
        anatomy, seen = self.anatomy, self.anatomy.probe
        last = anatomy.streams[-1].leaving(seen.by_path()[anatomy.rows[-1].path][-1].output)
        states = last.reshape(-1, anatomy.d_model)
        own = seen.logits.reshape(len(states), -1)
        self._unembed_dtype = states.dtype
        self._verify_split(states, own)
        self.fidelity = compare(self(states), own)

    def _verify_split(self, states: Tensor, own: Tensor) -> None:
        bypass = self.anatomy.bypass
        try:
            taken = bypass.unembed_input(self.hf_model, states)
            self._unembed_dtype = taken.dtype
            assert self._unembed is not None
            given = self._unembed(taken).reshape(len(states), -1)
            self._is_split = compare(bypass.after_unembed(self.hf_model, given), own).ok
        except Exception:
            self._is_split = False
            self._steps = None
            return
        if not self._is_split:
            self._steps = None
            return
        self._post = self._measured_post(given)
        # several magnitudes: an early stream is not as large as the last one
        for factor in (1.0, 0.25, 4.0):
            if self._steps is not None:
                ours = self._walk(states * factor)
                theirs = bypass.unembed_input(self.hf_model, states * factor)
                if not within(ours, theirs, TAIL_MODULES, largest(theirs.float()), theirs.dtype):
                    self._steps = None

    def _measured_post(self, given: Tensor) -> PostOps | None:
        """The post-ops read off the model's own answers to chosen values, then checked on others.

        In float32, which the model's post-ops take as well: at 16 bits a scale would be off by 0.4 %.
        """
        given = given.float()
        small, large = 2.0**-7, 2.0**14
        probe = torch.zeros_like(given[:2])
        probe[0], probe[1] = small, large
        answers = self._answers(probe)
        if answers is None or answers.shape != probe.shape:
            return None
        scale, ceiling = float(answers[0, 0]) / small, float(answers[1, 0])
        is_capped = ceiling < 0.5 * scale * large
        post = PostOps(_rounded(scale), ceiling if is_capped else None)
        ramp = torch.linspace(-60, 60, given.numel(), device=given.device).view_as(given)
        for trial in (given, given * 8, ramp):
            theirs = self._answers(trial)
            if theirs is None:
                return None
            if not within(post(trial.clone()), theirs, TAIL_POST_OPS, max(1.0, largest(theirs))):
                return None
        return post

    def _answers(self, given: Tensor) -> Tensor | None:
        """What the model makes of an unembed's output; None where it does not keep to float32."""
        answers = self.anatomy.bypass.after_unembed(self.hf_model, given)
        return answers if answers.dtype is torch.float32 else None


def _rounded(scale: float) -> float:
    """1.0 where it is 1.0 up to rounding, so that nothing is multiplied for nothing."""
    return 1.0 if abs(scale - 1.0) < UNIT_SCALE.floor else scale
