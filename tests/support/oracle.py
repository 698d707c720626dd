"""Readouts computed plainly in float64, from a run's states on: what the tests hold the fast ones against."""

import numpy as np
import torch
from torch import nn


def tail_in_float64(hf_model, states):
    """`[..., d_model]` to float64 logits, for models that are a norm and a head, written out by hand."""
    norm = hf_model.transformer.ln_f if hasattr(hf_model, "transformer") else hf_model.model.norm
    x = states.double()
    weight = norm.weight.detach().double()
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + norm.eps) * weight + norm.bias.detach().double()
    else:
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + norm.variance_epsilon) * weight
    return x @ hf_model.lm_head.weight.detach().double().T


class Reference:
    """Every number of a grid `[layers, positions]`, from float64 logits `[layers, positions, d_vocab]`."""

    def __init__(self, logits, final=None):
        self.logits = logits
        self.log_probs = logits.log_softmax(-1)
        probs = self.log_probs.exp()
        final = self.log_probs[-1:] if final is None else final
        self.entropy_nats = -(probs * self.log_probs).sum(-1).numpy()
        self.kl_from_final = kl(final.expand_as(self.log_probs), self.log_probs)
        self.kl_to_final = kl(self.log_probs, final.expand_as(self.log_probs))
        self.agrees = (logits.argmax(-1) == final.argmax(-1)).numpy()

    @classmethod
    def of(cls, hf_model, run, site="resid_post"):
        cells = np.mgrid[run.lowest_layer(site) : run.n_layers, 0 : run.seq].reshape(2, -1)
        states = run.states(site, *cells)
        logits = tail_in_float64(hf_model, states)
        return cls(logits.view(-1, run.seq, logits.shape[-1]))

    def best(self, k):
        """Ids, best first (no two float64 logits tie), and how far each is above the next."""
        top = self.logits.topk(k + 1)
        return top.indices[..., :k].numpy(), (top.values[..., :-1] - top.values[..., 1:]).numpy()

    def log_probs_of(self, ids):
        return np.take_along_axis(self.log_probs.numpy(), ids.astype(np.int64), -1)

    def ranks(self, token_id, near):
        """How many score strictly higher, at most and at least, if logits `near` each other may swap."""
        own = self.logits[..., token_id, None]
        others = torch.cat([self.logits[..., :token_id], self.logits[..., token_id + 1 :]], -1)
        return (others > own - near).sum(-1).numpy(), (others > own + near).sum(-1).numpy()


def kl(p, q):
    """KL(p || q) of log-probs, in nats."""
    return (p.exp() * (p - q)).sum(-1).numpy()
