"""The step of a linear recurrence, spelled in real and in complex numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import A, D, Spec, X, Z, decay, like_x, lti, small, zeros

# ---- spellings of the step ---------------------------------------------------------------------


@lti(like_x("B", "T"))
def scalar_constant(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, dim=1)


@lti(like_x("T"), decay())
def unbatched_scalar_tensor(x: Tensor, a: Tensor) -> Tensor:
    h = x.new_zeros(())
    ys = []
    for t in range(len(x)):
        h = a * h + x[t]
        ys.append(h)
    return torch.stack(ys)


@lti(X, D)
def diagonal(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A, small(3, 3))
def dense_matmul(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.size(1)):
        h = h @ a.T + x[:, t] @ b
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A)
def dense_einsum(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.einsum("ij,bj->bi", a, h) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A, small(3), small(3, 3))
def functional_linear(x: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = F.linear(h, w, b) + F.linear(x[:, t], u)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A)
def addmm_spelling(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.addmm(x[:, t], h, a, beta=0.5, alpha=0.75)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("T", 3), A)
def unbatched_mv(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(3, dtype=x.dtype)
    ys = []
    for x_t in x:
        h = torch.mv(a, h) + x_t
        ys.append(h)
    return torch.stack(ys)


@lti(X, small("B", 3, 3))
def bmm_own_matrix_each_row(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, 1, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = torch.bmm(a, h) + x[:, t].unsqueeze(-1)
        ys.append(h.squeeze(-1))
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(4), small(4))
def companion_shift_register(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    s = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        new = x[:, t] + s @ a
        s = torch.cat([new.unsqueeze(1), s[:, :-1]], dim=1)
        ys.append(s @ c)
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(), small())
def order_two_by_two_names(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    y1 = y2 = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] + a1 * y1 + a2 * y2
        y1, y2 = y, y1
        ys.append(y)
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(), small())
def order_two_with_if(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    ys: list[Tensor] = []
    for t in range(x.shape[1]):
        y = x[:, t]
        if t >= 1:
            y = y + a1 * ys[t - 1]
        if t >= 2:
            y = y + a2 * ys[t - 2]
        ys.append(y)
    return torch.stack(ys, 1)


@lti(X, D)
def lerp_spelling(x: Tensor, w: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.lerp(h, x[:, t], w)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def addcmul_and_division(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.addcmul(x[:, t], a, h, value=-0.5) - h / 4
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def error_feedback(x: Tensor, k: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h + k * (x[:, t] - h)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, decay(), decay())
def momentum_two_states(g: Tensor, mu: Tensor, lr: Tensor) -> Tensor:
    p = v = zeros(g)
    ps = []
    for t in range(g.shape[1]):
        v = mu * v + g[:, t]
        p = p - lr * v
        ps.append(p)
    return torch.stack(ps, 1)


@lti(X, A, small(3, 2))
def observer_with_gain(y: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h = zeros(y)
    out = []
    for t in range(y.shape[1]):
        innovation = y[:, t, :2] - h @ c
        h = h @ a + innovation @ c.T
        out.append(innovation)
    return torch.stack(out, 1)


@lti(like_x("B", "T", 2, 3), small(2, 2), small(3, 3))
def two_sided_products(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 2, 3, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = a @ h @ b + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def rolled_state(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * torch.roll(h, 1, dims=-1) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def fixed_where(x: Tensor, a: Tensor) -> Tensor:
    keep = torch.tensor([True, False, True])
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.where(keep, a * h, -h) * 0.9 + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 4), A, decay(1))
def split_and_join(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 4)
    ys = []
    for t in range(x.shape[1]):
        left, right = torch.split(h, [3, 1], dim=-1)
        h = torch.cat([left @ a, b * right], -1) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 6), small(2, 2))
def heads_by_view(x: Tensor, a: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 6)
    ys = []
    for t in range(x.shape[1]):
        h = (h.view(-1, 3, 2) @ a).reshape(-1, 6) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def mean_over_state_axis(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * (h - h.mean(-1, keepdim=True)) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def inplace_operators(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h.clone()
        h *= a.detach()
        h += x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X)
def inplace_methods_on_one_tensor(x: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h.mul_(0.8).add_(x[:, t])
        ys.append(h.clone())
    return torch.stack(ys, 1)


# ---- complex states ------------------------------------------------------------------------------


@lti(X, Z)
def complex_diagonal_real_output(x: Tensor, lam: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.complex128)
    ys = []
    for t in range(x.shape[1]):
        h = lam * h + x[:, t]
        ys.append(2 * h.real)
    return torch.stack(ys, 1)


@lti(Spec(("B", "T", 3), dtype=torch.complex128), Spec((3, 3), scale=0.2, dtype=torch.complex128))
def complex_dense(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = h @ a.mH + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, decay(3), decay(3), Z)
def polar_complex_with_readout(x: Tensor, log_r: Tensor, theta: Tensor, c: Tensor) -> Tensor:
    lam = torch.polar(torch.exp(-log_r), theta)
    h = torch.zeros(x.shape[0], 3, dtype=torch.cdouble)
    ys = []
    for t in range(x.shape[1]):
        h = lam * h + x[:, t]
        ys.append((h * c).sum(-1).real)
    return torch.stack(ys, 1)


@lti(X, decay(3))
def rotation_as_pair(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    re, im = zeros(x), zeros(x)
    out = []
    for t in range(x.shape[1]):
        re, im = 0.9 * (w.cos() * re - w.sin() * im) + x[:, t], 0.9 * (w.sin() * re + w.cos() * im)
        out.append(re)
    return torch.stack(out, 1), im
