"""Operators on the state: each that keeps a step affine, in a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import A, D, X, complex_, decays, index, lti, ltv, mask, matrix, normal, program

Step = Callable[..., Tensor]


def looped(step: Step) -> Callable[..., Tensor]:
    """A loop over axis 1 of the first argument; the step gets the state, the input and the other arguments."""

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.shape[1]):
            h = step(h, x[:, t], *rest)
            ys.append(h)
        return torch.stack(ys, dim=1)

    run.__name__ = step.__name__
    run.__module__ = step.__module__
    return run


# ---- elementwise -------------------------------------------------------------------------------------


@program(X, D, expect=lti("diagonal"))
@looped
def add_sub_mul_div_neg(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return -(a * h) / 2 + (u - h) * 0.25 - 0.2 * h / (1 + a)


@program(X, D, expect=lti("scalar"))
@looped
def add_with_alpha(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.sub(torch.add(u, h, alpha=0.9), h, alpha=0.5) * a.mean()


@program(X, D, expect=lti("diagonal"))
@looped
def where_with_fixed_mask(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    keep = torch.tensor([True, False, True])
    return torch.where(keep, a * h, -0.5 * h) + u


@program(X, D, expect=ltv("diagonal"))
@looped
def where_with_mask_from_input(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.where(u > 0, a * h + u, 0.5 * h)


@program(X, D, expect=lti("diagonal"))
@looped
def masked_fill_fixed(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return (a * h).masked_fill(torch.tensor([False, True, False]), 0.0) + u


@program(X, D, expect=lti("diagonal"))
@looped
def lerp(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return torch.lerp(h, u, w)


@program(X, X, expect=ltv("diagonal"))
def lerp_gate(x: Tensor, z: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for u, g in zip(x.unbind(1), z.sigmoid().unbind(1), strict=True):
        h = torch.lerp(h, u, g)
        out.append(h)
    return torch.stack(out, 1)


@program(X, D, expect=lti("diagonal"))
@looped
def addcmul(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.addcmul(u, a, h, value=-0.75)


@program(X, D, expect=lti("diagonal"))
@looped
def addcdiv(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.addcdiv(u, h, 1 + a, value=0.5)


@program(X, D, expect=lti("diagonal"))
@looped
def dropout_in_eval(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * F.dropout(h, p=0.3, training=False) + u


# ---- products ----------------------------------------------------------------------------------------


@program(X, A, expect=lti("dense"))
@looped
def addmm(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.addmm(u, h, a, beta=0.5, alpha=1.5)


@program(X, A, expect=lti("dense"))
@looped
def matmul(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.matmul(h, a.T) + u


@program(X, matrix("B", 3, 3), expect=lti("dense", "block-diagonal"))
@looped
def bmm(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.bmm(a, h.unsqueeze(-1)).squeeze(-1) + u


@program(normal("B", "T", 2, 3), matrix("B", 2, 2), expect=lti("dense", "block-diagonal"))
@looped
def baddbmm(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.baddbmm(u, a, h)


@program(X, A, expect=lti("dense"))
@looped
def einsum(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.einsum("ij,bj->bi", a, h) + u


@program(normal("B", "T", 2, 3), matrix(2, 3, 3), expect=lti("block-diagonal", "dense"))
@looped
def einsum_for_each_head(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.einsum("hij,bhj->bhi", a, h) + u


@program(X, A, matrix(3), expect=lti("dense"))
@looped
def functional_linear(h: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(h, w, b) + u


@program(normal("T", 3), A, expect=lti("dense"))
def matrix_times_vector(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(3, dtype=x.dtype)
    ys = []
    for u in x:
        h = torch.mv(a, h) + u
        ys.append(torch.dot(h, u))
    return torch.stack(ys)


@program(X, matrix(3, 3, 3), expect=ltv("dense"))
@looped
def bilinear_in_state_and_input(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return F.bilinear(h, u, w) * 0.3 + u


@program(X, A, expect=lti("dense"))
@looped
def tensordot(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.tensordot(h, a, dims=([1], [0])) + u  # type: ignore[no-any-return]


@program(X, normal(3), expect=lti("dense"))
@looped
def cross_product(m: Tensor, u: Tensor, field: Tensor) -> Tensor:
    """Bloch equations: magnetisation turns around a field and decays."""
    return 0.9 * m + 0.1 * torch.linalg.cross(m, field.expand_as(m)) + u  # type: ignore[no-any-return]


@program(X, expect=lti("dense"))
class LinearModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(3, 5)
        self.U = nn.Linear(5, 5, bias=True)
        nn.init.normal_(self.U.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 5)
        ys = []
        for t in range(x.size(1)):
            h = self.U(h) + self.W(x[:, t])
            ys.append(h)
        return torch.stack(ys, 1)


@program(X, expect=lti("dense"))
class SequentialOfLinear(nn.Module):
    """Several affine modules in a row: a bottleneck, dropout in eval mode, batch norm in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 2), nn.Dropout(0.2), nn.Identity(), nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        ys = []
        for t in range(x.size(1)):
            h = 0.5 * self.net(h) + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


