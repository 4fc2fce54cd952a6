"""Linear systems of other fields: mechanics, filters, fields, statistics, forecasting, returns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import (
    COUPLED,
    LOW_RANK,
    A,
    D,
    X,
    decays,
    linear,
    lti,
    ltv,
    mask,
    matrix,
    normal,
    program,
    uniform,
)

# ---- mechanics, filters, fields ----------------------------------------------------------------------


@program(X, expect=lti(*COUPLED))
def oscillators(force: Tensor) -> Tensor:
    """Symplectic Euler on a damped spring."""
    position = velocity = torch.zeros_like(force[:, 0])
    dt, k, c = 0.1, 2.0, 0.3
    path = []
    for t in range(force.shape[1]):
        velocity = velocity + dt * (force[:, t] - k * position - c * velocity)
        position = position + dt * velocity
        path.append(position)
    return torch.stack(path, 1)


@program(X, uniform(0.5, 2.0, 3), expect=lti(*COUPLED))
def linear_oscillatory_state_space(u: Tensor, a: Tensor) -> Tensor:
    """LinOSS, implicit: both states from a closed solution of two equations."""
    dt = 0.3
    schur = 1 / (1 + dt**2 * a)
    y = z = torch.zeros_like(u[:, 0])
    ys = []
    for t in range(u.shape[1]):
        rhs = z + dt * u[:, t]
        z, y = schur * rhs - dt * a * schur * y, dt * schur * rhs + schur * y
        ys.append(y)
    return torch.stack(ys, 1)


@program(X, D, normal(3), expect=lti(*COUPLED))
def rotation_of_a_pair(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    re = im = torch.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        re, im = r * (w.cos() * re - w.sin() * im) + x[:, t], r * (w.sin() * re + w.cos() * im)
        out.append(re)
    return torch.stack(out, 1), im


@program(normal("B", "T", 2), matrix(2, 2), expect=ltv("dense", *COUPLED))
def two_states_with_gates_between(x: Tensor, w: Tensor) -> Tensor:
    """Two coupled states whose coupling comes from the input."""
    p = q = torch.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        g = torch.sigmoid(x[:, t] @ w)
        p, q = 0.7 * p + 0.2 * g * q + x[:, t], 0.8 * q - 0.3 * (1 - g) * p
        out.append(p - q)
    return torch.stack(out, 1)


@program(normal("B", "T"), normal(3), normal(2, scale=0.3), expect=lti("companion"))
def biquad(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Direct form I."""
    x1 = x2 = y1 = y2 = torch.zeros_like(x[:, 0])
    out = []
    for n in range(x.shape[1]):
        y = b[0] * x[:, n] + b[1] * x1 + b[2] * x2 - a[0] * y1 - a[1] * y2
        x2, x1 = x1, x[:, n]
        y2, y1 = y1, y
        out.append(y)
    return torch.stack(out, 1)


