"""What a program writes besides its results: steps, chunks and the whole sequence leave the same behind, or are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import same
from rowwise import form_of
from torch import Tensor, nn

import linrec
from linrec.errors import StateError


class Base(nn.Module):
    """A decay, a buffer and what is left of the last call."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(3, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))
        self.h: Any = None


class LastState(Base):
    """The last state as an attribute, which nothing reads."""

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.decay * h + x[:, t]
            ys.append(h)
        self.h = h
        return torch.stack(ys, 1)


class FromNothing(LastState):
    """The same, with a first step of its own."""

    def forward(self, x: Tensor) -> Tensor:
        h, ys = None, []
        for t in range(x.shape[1]):
            h = x[:, t] if h is None else torch.tanh(h) + x[:, t]
            ys.append(h)
        self.h = h
        return torch.stack(ys, 1)


class InABuffer(Base):
    """A state that goes on from call to call, written in place at each step."""

    def forward(self, x: Tensor) -> Tensor:
        ys = []
        for t in range(x.shape[1]):
            self.seen.copy_(0.5 * self.seen + x[:, t].mean(0))
            ys.append(self.seen + x[:, t])
        return torch.stack(ys, 1)


class InAnAttribute(Base):
    """A state that goes on from call to call, assigned at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.h = torch.zeros(2, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        ys = []
        for t in range(x.shape[1]):
            self.h = self.decay * torch.tanh(self.h) + x[:, t]
            ys.append(self.h)
        return torch.stack(ys, 1)


class InASubmodule(Base):
    """Layers with a memory each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = InAnAttribute(), InAnAttribute()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first.forward(x)
        return self.second.forward(y)


WRITERS: list[Callable[[], Base]] = [LastState, FromNothing, InABuffer, InAnAttribute, InASubmodule]


def left(model: nn.Module) -> list[Tensor]:
    """What the program has written."""
    found = [m.seen for m in model.modules() if isinstance(m, Base)]
    found += [m.h for m in model.modules() if isinstance(m, Base) and isinstance(m.h, Tensor)]
    return [v.detach().clone() for v in found]


def by_chunks(rnn: Any, x: Tensor, sizes: list[int]) -> list[Tensor]:
    """Results of chunks; a size of 0 is a step."""
    state, start, ys = None, 0, []
    for size in sizes:
        if size:
            y, state = rnn(x[:, start : start + size], state=state)
        else:
            y, state = rnn.step(x[:, start], state=state)
            y = y.unsqueeze(1)
        ys.append(y)
        start += size or 1
    return ys


@pytest.mark.parametrize("sizes", [[9], [4, 5], [1, 2, 6], [0] * 9, [3, 0, 0, 4]])
@pytest.mark.parametrize("build", WRITERS)
def test_what_is_written_is_what_the_original_writes(build: Callable[[], Base], sizes: list[int]) -> None:
    torch.manual_seed(0)
    model = build()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    written = copy.deepcopy(model)
    want = written(x)
    net: Any = linrec.compile(model, verify="off")
    rnn = form_of(net, x)
    same(left(net), left(model))
    got = torch.cat(by_chunks(rnn, x, sizes), 1)
    same(got.detach(), want.detach())
    same(left(net), left(written))


@pytest.mark.parametrize("build", [InABuffer, InAnAttribute])
def test_a_call_without_a_state_goes_on_as_the_original_does(build: Callable[[], Base]) -> None:
    torch.manual_seed(0)
    model = build()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    written = copy.deepcopy(model)
    want = torch.cat([written(x[:, :4]), written(x[:, 4:])], 1)
    rnn = form_of(linrec.compile(model, verify="off"), x)
    same(torch.cat([rnn(x[:, :4])[0], rnn(x[:, 4:])[0]], 1).detach(), want.detach())


def test_gradients_reach_what_is_left() -> None:
    net: Any = linrec.compile(LastState(), verify="off")
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    rnn = form_of(net, x)
    y, _ = rnn(x)
    (want,) = torch.autograd.grad(y[:, -1].sum(), [net.decay], retain_graph=True)
    (got,) = torch.autograd.grad(net.h.sum(), [net.decay])
    same(got, want)


