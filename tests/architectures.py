"""Architectures: sequence models as people write them, for the laws of the two forms.

Most are programs of the corpus (tests/programs); those that combine several ideas are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from programs import corpus
from torch import Tensor, nn

from linrec.nn import LMU

Inputs = Callable[[int, int], tuple[Tensor, ...]]


class S5(nn.Module):
    """Many inputs and outputs around one complex diagonal state (Smith, Warrington and Linderman 2023)."""

    def __init__(self, width: int = 3, states: int = 4) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.rand(states))
        self.frequency = nn.Parameter(torch.rand(states) * 2)
        self.log_dt = nn.Parameter(torch.rand(states) - 1)
        self.B = nn.Parameter(torch.randn(states, width, dtype=torch.cfloat) * 0.5)
        self.C = nn.Parameter(torch.randn(width, states, dtype=torch.cfloat) * 0.5)
        self.D = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor) -> Tensor:
        rate = torch.complex(-self.log_rate.exp(), self.frequency)
        step = torch.exp(rate * self.log_dt.exp())
        drive = ((step - 1) / rate)[:, None] * self.B
        x = torch.zeros(u.shape[0], len(rate), dtype=drive.dtype)
        ys = []
        for t in range(u.shape[1]):
            x = step * x + u[:, t].to(drive.dtype) @ drive.T
            ys.append((x @ self.C.T).real + self.D * u[:, t])
        return torch.stack(ys, 1)


class MinLSTM(nn.Module):
    """Forget and input gates from the input alone, normalised (Feng et al. 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.i, self.h = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            f, i = torch.sigmoid(self.f(x[:, t])), torch.sigmoid(self.i(x[:, t]))
            h = f / (f + i) * h + i / (f + i) * self.h(x[:, t])
            hs.append(h)
        return torch.stack(hs, 1)


class HGRN(nn.Module):
    """A forget gate above a learned lower bound, an output gate and a norm (Qin, Yang and Zhong 2023)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inner, self.forget, self.output = (nn.Linear(3, width) for _ in range(3))
        self.bound = nn.Parameter(torch.rand(width) * 0.5)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        c, f, g = F.silu(self.inner(x)), torch.sigmoid(self.forget(x)), torch.sigmoid(self.output(x))
        f = self.bound + (1 - self.bound) * f
        h, hs = torch.zeros_like(c[:, 0]), []
        for t in range(x.shape[1]):
            h = f[:, t] * h + (1 - f[:, t]) * c[:, t]
            hs.append(h)
        y: Tensor = self.norm(torch.stack(hs, 1)) * g
        return y


class MambaBlock(nn.Module):
    """Projection, causal depthwise convolution, selective scan, gate, residual (Gu and Dao 2023)."""

    def __init__(self, width: int = 4, states: int = 3, taps: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 2 * width)
        self.conv = nn.Conv1d(width, width, taps, groups=width, padding=taps - 1)
        self.to_bc, self.to_dt = nn.Linear(width, 2 * states), nn.Linear(width, width)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(width, 1))
        self.D, self.out = nn.Parameter(torch.ones(width)), nn.Linear(width, width)
        self.states = states

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.project(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        B, C = self.to_bc(u).chunk(2, -1)
        dt, A = F.softplus(self.to_dt(u)), -torch.exp(self.A_log)
        h = x.new_zeros(x.shape[0], x.shape[2], self.states)
        ys = []
        for t in range(x.shape[1]):
            h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
            ys.append((h * C[:, t, None, :]).sum(-1) + self.D * u[:, t])
        y: Tensor = x + self.out(torch.stack(ys, 1) * F.silu(z))
        return y


class Stack(nn.Module):
    """Residual blocks of an LMU each, with norms between, and a head on every step."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.layers = nn.ModuleList(LMU(width, width, 3, 8.0, memory_size=2) for _ in range(2))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        y: Tensor = self.head(x)
        return y


class GRULoop(nn.Module):
    """nn.GRUCell in a loop: nonlinear, kept as written."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(self.head(h))
        return torch.stack(ys, 1)


class LSTMByHand(nn.Module):
    """All four gates from the input and the state."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(3, 16), nn.Linear(4, 16, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = c = x.new_zeros(x.shape[0], 4)
        hs = []
        for t in range(x.shape[1]):
            i, f, g, o = (self.W(x[:, t]) + self.U(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hs.append(h)
        return torch.stack(hs, 1), c


class HybridStack(nn.Module):
    """A linear memory, a nonlinear cell, and a linear memory again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LMU(3, 4, 3, 6.0), LMU(4, 2, 3, 6.0)
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        h, hs = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            hs.append(h)
        y: Tensor = self.second(torch.stack(hs, 1) + x)
        return y


def moving_average(x: Tensor) -> Tensor:
    """An exponential moving average."""
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        s = 0.9 * s + 0.1 * x[:, t]
        out.append(s)
    return torch.stack(out, 1)


def average_from_the_first(x: Tensor) -> Tensor:
    """The same, started from the first value."""
    s, out = None, []
    for t in range(x.shape[1]):
        s = x[:, t] if s is None else 0.9 * s + 0.1 * x[:, t]
        out.append(s)
    return torch.stack(out, 1)


def windowed(x: Tensor) -> Tensor:
    """The mean of the last four inputs, then a recurrence with two lags of its input."""
    mean = F.pad(x, (0, 0, 3, 0)).unfold(1, 4, 1).mean(-1)
    late = F.pad(mean, (0, 0, 2, 0))
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        s = 0.8 * s + late[:, t + 2] - 0.5 * late[:, t]
        out.append(s)
    return torch.stack(out, 1)


def with_positions(x: Tensor) -> Tensor:
    """The number of the step enters; so does the very first input."""
    phase = torch.cos(0.3 * torch.arange(x.shape[1]))
    first = x[:, 0]
    s, out = torch.zeros_like(first), []
    z = x * phase[:, None]
    for t in range(x.shape[1]):
        s = 0.9 * s + z[:, t] - 0.1 * first
        out.append(s)
    return torch.stack(out, 1)


def second_differences(x: Tensor) -> Tensor:
    """Differences and running sums around a recurrence."""
    d = torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1]))
    s, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        s = 0.7 * s + d[:, t]
        out.append(s)
    return torch.stack(out, 1).cumsum(1)


def trend_forecast(y: Tensor) -> Tensor:
    """Holt's linear trend; the first two values start it, the forecasts begin at the second step."""
    level, trend, out = y[:, 0], y[:, 1] - y[:, 0], []
    for t in range(1, y.shape[1]):
        out.append(level + trend)
        last = level
        level = 0.6 * y[:, t] + 0.4 * (level + trend)
        trend = 0.3 * (level - last) + 0.7 * trend
    return torch.stack(out, 1)


@dataclass(frozen=True)
class Architecture:
    """How to make it, and what to call it with for a number of steps and a batch size; all in float64."""

    name: str
    build: Callable[[], Callable[..., Any]]
    inputs: Inputs


FROM_CORPUS = (
    "LegendreMemory S4D LinearRecurrentUnit GatedLinearUnit MinGRU quasi_recurrent retention gated_linear_attention "
    "linear_attention linear_attention_with_normaliser rwkv4 rwkv6 delta_rule gated_delta_rule SelectiveScan "
    "state_space_duality mlstm biquad fixed_gain_kalman oscillators LayersInSequence LayersInterleaved OriginalLmu "
    "LstmCell test_time_training"
).split()
WRITTEN: dict[str, tuple[Callable[..., Any], int]] = {
    "S5": (S5, 3), "MinLSTM": (MinLSTM, 3), "HGRN": (HGRN, 3), "MambaBlock": (MambaBlock, 4), "Stack": (Stack, 4),
    "GRULoop": (GRULoop, 3), "LSTMByHand": (LSTMByHand, 3), "HybridStack": (HybridStack, 3),
    "moving_average": (moving_average, 3), "average_from_the_first": (average_from_the_first, 3),
    "windowed": (windowed, 3), "with_positions": (with_positions, 3), "second_differences": (second_differences, 3),
    "trend_forecast": (trend_forecast, 0),
}  # fmt: skip


def architectures() -> dict[str, Architecture]:
    """All by name."""
    programs = corpus()
    found = {name: Architecture(name, programs[name].build, programs[name].inputs) for name in FROM_CORPUS}
    for name, (made, width) in WRITTEN.items():
        found[name] = Architecture(name, _builder(made), _drawn(width))
    return found


def _builder(made: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    def build() -> Callable[..., Any]:
        if not isinstance(made, type):
            return made
        with torch.random.fork_rng():
            torch.manual_seed(3)
            module: nn.Module = made()
        return widened(module)

    return build


def widened(module: nn.Module) -> nn.Module:
    """The module in double precision, complex parameters too."""
    for owner in module.modules():
        for name, p in list(owner._parameters.items()):
            if p is not None:
                wide = torch.complex128 if p.is_complex() else torch.float64
                owner._parameters[name] = nn.Parameter(p.detach().to(wide))
        for name, b in list(owner._buffers.items()):
            if b is not None and b.is_floating_point():
                owner._buffers[name] = b.double()
    return module


def _drawn(width: int) -> Inputs:
    def inputs(steps: int, batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(100 * batch + steps)
        shape = (batch, steps, width) if width else (batch, steps)
        return (torch.randn(shape, generator=generator, dtype=torch.float64),)

    return inputs
