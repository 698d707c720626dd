"""The tail equals the model's own logits, however the model makes them."""

import copy

import pytest
import torch
import transformers as hf
from tiny_models import tiny_config, tiny_model
from torch import nn

from lenswidget.anatomy.discovery import discover
from lenswidget.anatomy.recording import probe_ids
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import ShapeError
from lenswidget.language_model import LanguageModel
from lenswidget.models.hf_model import forward, logits_of

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "intermediate_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
OPT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "ffn_dim": 128,
    "word_embed_proj_dim": 32,
    "do_layer_norm_before": False,
}
TAILS = {
    "plain": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "rms norm": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL)),
    "soft-cap": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SMALL, head_dim=16)),
    "logit scale": lambda: hf.CohereForCausalLM(hf.CohereConfig(**SMALL)),
    "divided logits": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**SMALL, logits_scaling=3.0)),
    "head bias": lambda: hf.PhiForCausalLM(hf.PhiConfig(**SMALL)),
    "projected, no norm": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
}


@pytest.fixture(params=TAILS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return TAILS[request.param]().eval()


def last_states_and_logits(model: nn.Module, path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The last block's output, caught by a plain hook, and the model's own logits."""
    caught: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda _module, _args, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        logits = logits_of(model(input_ids=probe_ids(model, shift=2)))
    handle.remove()
    return caught[0], logits


def test_last_states_give_the_models_own_logits(model: nn.Module):
    anatomy = discover(model)
    states, own = last_states_and_logits(model, anatomy.blocks[-1])
    with torch.no_grad():
        decoded = Tail(model, anatomy)(states)
    assert decoded.dtype is torch.float32
    # float32 rounding of another order of summation
    torch.testing.assert_close(decoded.log_softmax(-1), own.log_softmax(-1), rtol=0, atol=2e-6)


def test_halves_and_linear_make_the_whole(model: nn.Module):
    anatomy = discover(model)
    tail = Tail(model, anatomy)
    states, _ = last_states_and_logits(model, anatomy.blocks[-1])
    with torch.no_grad():
        rows = states.flatten(0, 1)
        whole = tail(rows)
        prepared = tail.prepare(rows)
        assert torch.equal(tail.project(prepared), whole)
        linear = tail.linear()
        assert linear is not None
        assert tail.is_fast
        torch.testing.assert_close(tail.post(linear(prepared)), whole, rtol=0, atol=2e-6)


def test_discovery_leaves_the_model_as_it_was(model: nn.Module):
    model.train()
    keys = {path: set(module.__dict__) for path, module in model.named_modules()}
    Tail(model, discover(model))
    for path, module in model.named_modules():
        assert module.training
        assert set(module.__dict__) == keys[path]
        # transformers keeps hooks of its own on some; ours would be closures from this package
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert not [hook for hook in hooks if "lenswidget" in str(getattr(hook, "__module__", ""))]


@pytest.mark.parametrize("config", ["RobertaConfig", "Gemma3nTextConfig", "ProphetNetConfig"])
def test_the_universal_way_works_inside_an_open_trace_without_disturbing_it(config):
    model = LanguageModel(tiny_model(tiny_config(getattr(hf, config))))
    ids = probe_ids(model.hf_model, shift=2)
    with torch.no_grad():
        own = logits_of(forward(model.hf_model, ids))
        with model.trace(ids, use_cache=False) as tracer:
            early = model.tail(model.layers[0].resid_post)
            states = model.layers[model.anatomy.n_layers - 1].resid_post
            last = model.tail(states)
            logits = logits_of(tracer.result)
    assert not model.tail.is_fast
    assert torch.equal(logits, own)
    torch.testing.assert_close(last.log_softmax(-1), own.log_softmax(-1), rtol=0, atol=4e-6)
    assert not torch.allclose(early, last, atol=1e-3)


def test_gradients_pass_through_both_ways():
    for config in ("Gemma2Config", "Gemma3nTextConfig"):  # soft-cap in place, and the model's own forward
        model = tiny_model(tiny_config(getattr(hf, config)))
        tail = Tail(model, discover(model))
        states = torch.randn(3, tail.anatomy.d_model, requires_grad=True)
        tail(states).log_softmax(-1)[:, 7].sum().backward()
        assert states.grad is not None
        step = torch.randn(3, tail.anatomy.d_model, generator=torch.Generator().manual_seed(0)) * 1e-2
        with torch.no_grad():
            up, down = (tail(states + sign * step).log_softmax(-1)[:, 7].sum() for sign in (1, -1))
        # central difference, good to the third order of the step
        torch.testing.assert_close((states.grad * step).sum(), (up - down) / 2, rtol=0.02, atol=1e-3)


def test_the_demo_models_tail_is_as_near_to_float64_as_the_model_itself(demo_model):
    """Real weights; the reference is the same model in float64."""
    text = "The Eiffel Tower is in the city of"
    ids = demo_model.tokenize(text)["input_ids"]
    with torch.no_grad():
        exact = copy.deepcopy(demo_model.hf_model).double()(input_ids=ids).logits.log_softmax(-1)
        with demo_model.trace(text) as tracer:
            states = demo_model.layers[29].resid_post.clone()
            own = tracer.result.logits
        decoded = demo_model.tail(states)
    assert demo_model.tail.is_fast
    assert demo_model.tokenizer.decode(decoded[0, -1].argmax()) == " Paris"
    own_error = (own.double().log_softmax(-1) - exact).abs().max()
    assert (decoded.double().log_softmax(-1) - exact).abs().max() <= 1.1 * own_error + 1e-6
    assert all(len(sites.offered) == 5 for sites in demo_model.anatomy.sites)


def test_states_of_another_width_are_refused():
    model = TAILS["plain"]()
    tail = Tail(model, discover(model))
    with pytest.raises(ShapeError, match=r"d_model = 64"):
        tail(torch.zeros(2, 63))
