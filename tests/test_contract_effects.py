"""What a call leaves behind: attributes, buffers, inputs written in place, random numbers, what hooks saw."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import LTI, zeros
from contract import Leaky, converted, run, same, same_run, signal, twins
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


# ---- what a call leaves behind -----------------------------------------------------------------------


class KeepsState(nn.Module):
    """State in attributes, counters and buffers, read by the next call."""

    seen: Tensor
    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.9, -0.5, 0.3]))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("memory", torch.zeros(2, 3))
        self.h: Tensor | None = None
        self.calls = 0
        self.lengths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.lengths.append(x.shape[1])
        self.seen += x.shape[1]
        h = self.memory.clone() if self.h is None else self.h
        ys = []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t]
            ys.append(h)
        self.h = h.detach()
        with torch.no_grad():
            self.memory.mul_(0.5).add_(h)
        return torch.stack(ys, 1) * self.calls


def test_attributes_and_buffers_after_a_call() -> None:
    net, model = twins(KeepsState)
    for steps in (5, 9, 9, 30, 1):
        same_run(net, model, signal(2, steps, 3))
        assert (net.calls, net.lengths) == (model.calls, model.lengths)
        same((net.h, net.seen, net.memory), (model.h, model.seen, model.memory), "left behind")
    net.h = model.h = None
    same_run(net, model, signal(2, 9, 3))


class StateInAttribute(nn.Module):
    """The loop itself writes self.h."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(3, 3)

    def step(self, x_t: Tensor) -> Tensor:
        self.h = 0.9 * self.h + self.inp(x_t)
        return self.h

    def forward(self, x: Tensor) -> Tensor:
        self.h = zeros(x)
        return torch.stack([self.step(x_t) for x_t in x.unbind(1)], 1)


def test_state_in_an_attribute() -> None:
    net, model = twins(StateInAttribute)
    x = signal(2, 9, 3)
    for steps in (9, 30, 1):
        same_run(net, model, signal(2, steps, 3))
        same(net.h, model.h)
        assert net.h.grad_fn is not None
    for m in (net, model):
        m(x)
        m.h.sum().backward()
    same(net.inp.weight.grad, model.inp.weight.grad)
    converted(net)


def adds_into_its_input(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        x[:, t] += h
    return h


def fills_a_given_output(x: Tensor, out: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        out[:, t] = h
    return out


def test_mutated_inputs() -> None:
    fn, fill = linrec.compile(adds_into_its_input), linrec.compile(fills_a_given_output)
    for steps in (9, 9, 40, 1):
        x = signal(2, steps, 3, grad=False)
        one, two = x.clone(), x.clone()
        same(fn(one), adds_into_its_input(two))
        same(one, two, "the input afterwards")
        buffer, other = torch.zeros_like(x), torch.zeros_like(x)
        got, want = fill(x, buffer), fills_a_given_output(x, other)
        same((got, buffer), (want, other))
        assert got is buffer


@pytest.mark.parametrize("aliased_first", [False, True])
def test_arguments_that_share_memory(aliased_first: bool) -> None:
    fn = linrec.compile(fills_a_given_output)
    if not aliased_first:
        fn(signal(2, 9, 3, grad=False), signal(2, 9, 3, grad=False))
    one = signal(2, 12, 3, grad=False)
    two = one.clone()
    fn(one[:, :9], one[:, 3:])
    fills_a_given_output(two[:, :9], two[:, 3:])
    same(one, two)
    fn(one, one)
    fills_a_given_output(two, two)
    same(one, two)


class NormAfter(nn.Module):
    """Batch normalisation in training, after the loop or in it: its buffers are written in place."""

    def __init__(self, inside: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        for x_t in x.unbind(1):
            h = 0.9 * h + (self.norm(x_t) if self.inside else x_t)
        out: Tensor = h if self.inside else self.norm(h)
        return out


@pytest.mark.parametrize("inside", [False, True])
def test_batch_norm_in_training(inside: bool) -> None:
    net, model = twins(lambda: NormAfter(inside))
    for steps in (9, 9, 25):
        same_run(net, model, signal(4, steps, 3))
        same(dict(net.state_dict()), dict(model.state_dict()), "buffers")
    report = linrec.explain(model, signal(4, 9, 3))
    assert report.recurrences or (report.code and report.reason)
    same(dict(net.state_dict()), dict(model.state_dict()), "buffers")
    if not inside:
        converted(net)


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=slow)])
def test_inside_a_checkpoint(reentrant: bool) -> None:
    case = LTI["diagonal"]
    fn = linrec.compile(case.make())
    found: list[Any] = []
    for steps in (9, 20):
        x, a = case.args(2, steps)
        got = checkpoint(fn, x, a, use_reentrant=reentrant)
        want = case.make()(x, a)
        same(got, want)
        for out in (got, want):
            x.grad = a.grad = None
            out.sum().backward()
            grads = x.grad, a.grad
            assert grads[0] is not None
            found.append(grads)
        same(found[-2], found[-1])
    converted(fn)


