"""State spellings: where people keep the state between two steps, and what it is at first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from programs import COUPLED, SCALED, A, D, X, decays, linear, lti, matrix, normal, program


@program(X, D, D, expect=(lti("diagonal"), lti("diagonal")))
def tuple_of_states(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    state = (torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]))
    ys = []
    for t in range(x.shape[1]):
        fast, slow = state
        fast = a * fast + x[:, t]
        slow = b * slow + (1 - b) * fast
        state = (fast, slow)
        ys.append(slow)
    return torch.stack(ys, 1), state


@program(X, D, A, expect=(lti("diagonal"), lti("dense")))
def dict_of_states(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    state = {"conv": torch.zeros_like(x[:, 0]), "ssm": torch.zeros_like(x[:, 0])}
    ys = []
    for u in x.unbind(1):
        state["conv"] = a * state["conv"] + u
        state["ssm"] = state["ssm"] @ b + state["conv"]
        ys.append(state["ssm"])
    return torch.stack(ys, 1), state


class Momentum(NamedTuple):
    """Velocity and position."""

    velocity: Tensor
    position: Tensor


@program(X, decays(), expect=(lti("scalar"), lti("scalar")))
def named_tuple_state(grads: Tensor, mu: Tensor) -> Tensor:
    state = Momentum(torch.zeros_like(grads[:, 0]), torch.zeros_like(grads[:, 0]))
    path = []
    for g in grads.unbind(1):
        velocity = mu * state.velocity + g
        state = Momentum(velocity, state.position - 0.1 * velocity)
        path.append(state.position)
    return torch.stack(path, 1)


@dataclass
class Memory:
    """A mutable state."""

    level: Tensor
    trend: Tensor


@program(normal("B", "T"), expect=lti(*COUPLED))
def dataclass_state(y: Tensor) -> Tensor:
    memory = Memory(y[:, 0], torch.zeros_like(y[:, 0]))
    fitted = []
    for t in range(y.shape[1]):
        last = memory.level
        memory.level = 0.5 * y[:, t] + 0.5 * (memory.level + memory.trend)
        memory.trend = 0.2 * (memory.level - last) + 0.8 * memory.trend
        fitted.append(memory.level + memory.trend)
    return torch.stack(fitted, 1)


@program(X, expect=lti("dense"))
class StateInAttribute(nn.Module):
    """The state is an attribute that every call starts anew."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(0.25 * torch.randn(3, 3))

    def step(self, u: Tensor) -> Tensor:
        self.h = self.h @ self.A + u
        return self.h

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.zeros_like(x[:, 0])
        return torch.stack([self.step(u) for u in x.unbind(1)], 1)


