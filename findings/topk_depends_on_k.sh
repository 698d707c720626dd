#!/usr/bin/env bash
# Where values tie, topk(k) is no prefix of topk(k + 1), and its first is not argmax; bfloat16 logits tie.
#
# Versions: torch 2.13.0, Python 3.11, on the CPU.
# One would guess: the order among equal values is open, but one: the best five are the first five of the best ten, and
#   topk(1) is argmax.
# What happens: of three equal values topk(3) lists them in another order than topk(5), and argmax names a third one as
#   the first. Which algorithm runs depends on k and the row's length. bfloat16 has 8 significant bits: among 50,257
#   logits of a normal distribution most rows have ties in their best ten, so the *set* of the best five depends on how
#   many were asked for. A stable sort is a prefix of itself, and its first is argmax.
# Where: aten/src/ATen/native/TopKImpl.h: partial_sort for small k, nth_element and sort otherwise.
# So: break ties by the lower id before anything is displayed or compared, else a cell changes with k.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0
python <<'END'
import torch

print("torch", torch.__version__)
row = torch.zeros(50257)
row[[5, 777, 40000]] = 1
three, five, best = row.topk(3).indices.tolist(), row.topk(5).indices.tolist(), row.argmax().item()
print("three equal values: topk(3)", three, "; topk(5)", five[:3], "; argmax", best)
assert sorted(three) == sorted(five[:3]) == [5, 777, 40000]
assert three != five[:3] and best == 5 and best not in (three[0], five[0])

logits = (3 * torch.randn(200, 50257, generator=torch.Generator().manual_seed(0))).bfloat16()
ties = sum(len(set(values)) < 10 for values in logits.topk(10).values.tolist()) / len(logits)
asked = {k: logits.topk(k).indices[:, :5] for k in (5, 10, 100, 1000)}
order = {k: (found != asked[5]).any(-1).float().mean().item() for k, found in asked.items()}
members = {k: (found.sort().values != asked[5].sort().values).any(-1).float().mean().item()
           for k, found in asked.items()}
print(f"bfloat16 logits: {ties:.0%} of rows have a tie among the best ten")
print("first five of topk(k) against topk(5), rows in another order:", {k: f"{v:.1%}" for k, v in order.items()})
print("                                       rows with other ids:  ", {k: f"{v:.1%}" for k, v in members.items()})
stable = logits.sort(descending=True, stable=True).indices
assert torch.equal(stable[:, 0], logits.argmax(-1))
assert ties > 0.5 and max(order.values()) > 0.02 and max(members.values()) > 0
END
