"""Recurrences that are not linear, some by a hair."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases.case import D, Spec, X, Z, nonlinear


def _near_miss(step: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    @functools.wraps(step)
    def run(x: Tensor, a: Tensor) -> Tensor:
        h = torch.full_like(x[:, 0], 0.5)
        ys = []
        for t in range(x.shape[1]):
            h = step(a * h + x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    return run


@nonlinear(X, D)
@_near_miss
def tanh(new: Tensor, h: Tensor) -> Tensor:
    return torch.tanh(new)


@nonlinear(X, D)
@_near_miss
def relu(new: Tensor, h: Tensor) -> Tensor:
    return F.relu(new)


@nonlinear(X, D)
@_near_miss
def square(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.01 * h * h


@nonlinear(X, D)
@_near_miss
def rounding(new: Tensor, h: Tensor) -> Tensor:
    return new + torch.round(h * 8) / 64


@nonlinear(X, D)
@_near_miss
def wide_clamp(new: Tensor, h: Tensor) -> Tensor:
    return new.clamp(-1e6, 1e6)


@nonlinear(X, D)
@_near_miss
def where_positive(new: Tensor, h: Tensor) -> Tensor:
    return torch.where(h > 0, new, 0.5 * new)


@nonlinear(X, D)
@_near_miss
def zero_times_tanh(new: Tensor, h: Tensor) -> Tensor:
    return new + 0 * torch.tanh(h)


@nonlinear(X, D)
@_near_miss
def tiny_sine(new: Tensor, h: Tensor) -> Tensor:
    return new + 1e-13 * torch.sin(h)


@nonlinear(X, D)
@_near_miss
def layer_norm(new: Tensor, h: Tensor) -> Tensor:
    return F.layer_norm(new, (3,))


@nonlinear(X, D)
@_near_miss
def division_by_state(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 / (h.detach() ** 2 + 2)


@nonlinear(X, D)
@_near_miss
def absolute(new: Tensor, h: Tensor) -> Tensor:
    return new.abs()


@nonlinear(X, D)
@_near_miss
def largest(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 * h.max(-1, keepdim=True).values


@nonlinear(X, D)
@_near_miss
def through_integers(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.01 * h.long()


@nonlinear(X, D)
@_near_miss
def sorted_state(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 * h.sort(-1).values


@nonlinear(X, D)
@_near_miss
def detached(new: Tensor, h: Tensor) -> Tensor:
    return new - 0.25 * h.detach()


@nonlinear(Spec(("B", "T", 3), dtype=torch.complex128), Z)
@_near_miss
def complex_modulus(new: Tensor, h: Tensor) -> Tensor:
    return new * 0.5 + 0.1 * h.abs()


@nonlinear(X)
class GruLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)
