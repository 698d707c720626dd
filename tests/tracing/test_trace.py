"""Reading, writing, skipping and calling inside a trace, in any order, on any module."""

import pytest
import torch
from tiny import PROMPT, Counted, gpt2, language_model, llama, n_hooks
from torch import nn

import lenswidget as lw
from lenswidget.errors import NotReachedError, OutOfOrderError, ShapeError, TraceError
from lenswidget.tracing.moments import CallOrder, Moment


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


@pytest.fixture
def counted():
    module = Counted()
    return lw.TracedModel(module), module, torch.randn(2, 8)


def logits_of(model, prompt=PROMPT, **kwargs):
    return model.hf_model(**model.tokenize(prompt), **kwargs).logits


def hooked(model, path, change):
    """The model's logits with one plain hook that changes a module's hidden states."""

    def hook(module, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = model.hf_model.get_submodule(path).register_forward_hook(hook)
    try:
        return logits_of(model)
    finally:
        handle.remove()


# --- reading


def test_values_are_read_by_attribute_by_index_and_by_path(model):
    with model.trace(PROMPT):
        by_attribute = model.transformer.h[-2].mlp.c_fc.output
        assert model.get("transformer.h.2.mlp.c_fc").output is by_attribute
        assert model.transformer.get("h.2").mlp["c_fc"].output is by_attribute


def test_inputs_are_read_as_they_were_passed(model):
    with model.trace(PROMPT) as tracer:
        args, kwargs = model.transformer.h[1].inputs
        assert model.transformer.h[1].input is args[0]
        assert model.input is tracer_ids(model)
        assert isinstance(kwargs, dict)
        assert tracer.result.logits.shape[-1] == 300


def tracer_ids(model):
    _, kwargs = model.inputs
    return kwargs["input_ids"]


def test_tuples_and_model_outputs_come_as_they_are(model):
    with model.trace(PROMPT) as tracer:
        assert isinstance(model.transformer.h[0].attn.output, tuple)
        assert type(model.transformer.output).__name__ == "BaseModelOutputWithPastAndCrossAttentions"
        assert model.output.logits is tracer.result.logits


def test_a_value_read_twice_is_the_same_object(model):
    with model.trace(PROMPT):
        first = model.transformer.h[1].output
        _ = model.lm_head.output
        assert model.transformer.h[1].output is first


def test_a_containing_module_can_be_read_from_within_it(model):
    with model.trace(PROMPT) as tracer:
        inner = model.transformer.h[1].mlp.output
        outer = model.transformer.h[1].output
        whole = model.transformer.output.last_hidden_state
        assert torch.equal(tracer.result.logits, logits_of(model))
    with model.trace(PROMPT):
        assert torch.equal(model.transformer.h[1].output, outer)
        assert torch.equal(model.transformer.output.last_hidden_state, whole)
    assert inner.shape == outer.shape


def test_save_returns_the_value_and_exists_only_while_a_trace_is_open(model):
    with model.trace(PROMPT):
        value = model.lm_head.output
        assert value.save() is value
        assert value.argmax(-1).save().ndim == 2
        whole = model.output
        assert whole.save() is whole
    assert not hasattr(torch.Tensor, "save")
    assert not hasattr(whole, "save")


def test_tuples_are_saved_as_well(model):
    with model.trace(PROMPT):
        output = model.transformer.h[1].attn.output
        assert output.save() is output
        given = model.transformer.h[1].mlp.inputs.save()
        states = torch.zeros_like(output[0])
        model.transformer.h[2].attn.output = model.transformer.h[2].attn.output.save()
        assert isinstance(output, tuple)
        assert given[0][0].shape == states.shape


# --- a block's output has two faces


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_block_output_is_the_hidden_states_and_the_tuple_that_holds_them(make):
    model = language_model(make)
    block = model.transformer.h[1] if make is gpt2 else model.model.layers[1]
    with model.trace(["The city", "of Paris"]):
        output = block.output
        states = output[0]
        assert output.shape == states.shape
        assert output.ndim == 3
        assert type(states) is torch.Tensor
        assert torch.equal(output, states)
        assert torch.equal(output[:, -1], states[:, -1])
        assert torch.equal(output[..., 0], states[..., 0])
        assert torch.equal(states[1], output.unbind(0)[1])
        assert type(output + 1) is torch.Tensor
        assert next(iter(output)) is states
        with pytest.raises(IndexError, match=r"\[0\]\[7\]"):
            output[7]


def test_a_block_output_is_pickled_and_copied_as_the_tensor_it_is(model, tmp_path):
    import copy

    with torch.no_grad(), model.trace(PROMPT):
        output = model.transformer.h[1].output
    torch.save(output, tmp_path / "output.pt")
    assert torch.equal(torch.load(tmp_path / "output.pt"), output)
    assert type(copy.deepcopy(output)) is torch.Tensor
    assert output.numpy().shape == output.shape


def test_rows_of_a_list_of_experts_are_no_blocks():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.experts[0](x)

    model = lw.TracedModel(Experts())
    with model.trace(torch.ones(2, 4)):
        assert type(model.experts[0].output) is torch.Tensor
        assert model.experts[0].output[0].shape == (4,)


# --- order


def test_values_are_read_in_any_order(model):
    with model.trace(PROMPT):
        forwards = [model.transformer.h[i].output.clone() for i in range(4)]
    with model.trace(PROMPT):
        backwards = [model.transformer.h[i].output.clone() for i in reversed(range(4))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_a_replay_reapplies_the_changes_made_so_far_in_place_ones_included(model):
    def change(states):
        return states * 0.5 + 1

    expected = {}
    handle = model.hf_model.transformer.h[2].register_forward_hook(
        lambda module, args, output: expected.__setitem__(
            "mid", (output[0] if isinstance(output, tuple) else output).clone()
        )
    )
    hooked(model, "transformer.h.1", change)
    handle.remove()
    with torch.no_grad(), model.trace(PROMPT):
        model.transformer.h[1].output[0].mul_(0.5).add_(1)
        assert torch.equal(model.lm_head.output, hooked(model, "transformer.h.1", change))
        assert torch.equal(model.transformer.h[2].output, expected["mid"])


def test_a_replay_draws_the_same_random_numbers():
    hf_model = gpt2(resid_pdrop=0.5).train()
    model = lw.LanguageModel(hf_model, None)
    with torch.no_grad(), model.trace([1, 2, 3]):
        late = model.transformer.h[2].input.clone()
        replayed = model.transformer.h[1].output
        assert torch.equal(replayed, late)


class Drawing(nn.Sequential):
    """Draws random numbers between every two layers; has one layer that never runs."""

    def __init__(self):
        super().__init__(*[part for _ in range(4) for part in (nn.Linear(8, 8), nn.Dropout(0.5))])
        self.add_module("unused", nn.Linear(8, 8))

    def forward(self, x):
        for part in list(self)[:-1]:
            x = part(x)
        return x


@pytest.mark.parametrize("n_traces", [1, 3])  # of a model never seen before, and of a known one
@pytest.mark.parametrize("between", ["draws", "asks for what never runs"])
def test_a_replay_fits_what_was_read_though_the_body_draws_in_between(n_traces, between):
    module = Drawing().train()
    model = lw.TracedModel(module)
    for _ in range(n_traces):
        with torch.no_grad(), model.trace(torch.ones(2, 8)) as tracer:
            _ = model[0].output
            if between == "draws":
                torch.rand(3)
            else:
                with pytest.raises(NotReachedError):
                    _ = model.unused.output
            late = model[4].output.clone()
            assert torch.equal(module[4](model[3].output), late)  # a replay
            torch.rand(3)
            later = model[6].output.clone()
            assert torch.equal(module[6](model[5].output), later)
            _ = tracer.result


def test_a_replay_leaves_the_random_numbers_of_the_body_alone(model):
    def draw(replays):
        torch.manual_seed(7)
        with torch.no_grad(), model.trace(PROMPT):
            _ = model.transformer.h[3].output
            first = torch.rand(3)
            if replays:
                _ = model.transformer.h[0].output
            return first, torch.rand(3)

    assert all(torch.equal(a, b) for a, b in zip(draw(False), draw(True), strict=True))


def test_a_replay_sees_the_inputs_as_they_were_given():
    model = lw.TracedModel(Counted())
    x = torch.randn(2, 8)
    with torch.no_grad():
        expected = model.wrapped.embed(x)
        with model.trace(x):
            model.blocks[2].input.zero_()
            given = model.embed.input  # passed: a replay
            assert torch.equal(model.embed.output, expected)
        with model.trace(x):
            model.embed.input.zero_()
            assert torch.equal(model.embed.output, model.wrapped.embed(torch.zeros(2, 8)))
            assert torch.equal(
                given, torch.zeros(2, 8)
            )  # the caller's own tensor was changed, as by any hook


def test_a_write_to_what_has_passed_names_both_modules_and_the_remedy_works(model):
    with model.trace(PROMPT):
        late = model.transformer.h[2].output
        with pytest.raises(OutOfOrderError) as caught:
            model.transformer.h[1].output = torch.zeros_like(late)
        assert "transformer.h.1.output" in str(caught.value)
        assert "transformer.h.2.output" in str(caught.value)
        # the trace goes on unharmed
        assert torch.equal(model.lm_head.output, logits_of(model))
    with model.trace(PROMPT):  # "change it before asking for ..."
        model.transformer.h[1].output = torch.zeros_like(late)
        assert not torch.equal(model.transformer.h[2].output, late)


def test_errors_name_a_shared_module_as_the_user_did():
    module = nn.Module()
    module.first = module.second = nn.Linear(2, 2)
    module.last = nn.Linear(2, 2)
    module.unused = module.idle = nn.Linear(2, 2)
    module.forward = lambda x: module.last(module.second(x))
    model = lw.TracedModel(module)
    with model.trace(torch.ones(1, 2)):
        _ = model.second.output
        with pytest.raises(NotReachedError, match=r"^Asked for idle\.output"):
            _ = model.idle.output
        with pytest.raises(
            OutOfOrderError, match=r"^Asked to change second\.input.* stands at second\.output"
        ):
            model.second.input = torch.zeros(1, 2)


def test_a_module_that_never_runs_is_named_with_the_nearest_that_does():
    class Sometimes(Counted):
        def __init__(self):
            super().__init__()
            self.blocks[2].adapter = nn.Linear(8, 8)

    model = lw.TracedModel(Sometimes())
    with model.trace(torch.ones(1, 8)):
        _ = model.blocks[0].output
        with pytest.raises(NotReachedError, match=r"blocks\.2\.adapter\.output.*nearest.*blocks\.2\."):
            _ = model.blocks[2].adapter.output
        with pytest.raises(NotReachedError, match="ModuleList never runs"):
            _ = model.blocks.output
        model.blocks[1].output = torch.zeros(1, 8)  # the forward still stands after block 0
        assert torch.equal(model.blocks[2].input, torch.zeros(1, 8))


def test_a_wrong_guess_about_the_order_costs_time_only():
    class Swaps(nn.Module):
        """Runs its parts in an order that depends on the input, which no earlier forward can tell."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            parts = (self.a, self.b) if x.sum() > 0 else (self.b, self.a)
            for part in parts:
                x = part(x)
            return self.c(x)

    module = Swaps()
    model = lw.TracedModel(module)
    x = torch.ones(1, 4)
    with model.trace(x) as tracer:
        _ = tracer.result
    with torch.no_grad(), model.trace(-x) as tracer:
        first = model.b.output  # ran first this time, though second before
        second = model.a.output
        assert torch.equal(second, module.a(module.b(-x)))
        assert torch.equal(first, module.b(-x))
        with pytest.raises(OutOfOrderError):
            model.b.output = first
        model.c.output = torch.zeros(1, 4)
        assert torch.equal(tracer.result, torch.zeros(1, 4))
    with torch.no_grad(), model.trace(-x) as tracer:
        _ = model.a.output
        assert torch.equal(
            model.b.output, first
        )  # thought to lie ahead: run to the end, then found by a rerun
        model.c.output = torch.ones(1, 4)  # and the forward is back where it stood
        assert torch.equal(tracer.result, torch.ones(1, 4))


# --- the forward goes no further than asked


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("index", [0, 2, 5])
def test_reading_a_block_runs_no_block_beyond_it(counted, index, known):
    model, module, x = counted
    if known:
        with model.trace(x) as tracer:
            _ = tracer.result
    module.runs = [0] * 6
    with model.trace(x):
        _ = model.blocks[index].output
    assert module.runs == [1] * (index + 1) + [0] * (5 - index)


def test_a_trace_that_asks_for_nothing_runs_nothing(counted):
    model, module, x = counted
    with model.trace(x):
        pass
    assert module.runs == [0] * 6


def test_the_result_runs_to_the_end_and_stays_after_the_trace(counted):
    model, module, x = counted
    with model.trace(x) as tracer:
        _ = tracer.result
        assert model.output is tracer.result
        assert module.runs == [1] * 6
    assert torch.equal(tracer.result, module(x))


def test_stop_ends_the_forward_and_keeps_what_was_read(counted):
    model, module, x = counted
    with model.trace(x) as tracer:
        read = model.blocks[1].output
        try:
            tracer.stop()
        finally:  # all of the body that still runs
            assert model.blocks[1].output is read
            with pytest.raises(TraceError, match="was stopped"):
                _ = model.blocks[2].output
    assert module.runs[2:] == [0] * 4
    assert n_hooks(module) == 0


# --- writing


@pytest.mark.parametrize(
    "path", ["transformer.h.1", "transformer.h.1.mlp", "transformer.wte", "transformer.ln_f"]
)
def test_assigning_an_output_is_what_a_plain_hook_does(model, path):
    def change(states):
        return states * 2 - 1

    with model.trace(PROMPT):
        module = model.get(path)
        module.output = change(module.output)
        assert torch.equal(model.lm_head.output, hooked(model, path, change))


def test_assigning_inside_a_tuple_is_what_a_plain_hook_does(model):
    with model.trace(PROMPT):
        attention = model.transformer.h[1].attn
        attention.output = (attention.output[0] * 3, *attention.output[1:])
        assert torch.equal(model.lm_head.output, hooked(model, "transformer.h.1.attn", lambda x: x * 3))
    with torch.no_grad(), model.trace(PROMPT):
        model.transformer.h[1].attn.output[0].mul_(3)
        assert torch.equal(model.lm_head.output, hooked(model, "transformer.h.1.attn", lambda x: x * 3))


def test_editing_a_block_output_in_place_works_in_every_spelling(model):
    with torch.no_grad():
        expected = hooked(model, "transformer.h.1", lambda x: x + 1)

        def add_to_the_tensor():
            output = model.transformer.h[1].output
            output += 1

        def add_to_the_part():
            model.transformer.h[1].output[0].add_(1)

        def assign_all():
            model.transformer.h[1].output[:] = model.transformer.h[1].output + 1

        def assign_the_part():
            output = model.transformer.h[1].output
            output[0] = output[0] + 1

        def add_by_attribute():
            model.transformer.h[1].output += 1

        for edit in (add_to_the_tensor, add_to_the_part, assign_all, assign_the_part, add_by_attribute):
            with model.trace(PROMPT):
                edit()
                assert torch.equal(model.lm_head.output, expected), edit.__name__


def test_assigning_an_input_changes_what_the_module_is_given(model):
    with torch.no_grad(), model.trace(PROMPT):
        model.transformer.ln_f.input = model.transformer.ln_f.input * 0
        assert torch.equal(model.lm_head.input, model.transformer.ln_f(torch.zeros_like(model.lm_head.input)))


def test_assigning_inputs_changes_keywords_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x=x, scale=2)

    class Inner(nn.Module):
        def forward(self, x, scale):
            return x * scale

    model = lw.TracedModel(Scaled())
    with model.trace(torch.ones(2)) as tracer:
        args, kwargs = model.inner.inputs
        model.inner.inputs = args, {**kwargs, "scale": 5}
        assert torch.equal(tracer.result, torch.full((2,), 5.0))
    with model.trace(torch.ones(2)) as tracer:
        model.inner.input = torch.zeros(2)
        assert torch.equal(tracer.result, torch.zeros(2))


def test_an_assigned_value_is_what_is_read_from_then_on(model):
    with model.trace(PROMPT):
        new = torch.zeros_like(model.transformer.h[1].mlp.output)
        model.transformer.h[1].mlp.output = new
        assert model.transformer.h[1].mlp.output is new


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(1, 2, 32), r"\[1, 2, 32\]"),
        (torch.zeros(1, 9, 32, dtype=torch.float64), "float64"),
        (torch.zeros(1, 9, 32, device="meta"), "meta"),
        ((torch.zeros(1), torch.zeros(1)), "a tuple of 2"),
        (None, "NoneType"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused_at_once_naming_both(model, wrong, said):
    ids = list(range(9))
    with model.trace(ids):
        with pytest.raises(ShapeError, match=said) as caught:
            model.transformer.h[1].mlp.output = wrong
        assert "transformer.h.1.mlp.output" in str(caught.value)
        assert "[1, 9, 32] float32" in str(caught.value)
        assert torch.equal(model.lm_head.output, logits_of(model, ids))


def test_patching_a_run_with_itself_changes_nothing(model):
    values = {}
    with model.trace(PROMPT):
        for path in (f"transformer.h.{i}{part}" for i in range(4) for part in (".ln_1", ".attn", ".mlp", "")):
            values[path] = model.get(path).output
    with model.trace(PROMPT):
        for path, value in values.items():
            model.get(path).output = value
        assert torch.equal(model.lm_head.output, logits_of(model))


def test_values_carried_from_one_trace_to_the_next_patch_activations(model):
    with model.trace("The city of France"):
        clean = model.transformer.h[1].output[0]
        width = clean.shape[1]
    other = model.tokenize("The heart of Paris is in the city of")["input_ids"][:, :width]
    with model.trace(other):
        model.transformer.h[1].output = clean
        patched = model.lm_head.output
    assert torch.equal(patched, logits_of(model, "The city of France"))


def test_two_traces_of_one_model_nest(model):
    with model.trace("The city of France"):
        outer = model.transformer.h[1].output
        with model.trace("of Paris"):
            inner = model.transformer.h[1].output
            model.transformer.h[2].output = torch.zeros_like(model.transformer.h[2].output)
        assert model.transformer.h[1].output is outer
        assert torch.equal(model.lm_head.output, logits_of(model, "The city of France"))
    assert inner.shape != outer.shape


def test_traces_of_two_models_nest():
    one, two = language_model(gpt2), language_model(llama)
    with one.trace(PROMPT), two.trace(PROMPT):
        a, b = one.lm_head.output, two.lm_head.output
    assert torch.equal(a, logits_of(one))
    assert torch.equal(b, logits_of(two))


# --- skipping


def test_a_skipped_module_does_not_run_and_its_value_is_used(counted):
    model, module, x = counted
    ran = []
    handle = module.blocks[2].register_forward_pre_hook(lambda *_: None)
    original = module.blocks[2].forward
    module.blocks[2].forward = lambda value: ran.append(1) or original(value)
    with torch.no_grad(), model.trace(x) as tracer:
        model.blocks[2].skip(model.blocks[2].input * 2)
        value = torch.tanh(model.blocks[2].output)
        assert torch.equal(model.blocks[3].input, value)
        _ = tracer.result
    assert not ran
    handle.remove()


@pytest.mark.parametrize("known", [False, True])
def test_a_skipped_block_returns_what_its_kind_of_block_returns(model, known):
    if known:
        _ = model.anatomy
    with torch.no_grad(), model.trace(PROMPT):
        model.transformer.h[1].skip(model.transformer.h[1].input)
        skipped = model.lm_head.output

    block = model.hf_model.transformer.h[1]
    n_parts = len(out) if isinstance(out := block_return(model), tuple) else None
    block.forward = lambda x, *_, **__: x if n_parts is None else (x, *[None] * (n_parts - 1))
    with torch.no_grad():
        expected = logits_of(model)
    del block.forward
    assert torch.equal(skipped, expected)


def block_return(model):
    kept = {}
    handle = model.hf_model.transformer.h[1].register_forward_hook(lambda m, a, o: kept.update(o=o))
    logits_of(model)
    handle.remove()
    return kept["o"]


def test_a_module_that_has_begun_cannot_be_skipped(model):
    with model.trace(PROMPT):
        inside = model.transformer.h[1].mlp.output
        with pytest.raises(OutOfOrderError, match=r"transformer\.h\.1\.input"):
            model.transformer.h[1].skip(inside)


# --- calling


def test_modules_are_called_at_any_time_without_disturbing_the_run(model):
    expected = logits_of(model)
    x = torch.randn(1, 4, 32)
    with model.trace(PROMPT):
        before = model.transformer.h[3].mlp(x)  # not reached yet
        early = model.transformer.h[0].output
        inside = model.transformer.h[1].mlp.output
        again = model.transformer.h[1].mlp(x)  # the forward stands inside this block
        late = model.lm_head.output
        after = model.transformer.h[0].mlp(x)
        assert torch.equal(late, expected)
    assert torch.equal(before, model.hf_model.transformer.h[3].mlp(x))
    assert torch.equal(again, model.transformer.h[1].mlp(x))  # outside a trace
    assert torch.equal(after, model.hf_model.transformer.h[0].mlp(x))
    assert early.shape == inside.shape


def test_a_called_module_is_given_ordinary_tensors(model):
    kinds = []
    handle = model.hf_model.lm_head.register_forward_pre_hook(lambda m, args: kinds.append(type(args[0])))
    with model.trace(PROMPT):
        model.lm_head(model.transformer.h[1].output)
    handle.remove()
    assert set(kinds) == {torch.Tensor}


def test_the_forward_is_given_ordinary_tensors(model):
    kinds = []
    handle = model.hf_model.transformer.h[2].register_forward_pre_hook(
        lambda m, args: kinds.append(type(args[0]))
    )
    with model.trace(PROMPT):
        output = model.transformer.h[1].output
        model.transformer.h[1].output = output
        _ = model.transformer.h[2].output
    handle.remove()
    assert set(kinds) == {torch.Tensor}


def test_what_was_never_watched_counts_as_before_all_that_was():
    first, second, never = (nn.Identity() for _ in range(3))
    order = CallOrder()
    order.learn([(first, "input", 0), (second, "input", 0)], {}, ended=True)
    at = {module: Moment(module, "input", 0) for module in (first, second, never)}
    assert order.is_before(at[first], at[second])
    assert not order.is_before(at[second], at[first])
    assert order.is_before(at[never], at[first])
    assert not order.is_before(at[first], at[never])
