"""Near misses: one operator away from a linear step. None of them may be called linear, all of them run as written."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import A, D, X, complex_, decays, lti, matrix, normal, open_, program, refused, uniform
from programs.operators import looped

PRODUCT = ("LR1201", "LR1203")  # a product of two values of the state: the state is then in its own coefficient too


# ---- products ----------------------------------------------------------------------------------------


@program(X, D, expect=refused("LR1201", blames="h * h"))
@looped
def square(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.01 * h * h + torch.tanh(u)


@program(X, D, expect=refused("LR1201", "LR1204", blames="**"))
@looped
def power_of_two(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.01 * torch.tanh(u) * h**2 + 0.1 * torch.tanh(u)


@program(uniform(0.0, 1.0, "B", "T"), expect=refused(*PRODUCT, blames="(1 - p)"))
@looped
def logistic_map(p: Tensor, u: Tensor) -> Tensor:
    return 0.9 * p * (1 - p) + 0.1 * u


@program(normal("B", "T"), expect=refused(*PRODUCT))
def predator_and_prey(x: Tensor) -> Tensor:
    """Two states, multiplied with each other."""
    prey = predator = torch.ones_like(x[:, 0])
    path = []
    for u in x.unbind(1):
        prey, predator = (
            prey + 0.05 * (prey - prey * predator) + 0.001 * u,
            predator + 0.05 * (prey * predator - predator),
        )
        path.append(prey)
    return torch.stack(path, 1)


@program(normal("B", "T", 2, 2), expect=refused("LR1201", blames="S @ S"))
@looped
def matrix_square(S: Tensor, u: Tensor) -> Tensor:
    """A Newton iteration for an inverse."""
    return 0.5 * S - 0.1 * S @ S + 0.1 * torch.tanh(u)


@program(X, expect=refused("LR1201", blames="einsum"))
@looped
def einsum_of_state_with_itself(h: Tensor, u: Tensor) -> Tensor:
    return 0.5 * h - 0.02 * torch.einsum("bi,bj->bij", h, h).mean(-1) + torch.tanh(u)


@program(X, normal(3, 3, 3, scale=0.05), expect=refused("LR1201", blames="bilinear"))
@looped
def bilinear_in_the_state_twice(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return 0.4 * h + F.bilinear(h, h, w) + 0.2 * torch.tanh(u)


@program(X, D, expect=refused(*PRODUCT))
@looped
def state_times_its_mean(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return 0.5 * a * h + 0.02 * h * h.mean(-1, keepdim=True) + 0.3 * torch.tanh(u)


@program(complex_("B", "T", 3, scale=0.3), complex_(3, scale=0.2), expect=refused(*PRODUCT))
@looped
def complex_modulus_squared(h: Tensor, u: Tensor, lam: Tensor) -> Tensor:
    return lam * h - 0.01 * (h * h.conj()) + u


# ---- quotients ---------------------------------------------------------------------------------------


@program(X, expect=refused("LR1202", blames="/"))
@looped
def continued_fraction(h: Tensor, u: Tensor) -> Tensor:
    return 1 / (2 + u.abs() + h)


@program(X, D, expect=refused("LR1202", "LR1209", blames="/"))
@looped
def divided_by_its_sum(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    p = a * h + u.exp()
    return p / p.sum(dim=-1, keepdim=True)


@program(X, expect=refused("LR1202", blames="reciprocal"))
@looped
def reciprocal(h: Tensor, u: Tensor) -> Tensor:
    return torch.reciprocal(2 + h) + u.abs()


@program(uniform(1.0, 2.0, "B", "T"), expect=refused("LR1202", *PRODUCT), smallest=2)
def multiplicative_holt_winters(y: Tensor) -> Tensor:
    m = 2
    level, trend = y[:, 0], y[:, 1] - y[:, 0]
    season = [torch.ones_like(level) for _ in range(m)]
    fitted = []
    for t in range(y.shape[1]):
        s = season[t % m]
        fitted.append((level + trend) * s)
        last = level
        level = 0.3 * y[:, t] / s + 0.7 * (level + trend)
        trend = 0.1 * (level - last) + 0.9 * trend
        season[t % m] = 0.2 * y[:, t] / level + 0.8 * s
    return torch.stack(fitted, 1)


@program(normal("T", 2, 2), matrix(2, 2), expect=refused("LR1202", "LR1204", "LR1299", blames="inv"))
def riccati(noise: Tensor, F_: Tensor) -> Tensor:
    """The covariance of a Kalman filter."""
    P = torch.eye(2, dtype=F_.dtype)
    R = 0.5 * torch.eye(2, dtype=F_.dtype)
    traces = []
    for C in noise:
        P = F_ @ P @ F_.T + C @ C.T
        K = P @ torch.linalg.inv(P + R)
        P = P - K @ P
        traces.append(P.trace())
    return torch.stack(traces)


# ---- the state in its own coefficient ----------------------------------------------------------------


@program(X, A, D, expect=refused("LR1203", "LR1204", "LR1201"))
@looped
def gate_that_reads_the_state(h: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    z = torch.sigmoid(u + h @ w + b)
    return z * h + (1 - z) * u


@program(X, expect=refused("LR1203", "LR1204", "LR1102", "LR1299", blames="cell"))
class GruCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for u in x.unbind(1):
            h = self.cell(u, h)
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=refused("LR1203", "LR1204", "LR1102", "LR1201", "LR1299", blames="cell"))
class LstmCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, ys = None, []
        for u in x.unbind(1):
            state = self.cell(u, state)
            ys.append(state[0])
        return torch.stack(ys, 1)


@program(X, X, X, D, D, expect=refused("LR1203", "LR1204", "LR1201"))
def simple_recurrent_unit(u: Tensor, f: Tensor, r: Tensor, vf: Tensor, vr: Tensor) -> Tensor:
    """SRU with its peephole: the cell feeds its own forget gate."""
    c, hs = torch.zeros_like(u[:, 0]), []
    for t in range(u.shape[1]):
        forget = torch.sigmoid(f[:, t] + vf * c)
        reset = torch.sigmoid(r[:, t] + vr * c)
        c = forget * c + (1 - forget) * u[:, t]
        hs.append(reset * c + (1 - reset) * u[:, t])
    return torch.stack(hs, 1)


@program(X, D, expect=refused(*PRODUCT, "LR1204"))
def coupled_through_a_gate(x: Tensor, a: Tensor) -> Tensor:
    """Looks like a cascade, but each state gates the other."""
    h = s = torch.zeros_like(x[:, 0])
    ys = []
    for u in x.unbind(1):
        h_new = a * h * torch.sigmoid(s) + u
        s = 0.5 * s + 0.1 * h
        h = h_new
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, decays(4), expect=refused("LR1201", "LR1203", "LR1204"))
def gate_hidden_in_a_helper(x: Tensor, w: Tensor) -> Tensor:
    """`mix` is affine in each of its arguments, and gets the state twice."""

    def mix(p: Tensor, q: Tensor, g: Tensor) -> Tensor:
        return g * p + (1 - g) * q

    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = mix(h, u, 0.1 * h + w[:3] * 0.5)
        h = torch.where(u > 2, u, h) * 0.5
        ys.append(h)
    return torch.stack(ys, 1)


# ---- functions ---------------------------------------------------------------------------------------


@program(X, A, expect=refused("LR1204", blames="tanh"))
@looped
def elman(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(h @ w + u)


@program(X, expect=refused("LR1204", "LR1102", "LR1299", blames="cell"))
class RnnCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(3, 4, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
        return h


@program(X, D, expect=refused("LR1204", "LR1207", "LR1208", blames="relu"))
@looped
def relu_of_a_scaled_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return F.relu(a * h + u)


@program(X, D, expect=refused("LR1204", blames="leaky_relu"))
@looped
def leaky_relu(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    """Slope 0.999 below zero."""
    return F.leaky_relu(a * h + u, negative_slope=0.999)


@program(X, D, expect=refused("LR1204", blames="tanh"))
@looped
def zero_times_tanh(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + 0 * torch.tanh(h) + u


@program(X, D, expect=refused("LR1204", blames="sin"))
@looped
def tiny_sine(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    """Too small for any numeric test."""
    return a * h + 1e-14 * torch.sin(h) + u


@program(X, D, expect=refused("LR1204", "LR1207", blames="abs"))
@looped
def absolute_value(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return (a * h + u).abs()


@program(normal("B", "T"), expect=refused("LR1204", blames="exp"))
def exponential_garch(r: Tensor) -> Tensor:
    """EGARCH: the residual is scaled by the exponential of the state."""
    log_var = torch.zeros_like(r[:, 0])
    out = []
    for t in range(r.shape[1]):
        z = r[:, t] * torch.exp(-0.5 * log_var)
        out.append(log_var)
        log_var = -0.1 + 0.9 * log_var + 0.05 * z
    return torch.stack(out, 1)


@program(X, D, expect=refused("LR1204", "LR1207", "LR1209", "LR1299", blames="max"))
@looped
def largest_entry(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.1 * h.max(dim=-1, keepdim=True).values + u


@program(X, D, expect=refused("LR1204", "LR1207", "LR1210", "LR1299", blames="sort"))
@looped
def sorted_entries(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * torch.sort(h, dim=-1).values + u


@program(X, D, expect=refused("LR1204", blames="sqrt"))
@looped
def square_root(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.sqrt(a * h + u * u + 0.1)


@program(X, expect=refused("LR1204", blames="tanh"))
class OriginalLmu(nn.Module):
    """The hidden state feeds the memory, so nothing of it is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.e_x = nn.Linear(3, 1, bias=False)
        self.e_h = nn.Linear(4, 1, bias=False)
        self.W = nn.Linear(3 + 4 + 5, 4)
        self.A = nn.Parameter(0.2 * torch.randn(5, 5))
        self.B = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        h, m = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], 5)
        ys = []
        for t in range(x.shape[1]):
            u = self.e_x(x[:, t]) + self.e_h(h)
            m = m @ self.A.T + u * self.B
            h = torch.tanh(self.W(torch.cat([x[:, t], h, m], dim=-1)))
            ys.append(h)
        return torch.stack(ys, 1)