@pytest.mark.parametrize("make", [Leaky, KeepsState, lambda: LTI["CellsInModuleList"].make()])
def test_explain_changes_nothing(make: Callable[[], Any]) -> None:
    model = make().double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {k: copy.deepcopy(v) for k, v in vars(model).items() if not k.startswith("_")}
    keys = set(vars(model))
    x = signal(2, 12, 3)
    x_before = x.detach().clone()
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    report = linrec.explain(model, x)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))
    assert set(vars(model)) == keys
    for name, value in attributes.items():
        now = getattr(model, name)
        assert type(now) is type(value)
        same(now, value, name, 0.0) if isinstance(value, (Tensor, int, float, list)) else None
    same(dict(model.state_dict()), before, rel=0.0)
    same(x.detach(), x_before, rel=0.0)
    assert x.grad is None and all(p.grad is None for p in model.parameters())
    assert (report.recurrences or report.code) and report.captures <= 1


def test_explain_leaves_generators_and_hooks_alone() -> None:
    model, fired = Leaky().double(), []
    model.inp.register_forward_hook(lambda *_: fired.append(1))
    handles = len(model.inp._forward_hooks)
    model.train()
    x = signal(2, 9, 3)
    state = torch.get_rng_state()
    linrec.explain(model, x)
    assert torch.equal(state, torch.get_rng_state())
    assert len(model.inp._forward_hooks) == handles and model.training


# ---- random numbers, hooks ---------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.inp = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x) if self.where == "before" else x
        h = zeros(x)
        ys = []
        for t in range(x.shape[1]):
            u = self.inp(x[:, t])
            if self.where == "input":
                u = self.drop(u)
            elif self.where == "noise":
                u = u + torch.randn_like(u)
            elif self.where == "random":
                u = u * random.random()
            elif self.where == "numpy":
                u = u * float(np.random.rand())
            h = 0.9 * h + u
            h = self.drop(h) if self.where == "state" else h
            ys.append(h)
        y = torch.stack(ys, 1)
        out: Tensor = self.drop(y) if self.where == "after" else y
        return out


@pytest.mark.parametrize(
    "where", ["before", "input", "state", "random", *[pytest.param(w, marks=slow) for w in ("after", "noise", "numpy")]]
)
def test_the_same_seed_gives_the_same_numbers(where: str) -> None:
    net, model = twins(lambda: Noisy(where))
    for steps in (9, 9, 25):
        x = signal(2, steps, 3)
        found = []
        for m in (model, net):
            torch.manual_seed(9)
            random.seed(9)
            np.random.seed(9)
            found.append((run(m, x), torch.rand(1), random.random(), np.random.rand()))
        same(found[1], found[0])
    net.eval()
    model.eval()
    if where in ("before", "after", "input", "state"):
        same_run(net, model, signal(2, 25, 3))
    if where in ("before", "after"):
        converted(net)


@pytest.mark.parametrize("early", [False, pytest.param(True, marks=slow)])
@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_on_submodules_fire(kind: str, early: bool) -> None:
    net, model = twins(lambda: LTI["LinearAsTransition"].make())
    x = signal(2, 9, 3)
    if not early:
        run(net, x)
    logs: list[list[Any]] = [[], []]
    for m, log in zip((net, model), logs, strict=True):
        add = {
            "forward": m.inp.register_forward_hook,
            "pre": m.inp.register_forward_pre_hook,
            "backward": m.inp.register_full_backward_hook,
        }[kind]
        add(lambda module, args, *out, log=log: log.append(tuple(args[0].shape)))
    for steps in (9, 14):
        same_run(net, model, signal(2, steps, 3))
    assert logs[0] == logs[1]
