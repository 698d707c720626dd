#!/usr/bin/env bash
# LLaVA checks its image placeholders over the whole batch only, and not at all when no picture is passed.
#
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: each prompt's placeholders are compared with its own picture, and placeholders without a picture
#   are an error, as a picture without placeholders is.
# What happens: only the total is compared. In a batch whose first prompt has 3 placeholders and whose second has 5,
#   for two pictures of 4 patches, the first picture's last patch flows into the second prompt; nothing is said.
#   Without pixel_values the placeholders are read as plain tokens, with the embedding row of the placeholder: the next
#   token comes from a row that has no other use. A picture without placeholders, and a wrong total, raise ValueError.
# Where: transformers/models/llava/modeling_llava.py, get_placeholder_mask compares numel over the batch, and is called
#   where there are image features.
# So: count placeholders by row before a run, and refuse a prompt that has some and no picture.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0
python <<'END'
import torch, transformers
from transformers import LlavaConfig, LlavaForConditionalGeneration

print("transformers", transformers.__version__, "torch", torch.__version__)
torch.set_grad_enabled(False)
IMAGE = 299
text = dict(model_type="llama", vocab_size=300, hidden_size=32, intermediate_size=64, num_attention_heads=2,
            num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)
vision = dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_attention_heads=2,
              num_hidden_layers=3, image_size=16, patch_size=8, projection_dim=16)
torch.manual_seed(0)
model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_id=IMAGE)).eval()
pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def last(ids, **kinds):
    return model(input_ids=torch.tensor(ids), **kinds).logits[:, -1].log_softmax(-1)


def gap(one, other):
    return (one - other).abs().max().item()


four = [5, IMAGE, IMAGE, IMAGE, IMAGE, 9, 20, 33]
three = [5, IMAGE, IMAGE, IMAGE, 9, 9, 20, 33]
five = [IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 9, 20, 33]
for label, ids, kinds in (("no placeholder, a picture", [5, 9, 20, 33], dict(pixel_values=pictures[:1])),
                          ("three placeholders, four patches", three, dict(pixel_values=pictures[:1]))):
    try:
        last([ids], **kinds)
        raise AssertionError(label)
    except ValueError as error:
        print(f"{label}: ValueError: {error}")

# Does the second prompt's answer depend on the first prompt's picture?
right = last([four, four], pixel_values=pictures)
other_first = torch.cat([-pictures[:1], pictures[1:]])
independent = gap(last([four, four], pixel_values=other_first)[1], right[1])
wrong = last([three, five], pixel_values=pictures)
leaks = gap(last([three, five], pixel_values=other_first)[1], wrong[1])
print(f"second row moved by the first row's picture: with 4 and 4 placeholders {independent:.1e},",
      f"with 3 and 5 {leaks:.2f} nats")
assert independent < 1e-5 and leaks > 0.05

bare = last([four])
print(f"placeholders, no picture: off by {gap(bare, right[:1]):.2f} nats")
with_picture = last([four], pixel_values=pictures[:1])
model.get_input_embeddings().weight[IMAGE] += 1
row = gap(last([four]), bare)
print(f"the placeholder's own embedding row moved: without picture {row:.2f} nats,",
      f"with it {gap(last([four], pixel_values=pictures[:1]), with_picture)}")
assert gap(bare, right[:1]) > 0.5 and row > 0.1 and gap(last([four], pixel_values=pictures[:1]), with_picture) == 0
END