# ---- random numbers, batch statistics, detach --------------------------------------------------------


@program(X, D, expect=refused("LR1205", "LR0404", blames="dropout"), refusal=("LR1205", "LR0404"))
@looped
def dropout_on_the_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * F.dropout(h, p=0.25, training=True) + u


@program(X, expect=refused("LR1205", "LR0404", blames="drop"), refusal=("LR1205", "LR0404"), training=True)
class DropoutModuleInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.U = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        nn.init.normal_(self.U.weight, std=0.25)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.U(self.drop(h)) + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=(refused("LR1205", "LR1209", blames="bn"), lti().maybe()), refusal=("LR1205",), training=True)
class BatchNormInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.bn(0.5 * h) + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, D, expect=open_("LR0404", "LR1205"), refusal=("LR0404", "LR1205"))
def zoneout(x: Tensor, a: Tensor) -> Tensor:
    """A random mask for each step, drawn inside the loop: linear, if the numbers come in the same order."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        keep = torch.bernoulli(torch.full_like(h, 0.1))
        h = keep * h + (1 - keep) * (a * h + x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T", 20), expect=open_("LR0404", "LR1205"), refusal=("LR0404", "LR1205"))
@looped
def noise_at_every_step(h: Tensor, u: Tensor) -> Tensor:
    """Normal numbers come in another order when many are drawn at once."""
    return 0.9 * h + u + 0.1 * torch.randn_like(u)


@program(X, D, expect=refused("LR1206", blames="detach"))
@looped
def detached_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h.detach() + u


@program(X, D, expect=refused("LR1206", blames="detach"))
@looped
def detached_part_of_the_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.25 * h.detach() + u


@program(X, D, expect=refused("LR1206", "LR0405", blames="detach"), refusal=("LR1206", "LR0405"))
def truncated_backpropagation(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        if t % 4 == 0:
            h = h.detach()
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=refused("LR0403", "LR1206"), refusal=("LR0403", "LR1206"))
def without_gradient_inside(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        with torch.no_grad():
            h = a * h
        h = h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


class Straight(torch.autograd.Function):
    """Rounds forward, passes the gradient on backward."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return torch.round(h * 16) / 16

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


