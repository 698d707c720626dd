"""What to write here in place of names that nnsight has and lenswidget does not."""

OF_A_TRACE = {
    "invoke": "a trace is one call of the model. Give a batch, `model.trace([a, b])`, or one trace each.",
    "iter": "write `for step in tracer.steps:`.",
    "all": "write `for step in tracer.steps:`.",
    "next": "write `for step in tracer.steps:`.",
    "barrier": "there are no invokes to wait for. Use a variable to take a value from one trace to the next.",
}

OF_A_MODULE = {
    "source": "operations inside a forward cannot be read. Read the inputs and outputs of its modules.",
    "next": "write `for step in tracer.steps:`, or `module.calls[1]` for a module that runs several times.",
    "edit": "an edit holds for one trace. Write it in a function and call that in each trace.",
    "session": "traces follow one another as ordinary code. Open one after the other.",
    "scan": "shapes are known from real values. Open a trace and print them.",
}

_BACKWARD = (
    "`with loss.backward():` is nnsight's; here backward() is torch's own and returns None. Call "
    "`states.retain_grad()`, then `loss.backward()`, then read `states.grad`."
)
_SAVE = "`.save()` is not needed: whatever the body makes is real and stays. Leave it out."


def hint_for(error: BaseException) -> str | None:
    """What to write instead, for an error that code written for nnsight makes in a body."""
    if isinstance(error, TypeError) and str(error).startswith(
        "'NoneType' object does not support the context manager protocol"
    ):
        return _BACKWARD
    if isinstance(error, AttributeError) and error.name == "save":
        return _SAVE
    return None
