"""Views: a write to one is a write to the other, whichever operator made it; what no value can say is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract import same_run
from torch import Tensor

import linrec

View = Callable[[Tensor], Tensor]

VIEWS: dict[str, View] = {
    "permute": lambda h: h.permute(1, 0),
    "movedim": lambda h: h.movedim(0, 1),
    "moveaxis": lambda h: h.moveaxis(0, 1),
    "T": lambda h: h.T,
    "mT": lambda h: h.mT,
    "mH": lambda h: h.mH,
    "t": lambda h: h.t(),
    "t of t": lambda h: h.t().t(),
    "swapaxes": lambda h: h.swapaxes(0, 1),
    "swapdims": lambda h: h.swapdims(0, 1),
    "narrow": lambda h: h.narrow(0, 0, 1),
    "tensor_split": lambda h: torch.tensor_split(h, 2)[1],
    "hsplit": lambda h: torch.hsplit(h, 2)[1],
    "vsplit": lambda h: torch.vsplit(h, 2)[0],
    "unflatten": lambda h: h.unflatten(0, (2, 1)),  # type: ignore[no-untyped-call]
    "ravel": lambda h: h.ravel(),
    "reshape": lambda h: h.reshape(4),
    "view of view": lambda h: h.view(4)[1:3].reshape(2, 1),
    "row of a transpose": lambda h: h.t()[0].unsqueeze(0),
    "diagonal": lambda h: h.diagonal(),
    "contiguous": lambda h: h.contiguous(),
    "to its own type": lambda h: h.to(torch.float64),
    "every second": lambda h: h[::2],
    "column": lambda h: h[:, :1].reshape(2),
    "atleast_3d": lambda h: torch.atleast_3d(h),  # type: ignore[no-untyped-call]
}
COPIES: dict[str, View] = {
    "reshape of a transpose": lambda h: h.t().reshape(4),
    "flatten of a transpose": lambda h: h.t().flatten(),
    "reshape of a permutation": lambda h: h.permute(1, 0).reshape(4),
    "contiguous of a transpose": lambda h: h.t().contiguous(),
    "flip": lambda h: h.flip(0),
    "index": lambda h: h[[0]],
    "rot90": lambda h: torch.rot90(h),
    "clone": lambda h: h.clone(),
}
UNWRITTEN: dict[str, View] = {  # shared with the state in a way that a write through it is not followed
    "imag": lambda h: torch.view_as_complex(h).imag,
    "real": lambda h: torch.view_as_complex(h).real,
    "view_as_real": lambda h: torch.view_as_real(torch.view_as_complex(h)),
    "expand": lambda h: h[:, :1].expand(2, 1),
    "unfold": lambda h: h.unfold(0, 1, 1),
    "another type": lambda h: h.view(torch.float64),
    "as_strided": lambda h: h.as_strided((2,), (2,)),
}


def written_through(view: View, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = h.clone()
        view(h).mul_(0.5)
        h = 0.9 * h + x[t]
        ys.append(h)
    return torch.stack(ys)


def read_after_a_write(view: View, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = 0.9 * h
        seen = view(h)
        h.add_(x[t])
        h = h + 0.1 * seen.sum()
        ys.append(h)
    return torch.stack(ys)


def both_ways(view: View, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = h.clone()
        seen = view(h)
        seen.add_(0.1 * h.mean())
        h = 0.5 * h + x[t] + 0.1 * seen.sum()
        ys.append(h)
    return torch.stack(ys)


slow = pytest.mark.slow
USES = [pytest.param(written_through, marks=slow), pytest.param(read_after_a_write, marks=slow), both_ways]


def judged(use: Callable[[View, Tensor], Tensor], view: View) -> linrec.Report:
    def program(x: Tensor) -> Tensor:
        return use(view, x)

    made = linrec.compile(program, verify="off")
    for steps in (9, 3, 30):
        same_run(made, program, torch.randn(steps, 2, 2, dtype=torch.float64, requires_grad=True))
    return linrec.report(made)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", VIEWS | COPIES)
def test_views_share_and_copies_do_not(use: Callable[[View, Tensor], Tensor], name: str) -> None:
    report = judged(use, (VIEWS | COPIES)[name])
    assert [r.kind for r in report.recurrences] == ["lti"], f"{report.code} {report.reason}"
    assert report.recurrences[0].form != "sequential"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_no_value_can_say_runs_as_written(use: Callable[[View, Tensor], Tensor], name: str) -> None:
    report = judged(use, UNWRITTEN[name])
    if use is not read_after_a_write or name == "as_strided":
        assert report.code == "LR0411", f"{report.code} {report.reason}"


def in_place(write: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = write(0.5 * h) + x[t]
        ys.append(h)
    return torch.stack(ys)


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda h: h.multiply_(0.5), ""),
        (lambda h: h.true_divide_(2.0), ""),
        (lambda h: h.subtract_(1.0), ""),
        (lambda h: h.t_(), ""),
        (lambda h: h.addmv_(h, torch.ones(2, dtype=torch.float64)) if h.dim() == 1 else h.cumsum_(0), ""),
        (lambda h: torch.where((h > 9) & (h < 10), h, h), "LR1207"),
        (lambda h: h.fill_diagonal_(0.0), "LR0411"),
        (lambda h: h.mul_(1.0) + h[:1].transpose_(0, 1).sum(), "LR0411"),
        (lambda h: torch.mul(h, 0.5, out=torch.empty_like(h)).detach() + h, "LR0411"),
    ],
)
def test_writes_in_place(write: Callable[[Tensor], Tensor], code: str) -> None:
    def program(x: Tensor) -> Tensor:
        return in_place(write, x)

    made = linrec.compile(program, verify="off")
    for steps in (9, 3, 30):
        x = torch.randn(steps, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(made(x), program(x))
    report = linrec.report(made)
    assert (report.code or "".join(r.code for r in report.recurrences)) == code, report.reason


def test_masks_changed_in_place() -> None:
    def program(x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[0]), []
        for t in range(len(x)):
            m = x[t] > 0
            m &= x[t] < 1
            m |= x[t] < -1
            m ^= x[t] > 2
            h = torch.where(m, 0.5 * h, h) + x[t]
            ys.append(h)
        return torch.stack(ys)

    made = linrec.compile(program, verify="off")
    for steps in (9, 3, 30):
        same_run(made, program, torch.randn(steps, 2, 2, dtype=torch.float64, requires_grad=True))
    assert [r.kind for r in linrec.report(made).recurrences] == ["ltv"]