@program(X, D, expect=refused("LR0408", blames="apply"), refusal=("LR0408",))
@looped
def autograd_function_on_the_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    straight: Tensor = Straight.apply(h)  # type: ignore[no-untyped-call]
    return a * straight + u


# ---- norms -------------------------------------------------------------------------------------------


@program(X, D, expect=refused("LR1209", blames="layer_norm"))
@looped
def layer_norm(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return F.layer_norm(a * h + u, (3,))


@program(X, expect=refused("LR1209", blames="norm"))
class LayerNormModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.U = nn.Linear(3, 4)
        self.W = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for u in x.unbind(1):
            h = self.norm(self.W(h) + self.U(u))
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, D, expect=refused("LR1209", "LR1202", "LR1201", "LR1204"))
@looped
def rms_norm_by_hand(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    h = a * h + u
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


@program(X, expect=refused("LR1209", "LR1204", blames="softmax"))
@looped
def softmax_of_the_state(h: Tensor, u: Tensor) -> Tensor:
    return torch.softmax(h + u, dim=-1)


@program(X, A, expect=refused("LR1209", "LR1202", blames="normalize"))
@looped
def power_iteration(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return F.normalize(h @ a + 0.5 * u, dim=-1)


@program(X, expect=refused("LR1209", "LR1202"))
@looped
def divided_by_its_norm(h: Tensor, u: Tensor) -> Tensor:
    g = 0.5 * h + u
    return g / (g.norm(dim=-1, keepdim=True) + 1.0)  # type: ignore[no-any-return]
