"""Coefficients: what the state may be multiplied with in a linear step, and how people compute it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import SCALED, A, D, X, decays, linear, lti, ltv, matrix, normal, program, uniform


@program(normal("B", "T"), expect=lti("scalar"))
def python_constant(x: Tensor) -> Tensor:
    beta = 1 - 1 / 8
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = beta * h + (1 - beta) * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=lti("diagonal"))
class ParameterThroughFunctions(nn.Module):
    """Decays that are kept stable by how they are made from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.randn(3))
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            alpha = torch.exp(-1.0 / F.softplus(self.log_tau))
            h = alpha * h + torch.sqrt(1 - alpha**2) * self.gain * x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=lti("diagonal"))
class LinearRecurrentUnit(nn.Module):
    """exp(-exp(nu) + i theta), complex inside, real outside."""

    def __init__(self) -> None:
        super().__init__()
        self.nu = nn.Parameter(torch.randn(4))
        self.theta = nn.Parameter(torch.rand(4) * 3)
        self.B = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))
        self.C = nn.Parameter(torch.randn(2, 4, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        lam = torch.exp(torch.complex(-torch.exp(self.nu), self.theta))
        gamma = torch.sqrt(1 - lam.abs() ** 2)
        h = torch.zeros(x.shape[0], 4, dtype=lam.dtype)
        ys = []
        for t in range(x.shape[1]):
            h = lam * h + gamma * (x[:, t].to(lam.dtype) @ self.B.T)
            ys.append((h @ self.C.T).real)
        return torch.stack(ys, 1)


@program(X, expect=lti("dense"))
class MatrixExponential(nn.Module):
    """A zero-order hold that is discretised anew in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(0.3 * torch.randn(3, 3) - torch.eye(3))
        self.log_dt = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for u in x.unbind(1):
            Ad = torch.linalg.matrix_exp(self.A * self.log_dt.exp())
            h = h @ Ad.mT + self.log_dt.exp() * u
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=ltv("diagonal"))
class GateFromInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 4)
        self.value = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            z = torch.sigmoid(self.gate(x[:, t]))
            h = (1 - z) * h + z * torch.tanh(self.value(x[:, t]))
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, D, expect=ltv("diagonal"))
def gate_from_the_last_input(x: Tensor, w: Tensor) -> Tensor:
    """A token shift: the previous input is kept in a variable."""
    previous = torch.zeros_like(x[:, 0])
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        g = torch.sigmoid(w * previous)
        h = g * h + u
        previous = u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, X, D, expect=(lti("diagonal"), ltv("diagonal")))
def linear_state_gates_another(x: Tensor, v: Tensor, a: Tensor) -> Tensor:
    """A cascade: the second state's gate is a nonlinear function of the first state."""
    h = s = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        g = torch.sigmoid(h)
        s = g * s + (1 - g) * v[:, t]
        ys.append(s)
    return torch.stack(ys, 1)


@program(X, D, D, expect=(lti("diagonal"), ltv("diagonal")))
def product_of_a_state_with_a_finished_one(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """h * s looks like a product of two states, but h does not depend on s."""
    h = s = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        s = 0.3 * torch.tanh(h) * s + b * x[:, t]
        ys.append(s + h * s)
    return torch.stack(ys, 1)


@program(X, expect=(lti("diagonal"), ltv("diagonal"), ltv("diagonal")))
class CascadeOfThree(nn.Module):
    """Each layer's state makes the decay of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.rand(3))
        self.W1 = nn.Linear(3, 3)
        self.W2 = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        p = q = r = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            p = self.a * p + x[:, t]
            q = torch.exp(-F.softplus(self.W1(p))) * q + x[:, t]
            r = torch.sigmoid(self.W2(torch.relu(q))) * r + p
            ys.append(r)
        return torch.stack(ys, 1)


@program(X, decays("T", 3), expect=ltv("diagonal"))
def table_over_time(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a[t] * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, matrix("T", 3, 3), expect=ltv("dense"))
def table_of_matrices(x: Tensor, A: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h @ A[t] + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=ltv("diagonal", "scalar"))
def table_computed_from_the_length(x: Tensor, a: Tensor) -> Tensor:
    T = x.shape[1]
    schedule = torch.linspace(0.2, 0.9, T, dtype=x.dtype)
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = schedule[t] * a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T"), expect=ltv("scalar"))
def fraction_of_t(x: Tensor) -> Tensor:
    """A running mean."""
    mean, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        mean = t / (t + 1) * mean + x[:, t] / (t + 1)
        out.append(mean)
    return torch.stack(out, 1)


@program(normal("B", "T"), expect=ltv("scalar"))
def running_mean_by_enumerate(x: Tensor) -> Tensor:
    mean, out = torch.zeros_like(x[:, 0]), []
    for n, value in enumerate(x.unbind(1), start=1):
        mean += (value - mean) / n
        out.append(mean.clone())
    return torch.stack(out, 1)


@program(normal("B", "T"), D, expect=ltv(*SCALED))
def power_of_t(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a.mean() ** (1 + 1 / (t + 1)) * h + x[:, t] * 0.99**t
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=ltv("diagonal", "scalar"))
def cosine_of_t(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * (0.5 + 0.5 * math.cos(2 * math.pi * t / 12)) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=ltv("diagonal", "scalar"))
def cosine_schedule_over_the_length(x: Tensor, a: Tensor) -> Tensor:
    T = x.size(1)
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = a * math.cos(math.pi * t / (2 * T)) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=ltv("dense"))
class HippoLegS(nn.Module):
    """A dense matrix over t + 1."""

    A: Tensor
    B: Tensor

    def __init__(self) -> None:
        super().__init__()
        q = torch.arange(3.0)
        r = torch.sqrt(2 * q + 1)
        self.register_buffer("A", torch.tril(torch.outer(r, r), -1) + torch.diag(q + 1))
        self.register_buffer("B", r)

    def forward(self, x: Tensor) -> Tensor:
        c = x.new_zeros(x.shape[0], 3, 3)
        for t in range(x.shape[1]):
            c = c - 0.3 / (t + 1) * (c @ self.A.T) + 0.3 / (t + 1) * x[:, t].unsqueeze(-1) * self.B
        return c


@program(X, D, expect=linear("diagonal", "scalar"), many=True)
def branch_on_parity(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        if t % 2 == 0:
            h = a * h + x[:, t]
        else:
            h = 0.5 * h
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, decays(3, 3), expect=linear("diagonal", "scalar"), many=True)
def table_read_at_t_mod_m(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t, u in enumerate(x.unbind(1)):
        h = a[t % 3] * h + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=linear("diagonal", "scalar"), many=True)
class ParameterChosenByT(nn.Module):
    """Two cells take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.decays = nn.ParameterList(torch.rand(3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.decays[t % 2] * h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True)
def branch_on_warm_up(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        alpha = 0.5 if t < 3 else a
        h = alpha * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True)
def branch_on_the_first_step(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = x[:, t] if t == 0 else a * h + (1 - a) * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True)
def branch_on_the_last_step(x: Tensor, a: Tensor) -> Tensor:
    T = x.shape[1]
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = h + x[:, t] if t == T - 1 else a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True, also=(130,))
def branch_on_a_step_beyond_short_traces(x: Tensor, a: Tensor) -> Tensor:
    """At 64 steps nothing shows that the decay changes at step 100."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (a if t < 100 else 0.5) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True, also=(130,))
def index_that_stops_beyond_short_traces(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, min(t, 99)]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=linear("diagonal", "scalar"), many=True, also=(257,))
def reset_at_every_hundredth_step(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        if t and t % 100 == 0:
            h = torch.zeros_like(h)
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, expect=lti(*SCALED))
def decay_from_all_of_the_input(x: Tensor) -> Tensor:
    """The coefficient looks ahead over all time, but is one for all steps."""
    a = torch.sigmoid(x.mean(dim=(1, 2), keepdim=True)).squeeze(-1)
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, uniform(0.0, 3.0, "B", "T"), D, expect=ltv("diagonal"), smallest=1)
def irregular_sampling(x: Tensor, gaps: Tensor, tau: Tensor) -> Tensor:
    """Decay over the time since the last sample."""
    times = gaps.cumsum(1)
    h, ys = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        dt = (times[:, t] - times[:, t - 1]).unsqueeze(-1)
        h = torch.exp(-dt / tau) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, matrix(3, 3, 3), expect=ltv("dense"))
def matrix_made_from_the_input(x: Tensor, w: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        transition = torch.tanh(torch.einsum("bk,kij->bij", u, w)) / 3
        h = (transition @ h.unsqueeze(-1)).squeeze(-1) + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, A, D, expect=ltv("dense"))
def gate_and_matrix(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = torch.sigmoid(u + b) * (h @ w) + u
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, X, expect=ltv("diagonal"))
def division_by_the_input(x: Tensor, z: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (h + x[:, t]) / (1 + z[:, t].exp())
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, uniform(0.1, 1.0, "B", "T", 1), expect=ltv(*SCALED))
class AttributeAndTable(nn.Module):
    """A Python number of the module, a buffer over the input's values, an index into it."""

    rates: Tensor
    leak = 0.95

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", torch.tensor([0.2, 0.5, 0.8]))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        which = (level * 3).long().clamp(max=2)
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.leak * self.rates[which[:, t]] * h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)
