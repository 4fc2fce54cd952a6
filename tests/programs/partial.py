"""Partly nonlinear programs: the linear recurrences in them are still split off and run in parallel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import COUPLED, SCALED, A, D, X, linear, lti, ltv, matrix, normal, program, refused


@program(X, D, A, expect=(lti("diagonal"), refused("LR1204", blames="tanh")))
def filter_then_elman(x: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """Both states in one loop; the second reads the first, not the other way round."""
    f = h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        f = a * f + (1 - a) * x[:, t]
        h = torch.tanh(h @ w + f)
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, A, expect=(refused("LR1204", blames="tanh"), lti("diagonal")))
def elman_then_average(x: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """A moving average of what a nonlinear state did."""
    h = mean = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = torch.tanh(h @ w + x[:, t])
        mean = a * mean + (1 - a) * h
        ys.append(mean)
    return torch.stack(ys, 1)


@program(X, D, A, expect=(refused("LR1204", blames="tanh"), ltv("diagonal")))
def elman_gates_a_linear_state(x: Tensor, b: Tensor, w: Tensor) -> Tensor:
    h = c = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = torch.tanh(h @ w + x[:, t])
        g = torch.sigmoid(h + b)
        c = g * c + (1 - g) * x[:, t]
        ys.append(c)
    return torch.stack(ys, 1)


@program(X, D, D, A, expect=(lti("diagonal"), lti("diagonal"), refused("LR1204", blames="tanh")))
def two_linear_around_a_nonlinear(x: Tensor, a: Tensor, b: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    pre = h = post = torch.zeros_like(x[:, 0])
    out = []
    for u in x.unbind(1):
        pre = a * pre + u
        h = torch.tanh(h @ w + pre)
        post = b * post + h
        out.append(post)
    return torch.stack(out, 1), pre


@program(X, expect=(lti("dense"), refused("LR1204", blames="tanh")))
class LmuWithoutFeedback(nn.Module):
    """A linear memory, read by a nonlinear hidden state that does not write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 1)
        self.A = nn.Parameter(0.2 * torch.randn(4, 4))
        self.B = nn.Parameter(torch.randn(4))
        self.W_h, self.W_m = nn.Linear(3, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, m = torch.zeros_like(x[:, 0]), x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            m = m @ self.A.T + self.encoder(x[:, t]) * self.B
            h = torch.tanh(self.W_h(h) + self.W_m(m) + x[:, t])
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=(refused("LR1203", "LR1204", "LR1102", "LR1299", blames="gru"), lti("diagonal")))
class GruThenLinear(nn.Module):
    """Two layers, one loop each."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRUCell(3, 3)
        self.decay = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        h, hs = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.gru(x[:, t], h)
            hs.append(h)
        z = torch.stack(hs, 1)
        s, ys = torch.zeros_like(z[:, 0]), []
        for t in range(z.shape[1]):
            s = self.decay * s + z[:, t]
            ys.append(s)
        return torch.stack(ys, 1)


@program(X, D, A, expect=(lti("diagonal"), refused("LR1204", "LR1207", "LR1208", blames="relu")))
def linear_forward_nonlinear_backward(x: Tensor, a: Tensor, w: Tensor) -> Tensor:
    T = x.shape[1]
    h, hs = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = a * h + x[:, t]
        hs.append(h)
    g, gs = torch.zeros_like(x[:, 0]), []
    for t in reversed(range(T)):
        g = torch.relu(g @ w + x[:, t])
        gs.append(g)
    return torch.cat([torch.stack(hs, 1), torch.stack(gs[::-1], 1)], -1)


@program(X, expect=(lti("diagonal", "scalar"), refused("LR1207")))
def synapse_and_membrane(spikes: Tensor) -> Tensor:
    """A linear synaptic current drives a membrane with threshold and reset."""
    current = v = torch.zeros_like(spikes[:, 0])
    out = []
    for t in range(spikes.shape[1]):
        current = 0.8 * current + spikes[:, t]
        v = 0.9 * v + 0.5 * current
        fired = (v > 1).double()
        v = v * (1 - fired)
        out.append(v)
    return torch.stack(out, 1)


@program(
    normal("B", "T", 1),
    normal("T"),
    matrix(2, 2),
    expect=(refused("LR1202", "LR1204", "LR1201", "LR1203", "LR1299"), ltv("dense", "diagonal+low-rank")),
)
def kalman_filter(z: Tensor, noise: Tensor, F_: Tensor) -> Tensor:
    """The covariance is a Riccati recursion; given its gains the mean is linear."""
    H = torch.tensor([[1.0, 0.0]], dtype=z.dtype)
    eye = torch.eye(2, dtype=z.dtype)
    x, P = z.new_zeros(z.shape[0], 2), eye
    means = []
    for t in range(z.shape[1]):
        P = F_ @ P @ F_.T + 0.1 * eye
        S = H @ P @ H.T + noise[t] ** 2 + 0.5
        K = P @ H.T / S
        P = (eye - K @ H) @ P
        x = x @ F_.T
        x = x + (z[:, t] - x @ H.T) @ K.T
        means.append(x)
    return torch.stack(means, 1)


@program(X, normal(3, 3), expect=(linear(semiring="max-plus"), refused("LR1210")))
def viterbi_with_backtrace(emissions: Tensor, transitions: Tensor) -> Tensor:
    """Scores are linear over (max, +); the way back follows an index that is its own state."""
    score, pointers = emissions[:, 0], []
    for t in range(1, emissions.shape[1]):
        best, where = (score.unsqueeze(2) + transitions).max(dim=1)
        score = best + emissions[:, t]
        pointers.append(where)
    tag = score.argmax(dim=1)
    path = [tag]
    for where in reversed(pointers):
        tag = where.gather(1, tag.unsqueeze(1)).squeeze(1)
        path.append(tag)
    return torch.stack(path[::-1], dim=1)


@program(X, X, D, expect=(lti("scalar"), lti("scalar"), refused("LR1204", blames="tanh")))
def attention_beside_a_nonlinear_state(k: Tensor, v: Tensor, a: Tensor) -> Tensor:
    """Keys come from the input alone, queries from the nonlinear state."""
    s, z = k.new_zeros(k.shape[0], 3, 3), torch.zeros_like(k[:, 0])
    h = torch.zeros_like(k[:, 0])
    out = []
    for t in range(k.shape[1]):
        key = F.elu(k[:, t]) + 1
        s = s + key.unsqueeze(-1) * v[:, t].unsqueeze(-2)
        z = z + key
        h = torch.tanh(a * h + v[:, t])
        q = F.elu(h) + 1
        out.append(torch.einsum("bi,bij->bj", q, s) / (q * z).sum(-1, keepdim=True))
    return torch.stack(out, 1)


@program(normal("B", "T"), expect=(lti(*COUPLED), refused("LR1204", "LR1202", "LR1201", "LR1203")))
def trend_and_volatility(y: Tensor) -> Tensor:
    """Holt's level and trend; their residuals drive a nonlinear scale."""
    level, trend, scale = y[:, 0], torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
    out = []
    for t in range(y.shape[1]):
        error = y[:, t] - level - trend
        level, trend = level + trend + 0.4 * error, trend + 0.1 * error
        scale = torch.sqrt(0.9 * scale**2 + 0.1 * error**2)
        out.append(error / scale)
    return torch.stack(out, 1)


@program(X, expect=(lti(*SCALED), lti(*SCALED), refused("LR1204", blames="tanh")))
class NonlinearMiddleLayer(nn.Module):
    """Three layers inside one loop over time; only the middle one is nonlinear."""

    def __init__(self) -> None:
        super().__init__()
        self.decays = nn.Parameter(torch.rand(2))
        self.U = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0]) for _ in range(3)]
        ys = []
        for t in range(x.shape[1]):
            states[0] = self.decays[0] * states[0] + x[:, t]
            states[1] = torch.tanh(self.U(states[1]) + states[0])
            states[2] = self.decays[1] * states[2] + states[1]
            ys.append(states[2])
        return torch.stack(ys, 1)
