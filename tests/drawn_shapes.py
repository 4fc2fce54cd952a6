"""Programs of every structure at sizes drawn at random, for comparing forms: what is drawn depends on the seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NUMBERS = 1 << 20  # the most numbers of a tensor of all steps


@dataclass(frozen=True)
class Drawn:
    """A program with its inputs; `train` if forward and backward are compared."""

    name: str
    program: Any
    inputs: tuple[Tensor, ...]
    train: bool


class Dense(nn.Module):
    """h = h A + x B, read at the last step, through C, or at every step."""

    def __init__(self, n: int, p: int, q: int, read: str, learned: bool) -> None:
        super().__init__()
        self.read = read
        self.A = nn.Parameter(0.9 * torch.randn(n, n) / n**0.5, requires_grad=learned)
        self.B = nn.Parameter(torch.randn(p, n), requires_grad=learned)
        self.C = nn.Parameter(torch.randn(n, q) / n)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], self.A.shape[0]), []
        for t in range(x.shape[1]):
            h = h @ self.A + x[:, t] @ self.B
            out.append(h @ self.C if self.read == "readout" else h)
        return h if self.read == "last" else torch.stack(out, 1)


class Modes(nn.Module):
    """n decays a channel, read as their sum."""

    def __init__(self, channels: int, n: int) -> None:
        super().__init__()
        self.a, self.c = nn.Parameter(0.9 * torch.rand(channels, n)), nn.Parameter(torch.randn(channels, n))

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], *self.a.shape), []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t].unsqueeze(-1)
            out.append((self.c * h).sum(-1))
        return torch.stack(out, 1)


def decay(a: Tensor, x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def gated(a: Tensor, x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def each_its_own(a: Tensor, x: Tensor) -> Tensor:  # (B, T, n, n), (B, T, n)
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (a[:, t] @ h.unsqueeze(-1)).squeeze(-1) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def shared(a: Tensor, x: Tensor) -> Tensor:  # (T, n, n), (B, T, n)
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h @ a[t] + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def factored(w: Tensor, g: Tensor, x: Tensor) -> Tensor:  # (n, n), (B, T, n), (B, T, n)
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (h @ w) * g[:, t] + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def best_path(w: Tensor, x: Tensor) -> Tensor:  # (n, n), (B, T, n)
    h, out = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        h = (h.unsqueeze(2) + w).amax(1) + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


KINDS = ("last", "readout", "states", "modes", "decay", "gated", "each", "shared", "factored", "path")


def drawn(seed: int, number: int) -> Drawn:
    """The program of that number; the kinds take turns."""
    numbers = random.Random(f"{seed}/{number}")
    torch.manual_seed(numbers.randrange(1 << 31))
    kind = KINDS[number % len(KINDS)]

    def size(low: int, high: int) -> int:
        return int(low * (high / low) ** numbers.random() + 0.5)

    def dense(n: int) -> Tensor:
        return torch.randn(n, n).div_(2 * n**0.5)

    while True:
        b, t, n, p, q = size(1, 64), size(256, 4096), size(2, 160), size(1, 6), size(1, 6)
        wide = n * n if kind in ("each", "factored", "path") else n
        if b * t * wide <= NUMBERS and t * n * n <= 8 * NUMBERS:
            break
    learned, train = numbers.random() < 0.4, numbers.random() < 0.3
    x = torch.randn(b, t, n)
    makers: dict[str, Callable[[], tuple[Any, tuple[Tensor, ...]]]] = {
        "modes": lambda: (Modes(p, min(n, 32)), (torch.randn(b, t, p),)),
        "decay": lambda: (decay, (0.9 * torch.rand(n), x)),
        "gated": lambda: (gated, (torch.rand(b, t, n), x)),
        "each": lambda: (each_its_own, (dense(n) * torch.rand(b, t, 1, 1), x)),
        "shared": lambda: (shared, (dense(n) * torch.rand(t, 1, 1), x)),
        "factored": lambda: (factored, (dense(n), torch.rand(b, t, n), x)),
        "path": lambda: (best_path, (torch.randn(n, n), x)),
    }
    program, inputs = makers[kind]() if kind in makers else (Dense(n, p, q, kind, learned), (torch.randn(b, t, p),))
    sizes = f"B={b} T={t} n={n}" + (f" p={p} q={q}{' learned' * learned}" if kind not in makers else "")
    return Drawn(f"{number}: {kind} {sizes}{' train' * train}", program, inputs, train)