def test_a_stream_writes_and_does_not_start_afresh_from_what_it_wrote() -> None:
    model = InAnAttribute()
    net: Any = linrec.compile(model, verify="off")
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    written = copy.deepcopy(model)
    written(x)
    stream = linrec.stream(net, 2, x)
    for t in range(9):
        stream.step_(x[:, t])
    same(net.h, written.h.detach())
    for mask in (None, torch.tensor([True, False])):
        with pytest.raises(StateError, match=r"LR4009.*h, which the program writes"):
            stream.reset(mask)
    net.h, stream.state = torch.zeros(2, 3, dtype=torch.float64), None
    same(stream(x), _from_zero(model, x))
    with pytest.raises(StateError, match="LR4009"):
        net(x, reset_mask=torch.zeros(2, 9, dtype=torch.bool))


def _from_zero(model: InAnAttribute, x: Tensor) -> Tensor:
    fresh = copy.deepcopy(model)
    fresh.h = torch.zeros(2, 3, dtype=torch.float64)
    y: Tensor = fresh(x)
    return y.detach()


def test_rows_that_end_alone_leave_their_own_states() -> None:
    net: Any = linrec.compile(LastState(), verify="off")
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    form_of(net, x)
    y = net(x, lengths=torch.tensor([9, 4]))
    same(net.h.detach(), torch.stack([y[0, 8], y[1, 3]]).detach())


# ---- arguments ---------------------------------------------------------------------------------------


def in_place(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        x[:, t] = h
    return x


def into_another(x: Tensor, memory: Tensor) -> Tensor:
    h, ys = memory, []
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        ys.append(h)
    memory.copy_(h)
    return torch.stack(ys, 1)


def test_arguments_are_written_to() -> None:
    x = torch.randn(2, 9, 3)
    rnn, want = form_of(linrec.compile(in_place, verify="off"), x.clone()), in_place(x.clone())
    got = x.clone()
    first, state = rnn(got[:, :4])
    row = got[:, 4].clone()
    y, state = rnn.step(row, state=state)
    assert y is row, "the original returns its argument"
    torch.testing.assert_close(row, want[:, 4])
    rest, _ = rnn(got[:, 5:], state=state)
    torch.testing.assert_close(torch.cat([got[:, :4], row.unsqueeze(1), got[:, 5:]], 1), want)
    torch.testing.assert_close(torch.cat([first, y.unsqueeze(1), rest], 1), want)
    with pytest.raises(StateError, match=r"LR4008.*writes to its arguments"):
        linrec.compile(in_place)(x, lengths=torch.tensor([9, 4]))  # type: ignore[call-arg]


def test_a_memory_that_is_given_is_written_to() -> None:
    x, memory = torch.randn(2, 9, 3), torch.randn(2, 3)
    kept = memory.clone()
    want = into_another(x, kept)
    rnn = form_of(linrec.compile(into_another, verify="off"), x, memory.clone())
    a, state = rnn(x[:, :4], memory)
    b, _ = rnn(x[:, 4:], memory, state=state)
    torch.testing.assert_close(torch.cat([a, b], 1), want)
    torch.testing.assert_close(memory, kept)


# ---- what is refused ---------------------------------------------------------------------------------


class RunningMean(Base):
    """Statistics that every step reads and each call updates."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = self.decay * h + x[:, t] - self.seen
        if self.training:
            self.seen.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h


class Counting(Base):
    """A number of calls."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = self.decay * h + x[:, t]
        if self.training:
            self.seen += 1
        return h


class NormInside(Base):
    """Batch normalisation at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = self.decay * h + self.norm(x[:, t])
        return h


@pytest.mark.parametrize("build", [RunningMean, Counting, NormInside])
def test_what_each_call_changes_for_the_next_is_refused(build: Callable[[], Base]) -> None:
    model = build()
    net: Any = linrec.compile(model, verify="off")
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(StateError, match=r"LR4009.*(seen|running statistics)") as caught:
        net.recurrent(x)
    assert caught.value.line is not None and "eval()" in str(caught.value)
    same(dict(net.state_dict()), before)
    rnn = net.eval().recurrent(x)
    state = None
    for t in range(9):
        y, state = rnn.step(x[:, t], state=state)
    same(y.detach(), model.eval()(x).detach())