# ---- sums, means and shapes --------------------------------------------------------------------------


@program(X, D, expect=lti("dense", "diagonal+low-rank"))
@looped
def mean_over_an_axis(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * (h - h.mean(dim=-1, keepdim=True)) + u


@program(X, normal(3, scale=0.3), normal(3), expect=lti())
@looped
def sum_over_an_axis(h: Tensor, u: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return 0.5 * h + torch.sum(h * w, dim=1, keepdim=True) * v * 0.2 + u


@program(normal("B", "T", 2, 3), D, expect=lti())
@looped
def sum_over_two_axes(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.05 * h.sum((1, 2), keepdim=True) + u


@program(normal("B", "T", 5), A, decays(2), expect=lti())
@looped
def split_and_cat(h: Tensor, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    left, right = torch.split(h, [3, 2], dim=-1)
    return torch.cat([left @ a, b * right + left[:, :2]], dim=-1) + u


@program(normal("B", "T", 4), expect=lti())
@looped
def chunk_and_stack(h: Tensor, u: Tensor) -> Tensor:
    p, q = h.chunk(2, dim=-1)
    return torch.stack((0.8 * p - 0.3 * q, 0.3 * p + 0.8 * q), dim=1).flatten(1) + u


@program(normal("B", "T", 2, 3), decays(2), expect=lti())
@looped
def select_and_unbind(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    first, second = h.unbind(1)
    return torch.stack([a[0] * first - 0.2 * second, a[1] * h.select(1, 1) + 0.1 * h[:, 0]], 1) + u


@program(normal("B", "T", 4), expect=lti())
@looped
def slices_upwind(h: Tensor, u: Tensor) -> Tensor:
    """Advection on a line: differences of slices, a fixed border."""
    return torch.cat([h[:, :1] * 0.5, h[:, 1:] - 0.4 * (h[:, 1:] - h[:, :-1])], 1) + u


@program(normal("B", "T", 4), expect=lti())
@looped
def index_select_fixed(h: Tensor, u: Tensor) -> Tensor:
    return 0.8 * torch.index_select(h, 1, torch.tensor([2, 0, 3, 1])) + u


@program(normal("B", "T", 4), index(4, 4), expect=lti())
@looped
def advanced_index(h: Tensor, u: Tensor, order: Tensor) -> Tensor:
    return 0.8 * h[:, order] + u


@program(normal("B", "T", 4), index(4, "B", 4), expect=lti())
@looped
def gather_fixed(h: Tensor, u: Tensor, order: Tensor) -> Tensor:
    return 0.8 * h.gather(1, order) + u


@program(normal("B", "T", 4), index(4, "B", "T", 4), expect=ltv())
def gather_with_index_from_input(x: Tensor, order: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.8 * h.gather(1, order[:, t]) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T", 4), index(4, "B", "T", 1), expect=lti("scalar"))
def scatter_add_of_the_input(x: Tensor, slot: Tensor) -> Tensor:
    """A histogram with decay: where it is written depends on the input."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = (0.9 * h).scatter_add(1, slot[:, t], x[:, t, :1])
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("B", "T", 4), expect=lti())
@looped
def pad_and_cut(h: Tensor, u: Tensor) -> Tensor:
    return 0.7 * F.pad(h, (1, 0))[:, :-1] + u


@program(normal("B", "T", 4), expect=lti())
@looped
def roll(h: Tensor, u: Tensor) -> Tensor:
    """Diffusion on a ring."""
    return h + 0.1 * (torch.roll(h, 1, -1) - 2 * h + torch.roll(h, -1, -1)) - 0.2 * h + u


@program(normal("B", "T", 4), D, expect=lti())
@looped
def flip(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a.mean() * h.flip(-1) + u


@program(normal("B", "T", 3, 3), D, expect=lti())
@looped
def permute_and_transpose(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h.permute(0, 2, 1) * 0.5 + 0.3 * h.mT.transpose(1, 2) + u


@program(normal("B", "T", 6), matrix(2, 2), expect=lti())
@looped
def reshape_into_heads(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return (h.view(-1, 3, 2) @ a).reshape(h.shape[0], 6) + u


@program(X, matrix(3, 1), expect=lti())
@looped
def expand_and_squeeze(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    mixed = (h.unsqueeze(1) @ w).squeeze(-1)
    return 0.5 * h + 0.3 * mixed.expand(-1, 3) + u


@program(normal("B", "T", 4), expect=lti())
@looped
def repeat_interleave(h: Tensor, u: Tensor) -> Tensor:
    """A coarse grid, interpolated back."""
    coarse = h.view(-1, 2, 2).mean(-1)
    return 0.4 * h + 0.4 * coarse.repeat_interleave(2, dim=1) + u


@program(X, D, expect=lti())
@looped
def cumsum(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return 0.4 * a * torch.cumsum(h, dim=-1) + u


@program(normal("B", "T", 3, 3), D, expect=lti())
@looped
def triangle(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * torch.tril(h) + 0.1 * torch.diag_embed(h.diagonal(dim1=-2, dim2=-1)) + u


# ---- convolutions, transforms, solves ----------------------------------------------------------------


@program(normal("B", "T", 2, 5), matrix(2, 2, 3), expect=lti())
@looped
def conv1d_on_the_state(h: Tensor, u: Tensor, w: Tensor) -> Tensor:
    return F.conv1d(h, w, padding=1) + u


@program(normal("B", "T", 4, 4), normal(1, 1, 3, 3, scale=0.15), expect=lti())
def conv2d_on_the_state(x: Tensor, w: Tensor) -> Tensor:
    """A heat equation on a small torus."""
    h = torch.zeros_like(x[:, :1])
    frames = []
    for t in range(x.shape[1]):
        h = F.conv2d(F.pad(h, (1, 1, 1, 1), mode="circular"), w) + x[:, t : t + 1]
        frames.append(h)
    return torch.cat(frames, dim=1)


@program(normal("B", "T", 4, 4), expect=lti())
class ConvModuleOnTheState(nn.Module):
    """A linear ConvRNN."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.input = nn.Conv2d(1, 2, 1)
        nn.init.normal_(self.recurrent.weight, std=0.1)

    def forward(self, video: Tensor) -> Tensor:
        h = video.new_zeros(video.shape[0], 2, 4, 4)
        for t in range(video.shape[1]):
            h = self.recurrent(h) + self.input(video[:, t : t + 1])
        return h.mean((2, 3))


@program(normal("B", "T", 6), expect=lti())
@looped
def average_pool(h: Tensor, u: Tensor) -> Tensor:
    return 0.9 * F.avg_pool1d(h.unsqueeze(1), 3, stride=1, padding=1).squeeze(1) + u


@program(normal("B", "T", 6), decays(4), expect=lti())
@looped
def rfft_of_the_state(h: Tensor, u: Tensor, gain: Tensor) -> Tensor:
    """Spectral smoothing at every step."""
    return torch.fft.irfft(gain * torch.fft.rfft(h, dim=-1), n=6, dim=-1) + u  # type: ignore[no-any-return]


@program(normal("B", "T", 4), complex_(4, scale=0.4), expect=lti())
@looped
def fft_of_the_state(h: Tensor, u: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.ifft(gain * torch.fft.fft(h)).real + u  # type: ignore[no-any-return]


@program(X, A, expect=lti())
@looped
def triangular_solve(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    """One Gauss-Seidel sweep."""
    lower = torch.eye(3, dtype=a.dtype) * 2 + a.tril(-1)
    return torch.linalg.solve_triangular(lower, (h + u).unsqueeze(-1), upper=False).squeeze(-1)  # type: ignore[no-any-return]


@program(X, A, expect=lti())
@looped
def implicit_euler(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    """Backward Euler with a fixed matrix: a solve at every step."""
    eye = torch.eye(3, dtype=a.dtype)
    return torch.linalg.solve(1.5 * eye - 0.1 * a, (h + 0.1 * u).T).T  # type: ignore[no-any-return]


# ---- complex arithmetic and casts --------------------------------------------------------------------


@program(X, complex_(3, scale=0.5), expect=lti("diagonal"))
def complex_state_real_output(x: Tensor, lam: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.complex128)
    ys = []
    for t in range(x.shape[1]):
        h = lam * h + x[:, t]
        ys.append(2 * h.real)
    return torch.stack(ys, 1)


@program(X, complex_(3, scale=0.5), expect=lti("diagonal"))
def complex_state_as_pair_output(x: Tensor, lam: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.complex128)
    ys = []
    for u in x.unbind(1):
        h = lam * h + torch.complex(u, torch.zeros_like(u))
        ys.append(torch.view_as_real(h).flatten(1))
    return torch.stack(ys, 1)


@program(normal("B", "T", 3, 2), decays(3), normal(3), expect=lti())
@looped
def view_as_complex_inside_the_step(h: Tensor, u: Tensor, r: Tensor, theta: Tensor) -> Tensor:
    """A rotary state that is kept as pairs of reals."""
    return torch.view_as_real(torch.view_as_complex(h) * torch.polar(r, theta)) + u


@program(X, complex_(3, scale=0.5), expect=lti("diagonal"))
@looped
def real_part_inside_the_step(h: Tensor, u: Tensor, lam: Tensor) -> Tensor:
    return (lam * h).real + u


@program(complex_("B", "T", 3), complex_(3, 3, scale=0.2), expect=lti("dense"))
@looped
def complex_matrix(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return h @ a.mH + u


@program(complex_("B", "T", 3), complex_(3, scale=0.4), expect=lti())
@looped
def conjugate(h: Tensor, u: Tensor, lam: Tensor) -> Tensor:
    """Linear over the reals, not over the complex numbers."""
    return lam * h.conj() + u


@program(X, D, expect=lti("diagonal"))
@looped
def cast_that_changes_nothing(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return (a * h.to(torch.float64) + u.double()).type_as(u)


@program(normal("B", "T", 3), D, expect=lti("diagonal"), tolerance=1e-5)
def wider_state(x: Tensor, a: Tensor) -> Tensor:
    """The input is float32, the state float64, the output float32."""
    x = x.float()
    h = torch.zeros(x.shape[0], 3, dtype=torch.float64)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t].double()
        ys.append(h.to(x.dtype))
    return torch.stack(ys, 1)


@program(mask("B", "T"), expect=lti("scalar"))
def integer_state(events: Tensor) -> Tensor:
    """A counter of events."""
    count = torch.zeros(events.shape[0], dtype=torch.long)
    counts = []
    for e in events.unbind(1):
        count = count + e.long()
        counts.append(count)
    return torch.stack(counts, 1)


@program(X, D, expect=lti("diagonal"))
def mixed_number_and_tensor_state(x: Tensor, a: Tensor) -> tuple[Tensor, int]:
    """A Python counter beside the state."""
    h, seen, ys = torch.zeros_like(x[:, 0]), 0, []
    for u in x.unbind(1):
        seen += 1
        h = a * h + u
        ys.append(h)
    return torch.stack(ys, 1), seen


@program(normal("B", "T", 2, 3), matrix(2, 2), matrix(3, 3), expect=lti())
@looped
def both_sides(s: Tensor, u: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return left @ s @ right.T * 2 + u


@program(X, X, expect=ltv("dense", "diagonal+low-rank"))
def rank_one_of_the_input(k: Tensor, v: Tensor) -> Tensor:
    """h - k (k^T h) with torch.outer spelled by broadcasting."""
    h: Any = torch.zeros_like(k[:, 0])
    out = []
    for t in range(k.shape[1]):
        key = F.normalize(k[:, t], dim=-1)
        h = h - key * torch.einsum("bi,bi->b", key, h)[:, None] + 0.5 * v[:, t]
        h = 0.9 * h
        out.append(h)
    return torch.stack(out, 1)
