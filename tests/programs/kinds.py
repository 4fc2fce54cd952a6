"""Kinds: recurrences from sequence models, signal processing, control, statistics and reinforcement learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import COUPLED, SCALED, A, D, X, decays, linear, lti, ltv, mask, matrix, normal, program, uniform

LOW_RANK = ("diagonal+low-rank", "dense")


# ---- state-space layers ------------------------------------------------------------------------------


@program(normal("B", "T", 1), expect=lti("dense"))
class LegendreMemory(nn.Module):
    """A frozen dense memory, a readout at every step, a nonlinearity after it."""

    A: Tensor
    B: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("A", torch.linalg.matrix_exp(torch.randn(4, 4) * 0.3 - 0.5 * torch.eye(4)))
        self.register_buffer("B", torch.randn(4))
        self.encoder = nn.Linear(1, 1)
        self.output = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        u = self.encoder(x)
        m = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            m = m @ self.A.T + u[:, t] * self.B
            ys.append(torch.tanh(self.output(m)))
        return torch.stack(ys, 1)


@program(X, expect=lti("diagonal"))
class S4D(nn.Module):
    """Conjugate pairs: N complex states for each of H channels, the real part read out."""

    def __init__(self, H: int = 3, N: int = 2) -> None:
        super().__init__()
        self.log_A_real = nn.Parameter(torch.rand(H, N))
        self.A_imag = nn.Parameter(torch.pi * torch.arange(N).repeat(H, 1).double())
        self.log_dt = nn.Parameter(torch.rand(H) - 2)
        self.C = nn.Parameter(torch.randn(H, N, dtype=torch.cdouble))
        self.D = nn.Parameter(torch.randn(H))

    def forward(self, u: Tensor) -> Tensor:
        dt = self.log_dt.exp().unsqueeze(-1)
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        dA = torch.exp(dt * A)
        C = self.C * (dA - 1) / A
        state = torch.zeros(u.shape[0], *A.shape, dtype=A.dtype)
        ys = []
        for t in range(u.shape[1]):
            state = dA * state + u[:, t].unsqueeze(-1)
            ys.append(2 * torch.einsum("hn,bhn->bh", C, state).real + self.D * u[:, t])
        return F.gelu(torch.stack(ys, dim=1))


@program(X, expect=ltv("diagonal"))
class SelectiveScan(nn.Module):
    """Mamba's reference loop."""

    def __init__(self, d: int = 3, n: int = 2) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, n + 1)).repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        self.x_proj = nn.Linear(d, 2 * n, bias=False)
        self.dt_proj = nn.Linear(d, d)
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        A = -torch.exp(self.A_log)
        B, C = self.x_proj(x).split([self.n, self.n], dim=-1)
        delta = F.softplus(self.dt_proj(x))
        deltaA = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
        deltaB_u = torch.einsum("bld,bln,bld->bldn", delta, B, x)
        state = x.new_zeros(x.shape[0], x.shape[2], self.n)
        ys = []
        for i in range(x.shape[1]):
            state = deltaA[:, i] * state + deltaB_u[:, i]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, i]))
        return torch.stack(ys, dim=1) + x * self.D


@program(normal("B", "T", 2, 3), normal("B", "T", 2), normal("B", "T", 2), normal("B", "T", 2), expect=ltv(*SCALED))
def state_space_duality(x: Tensor, log_dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Mamba-2: one decay for each head, a matrix state."""
    dt = F.softplus(log_dt)
    h = x.new_zeros(x.shape[0], 2, 3, 2)
    ys = []
    for t in range(x.shape[1]):
        dA = torch.exp(-0.7 * dt[:, t])
        dBx = torch.einsum("bh,bn,bhp->bhpn", dt[:, t], B[:, t], x[:, t])
        h = h * dA[:, :, None, None] + dBx
        ys.append(torch.einsum("bhpn,bn->bhp", h, C[:, t]))
    return torch.stack(ys, 1)


@program(X, expect=ltv("diagonal"))
class MinGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_z = nn.Linear(3, 4)
        self.linear_h = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 4, dtype=x.dtype)
        hs = []
        for x_t in torch.unbind(x, dim=1):
            z = torch.sigmoid(self.linear_z(x_t))
            h = (1 - z) * h + z * self.linear_h(x_t)
            hs.append(h)
        return torch.stack(hs, dim=1)


@program(X, expect=ltv("diagonal"))
class GatedLinearUnit(nn.Module):
    """RG-LRU: an input gate and a recurrence gate, the decay in logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.a_param = nn.Parameter(torch.rand(3))
        self.input_gate = nn.Linear(3, 3)
        self.a_gate = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            gate_a = torch.sigmoid(self.a_gate(x[:, t]))
            log_a = -8.0 * gate_a * F.softplus(self.a_param)
            normalizer = torch.sqrt(1 - torch.exp(2 * log_a) + 1e-6)
            h = log_a.exp() * h + normalizer * torch.sigmoid(self.input_gate(x[:, t])) * x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, X, X, expect=ltv("diagonal"))
