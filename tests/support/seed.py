"""The founding document's two fragments, word for word."""

# `model` is a LanguageModel of a GPT-2, `prompt` a string, `l` a layer: as the page has them.
CALL_A_MODULE = """
with model.trace(prompt):
  hs = model.transformer.h[l].output

  logits = model.lm_head.output.save()

  # call module
  out = model.transformer.ln_f(hs).save()
"""

LOGIT_LENS = """
with model.trace(prompt) as tracer:

    hidden_states = model.transformer.h[-1].output[0]

    # applying ln_f module and then lm_head module to hidden_states
    hidden_states = model.lm_head(model.transformer.ln_f(hidden_states)).save()

    tokens = torch.softmax(hidden_states, dim=2).argmax(dim=2).save()
"""


def run(fragment, **names):
    exec(fragment, names)
    return names