@program(normal("T", 3), expect=lti("diagonal"))
class StateInBuffer(nn.Module):
    """The state survives the call in a buffer that is written in place."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(3))
        self.register_buffer("level", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = self.level.clone(), []
        for u in x:
            h = self.decay * h + u
            ys.append(h)
        self.level.copy_(h.detach())
        return torch.stack(ys)


@program(normal("B", "T"), normal(2, scale=0.3), expect=lti("companion"))
def last_elements_of_a_list(x: Tensor, a: Tensor) -> Tensor:
    y = [torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])]
    for t in range(x.shape[1]):
        y.append(x[:, t] + a[0] * y[-1] + a[1] * y[-2])
    return torch.stack(y[2:], 1)


@program(normal("B", "T"), normal(3, scale=0.25), expect=lti("companion"))
def deque_of_lags(x: Tensor, a: Tensor) -> Tensor:
    history = deque([torch.zeros_like(x[:, 0])] * 3, maxlen=3)
    out = []
    for u in x.unbind(1):
        new = u + sum(a[i] * history[i] for i in range(3))
        history.append(new)
        out.append(new)
    return torch.stack(out, 1)


@program(normal("B", "T"), normal("B", 4), expect=linear(), many=True)
def ring_of_seasons(y: Tensor, first: Tensor) -> Tensor:
    """Seasonal naive smoothing with a Python list that is read and written at t % m."""
    m = 4
    seasons = list(first.unbind(1))
    fitted = []
    for t in range(y.shape[1]):
        s = seasons[t % m]
        fitted.append(s)
        seasons[t % m] = s + 0.3 * (y[:, t] - s)
    return torch.stack(fitted, 1)


@program(normal("B", "T"), normal("B", 3), expect=linear(), many=True)
def ring_in_a_tensor(y: Tensor, first: Tensor) -> Tensor:
    m = 3
    season = first.clone()
    fitted = []
    for t in range(y.shape[1]):
        fitted.append(season[:, t % m].clone())
        season[:, t % m] = 0.7 * season[:, t % m] + 0.3 * y[:, t]
    return torch.stack(fitted, 1)


@program(X, expect=lti("scalar"))
def output_array_is_the_state(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0]
    for t in range(1, x.shape[1]):
        y[:, t] = 0.9 * y[:, t - 1] + x[:, t]
    return y


@program(X, D, expect=linear("diagonal"))
def output_array_cloned_for_its_gradient(x: Tensor, a: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        y[:, t] = x[:, t] if t == 0 else a * y[:, t - 1].clone() + x[:, t]
    return y


@program(X, D, expect=lti("diagonal"), gradients=False)
def output_array_without_gradients(x: Tensor, a: Tensor) -> Tensor:
    """With gradients for `a` the program itself fails: what it saved was written to."""
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 0]
    for t in range(1, x.shape[1]):
        y[:, t] = a * y[:, t - 1] + x[:, t]
    return y


@program(normal("B", "T"), normal(2, scale=0.3), normal(2), expect=lti("companion"), smallest=3, gradients=False)
def output_array_read_at_two_lags(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :2] = x[:, :2]
    for t in range(2, x.shape[1]):
        y[:, t] = b[0] * x[:, t] + b[1] * x[:, t - 1] + a[0] * y[:, t - 1] + a[1] * y[:, t - 2]
    return y


@program(X, D, expect=lti("diagonal"))
def array_one_longer_than_time(x: Tensor, a: Tensor) -> Tensor:
    B, T, d = x.shape
    h = torch.zeros(B, T + 1, d, dtype=x.dtype)
    for t in range(T):
        h[:, t + 1] = a * h[:, t].clone() + x[:, t]
    return h[:, 1:]


@program(X, D, expect=lti("diagonal"))
def in_place_methods(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = h.clone()
        h.mul_(a).add_(x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=lti("scalar"))
def in_place_on_one_tensor(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    out = torch.empty_like(x)
    for t in range(x.shape[1]):
        h *= 0.8
        h += x[:, t]
        out[:, t] = h
    return out


@program(X, normal("B", 3), expect=lti("scalar"))
def state_copied_into(x: Tensor, state: Tensor) -> Tensor:
    """A cache that is given, updated in place and left at the last state, as inference code does."""
    ys = []
    for t in range(x.shape[1]):
        state.copy_(0.9 * state + x[:, t])
        ys.append(state.clone())
    return torch.stack(ys, 1)


@program(normal("B", "T"), normal(4, scale=0.3), expect=lti())
def shift_register_in_place(x: Tensor, taps: Tensor) -> Tensor:
    window = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        new = x[:, t] + (window * taps).sum(-1)
        window = torch.roll(window, shifts=1, dims=-1)
        window[:, 0] = new
        ys.append(new)
    return torch.stack(ys, 1)


@program(normal("B", "T"), normal(4, scale=0.3), expect=lti())
def shift_register_by_cat(x: Tensor, taps: Tensor) -> Tensor:
    window = x.new_zeros(x.shape[0], 4)
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] + window @ taps
        window = torch.cat([window[:, 1:], y.unsqueeze(-1)], dim=-1)
        ys.append(y)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal"))
def python_zero_at_first(x: Tensor, a: Tensor) -> Tensor:
    h: Any = 0
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("T"), expect=linear("scalar"))
def python_float_at_first(x: Tensor) -> Tensor:
    level: Any = 2.5
    levels = []
    for value in x:
        level = 0.8 * level + 0.2 * value
        levels.append(level)
    return torch.stack(levels)


@program(X, D, normal("B", 3), expect=lti("diagonal"))
def first_state_given(x: Tensor, a: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    h = h0
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1), h


@program(X, D, normal("B", 1), expect=lti("diagonal"))
def first_state_broadcast(x: Tensor, a: Tensor, h: Tensor) -> Tensor:
    """The first state is narrower than all later ones."""
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal"))
def none_at_first(x: Tensor, a: Tensor) -> Tensor:
    h = None
    ys = []
    for t in range(x.shape[1]):
        if h is not None:
            h = a * h + (1 - a) * x[:, t]
        else:
            h = x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=lti("dense"))
class OptionalState(nn.Module):
    """A cell with nn.LSTMCell's manners, and a loop that calls it with None at first."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = _Cell()

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        ys = []
        for u in x.unbind(1):
            y, state = self.cell(u, state)
            ys.append(y)
        return torch.stack(ys, dim=1), state


