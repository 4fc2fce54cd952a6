"""What a trace cannot follow: branches, numbers and trip counts that depend on values. All run as written."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from programs import D, X, index, mask, normal, open_, program, uniform


@program(normal("T", 3), refusal=("LR0301",))
def branch_on_the_state(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for u in x:
        if h.sum() > 0:
            h = 0.5 * h
        h = h + u
        ys.append(h)
    return torch.stack(ys)


@program(normal("T", 3), mask("T"), refusal=("LR0301",))
def branch_on_a_flag_of_the_input(x: Tensor, done: Tensor) -> Tensor:
    """Linear, but which way it goes is known at run time only."""
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        if done[t]:
            h = torch.zeros_like(h)
        h = 0.9 * h + x[t]
        ys.append(h)
    return torch.stack(ys)


@program(normal("T", 3), refusal=("LR0301", "LR0303"))
def stops_early(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[0])
    for u in x:
        h = h + u
        if h.norm() > 4:
            break
    return h


@program(normal("T", 3), refusal=("LR0301", "LR0303"))
def iterates_until_converged(x: Tensor) -> Tensor:
    """A fixed point for each step, found by a loop with a tolerance."""
    h, ys = torch.zeros_like(x[0]), []
    for u in x:
        z = h
        while True:
            new = 0.5 * torch.cos(z) + 0.1 * u
            if (new - z).abs().max() < 1e-6:
                break
            z = new
        h = z
        ys.append(h)
    return torch.stack(ys)


@program(X, uniform(0.5, 0.9), refusal=("LR0302",))
def item_of_a_coefficient(x: Tensor, a: Tensor) -> Tensor:
    decay = a.item()
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = decay * h + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, refusal=("LR0302",))
def float_of_the_state(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        scale = 1.0 / (1.0 + abs(float(h.detach().mean())))
        h = a * scale * h + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(uniform(0.2, 0.9, "T"), normal("T", 3), refusal=("LR0302",))
def list_of_numbers(decay: Tensor, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for a, u in zip(decay.tolist(), x, strict=True):
        h = math.sqrt(a) * h + u
        ys.append(h)
    return torch.stack(ys)


@program(X, index(6, "B"), refusal=("LR0303", "LR0302"), smallest=6)
def trip_count_from_lengths(x: Tensor, ends: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), [x[:, 0]]
    for t in range(int(ends.max())):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("T", 3), index(4, 1), refusal=("LR0303", "LR0302"), smallest=4)
def trip_count_from_item(x: Tensor, n: Tensor) -> Tensor:
    h = torch.zeros_like(x[0])
    for t in range(n.item() + 1):  # type: ignore[arg-type]
        h = 0.9 * h + x[t]
    return h


SPECIAL = {3, 17, 40}


def digits(t: int) -> int:
    """The number of ones in t's binary digits."""
    return bin(t).count("1")


@program(X, D, expect=open_("LR0405"), refusal=("LR0405",), many=True, also=(130,))
def step_chosen_by_a_set(x: Tensor, a: Tensor) -> Tensor:
    """Linear at each length, but no function of t that the code shows."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        if t in SPECIAL:
            h = torch.flip(h, (-1,))
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=open_("LR0405"), refusal=("LR0405",), many=True, also=(130,))
def number_of_repeats_by_a_function(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        for _ in range(digits(t)):
            h = a * h
        h = h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)
