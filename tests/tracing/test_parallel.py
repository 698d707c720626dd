"""A model split by tensor parallelism: the same trace on every rank gives what the whole model gives."""

import subprocess
import sys

import pytest
import transformers
from tiny import llama

PROGRAM = """
import sys

import torch
import torch.distributed as dist
import transformers

import lenswidget as lw

folder = sys.argv[1]
torch.set_num_threads(1)
dist.init_process_group("gloo")
whole = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
split = transformers.AutoModelForCausalLM.from_pretrained(
    folder, distributed_config=transformers.DistributedConfig(tp_size=2)
).eval()
assert split.model.layers[0].mlp.up_proj.weight.to_local().shape[0] == 32


def program(model):
    found = []
    with torch.no_grad(), model.trace([1, 2, 3, 4, 5]):
        found.append(model.model.layers[1].output[0].clone())
        found.append(model.lm_head(model.model.norm(found[0])))
        found.append(model.model.layers[2].mlp.output)
        found.append(model.model.layers[0].output.clone())  # a replay
        model.model.layers[3].output[0][:, -1] *= 2
        found.append(model.lm_head.output)
    with torch.no_grad(), model.trace([1, 2, 3]):
        model.model.layers[1].skip(model.model.layers[1].input)
        found.append(model.model.layers[2].output.clone())  # and no further
    return found


for a, b in zip(program(lw.LanguageModel(whole)), program(lw.LanguageModel(split)), strict=True):
    assert torch.allclose(a, b, atol=1e-5)  # the two halves of a sum are added in another order
dist.barrier()
dist.destroy_process_group()
"""


PIPELINE = """
import sys

import torch
import torch.distributed as dist
import transformers

import lenswidget as lw

dist.init_process_group("gloo")
stage = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], distributed_config=transformers.DistributedConfig(pp_size=2)
).eval()
try:
    lw.LanguageModel(stage)
    raise SystemExit("was not refused")
except lw.LensError as error:
    assert "in a pipeline" in str(error), error
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(
    not hasattr(transformers, "DistributedConfig"), reason="this transformers has no DistributedConfig"
)
@pytest.mark.parametrize("program", [PROGRAM, PIPELINE], ids=["tensor parallel", "pipeline"])
def test_two_ranks_trace_what_one_does_and_a_pipeline_is_refused(tmp_path, program):
    llama(num_attention_heads=4, num_key_value_heads=2).save_pretrained(tmp_path / "model")
    script = tmp_path / "program.py"
    script.write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "model")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
