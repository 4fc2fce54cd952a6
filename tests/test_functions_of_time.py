"""Coefficients that are functions of t: one capture serves every length, with the right numbers beyond those traced."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from contract import dispatched
from torch import Tensor

import linrec

STRIDE = 3


def over(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = t / (t + 1) * h + x[:, t] * (1 / (t + 1))
        ys.append(h)
    return torch.stack(ys, 1)


def threshold(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * float(t > 20) * h + x[:, t] * float(t != 2)
        ys.append(h)
    return torch.stack(ys, 1)


def periodic(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        g = 0.5 + 0.1 * (t % STRIDE)
        h = g * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def exponential(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = math.exp(-0.1 * t) * h + (-1) ** t * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def last_step(x: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(T):
        h = (0.25 if t == T - 1 else 0.9) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def chosen(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        if t % 4 == 3 or t > 30:
            a = 0.5
        else:
            a = 0.9
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def backward(x: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    ys: list[Tensor] = []
    for t in range(T - 1, -1, -1):
        h = h * ((t + 1) / T) + x[:, t]
        ys.insert(0, h)
    return torch.stack(ys, 1)


def clipped(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = h / (1 + min(t, 40)) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def counted(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys, t = [], 0
    while t < x.shape[1]:
        h = abs(t - 10) / (5 + t // 2) * 0.4 * h + x[:, t]
        ys.append(h)
        t += 1
    return torch.stack(ys, 1)


def ring_down(x: Tensor) -> Tensor:
    ring = [torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])]
    ys = []
    for t in range(x.shape[1] - 1, -1, -1):
        ring[t % 2] = 0.8 * ring[t % 2] + x[:, t]
        ys.append(ring[t % 2])
    return torch.stack(ys, 1)


def ring_reversed(x: Tensor) -> Tensor:
    ring = [torch.zeros_like(x[:, 0]) for _ in range(3)]
    ys = []
    for t in reversed(range(x.shape[1])):
        ring[t % 3] = 0.8 * ring[t % 3] + x[:, t]
        ys.append(ring[t % 3])
    return torch.stack(ys, 1)


def ring_up(x: Tensor) -> Tensor:
    ring = [torch.zeros_like(x[:, 0]) for _ in range(4)]
    ys = []
    for t in range(x.shape[1]):
        ring[t % 4] = 0.8 * ring[t % 4] + x[:, t]
        ys.append(ring[t % 4])
    return torch.stack(ys, 1)


PROGRAMS = [
    over, threshold, periodic, exponential, last_step, chosen, backward, clipped, counted, ring_down, ring_reversed, ring_up,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_one_capture_serves_every_length(program: Callable[[Tensor], Tensor]) -> None:
    made = linrec.compile(program, verify="off")
    for steps in (12, 5, 64, 29, 1, 131):
        x = torch.randn(2, steps, 3, dtype=torch.float64, requires_grad=True)
        again = x.detach().clone().requires_grad_()
        got, want = made(x), program(again)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        torch.autograd.backward(got.square().sum())
        torch.autograd.backward(want.square().sum())
        torch.testing.assert_close(x.grad, again.grad, rtol=1e-8, atol=1e-8)
    assert linrec.report(made).captures == 1
    counts = [dispatched(made, torch.randn(2, steps, 3, dtype=torch.float64)) for steps in (64, 512)]
    assert counts[1] < 2 * counts[0]


def irregular(x: Tensor) -> Tensor:
    table = [0.5 + 0.01 * (k * k % 7) for k in range(400)]
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = table[t * t % 50] * h + x[:, t]
    return h


def quadratic_ring(x: Tensor) -> Tensor:
    ring = [torch.zeros_like(x[:, 0]) for _ in range(7)]
    for t in range(x.shape[1]):
        ring[t * t % 7] = 0.8 * ring[t * t % 7] + x[:, t]
    return torch.stack(ring, 1)


def late(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        if t == 40:
            h = h * 0.5
    return h


def shadowed(x: Tensor) -> Tensor:
    def float(value: bool) -> int:
        return 3 if value else 1

    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = 0.1 * float(t > 20) * h + x[:, t]
    return h


@pytest.mark.parametrize("program", [irregular, quadratic_ring, late, shadowed], ids=lambda f: f.__name__)
def test_what_cannot_be_read_is_right_all_the_same(program: Callable[[Tensor], Tensor]) -> None:
    made = linrec.compile(program, verify="off")
    for steps in (12, 5, 64, 29):
        x = torch.randn(2, steps, 3, dtype=torch.float64)
        torch.testing.assert_close(made(x), program(x), rtol=1e-9, atol=1e-9)


def test_sizes_of_the_model_in_the_body_do_not_hold_the_length() -> None:
    def delta(k: Tensor, v: Tensor, b: Tensor) -> Tensor:
        S = torch.zeros(k.shape[0], k.shape[-1], v.shape[-1], dtype=k.dtype)
        for t in range(k.shape[1]):
            decay = torch.eye(k.shape[-1], dtype=k.dtype) - b[:, t, None, None] * k[:, t, :, None] * k[:, t, None, :]
            S = decay @ S + k[:, t, :, None] * v[:, t, None, :]
        return S

    made = linrec.compile(delta, verify="off")
    for steps in (12, 30, 64):
        k, v, b = 0.3 * torch.randn(2, steps, 4), torch.randn(2, steps, 5), torch.rand(2, steps)
        torch.testing.assert_close(made(k, v, b), delta(k, v, b))
    assert linrec.report(made).captures == 1
