"""Several loops in one program, and loops in modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases.case import A, D, X, like_x, lti, zeros

# ---- several loops -------------------------------------------------------------------------------


@lti(X, D, A)
def two_layers_in_sequence(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    z = F.gelu(torch.stack(ys, 1))
    h = zeros(x)
    ys = []
    for t in range(z.shape[1]):
        h = h @ b + z[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D, A)
def two_layers_in_one_body(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h1 = h2 = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h1 = a * h1 + x[:, t]
        h2 = h2 @ b + torch.relu(h1)
        ys.append(h2)
    return torch.stack(ys, 1)


# ---- modules -------------------------------------------------------------------------------------


@lti(X)
class LinearAsTransition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(3, 4)
        self.rec = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 2)
        nn.init.normal_(self.rec.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            h = self.rec(h) + self.inp(x[:, t])
            ys.append(self.out(h))
        return torch.stack(ys, 1)


class Cell(nn.Module):
    """One step of a diagonal recurrence with a learned first state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.randn(width))
        self.project = nn.Linear(width, width)
        self.h0 = nn.Parameter(torch.randn(width))

    def forward(self, x_t: Tensor, h: Tensor | None) -> Tensor:
        if h is None:
            h = self.h0.expand(x_t.shape[0], -1)
        new: Tensor = torch.exp(-F.softplus(self.log_a)) * h + self.project(x_t)
        return new


@lti(X)
class CellsInModuleList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Cell(3) for _ in range(2))
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            h, ys = None, []
            for x_t in x.unbind(1):
                h = cell(x_t, h)
                ys.append(h)
            x = x + self.norm(torch.stack(ys, 1))
        return x


@lti(like_x("B", "T", 1))
class ConstantMemory(nn.Module):
    """Frozen A and B in buffers, final state only, a classifier on top."""

    a: Tensor
    b: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.randn(5, 5) * 0.3)
        self.register_buffer("b", torch.randn(5), persistent=False)
        self.encode = nn.Linear(1, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.encode(x)
        m = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            m = m @ self.a.T + u[:, t] * self.b
        scores: Tensor = self.head(torch.relu(m))
        return scores


@lti(like_x("B", "T", 1))
class BuiltFromTheta(nn.Module):
    """The transition is computed from a trainable scalar on each call."""

    base: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("base", torch.randn(3, 3) - 3 * torch.eye(3))
        self.c = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        a = torch.matrix_exp(self.base / self.theta)
        m = x.new_zeros(x.shape[0], 3)
        ys = []
        for t in range(x.shape[1]):
            m = m @ a.mT + x[:, t]
            ys.append((m * self.c).sum(-1, keepdim=True))
        return torch.stack(ys, 1)