class _Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.Linear(4, 4, bias=False)
        self.input = nn.Linear(3, 4)
        self.output = nn.Linear(4, 2)
        nn.init.normal_(self.recurrent.weight, std=0.25)

    def forward(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if state is None:
            state = u.new_zeros(u.shape[0], 4)
        state = self.recurrent(state) + self.input(u)
        return self.output(torch.tanh(state)), state


@program(X, expect=lti("diagonal"))
class LearnedFirstState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.randn(3))
        self.log_decay = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.h0.expand(x.shape[0], -1)
        a = torch.exp(-torch.exp(self.log_decay))
        ys = []
        for t in range(x.shape[1]):
            h = a * h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(normal("B", "T"), normal(), normal(), expect=lti("companion", *COUPLED))
def two_names_that_move_on(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    y1 = y2 = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] + 0.4 * torch.tanh(a1) * y1 + 0.4 * torch.tanh(a2) * y2
        y1, y2 = y, y1
        ys.append(y)
    return torch.stack(ys, 1)


@program(normal("B", "T"), matrix(), matrix(), expect=linear("companion"))
def lags_where_they_exist(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    ys: list[Tensor] = []
    for t in range(x.shape[1]):
        y = x[:, t]
        if t >= 1:
            y = y + a1 * ys[t - 1]
        if t >= 2:
            y = y + a2 * ys[t - 2]
        ys.append(y)
    return torch.stack(ys, 1)


@program(X, decays(), expect=lti(), many=True)
def dilated(x: Tensor, a: Tensor) -> Tensor:
    """The state of four steps ago."""
    hs = [torch.zeros_like(x[:, 0]) for _ in range(4)]
    for t in range(x.shape[1]):
        hs.append(a * hs[-4] + x[:, t])
    return torch.stack(hs[4:], 1)


@program(X, D, expect=(lti("diagonal", "scalar"), lti("diagonal", "scalar"), lti("diagonal", "scalar")))
def list_of_layer_states(x: Tensor, a: Tensor) -> Tensor:
    hs = [torch.zeros_like(x[:, 0]) for _ in range(3)]
    ys = []
    for u in x.unbind(1):
        for i in range(3):
            u = a[i] * hs[i] + u
            hs[i] = u
        ys.append(u)
    return torch.stack(ys, 1)


@program(X, matrix(3, 3), expect=lti("dense", "block-diagonal"))
def rows_of_the_state_written_one_by_one(x: Tensor, w: Tensor) -> Tensor:
    """Gauss-Seidel order: each entry reads the entries that were just written."""
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = h.clone()
        for i in range(3):
            h[:, i] = h.clone() @ w[i] + x[:, t, i]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=lti(*SCALED))
class StatePerCall(nn.Module):
    """A stateful filter object that lives for one call."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        lowpass = _LowPass(torch.sigmoid(self.alpha))
        return torch.stack([lowpass(u) for u in x.unbind(1)], 1)


class _LowPass:
    def __init__(self, alpha: Tensor) -> None:
        self.alpha = alpha
        self.value: Tensor | None = None

    def __call__(self, u: Tensor) -> Tensor:
        self.value = u if self.value is None else self.value + self.alpha * (u - self.value)
        return self.value
