"""Branches on counters: one capture serves every length, with values and gradients of both arms.

Where a branch cannot be read, the program is held to its lengths and is right all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import linrec

LENGTHS = (20, 1, 2, 3, 9, 33, 64, 131)
FEW = (20, 2, 9, 33)
WIDTH = 3


def every_third(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 3 == 0:
            h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def damped(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t % 4 == 2:
            h = 0.5 * h
        ys.append(h)
    return torch.stack(ys, 1)


def either(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        if t % 2 == 0:
            h = a * h + x[:, t]
        else:
            h = h - 0.3 * x[:, t]
    return h


def one_of_three(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 3 == 0:
            h = a * h + x[:, t]
        elif t % 3 == 1:
            h = h - 0.3 * x[:, t]
        else:
            h = 0.5 * h
        ys.append(h)
    return torch.stack(ys, 1)


def conditional_expression(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t] if t % 3 != 2 else 0.5 * h
        ys.append(h)
    return torch.stack(ys, 1)


def number_or_tensor(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        alpha = 0.5 if t < 5 else a
        h = alpha * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def skipped(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 4 == 3:
            ys.append(h)
            continue
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def late_reads(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t >= 4:
            h = h - 0.2 * x[:, t - 4]
        ys.append(h)
    return torch.stack(ys, 1)


def nested(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    h, g = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t % 3 == 0:
            g = 0.7 * g + h
            if t % 2 == 0:
                h = h - 0.1 * g
        ys.append(h + g)
    return torch.stack(ys, 1), g


def while_loop(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys: list[Tensor] = []
    t = 0
    while t < x.shape[1]:
        u = x[:, t]
        t += 1
        if t % 3 == 0:
            h = a * h + u
        ys.append(h)
    return torch.stack(ys, 1)


def backward(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys: list[Tensor] = []
    for t in reversed(range(x.shape[1])):
        if t % 3 == 1:
            h = h * 0.25
        h = a * h + x[:, t]
        ys.insert(0, h)
    return torch.stack(ys, 1)


def swapped(x: Tensor, a: Tensor) -> Tensor:
    h, g = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 3 == 2:
            h, g = g, h
        h = a * h + x[:, t]
        g = 0.9 * g - 0.1 * h
        ys.append(h)
    return torch.stack(ys, 1)


def near_the_end(x: Tensor, a: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(T):
        h = a * h + x[:, t]
        if t > T - 6:
            h = 0.5 * h
        ys.append(h)
    return torch.stack(ys, 1)


def one_step(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t == 7:
            h = h + 1.5 * a
    return h


def history(x: Tensor, a: Tensor) -> Tensor:
    ys = [torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])]
    for t in range(x.shape[1]):
        if t % 2 == 0:
            ys.append(a * ys[-1] + x[:, t])
        else:
            ys.append(0.5 * ys[-1] - 0.2 * ys[-2])
    return torch.stack(ys[2:], 1)


def in_place(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 2:
            h = h.clone()
            h.mul_(a).add_(x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


def ring_of_two(x: Tensor, a: Tensor) -> Tensor:
    ring = [torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])]
    ys = []
    for t in range(x.shape[1]):
        ring[t % 2] = a * ring[t % 2] + x[:, t] if t % 3 != 2 else ring[t % 2]
        ys.append(ring[t % 2])
    return torch.stack(ys, 1)


def layers(x: Tensor, a: Tensor) -> Tensor:
    states = [torch.zeros_like(x[:, 0]) for _ in range(3)]
    ys = []
    for t in range(x.shape[1]):
        u = x[:, t]
        for j in range(3):
            if (t + j) % 2 == 0:
                states[j] = a * states[j] + u
            u = torch.sin(states[j])
        ys.append(u)
    return torch.stack(ys, 1)


def number_at_first(x: Tensor, a: Tensor) -> Any:
    h: Any = 0
    for t in range(x.shape[1]):
        if t % 2 == 1:
            h = a * h + x[:, t]
        else:
            h = h + x[:, t]
    return h


class Clockwork(nn.Module):
    """A cell that keeps its state at most steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.period = 3
        self.drive = nn.Linear(WIDTH, WIDTH).double()

    def cell(self, h: Tensor, u: Tensor, a: Tensor, t: int) -> Tensor:
        k = t % self.period
        if k == 1:
            driven: Tensor = self.drive(u)
            return a * h + driven
        return h

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            h = self.cell(h, x[:, t], a, t)
            ys.append(h)
        return torch.stack(ys, 1)


