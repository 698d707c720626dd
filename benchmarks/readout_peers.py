"""From prompt to every layer's top-5, as each peer's own documentation does it: one function of ids each."""

import torch


def final_norm_of(hf_model):
    return hf_model.transformer.ln_f if hasattr(hf_model, "transformer") else hf_model.model.norm


def blocks_of(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def transformers_loop(hf_model, folder):
    """transformers alone: `output_hidden_states`, then norm, head, softmax and top-k layer by layer."""
    norm = final_norm_of(hf_model)

    @torch.no_grad()
    def read(ids):
        states = hf_model(ids[None], output_hidden_states=True).hidden_states
        rows = []
        for layer, state in enumerate(states):
            # the last one is normed already
            logits = hf_model.lm_head(state if layer == len(states) - 1 else norm(state))
            rows.append(logits.softmax(dim=-1).topk(5))
        return rows

    return read


def nnsight_loop(hf_model, folder):
    """nnsight 0.8.1: one trace, norm, head, softmax and top-k of the blocks' streams inside it."""
    from nnsight import LanguageModel
    from transformers import AutoTokenizer

    model = LanguageModel(hf_model, tokenizer=AutoTokenizer.from_pretrained(folder))
    blocks = blocks_of(model)
    norm = final_norm_of(model)

    def read(ids):
        with torch.no_grad(), model.trace(ids[None]):
            rows = [].save()
            rows.append(model.lm_head(norm(blocks[0].input)).softmax(dim=-1).topk(5))
            for block in blocks:
                output = block.output
                state = output[0] if isinstance(output, tuple) else output
                rows.append(model.lm_head(norm(state)).softmax(dim=-1).topk(5))
        return rows

    return read


def transformer_lens_resid(hf_model, folder):
    """TransformerLens 4.3.0: `run_with_cache`, `accumulated_resid`, unembed, softmax, top-k."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=hf_model, tokenizer=tokenizer, device=str(hf_model.device)
    )

    @torch.no_grad()
    def read(ids):
        _, cache = bridge.run_with_cache(ids[None])
        stacked = cache.accumulated_resid(apply_ln=True)
        return bridge.unembed(stacked).softmax(dim=-1).topk(5)

    return read


def tuned_lens_trajectory(hf_model, folder):
    """tuned-lens 0.2.0: `PredictionTrajectory` through its logit lens, top-5 and entropy."""
    from tuned_lens import model_surgery
    from tuned_lens.nn.lenses import LogitLens
    from tuned_lens.plotting import PredictionTrajectory

    # it asks TransformerLens for a class that 4.0 took away
    model_surgery._transformer_lens_available = False
    lens = LogitLens.from_model(hf_model)

    @torch.no_grad()
    def read(ids):
        trajectory = PredictionTrajectory.from_lens_and_model(lens, hf_model, input_ids=ids.tolist())
        log_probs = torch.from_numpy(trajectory.log_probs)
        return log_probs.topk(5), trajectory.entropy()

    return read


PEERS = {
    "transformers": transformers_loop,
    "nnsight": nnsight_loop,
    "TransformerLens": transformer_lens_resid,
    "tuned-lens": tuned_lens_trajectory,
}
