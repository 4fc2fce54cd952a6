"""Layers of sequence models: state-space layers and matrix states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import LOW_RANK, SCALED, D, X, lti, ltv, normal, program

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