def power_in_one_arm(x: Tensor, a: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        u = x[:, t] ** 2
        h = a * h + u if t % 3 != 2 else a * h + 0.1 * x[:, t] ** 3
        y[:, t] = h
    return y


def masked_in_one_arm(x: Tensor, a: Tensor) -> Tensor:
    mask = x > 0.5
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = (a * h).masked_fill(mask[:, t], 0.0) + x[:, t] if t < 5 else 0.5 * (a * h).masked_fill(mask[:, t], 0.0)
        ys.append(h)
    return torch.stack(ys, 1)


def piece_read_in_an_arm_first(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t, x_t in enumerate(x.unbind(1)):
        h = a * h + x_t if t < 5 else 0.5 * a * h
        ys.append(h + x_t)
    return torch.stack(ys, 1)


def list_in_one_arm(x: Tensor, a: Tensor) -> Tensor:
    """Few steps read what an earlier loop wrote, and its first entry is one apart."""
    steps = x.shape[1]
    ys = torch.zeros_like(x)
    ys[:, 0] = 0.5 * x[:, 0]
    for t in range(1, steps):
        ys[:, t] = a * ys[:, t - 1].clone() + x[:, t]
    h = torch.zeros_like(x[:, 0])
    out = []
    for t in range(steps):
        h = 0.5 * h + torch.tanh(ys[:, t]) if t < 5 else a * h
        out.append(h)
    return torch.stack(out, 1)


def list_at_the_end(x: Tensor, a: Tensor) -> Tensor:
    steps = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(steps):
        h = a * h + x[:, t]
        ys.append(h)
    out = []
    for t in range(steps - 1, -1, -1):
        v = torch.tanh(ys[t])
        h = 0.5 * h + torch.tanh(ys[t]) if t < 5 else a * h
        out.append(h + v)
    return torch.stack(out, 1)


def from_to(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        if 2 < t <= 6:
            h = a * h + x[:, t]
        else:
            h = 0.5 * h
        out.append(h)
    return torch.stack(out, 1)


def by_shape(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        if t < x.size(1) - 3:
            h = a * h + x[:, t]
        elif t == x.shape[1] - 2:
            h = 2 * h
        out.append(h)
    return torch.stack(out, 1)


def by_len(x: Tensor, a: Tensor) -> Tensor:
    u = x.transpose(0, 1)
    h = torch.zeros_like(x[:, 0])
    out = []
    for t in range(len(u)):
        h = (t / len(u)) * h + u[t] if t != len(u) - 1 else a * h
        out.append(h)
    return torch.stack(out, 1)


def by_what_grows(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    seen = x[:, :1]
    for t in range(x.shape[1]):
        h = a * h + x[:, t] if seen.shape[1] < 20 else 0.5 * h
        seen = torch.cat([seen, x[:, t : t + 1]], 1)
    return h


READ: list[Callable[..., Any]] = [
    piece_read_in_an_arm_first, power_in_one_arm, masked_in_one_arm,
    every_third, damped, either, one_of_three, conditional_expression, number_or_tensor, skipped, late_reads, nested,
    while_loop, backward, swapped, near_the_end, one_step, history, in_place, ring_of_two, layers, Clockwork,
    list_in_one_arm, list_at_the_end, from_to, by_shape, by_len,
]  # fmt: skip


def by_values(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    count = 0
    for t in range(x.shape[1]):
        if t % 3 == 0:
            count += 1
        if count > 15:
            h = 0.5 * h
        h = a * h + x[:, t]
    return h


def toggled(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    flag, other = a, 0.5 * a
    for t in range(x.shape[1]):
        if t % 5 == 4:
            flag, other = other, flag
        h = flag * h + x[:, t]
    return h


def far_away(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t > 125:
            h = 0.5 * h
    return h


def middle(x: Tensor, a: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    for t in range(T):
        h = a * h + x[:, t] if t < T // 2 else 0.9 * h
    return h


def long_period(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t % 17 == 13:
            h = 0.5 * h
    return h


def some_outputs(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = [h]
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        if t % 3 == 2:
            ys.append(h)
    return torch.stack(ys, 1)


def broken_off(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        if t == 30:
            break
        h = a * h + x[:, t]
    return h


def truncated(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 4 == 0:
            h = h.detach()
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def late_assignment(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    k = 0
    for t in range(x.shape[1]):
        if k == 0:
            h = 0.5 * h
        k = t % 3
        h = a * h + x[:, t]
    return h


def long_memory(x: Tensor, a: Tensor) -> Tensor:
    zero = torch.zeros_like(x[:, 0])
    past = [zero] * 40
    for t in range(x.shape[1]):
        if t % 2 == 0:
            past = [*past[1:], a * past[0] + x[:, t]]
    return past[-1]


HELD: list[Callable[..., Any]] = [
    number_at_first, by_values, toggled, far_away, middle, long_period, some_outputs, broken_off, truncated,
    late_assignment, long_memory, by_what_grows,
]  # fmt: skip


def inputs(length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, WIDTH, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), torch.tensor([0.9, 0.5, -0.3], dtype=torch.float64, requires_grad=True)


def check_lengths(make: Any, lengths: tuple[int, ...] = LENGTHS) -> linrec.Report:
    made: Any = make() if isinstance(make, type) else make
    original = made.forward if isinstance(made, nn.Module) else made
    wanted = []
    for length in lengths:
        x, a = inputs(length)
        outputs = tree_leaves(original(x, a))
        wanted.append((outputs, gradients(outputs, x, a, made)))
    compiled = linrec.compile(made, verify="off")
    for length, (outputs, grads) in zip(lengths, wanted, strict=True):
        x, a = inputs(length)
        results = tree_leaves(compiled(x, a))
        for got, want in zip(results, outputs, strict=True):
            assert got.shape == want.shape
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11, msg=f"T={length}")
        for got, want in zip(gradients(results, x, a, made), grads, strict=True):
            if length > 3:  # what reaches no output within so few steps has zeros for a gradient
                assert (got is None) == (want is None), f"T={length}"
            if got is not None and want is not None:
                torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10, msg=f"T={length}")
    return linrec.report(compiled)


def gradients(outputs: list[Tensor], x: Tensor, a: Tensor, made: Any) -> list[Tensor | None]:
    parameters = list(made.parameters()) if isinstance(made, nn.Module) else []
    total = sum(out.sin().sum() for out in outputs)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return []
    return list(torch.autograd.grad(total, [x, a, *parameters], allow_unused=True))


@pytest.mark.parametrize("make", READ, ids=lambda f: f.__name__)
def test_branches_are_read(make: Callable[..., Any]) -> None:
    report = check_lengths(make)
    # a call that does not run every arm is a program of its own: what no step reads has no gradient
    assert report.captures <= 3
    assert not report.code
    assert all(r.form != "sequential" for r in report.recurrences)


def first_step_by_length(x: Tensor, a: Tensor) -> Tensor:
    """The first step, of a number, takes an arm that depends on the remainder of T by 3."""
    h: Any = 0.0
    ys = []
    for t in range(x.shape[1] - 1, -1, -1):
        h = a * h + 0.5 * x[:, t] if t % 3 != 2 else 0.5 * (a * h)
        h = 0.5 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def slot_of_a_ring(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    ring = [torch.zeros_like(x[:, 0]) for _ in range(3)]
    ys = []
    for t in range(x.shape[1]):
        ring[t % 3] = a * ring[t % 3] + x[:, t]
        ys.append(ring[t % 3])
    return torch.stack(ys, 1), ring[0]


@pytest.mark.parametrize("make", [first_step_by_length, slot_of_a_ring], ids=lambda f: f.__name__)
def test_a_program_for_each_remainder(make: Callable[..., Any]) -> None:
    report = check_lengths(make, (12, 15, 64, 61, 23, 20, 512, 301, 90))
    assert report.captures == 3
    assert all(r.form != "sequential" for r in report.recurrences)


def test_a_program_of_one_remainder_has_no_steps() -> None:
    compiled: Any = linrec.compile(slot_of_a_ring)
    x, a = (tensor.detach() for tensor in inputs(12))
    with pytest.raises(linrec.StateError, match=r"LR4004.*each remainder of the number of steps by 3"):
        compiled.recurrent(x, a)


@pytest.mark.parametrize("make", HELD, ids=lambda f: f.__name__)
def test_what_cannot_be_read_is_right_all_the_same(make: Callable[..., Any]) -> None:
    check_lengths(make, FEW)


def check_at(make: Callable[..., Any], x: Tensor, a: Tensor) -> None:
    compiled = linrec.compile(make, verify="off")
    out, want = compiled(x, a), make(x, a)
    torch.testing.assert_close(out, want)
    for got, wanted in zip(
        torch.autograd.grad(out.sum(), (x, a)), torch.autograd.grad(want.sum(), (x, a)), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    assert linrec.report(compiled).captures == 1


def test_numbers_that_no_step_reads_do_no_harm() -> None:
    x, a = inputs(64)
    with torch.no_grad():
        x[:, 1::3] = torch.nan
        x[:, 2::3] = torch.inf
    check_at(every_third, x, a)


def exponential_in_one_arm(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        u = x[:, t]
        h = a * h + (torch.exp(u) + u**3 if t % 3 == 0 else 0.1)
        ys.append(h)
    return torch.stack(ys, 1)


def test_what_would_overflow_elsewhere_does_no_harm() -> None:
    x, a = inputs(64)
    with torch.no_grad():
        x[:, 1::3] = 1e250
    check_at(exponential_in_one_arm, x, a)


@pytest.mark.parametrize("make", READ[:6], ids=lambda f: f.__name__)
def test_the_step_counts(make: Callable[..., Any]) -> None:
    """The recurrent form keeps the counter in its state."""
    x, a = (tensor.detach() for tensor in inputs(41))
    compiled: Any = linrec.compile(make, verify="off")
    want = compiled(x, a)
    rnn = compiled.recurrent(x, a)
    state, outs = None, []
    for t in range(41):
        out, state = rnn.step(x[:, t], a, state=state)
        outs.append(out)
    torch.testing.assert_close(outs[-1] if make is either else torch.stack(outs, 1), want)
    first, state = rnn(x[:, :17], a)
    rest, _ = rnn(x[:, 17:], a, state=state)
    torch.testing.assert_close(rest if make is either else torch.cat([first, rest], 1), want)