@program(normal("B", "T"), normal(3), normal(2, scale=0.3), expect=lti())
def biquad_transposed(x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """Transposed direct form II: two coupled states."""
    s1 = s2 = torch.zeros_like(x[:, 0])
    out = torch.zeros_like(x)
    for n in range(x.shape[-1]):
        y = b[0] * x[:, n] + s1
        s1 = b[1] * x[:, n] - a[0] * y + s2
        s2 = b[2] * x[:, n] - a[1] * y
        out[:, n] = y
    return out


@program(normal("B", "T"), normal(4, scale=0.2), expect=lti("companion"), smallest=1)
def autoregression(noise: Tensor, phi: Tensor) -> Tensor:
    """AR(4) with the lags in an inner loop."""
    p = 4
    y = [torch.zeros_like(noise[:, 0]) for _ in range(p)]
    for t in range(noise.shape[1]):
        value = noise[:, t]
        for lag in range(1, p + 1):
            value = value + phi[lag - 1] * y[-lag]
        y.append(value)
    return torch.stack(y[p:], 1)


@program(normal("B", "T", 2), matrix(2, 2, 2), expect=lti("companion"))
def vector_autoregression(noise: Tensor, phi: Tensor) -> Tensor:
    """VAR(2) on an output array with two rows of history in front."""
    B, T, d = noise.shape
    y = torch.zeros(B, T + 2, d, dtype=noise.dtype)
    for t in range(2, T + 2):
        y[:, t] = noise[:, t - 2] + y[:, t - 1].clone() @ phi[0] + y[:, t - 2].clone() @ phi[1]
    return y[:, 2:]


@program(normal("B", "T"), expect=lti("companion", *COUPLED))
def wave_equation_of_a_point(force: Tensor) -> Tensor:
    """Leapfrog: u(t+1) = 2 u(t) - u(t-1) + ..., slightly damped."""
    u_prev = u = torch.zeros_like(force[:, 0])
    trace = []
    for t in range(force.shape[1]):
        u_next = 1.8 * u - 0.9 * u_prev + 0.1 * force[:, t]
        u_prev, u = u, u_next
        trace.append(u)
    return torch.stack(trace, 1)


@program(normal("B", "T", 5), normal(5), expect=lti())
def heat_equation(source: Tensor, first: Tensor) -> Tensor:
    u = first.expand(source.shape[0], -1)
    frames = []
    for t in range(source.shape[1]):
        padded = F.pad(u, (1, 1))
        laplacian = padded[:, 2:] - 2 * u + padded[:, :-2]
        u = u + 0.2 * laplacian + 0.1 * source[:, t]
        frames.append(u)
    return torch.stack(frames, 1)


@program(normal("B", "T", 5), expect=lti())
def wave_equation(force: Tensor) -> Tensor:
    """Two fields, a convolution with a fixed kernel, fixed ends."""
    kernel = torch.tensor([[[1.0, -2.0, 1.0]]], dtype=force.dtype)
    u = v = torch.zeros_like(force[:, 0])
    frames = []
    for t in range(force.shape[1]):
        v = 0.95 * v + 0.2 * F.conv1d(u.unsqueeze(1), kernel, padding=1).squeeze(1) + force[:, t]
        u = u + 0.2 * v
        frames.append(u)
    return torch.stack(frames, 1)


@program(normal("T", 3, 3), matrix(3, 3), expect=lti())
def lyapunov(noise: Tensor, K: Tensor) -> Tensor:
    """S -> K S K^T + C."""
    S = torch.eye(3, dtype=K.dtype)
    traces = []
    for C in noise:
        S = K @ S @ K.T + C @ C.T
        traces.append(S.trace())
    return torch.stack(traces)


@program(normal("B", "T", 2, 2), matrix("B", "T", 2, 2), expect=ltv())
def smoother_covariance(C: Tensor, G: Tensor) -> Tensor:
    """Backward: P(t) = C(t) + G(t) P(t+1) G(t)^T, as in a Rauch-Tung-Striebel smoother."""
    T = C.shape[1]
    P = C[:, -1]
    out = [P]
    for t in reversed(range(T - 1)):
        P = C[:, t] + G[:, t] @ P @ G[:, t].transpose(-1, -2)
        out.insert(0, P)
    return torch.stack(out, 1)


@program(normal("B", "T", 2), A, matrix(3, 2), matrix(2, 3), expect=lti("dense", *LOW_RANK))
def fixed_gain_kalman(z: Tensor, F_: Tensor, K: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    x = z.new_zeros(z.shape[0], 3)
    states, innovations = [], []
    for t in range(z.shape[1]):
        x = x @ F_.T
        y = z[:, t] - x @ H.T
        x = x + y @ K.T
        states.append(x)
        innovations.append(y)
    return torch.stack(states, 1), torch.stack(innovations, 1)


# ---- statistics and forecasting ----------------------------------------------------------------------


@program(normal("B", "T"), normal(), normal(), expect=lti(*COUPLED), smallest=2)
def holt(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    alpha, beta = torch.sigmoid(a), torch.sigmoid(b)
    level, trend = y[:, 0], y[:, 1] - y[:, 0]
    fitted = []
    for t in range(1, y.shape[1]):
        fitted.append(level + trend)
        new_level = alpha * y[:, t] + (1 - alpha) * (level + trend)
        trend = beta * (new_level - level) + (1 - beta) * trend
        level = new_level
    return torch.stack(fitted, 1)


@program(normal("B", "T"), expect=linear(), many=True, smallest=4)
class HoltWinters(nn.Module):
    """Additive seasonality in a list that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3))

    def forward(self, y: Tensor) -> Tensor:
        m = 3
        alpha, beta, gamma = 0.5 * torch.sigmoid(self.logits)
        level, trend = y[:, :m].mean(1), torch.zeros_like(y[:, 0])
        season = [y[:, i] - level for i in range(m)]
        fitted = []
        for t in range(m, y.shape[1]):
            s = season[t - m]
            fitted.append(level + trend + s)
            previous = level
            level = alpha * (y[:, t] - s) + (1 - alpha) * (level + trend)
            trend = beta * (level - previous) + (1 - beta) * trend
            season.append(gamma * (y[:, t] - level) + (1 - gamma) * s)
        return torch.stack(fitted, 1)


@program(normal("B", "T"), expect=lti("scalar"))
class Garch(nn.Module):
    """A likelihood: the variance is linear in its past and in squared returns, its logarithm is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(0.1))
        self.alpha = nn.Parameter(torch.tensor(0.1))
        self.beta = nn.Parameter(torch.tensor(0.8))

    def forward(self, returns: Tensor) -> Tensor:
        sigma2 = returns.var(dim=1, unbiased=False) + 0.1
        terms = []
        for t in range(returns.shape[1]):
            terms.append(torch.log(sigma2) + returns[:, t] ** 2 / sigma2)
            sigma2 = self.omega + self.alpha * returns[:, t] ** 2 + self.beta * sigma2
        return 0.5 * torch.stack(terms, 1).sum(1)


@program(normal("T", 3), expect=(lti("scalar"), lti("scalar"), lti("scalar")))
def adam(grads: Tensor) -> Tensor:
    """The path of the parameters for given gradients: three linear states, a nonlinear map between them."""
    m = v = p = torch.zeros_like(grads[0])
    path = []
    for t, g in enumerate(grads, start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g * g
        m_hat = m / (1 - 0.9**t)
        v_hat = v / (1 - 0.99**t)
        p = p - 0.01 * m_hat / (v_hat.sqrt() + 1e-8)
        path.append(p)
    return torch.stack(path)


# ---- returns of reinforcement learning ---------------------------------------------------------------


@program(normal("B", "T"), normal("B", "T+1"), mask("B", "T"), expect=ltv("scalar", "diagonal"))
def generalised_advantages(rewards: Tensor, values: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
    gae = torch.zeros(rewards.shape[0], dtype=rewards.dtype)
    advantages = []
    for t in range(rewards.shape[1] - 1, -1, -1):
        not_done = (~terminated[:, t]).double()
        delta = rewards[:, t] + 0.99 * values[:, t + 1] * not_done - values[:, t]
        gae = delta + 0.99 * 0.95 * not_done * gae
        advantages.append(gae)
    stacked = torch.stack(advantages[::-1], 1)
    return stacked, stacked + values[:, :-1]


@program(normal("T", "B"), normal("T", "B"), decays("T", "B"), expect=ltv("scalar", "diagonal"))
def lambda_returns(reward: Tensor, value: Tensor, discount: Tensor) -> Tensor:
    """Dreamer's targets."""
    following = torch.cat([value[1:], value[-1:]])
    inputs = reward + discount * following * (1 - 0.95)
    last = value[-1]
    outputs: list[Tensor] = []
    for index in reversed(range(inputs.shape[0])):
        last = inputs[index] + discount[index] * 0.95 * last
        outputs.append(last)
    return torch.stack(outputs[::-1])


@program(
    normal("T", "B"),
    normal("T", "B"),
    normal("T", "B"),
    normal("B"),
    decays("T", "B"),
    expect=ltv("scalar", "diagonal"),
)
def v_trace(log_rhos: Tensor, rewards: Tensor, values: Tensor, bootstrap: Tensor, discounts: Tensor) -> Tensor:
    rhos = torch.exp(log_rhos)
    clipped, cs = rhos.clamp(max=1.0), rhos.clamp(max=1.0)
    following = torch.cat([values[1:], bootstrap.unsqueeze(0)], dim=0)
    deltas = clipped * (rewards + discounts * following - values)
    acc = torch.zeros_like(bootstrap)
    result: list[Tensor] = []
    for t in range(discounts.shape[0] - 1, -1, -1):
        acc = deltas[t] + discounts[t] * cs[t] * acc
        result.append(acc)
    result.reverse()
    return torch.stack(result) + values