def quasi_recurrent(z: Tensor, f: Tensor, o: Tensor) -> Tensor:
    """fo-pooling."""
    z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
    c, hs = None, []
    for t in range(z.shape[1]):
        c = (1 - f[:, t]) * z[:, t] if c is None else f[:, t] * c + (1 - f[:, t]) * z[:, t]
        hs.append(o[:, t] * c)
    return torch.stack(hs, 1)


# ---- matrix states -----------------------------------------------------------------------------------


@program(X, X, X, expect=lti("scalar"))
def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q.new_zeros(q.shape[0], 3, 3)
    out = []
    for t in range(q.shape[1]):
        s = s + torch.einsum("bk,bv->bkv", k[:, t], v[:, t])
        out.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(out, 1)


@program(X, X, X, expect=(lti("scalar"), lti("scalar")))
def linear_attention_with_normaliser(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    s = q.new_zeros(q.shape[0], 3, 3)
    z = q.new_zeros(q.shape[0], 3)
    out = []
    for t in range(q.shape[1]):
        s = s + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        z = z + k[:, t]
        numerator = (q[:, t].unsqueeze(-1) * s).sum(-2)
        out.append(numerator / ((q[:, t] * z).sum(-1, keepdim=True) + 1e-6))
    return torch.stack(out, 1)


@program(normal("B", "T", 2, 3), normal("B", "T", 2, 3), normal("B", "T", 2, 3), expect=lti("diagonal", "scalar"))
def retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One fixed decay for each head."""
    gamma = 1 - 2.0 ** (-2 - torch.arange(2, dtype=q.dtype))
    state = torch.zeros(q.shape[0], 2, 3, 3, dtype=q.dtype)
    out = []
    for t in range(q.shape[1]):
        state = gamma.view(1, 2, 1, 1) * state + k[:, t].unsqueeze(-1) @ v[:, t].unsqueeze(-2)
        out.append((q[:, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(out, 1)


@program(X, X, X, X, expect=ltv("diagonal"))
def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    s = torch.zeros(q.shape[0], 3, 3, dtype=q.dtype)
    out = torch.empty_like(v)
    for t in range(q.shape[1]):
        gate = F.logsigmoid(g[:, t]).exp()
        s = gate[:, :, None] * s + k[:, t, :, None] * v[:, t, None, :]
        out[:, t] = (q[:, t, :, None] * s).sum(-2)
    return out


@program(X, X, X, X, normal(3), expect=ltv("diagonal"))
def rwkv6(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """The output reads the state before the update, with a bonus for the current token."""
    state = torch.zeros(r.shape[0], 3, 3, dtype=r.dtype)
    out = []
    for t in range(r.shape[1]):
        kv = torch.einsum("bi,bj->bij", k[:, t], v[:, t])
        out.append(torch.einsum("bi,bij->bj", r[:, t], state + u[:, None] * kv))
        state = torch.exp(-torch.exp(w[:, t])).unsqueeze(-1) * state + kv
    return torch.stack(out, 1)


@program(X, X, D, normal(3), expect=(lti(semiring="max-plus"), ltv("diagonal"), ltv("diagonal")))
def rwkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Numerator and denominator scaled by a running maximum of the exponents."""
    aa = bb = torch.zeros_like(k[:, 0])
    pp = torch.full_like(aa, -1e38)
    out = []
    for t in range(k.shape[1]):
        ww = u + k[:, t]
        p = torch.maximum(pp, ww)
        e1, e2 = torch.exp(pp - p), torch.exp(ww - p)
        out.append((e1 * aa + e2 * v[:, t]) / (e1 * bb + e2))
        ww = pp - w
        p = torch.maximum(ww, k[:, t])
        e1, e2 = torch.exp(ww - p), torch.exp(k[:, t] - p)
        aa = e1 * aa + e2 * v[:, t]
        bb = e1 * bb + e2
        pp = p
    return torch.stack(out, 1)


@program(X, X, X, normal("B", "T"), normal("B", "T"), expect=(ltv(semiring="max-plus"), ltv(*SCALED), ltv(*SCALED)))
def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """xLSTM's matrix memory with its stabiliser."""
    B, T, d = q.shape
    C, n = q.new_zeros(B, d, d), q.new_zeros(B, d)
    m = q.new_full((B, 1), -10.0)
    out = []
    for t in range(T):
        log_f = F.logsigmoid(f[:, t, None])
        m_new = torch.max(log_f + m, i[:, t, None])
        f_act = torch.exp(log_f + m - m_new)
        i_act = torch.exp(i[:, t, None] - m_new)
        C = f_act[..., None] * C + i_act[..., None] * (k[:, t, :, None] @ v[:, t, None, :])
        n = f_act * n + i_act * k[:, t]
        qn = (q[:, t] * n).sum(-1, keepdim=True).abs()
        out.append((q[:, t, None, :] @ C).squeeze(1) / torch.maximum(qn, torch.exp(-m_new)))
        m = m_new
    return torch.stack(out, 1)


@program(X, X, X, normal("B", "T"), expect=ltv(*LOW_RANK))
def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    k = F.normalize(k, dim=-1)
    beta = beta.sigmoid()
    S = q.new_zeros(q.shape[0], 3, 3)
    out = []
    for t in range(q.shape[1]):
        k_t = k[:, t]
        old = (S * k_t.unsqueeze(-1)).sum(-2)
        S = S + k_t.unsqueeze(-1) * (beta[:, t, None] * (v[:, t] - old)).unsqueeze(-2)
        out.append((S * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(out, 1)


@program(X, X, X, normal("B", "T"), expect=ltv(*LOW_RANK))
def delta_rule_by_matrix(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """S (I - b k k^T) + b v k^T."""
    eye = torch.eye(3, dtype=q.dtype)
    S = q.new_zeros(q.shape[0], 3, 3)
    out = []
    for t in range(q.shape[1]):
        key = F.normalize(k[:, t], dim=-1)
        b = torch.sigmoid(beta[:, t])[:, None, None]
        kk = key.unsqueeze(-1) @ key.unsqueeze(-2)
        S = S @ (eye - b * kk) + b * v[:, t].unsqueeze(-1) @ key.unsqueeze(-2)
        out.append((S @ q[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(out, 1)


@program(X, X, X, normal("B", "T"), normal("B", "T"), expect=ltv(*LOW_RANK))
def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Qwen3-Next's recurrent reference."""
    k = k * torch.rsqrt((k * k).sum(-1, keepdim=True) + 1e-6)
    state = torch.zeros(q.shape[0], 3, 3, dtype=q.dtype)
    out = torch.zeros_like(v)
    for i in range(q.shape[1]):
        g_t = -F.softplus(g[:, i]).unsqueeze(-1).unsqueeze(-1)
        state = state * g_t.exp()
        kv_mem = (state * k[:, i].unsqueeze(-1)).sum(dim=-2)
        delta = (v[:, i] - kv_mem) * beta[:, i].sigmoid().unsqueeze(-1)
        state = state + k[:, i].unsqueeze(-1) * delta.unsqueeze(-2)
        out[:, i] = (state * q[:, i].unsqueeze(-1)).sum(dim=-2)
    return out


@program(X, X, X, normal("B", "T"), normal("B", "T"), expect=ltv(*LOW_RANK))
def gated_delta_rule_by_matrix(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    S = torch.zeros(q.shape[0], 3, 3, dtype=q.dtype)
    out = []
    for t in range(q.shape[1]):
        key = F.normalize(k[:, t], dim=-1)
        a, b = alpha[:, t].sigmoid()[:, None, None], beta[:, t].sigmoid()[:, None, None]
        erase = torch.eye(3, dtype=q.dtype) - b * torch.einsum("bi,bj->bij", key, key)
        S = a * torch.bmm(S, erase) + b * torch.einsum("bi,bj->bij", v[:, t], key)
        out.append(torch.einsum("bij,bj->bi", S, q[:, t]))
    return torch.stack(out, 1)


@program(X, X, X, expect=ltv())
def test_time_training(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """TTT-linear: a gradient step on 0.5 |k W + b - v|^2 for each token, weights and bias."""
    B, T, d = q.shape
    W, b = q.new_zeros(B, d, d), q.new_zeros(B, 1, d)
    eta = 0.1
    out = []
    for t in range(T):
        k_t, v_t, q_t = k[:, t : t + 1], v[:, t : t + 1], q[:, t : t + 1]
        error = k_t @ W + b - v_t
        W = W - eta * k_t.transpose(1, 2) @ error / (1 + k_t.pow(2).sum(-1, keepdim=True))
        b = b - eta * error
        out.append(q_t @ W + b)
    return torch.cat(out, dim=1)


@program(X, X, expect=(ltv("diagonal"), ltv(*LOW_RANK)), smallest=2)
def temporal_difference_learning(phi: Tensor, r: Tensor) -> Tensor:
    """TD(lambda) with eligibility traces and a discount from the data."""
    w = e = torch.zeros_like(phi[:, 0])
    for t in range(phi.shape[1] - 1):
        gamma = torch.sigmoid(r[:, t])
        e = 0.8 * gamma * e + phi[:, t]
        target = r[:, t, :1] + 0.9 * (w * phi[:, t + 1]).sum(-1, keepdim=True)
        delta = target - (w * phi[:, t]).sum(-1, keepdim=True)
        w = w + 0.02 * delta * e
    return w


@program(X, normal("B", "T"), expect=ltv(*LOW_RANK))
def least_mean_squares(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """An adaptive filter: linear in its weights."""
    w, errors = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        error = d[:, t] - torch.einsum("bi,bi->b", w, x[:, t])
        w = w + 0.05 * error.unsqueeze(-1) * x[:, t]
        errors.append(error)
    return torch.stack(errors, 1), w


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
