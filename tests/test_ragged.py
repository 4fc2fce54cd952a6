"""Rows that end at steps of their own, in one run: values, states and gradients of each row as if it were alone.

Padding holds NaN. Programs here are chosen so that a state that ran on into the padding would overflow, or would divide
zero by zero, where 0 * inf makes NaN of a gradient that should be zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import MambaBlock
from contract import parameters, same
from laws import leaves_of
from rowwise import form_of
from torch import Tensor, nn
from torch.nn import functional

import linrec
from linrec.errors import StateError
from linrec.nn import LMU
from linrec.program import Recurring

ENDS = [11, 4, 7, 2]
Module = Callable[[], nn.Module]


def module(forward: Callable[[nn.Module, Tensor], Any]) -> Module:
    """A module with a decay, a gain and a matrix, whose forward is the function."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decay = nn.Parameter(torch.rand(3, dtype=torch.float64))
            self.matrix = nn.Parameter(torch.randn(3, 3, dtype=torch.float64) * 0.4)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    Model.__qualname__ = forward.__name__
    return Model


@module
def last_of_a_filter(m: Any, x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = h @ m.matrix + x[:, t]
    return torch.relu(h @ m.matrix)


@module
def last_of_a_gated_filter(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = torch.ones_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.sigmoid(x[:, t]) * h + m.decay
        ys.append(h)
    return torch.stack(ys, 1), h


@module
def squared(m: Any, x: Tensor) -> Tensor:
    """One more step of the longest row's length would be beyond all numbers."""
    h = torch.full_like(x[:, 0], 1.1)
    for t in range(x.shape[1]):
        h = h * h + m.decay * x[:, t].abs()
    return torch.log(h)


@module
def unstable_in_the_gate(m: Any, x: Tensor) -> Tensor:
    """A row whose last gate is huge."""
    h = torch.ones_like(x[:, 0])
    for t in range(x.shape[1]):
        h = torch.exp(40 * x[:, t].tanh() * m.decay) * h
    return torch.log(h)


@module
def divided_by_differences(m: Any, x: Tensor) -> Tensor:
    """No two inputs in a row are equal, unless padding repeats them."""
    p, h = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = m.decay * h + 1 / (x[:, t] - p).abs().sqrt()
        p = x[:, t]
    return h


@module
def growing_before_an_exponential(m: Any, x: Tensor) -> Tensor:
    """An integral, which grows on and on."""
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h + 40 * x[:, t].abs().clamp(min=1.0)
        out.append(1 / (1 + torch.exp(h * 1.5 - 200)))
    last: Tensor = m.decay * torch.stack(out, 1)[:, -1]
    return last


@module
def three_steps_back(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    a = b = c = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        a, b, c = 0.5 * a - m.decay * b + 0.1 * c + x[:, t], a, b
        ys.append(torch.tanh(c))
    return torch.stack(ys, 1), a


@module
def nonlinear_two_steps_back(m: Any, x: Tensor) -> Tensor:
    a = b = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        a, b = torch.tanh(a @ m.matrix - m.decay * b + x[:, t]), a
    return a + b


@module
def behind_a_window_and_a_sum(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    kernel = m.matrix[:, :, None].expand(3, 3, 3)
    z = functional.conv1d(functional.pad(x.transpose(1, 2), (2, 0)), kernel).transpose(1, 2)
    z = z + 0.1 * x.cumsum(1)
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = m.decay * h + z[:, t]
    return torch.exp(z), h


@module
def two_layers(m: Any, x: Tensor) -> dict[str, Tensor]:
    h, s, ys = torch.zeros_like(x[:, 0]), x.new_zeros(x.shape[0], 3, 3), []
    for t in range(x.shape[1]):
        h = torch.tanh(h @ m.matrix + x[:, t])
        s = m.decay[:, None] * s + h[:, :, None] * x[:, t, None, :]
        ys.append((s @ h[:, :, None]).squeeze(-1))
    return {"all": torch.stack(ys, 1), "memory": s, "cell": h}


@module
def best_path(m: Any, x: Tensor) -> Tensor:
    v = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        v = (v[:, :, None] + m.matrix).amax(1) + x[:, t]
    return v.amax(1)


@module
def starts_as_the_first_input(m: Any, x: Tensor) -> Tensor:
    h: Tensor = x[:, 0] * m.decay
    for t in range(x.shape[1]):
        h = m.decay * h + x[:, t]
    return h


@module
def starts_as_a_number(m: Any, x: Tensor) -> Tensor:
    h: Any = 0
    for t in range(x.shape[1]):
        h = m.decay * h + x[:, t]
    return h  # type: ignore[no-any-return]


@module
def starts_as_nothing(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = None, []
    for t in range(x.shape[1]):
        h = x[:, t] if h is None else torch.tanh(h) * m.decay + x[:, t]
        ys.append(h)
    assert h is not None
    return torch.stack(ys, 1), h


class Memory(nn.Module):
    """The last state of an LMU, through a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lmu, self.head = LMU(3, 4, 6, 5.0).double(), nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lmu(x)[:, -1])
        return out


class Block(MambaBlock):
    """A block with its convolution, all steps and the last."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(functional.pad(x, (0, 1)))
        return y, y[:, -1]


MODELS: list[Module] = [
    last_of_a_filter, last_of_a_gated_filter, squared, unstable_in_the_gate, divided_by_differences,
    growing_before_an_exponential, three_steps_back, nonlinear_two_steps_back, behind_a_window_and_a_sum, two_layers,
    best_path, starts_as_the_first_input, starts_as_a_number, starts_as_nothing, Memory, lambda: Block().double(),
]  # fmt: skip


def total(results: Any, state: dict[str, Tensor] | None) -> Tensor:
    """A number that depends on everything."""
    values = [*leaves_of(results), *(value for _, value in sorted((state or {}).items()))]
    return sum((v.square().sum() + v.sum() for v in values), torch.zeros((), dtype=torch.float64))


def gradients(of: Tensor, model: nn.Module, x: Tensor) -> list[Tensor]:
    """Those of the input and of every parameter, zero for what is not used."""
    wanted = [x, *parameters(model).values()]
    found = torch.autograd.grad(of, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


class Counted:
    """How often programs run."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        for name in ("advance", "end"):
            patch.setattr(Recurring, name, self.counting(getattr(Recurring, name)))

    def counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return method(*args, **kwargs)

        return run


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("build", MODELS)
def test_rows_end_alone_in_one_run(build: Module, with_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = build()
    net: Any = linrec.compile(model, verify="off")
    x = torch.randn(4, 11, 3, dtype=torch.float64)
    padded = x.clone()
    for row, end in enumerate(ENDS):
        padded[row, end:] = torch.nan
    padded.requires_grad_()
    form_of(net, x)
    counted = Counted(monkeypatch)
    found = net(padded, lengths=torch.tensor(ENDS), return_state=with_state)
    assert counted.runs == 1
    results, state = found if with_state else (found, None)
    got = gradients(total(results, state), model, padded)
    assert all(bool(g.isfinite().all()) for g in got)
    outputs = form_of(net, x).program.outputs
    want = [torch.zeros_like(g) for g in got]
    for row, end in enumerate(ENDS):
        alone = x[row : row + 1, :end].clone().requires_grad_()
        mine, after = net(alone, return_state=True)
        for value, wanted, axis in zip(leaves_of(results), leaves_of(mine), outputs, strict=True):
            same(value[row : row + 1, :end] if isinstance(axis, int) else value[row : row + 1], wanted)
            assert not isinstance(axis, int) or not value[row, end:].any()
        if state is not None:
            same({name: value[row : row + 1] for name, value in state.items()}, after)
        first, *others = gradients(total(mine, after if with_state else None), model, alone)
        want[0][row, :end] = first[0]
        want[1:] = [a + b for a, b in zip(want[1:], others, strict=True)]
    for value, wanted in zip(got, want, strict=True):
        same(value, wanted, rel=1e-8)


@pytest.mark.parametrize("build", MODELS[:-1])
def test_rows_go_on_from_where_they_ended(build: Module) -> None:
    """The states in which rows end are those that the next call, and a step, start from."""
    torch.manual_seed(2)
    net: Any = linrec.compile(build(), verify="off")
    x = torch.randn(4, 11, 3, dtype=torch.float64)
    form_of(net, x)
    _, state = net(x, lengths=torch.tensor(ENDS), return_state=True)
    ends = torch.tensor([3, 0, 8, 1])
    results, after = net(x.flip(1), state=state, lengths=ends, return_state=True)
    for row, (end, more) in enumerate(zip(ENDS, ends.tolist(), strict=True)):
        whole = torch.cat([x[row : row + 1, :end], x.flip(1)[row : row + 1, :more]], 1)
        want, want_after = net(whole, return_state=True)
        same({name: value[row : row + 1] for name, value in after.items()}, want_after)
        for value, wanted, axis in zip(
            leaves_of(results), leaves_of(want), form_of(net, x).program.outputs, strict=True
        ):
            if isinstance(axis, int):
                same(value[row : row + 1, :more], wanted[:, end:])
            elif more:
                same(value[row : row + 1], wanted)


def test_resets_take_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 60 different lengths are run with those of about their length."""
    net: Any = linrec.compile(last_of_a_gated_filter(), verify="off")
    x = torch.randn(8, 300, 3, dtype=torch.float64)
    mask = torch.rand(8, 300, generator=torch.Generator().manual_seed(3)) < 0.06
    form_of(net, x)
    counted = Counted(monkeypatch)
    (results, last), state = net(x, reset_mask=mask, return_state=True)
    assert counted.runs <= 18, "two groups for each power of two: rows that go on, and rows that start"
    for row in range(8):
        cuts = [0, *(n for n in mask[row].nonzero().flatten().tolist() if n), 300]
        for start, stop in itertools.pairwise(cuts):
            (part, end), after = net(x[row : row + 1, start:stop], return_state=True)
            same(results[row : row + 1, start:stop], part)
        same(last[row : row + 1], end)
        same({name: value[row : row + 1] for name, value in state.items()}, after)


def test_a_row_without_steps_has_no_first_input_to_start_from() -> None:
    net: Any = linrec.compile(starts_as_the_first_input(), verify="off")
    x, ends = torch.randn(3, 5, 3, dtype=torch.float64), torch.tensor([5, 0, 2])
    form_of(net, x)
    assert not net(x, lengths=ends)[1].any()
    with pytest.raises(StateError, match="LR4006"):
        net(x, lengths=ends, return_state=True)
    _, before = net(x, return_state=True)
    _, after = net(x, state=before, lengths=ends, return_state=True)
    same({name: value[1] for name, value in after.items()}, {name: value[1] for name, value in before.items()})


def test_counts_that_rows_share() -> None:
    """Rows of a table by the number of the step: one run, but no common state to end in."""

    def net(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = t / (t + 1) * h + x[:, t]
        return h

    compiled: Any = linrec.compile(net, verify="off")
    x = torch.randn(4, 11, 3, dtype=torch.float64)
    got = compiled(x, lengths=torch.tensor(ENDS))
    for row, end in enumerate(ENDS):
        same(got[row : row + 1], net(x[row : row + 1, :end]))
    with pytest.raises(StateError, match=r"LR4008.*'t'"):
        compiled(x, lengths=torch.tensor(ENDS), return_state=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_element_types(dtype: torch.dtype) -> None:
    rates = nn.Parameter(torch.rand(3, dtype=dtype) * 0.5)

    def net(x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = rates * h + x[:, t]
        return h

    x = torch.randn(4, 11, 3, dtype=dtype)
    compiled: Any = linrec.compile(net, verify="off")
    got, state = compiled(x, lengths=torch.tensor(ENDS), return_state=True)
    for row, end in enumerate(ENDS):
        want, after = compiled(x[row : row + 1, :end], return_state=True)
        torch.testing.assert_close(got[row : row + 1], want)
        torch.testing.assert_close({k: v[row : row + 1] for k, v in state.items()}, after)
