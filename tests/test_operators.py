"""Torch's linear operators on the state, each under the names it has: proven, in parallel form, and the same.

A step gives what is added to the input from a state of four numbers; where it is `None` the operator is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from contract import same_run
from torch import Tensor

import linrec

p = torch.tensor([0.7, -0.4, 0.9, 0.3], dtype=torch.float64)
P = torch.linspace(-0.5, 0.6, 16, dtype=torch.float64).reshape(4, 4)[:, [2, 0, 3, 1]]
eye = torch.eye(4, dtype=torch.float64)
A = P + 3 * eye
ones = torch.ones(4, dtype=torch.float64)
swap, twice = torch.tensor([3, 2, 1, 0]), torch.tensor([1, 1, 2, 0])

LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "dot": lambda h: 0.5 * (torch.dot(h, p) * p),
    "vdot": lambda h: 0.5 * (torch.vdot(h, p) * p),
    "inner": lambda h: 0.5 * (torch.inner(h, p) * p),
    "mv": lambda h: 0.5 * (P.mv(h)),
    "ger": lambda h: 0.5 * (torch.outer(h, p) @ p),
    "ger2": lambda h: 0.5 * (torch.ger(p, h) @ p),
    "baddbmm": lambda h: 0.5 * (torch.baddbmm(P[None], P[None], h.diag()[None])[0] @ p),
    "multidot": lambda h: 0.5 * (torch.linalg.multi_dot([P, P, h])),
    "tensordot": lambda h: 0.5 * (torch.tensordot(P, h, dims=1)),
    "kron": lambda h: 0.5 * (torch.kron(p, h).reshape(4, 4).sum(0)),
    "cross": lambda h: 0.5 * (torch.cat([torch.linalg.cross(h[:3], p[:3]), h[3:]])),
    "trace": lambda h: 0.5 * (torch.trace(torch.outer(h, p)) * p),
    "diag": lambda h: 0.5 * (torch.diag(torch.diag(h))),
    "diagonal": lambda h: 0.5 * (torch.outer(h, p).diagonal()),
    "diag_embed": lambda h: 0.5 * (torch.diag_embed(h).sum(0)),
    "tril": lambda h: 0.5 * (torch.outer(h, p).tril().sum(1)),
    "triu": lambda h: 0.5 * (torch.outer(h, p).triu(1).sum(0)),
    "unflatten": lambda h: 0.5 * (h.unflatten(0, (2, 2)).sum(0).repeat(2)),  # type: ignore[no-untyped-call]
    "swapaxes": lambda h: 0.5 * (torch.outer(h, p).swapaxes(0, 1) @ p),
    "movedim": lambda h: 0.5 * (torch.outer(h, p).movedim(0, 1) @ p),
    "repeat_interleave": lambda h: 0.5 * (h[:2].repeat_interleave(2)),
    "tile": lambda h: 0.5 * (torch.tile(h[:2], (2,))),
    "expand_as": lambda h: 0.5 * (h[:1].expand_as(p) * p),
    "view_as": lambda h: 0.5 * (h.view_as(p) * p),
    "masked_fill": lambda h: 0.5 * (h.masked_fill(p > 0, 0.3)),
    "masked_scatter": lambda h: 0.5 * (h.masked_scatter(p > 0, p)),
    "index_add": lambda h: 0.5 * (0 * p.index_add(0, twice, h)),
    "scatter_add": lambda h: 0.5 * (0 * p.scatter_add(0, twice, h)),
    "index_copy": lambda h: 0.5 * (p.index_copy(0, torch.tensor([1, 2]), h[:2])),
    "take_along": lambda h: 0.5 * (torch.take_along_dim(h, swap)),
    "take": lambda h: 0.5 * (torch.take(h, swap)),
    "rot90": lambda h: 0.5 * (torch.rot90(h.reshape(2, 2)).reshape(4)),
    "fliplr": lambda h: 0.5 * (h.reshape(2, 2).fliplr().reshape(4)),
    "hstack": lambda h: 0.5 * (torch.hstack([h[2:], h[:2]])),
    "vstack": lambda h: 0.5 * (torch.vstack([h, p]).mean(0)),
    "dstack": lambda h: 0.5 * (torch.dstack([h, p])[0, :, 0]),
    "colstack": lambda h: 0.5 * (torch.column_stack([h, p]) @ torch.ones(2, dtype=torch.float64)),
    "blockdiag": lambda h: 0.5 * (torch.block_diag(h.reshape(2, 2), h.reshape(2, 2)) @ p),  # type: ignore[no-untyped-call]
    "interp": lambda h: 0.5 * (F.interpolate(h[None, None], scale_factor=2, mode="linear")[0, 0, ::2]),
    "interpn": lambda h: 0.5 * (F.interpolate(h[None, None, :2], scale_factor=2)[0, 0]),
    "avgpool": lambda h: 0.5 * (F.avg_pool1d(h[None], 3, 1, 1)[0]),
    "adapt": lambda h: 0.5 * (F.adaptive_avg_pool1d(h[None], 2)[0].repeat(2)),
    "unfold": lambda h: 0.5 * (F.pad(h, (1, 1)).unfold(0, 3, 1).sum(1)),
    "funfold": lambda h: 0.5 * (F.unfold(h.reshape(1, 1, 2, 2), 2)[0, :, 0]),
    "fold": lambda h: 0.5 * (F.fold(h.reshape(1, 4, 1), (2, 2), 2)[0, 0].reshape(4)),
    "pixshuf": lambda h: 0.5 * (F.pixel_shuffle(h.reshape(1, 4, 1, 1), 2).reshape(4)),
    "convt": lambda h: (
        0.5 * (F.conv_transpose1d(h.reshape(1, 1, 4), torch.ones(1, 1, 1, dtype=torch.float64)).reshape(4))
    ),
    "convt3": lambda h: (
        0.5 * (F.conv_transpose1d(h.reshape(1, 1, 4), torch.ones(1, 1, 3, dtype=torch.float64), padding=1).reshape(4))
    ),
    "diff": lambda h: 0.5 * (torch.diff(h, prepend=h[:1])),
    "trapz": lambda h: 0.5 * (torch.trapezoid(h) * p),
    "cumsum": lambda h: 0.5 * (h.cumsum(0) * 0.5),
    "renorm": lambda h: 0.5 * (h.div(2).neg()),
    "rsub": lambda h: 0.5 * (torch.rsub(h, p)),
    "true_div": lambda h: 0.5 * (torch.true_divide(h, 3)),
    "mT": lambda h: 0.5 * (torch.outer(h, p).mT @ p),
    "bilinear": lambda h: 0.5 * (F.bilinear(h, p, torch.ones(4, 4, 4, dtype=torch.float64) * 0.05)),
    "linear": lambda h: 0.5 * (F.linear(h, P, p)),
    "addcdiv": lambda h: 0.5 * (torch.addcdiv(p, h, p.abs() + 1)),
    "addcmul": lambda h: 0.5 * (torch.addcmul(p, h, p, value=0.3)),
    "lerp": lambda h: 0.5 * (torch.lerp(h, p, 0.3)),
    "lerpw": lambda h: 0.5 * (torch.lerp(p, h, p.sigmoid())),
    "lerpt": lambda h: 0.5 * (p.lerp(h, torch.tensor(0.3))),
    "real": lambda h: 0.5 * ((h * (1 + 1j)).real),
    "polar": lambda h: (
        0.5 * (torch.view_as_real(torch.view_as_complex(h.reshape(2, 2)) * torch.polar(p[:2].abs(), p[2:])).reshape(4))
    ),
    "fft": lambda h: 0.5 * (torch.fft.ifft(torch.fft.fft(h) * torch.fft.fft(p)).real * 0.3),
    "rfft": lambda h: 0.5 * (torch.fft.irfft(torch.fft.rfft(h) * 0.5, 4)),
    "dctlike": lambda h: 0.5 * (torch.fft.hfft(h.to(torch.complex128), 4) * 0.2),
    "narrow": lambda h: 0.5 * (h.narrow(0, 1, 3).sum() * p),
    "select": lambda h: 0.5 * (h.select(0, 1) * p),
    "getitem": lambda h: 0.5 * (h[[3, 2, 1, 0]]),
    "unbind": lambda h: 0.5 * (torch.stack(h.unbind()[::-1])),
    "split": lambda h: 0.5 * (torch.cat(h.split([1, 3])[::-1])),  # type: ignore[no-untyped-call]
    "tsplit": lambda h: 0.5 * (torch.cat(torch.tensor_split(h, 2)[::-1])),
    "chunk": lambda h: 0.5 * (torch.cat(h.chunk(2)[::-1])),
    "hsplit": lambda h: 0.5 * (torch.cat(torch.hsplit(h, 2)[::-1])),
    "roll": lambda h: 0.5 * (h.roll(1)),
    "solve": lambda h: 0.5 * (torch.linalg.solve(A, h)),
    "solvetri": lambda h: 0.5 * (torch.linalg.solve_triangular((A).tril(), h[:, None], upper=False)[:, 0]),
    "inv": lambda h: 0.5 * (torch.linalg.inv(A) @ h),
    "cholsolve": lambda h: 0.5 * (torch.cholesky_solve(h[:, None], torch.linalg.cholesky(P @ P.T + eye))[:, 0]),
    "matexp": lambda h: 0.5 * (torch.matrix_exp(-P) @ h * 0.1),
    "fullsum": lambda h: 0.5 * (h.sum() * p),
    "mean": lambda h: 0.5 * (h.mean() * p),
    "scatter": lambda h: 0.5 * (p.scatter(0, torch.tensor([1, 2]), h[:2])),
    "scatterr": lambda h: 0.5 * (0 * p.scatter_reduce(0, twice, h, "sum")),
    "putm": lambda h: 0.5 * (h.index_put((torch.tensor([1]),), p[:1])),
    "putacc": lambda h: 0.5 * (h.index_put((torch.tensor([1]),), p[:1], accumulate=True)),
    "slicescatter": lambda h: 0.5 * (h.slice_scatter(p[:2], 0, 0, 2)),
    "selscatter": lambda h: 0.5 * (h.select_scatter(p[0], 0, 1)),
    "diagscatter": lambda h: 0.5 * (torch.diagonal_scatter(P, h) @ p),
    "ein": lambda h: 0.5 * (torch.einsum("i,ij->j", h, P)),
    "ein2": lambda h: 0.5 * (torch.einsum("i,j,j->i", h, p, p)),
    "matmul2": lambda h: 0.5 * ((h[None] @ P)[0]),
    "sumto": lambda h: 0.5 * (h.sum_to_size(1) * p),
    "gradrev": lambda h: 0.5 * (torch.gradient(h)[0] * 0.3),
    "householder": lambda h: 0.5 * (h - 2 * p * (p @ h) / (p @ p)),
    "conv2": lambda h: (
        0.5 * (F.conv2d(h.reshape(1, 1, 2, 2), torch.ones(1, 1, 3, 3, dtype=torch.float64) * 0.1, padding=1).reshape(4))
    ),
    "conv3": lambda h: (
        0.5
        * (
            F.conv3d(
                h.reshape(1, 1, 1, 2, 2), torch.ones(1, 1, 1, 3, 3, dtype=torch.float64) * 0.1, padding=(0, 1, 1)
            ).reshape(4)
        )
    ),
    "pad_refl": lambda h: 0.5 * (F.pad(h[None], (1, 1), mode="reflect")[0, :4] * 0.5),
    "pad_rep": lambda h: 0.5 * (F.pad(h[None], (1, 1), mode="replicate")[0, :4] * 0.5),
    "pad_circ": lambda h: 0.5 * (F.pad(h[None], (1, 1), mode="circular")[0, :4] * 0.5),
    "emb": lambda h: 0.5 * (F.embedding(torch.tensor([0, 1, 2, 3]), h[:, None])[:, 0]),
    "addmm": lambda h: 0.5 * (torch.addmm(p[None], h[None], P)[0]),
    "outdim": lambda h: 0.5 * (torch.sum(h.expand(3, 4), 0) / 3),
    "mse": lambda h: 0.5 * (h - (h - p) * 0.2),
    "index": lambda h: 0.5 * (torch.index_select(h, 0, torch.tensor([3, 0, 1, 2]))),
    "gather": lambda h: 0.5 * (h.gather(0, torch.tensor([3, 0, 1, 2]))),
    "flatten": lambda h: 0.5 * (h.reshape(2, 2).flatten().ravel()),
    "atleast": lambda h: 0.5 * (torch.atleast_2d(h)[0]),  # type: ignore[no-untyped-call]
    "broadcast": lambda h: 0.5 * (torch.broadcast_to(h, (2, 4)).mean(0)),
    "meshgrid": lambda h: 0.5 * (torch.meshgrid(h, p, indexing="ij")[0].mean(1)),
    "cartesian": lambda h: 0.5 * (torch.cartesian_prod(h, p)[:, 0].reshape(4, 4).mean(1)),
    "squeeze": lambda h: 0.5 * (h[None].squeeze().unsqueeze(0).squeeze(0)),
    "complexd": lambda h: 0.5 * (torch.complex(h, p).imag + torch.complex(h, p).real),
    "deg2rad": lambda h: 0.5 * (torch.deg2rad(h) * 30),
    "triu_idx": lambda h: 0.5 * (h[torch.triu_indices(2, 2)[0]].sum() * p),
    "alpha": lambda h: 0.5 * (torch.sub(h, p, alpha=0.3) + torch.add(p, h, alpha=0.1)),
    "where3": lambda h: 0.5 * (torch.where(p > 0, h, p)),
    "gaussian": lambda h: (
        0.5 * (F.conv1d(F.pad(h[None, None], (2, 0)), torch.ones(1, 1, 3, dtype=torch.float64) * 0.2)[0, 0])
    ),
    "channel": lambda h: 0.5 * (F.channel_shuffle(h.reshape(1, 4, 1, 1), 2).reshape(4)),
    "index_add of the state": lambda h: 0.5 * (0 * p).index_add(0, twice, h),
    "index_add to itself": lambda h: (0.5 * h).index_add(0, twice, h, alpha=0.3),
    "scatter_add of the state": lambda h: p.scatter_add(0, twice[:3], 0.5 * h[:3]),
    "scatter_reduce": lambda h: (0.1 * h).scatter_reduce(0, twice[:3], 0.5 * h[1:], "sum"),
    "index_copy of the state": lambda h: 0.5 * p.index_copy(0, swap[1:3], h[:2]),
    "scatter of the state": lambda h: 0.7 * h.scatter(0, swap[1:3], 0.5 * h[2:]),
    "index_put of the state": lambda h: 0.5 * h.index_put((swap[1:3],), h[2:]),
    "index_put that adds": lambda h: 0.5 * h.index_put((twice[:2],), p[:2], accumulate=True),
    "index_put that adds the state": lambda h: 0.5 * h.index_put((twice[:2],), h[:2], accumulate=True),
    "diagonal_scatter of the state": lambda h: 0.3 * torch.diagonal_scatter(P, h).sum(1),
    "diagonal_scatter into it": lambda h: 0.3 * torch.diagonal_scatter(torch.outer(h, p), p).sum(1),
    "linear with the state as weight": lambda h: 0.5 * F.linear(p[:2], h.reshape(2, 2)).repeat(2),
    "linear with the state as bias": lambda h: 0.5 * F.linear(p, P, h),
    "linear with the state as both": lambda h: 0.2 * F.linear(p, torch.outer(h, p), h),
    "conv1d with a bias": lambda h: 0.5 * F.conv1d(h[None, None], P[:1, None, :3], p[:1], padding=1)[0, 0],
    "conv2d with a bias": lambda h: (
        0.3 * F.conv2d(h.reshape(1, 1, 2, 2), P[None, None, :3, :3], p[:1], padding=1).flatten()
    ),
    "conv1d with the state as kernel": lambda h: 0.3 * F.conv1d(p[None, None], h[None, None, :3], padding=1)[0, 0],
    "conv_transpose1d with a bias": lambda h: (
        0.2 * F.conv_transpose1d(h[None, None], P[:1, None, :3], p[:1], padding=1)[0, 0]
    ),
    "bilinear resize": lambda h: 0.5 * F.interpolate(h.reshape(1, 1, 2, 2), size=(4, 4), mode="bilinear").mean(2)[0, 0],
    "bicubic resize": lambda h: (
        0.3 * F.interpolate(h.reshape(1, 1, 2, 2), scale_factor=2, mode="bicubic").mean(2)[0, 0]
    ),
    "grid_sample": lambda h: (
        0.5
        * F.grid_sample(
            h.reshape(1, 1, 2, 2),
            F.affine_grid(0.5 * torch.eye(2, 3, dtype=torch.float64)[None], [1, 1, 2, 2], align_corners=False),
            align_corners=False,
        ).flatten()
    ),
    "fold and unfold": lambda h: (
        0.2 * F.fold(F.unfold(h.reshape(1, 1, 2, 2), 2, padding=1), (2, 2), 2, padding=1).flatten()
    ),
    "lu_solve": lambda h: torch.linalg.lu_solve(*torch.linalg.lu_factor(A), h[:, None])[:, 0],
    "addmv": lambda h: 0.5 * torch.addmv(h, P, h, beta=0.3, alpha=0.2),
    "addr": lambda h: 0.1 * torch.addr(P, h, p, alpha=0.2).sum(0),
    "addbmm": lambda h: 0.2 * torch.addbmm(P, P[None], h.diag()[None], beta=0.5)[0],
    "subtract and multiply": lambda h: torch.subtract(torch.multiply(h, 0.5), p),
    "divide": lambda h: torch.divide(h, 2.0),
    "concat": lambda h: 0.5 * torch.concat([h[2:], h[:2]]),
    "moveaxis": lambda h: 0.5 * h.reshape(2, 2).moveaxis(0, 1).flatten(),
    "fftshift": lambda h: 0.5 * torch.fft.fftshift(h),
}

REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "greater": ("LR1207", lambda h: torch.where(torch.greater(h, 0), 0.5 * h, 0.4 * h)),
    "arctan": ("LR1204", torch.arctan),
    "expit": ("LR1204", torch.special.expit),
    "isfinite": ("LR1207", lambda h: h * torch.isfinite(h)),
    "scatter_reduce amax": ("LR1209", lambda h: (0 * p).scatter_reduce(0, twice, h, "amax")),
    "scatter_reduce alone": ("LR1209", lambda h: h.scatter_reduce(0, twice, h, "sum", include_self=False)),
    "linear of the state by itself": ("LR1201", lambda h: F.linear(h, torch.outer(h, p))),
    "another type of the same memory": ("LR1206", lambda h: 0.5 * h.view(torch.float64)),
    "embedding with padding": ("LR1299", lambda h: 0.5 * F.embedding(twice, h[:, None], padding_idx=0)[:, 0]),
}


def program(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = step(h) + x[t]
        ys.append(h)
    return torch.stack(ys)


def judged(step: Callable[[Tensor], Tensor]) -> linrec.Report:
    def run(x: Tensor) -> Tensor:
        return program(step, x)

    made = linrec.compile(run, verify="off")
    for steps in (9, 3, 30):
        same_run(made, run, torch.randn(steps, 4, dtype=torch.float64, requires_grad=True))
    return linrec.report(made)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_operator_is_proven(name: str) -> None:
    report = judged(LINEAR[name])
    assert report.captures == 1 and report.recurrences, f"{report.code} {report.reason}"
    for r in report.recurrences:
        assert r.kind in ("lti", "ltv") and r.form != "sequential", f"{r.code} {r.reason}"


MAY_FAIL = {
    "masked_scatter",
    "solve",
    "solvetri",
    "inv",
    "cholsolve",
    "matexp",
    "lu_solve",
}  # where an arm does not run
IN_ARMS = ("grid_sample", "conv_transpose1d with a bias", "scatter_reduce")


@pytest.mark.parametrize("name", [n if n in IN_ARMS else pytest.param(n, marks=pytest.mark.slow) for n in LINEAR])
def test_a_linear_operator_is_proven_in_an_arm(name: str) -> None:
    def run(x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[0]), []
        for t in range(len(x)):
            h = LINEAR[name](h) + x[t] if t % 3 else 0.5 * h + x[t]
            ys.append(h)
        return torch.stack(ys)

    made = linrec.compile(run, verify="off")
    for steps in (12, 1, 5, 31):
        same_run(made, run, torch.randn(steps, 4, dtype=torch.float64, requires_grad=True))
    report = linrec.report(made)
    assert report.recurrences and all(r.form != "sequential" for r in report.recurrences), str(report)
    assert report.captures == 1 or name in MAY_FAIL


@pytest.mark.parametrize("name", REFUSED)
def test_another_name_does_not_hide_what_an_operator_is(name: str) -> None:
    code, step = REFUSED[name]
    assert [r.code for r in judged(step).recurrences] == [code]


ZERO = {
    "sum": lambda h: h.sum(0), "mean": lambda h: h.mean(-1), "cumsum": lambda h: h.cumsum(0), "flip": lambda h: h.flip(0),
    "squeeze": lambda h: h.squeeze(0), "transpose": lambda h: h.transpose(0, -1), "amax": lambda h: h.amax(0),
    "logsumexp": lambda h: torch.logsumexp(h, 0), "roll": lambda h: h.roll(1), "expand": lambda h: h.expand(3).mean(),
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO)
def test_a_number_has_the_axes_that_torch_says(name: str) -> None:
    """A sum over axis 0 of a value without axes is that value."""

    def run(x: Tensor) -> Tensor:
        h, ys = torch.zeros((), dtype=x.dtype), []
        for t in range(len(x)):
            h = 0.5 * ZERO[name](h) + torch.stack([part for part in (x[t],) if part.dim() == 0]).sum()  # type: ignore[no-untyped-call]
            ys.append(h)
        return torch.stack(ys)

    made = linrec.compile(run, verify="off")
    for steps in (9, 3, 30):
        same_run(made, run, torch.randn(steps, dtype=torch.float64, requires_grad=True))
    assert [r.kind for r in linrec.report(made).recurrences] == ["lti"]


def test_composites_are_torch_s_own() -> None:
    """Each is one that torch makes of others, in eager mode too, or whose definition by others torch holds."""
    composites = importlib.import_module("linrec.frontends.loop.composites").composites()
    assert len(composites) > 100
    for overload in composites:
        assert overload._can_decompose() or overload in torch._decomp.decomposition_table, overload
