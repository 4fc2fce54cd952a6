"""A compiled module is a module: modes, types, copies, state dicts, nesting, threads, training."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import LTI, zeros
from contract import Leaky, converted, same, same_run, signal, twins
from torch import Tensor, nn

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        ys = []
        for t in range(x.shape[1]):
            h = (0.9 if self.training else 0.4) * h + self.inp(x[:, t])
            ys.append(h)
        out: Tensor = self.norm(torch.stack(ys, 1).flatten(0, 1))
        return out


def test_train_and_eval() -> None:
    net, model = twins(Branches)
    for mode in (True, False, True, False):
        net.train(mode)
        model.train(mode)
        assert net.training == mode
        for steps in (9, 22):
            same_run(net, model, signal(2, steps, 3))
            same(dict(net.state_dict()), dict(model.state_dict()), "buffers")


def test_to_another_dtype_and_back() -> None:
    model = LTI["ConstantMemory"].make().float()
    net = linrec.compile(copy.deepcopy(model))
    x = torch.randn(2, 40, 1)
    same_run(net, model, x, rel=2e-5)
    for dtype, rel in ((torch.float64, 1e-9), (torch.float32, 2e-5), (torch.float64, 1e-9)):
        net.to(dtype)
        model.to(dtype)
        same_run(net, model, x.to(dtype), rel=rel)
    converted(net)


@pytest.mark.parametrize("called", [True, False])
def test_deepcopy(called: bool) -> None:
    net, model = twins(Leaky)
    net.eval()
    model.eval()
    if called:
        net(signal(2, 9, 3))
    copied = copy.deepcopy(net)
    with torch.no_grad():
        copied.a.mul_(0.1)
        copied.frozen.mul_(2.0)
    copied.decay = 0.5
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.a.mul_(0.1)
        other.frozen.mul_(2.0)
    other.decay = 0.5
    for steps in (9, 20):
        same_run(net, model, signal(2, steps, 3))
        same_run(copied, other, signal(2, steps, 3))


def test_state_dict_travels() -> None:
    net, model = twins(Leaky)
    net.eval()
    model.eval()
    net(signal(2, 9, 3))
    data = io.BytesIO()
    torch.save(net.state_dict(), data)
    data.seek(0)
    loaded = torch.load(data, weights_only=True)
    same(dict(loaded), dict(model.state_dict()))
    same(dict(pickle.loads(pickle.dumps(net.state_dict()))), dict(model.state_dict()))
    torch.manual_seed(99)
    fresh = linrec.compile(Leaky().double().eval())
    fresh.load_state_dict(loaded)
    same_run(fresh, model, signal(2, 9, 3))
    Leaky().double().load_state_dict(net.state_dict())


def test_parameters_are_shared_with_the_original() -> None:
    model = LTI["LinearAsTransition"].make()
    net = linrec.compile(model)
    x = signal(2, 9, 3)
    net(x)
    with torch.no_grad():
        model.rec.weight.mul_(0.5)
    same_run(net, model, x)
    net(x).sum().backward()
    assert model.inp.weight.grad is net.inp.weight.grad is not None


class OwnNames(nn.Module):
    """Users have these names too, and theirs win."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.report = nn.Linear(3, 2)
        self.register_buffer("state", torch.full((3,), 0.5))
        self.recurrent = 0.5

    def step(self, h: Tensor, x_t: Tensor) -> Tensor:
        return self.recurrent * h + x_t + self.state

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        for x_t in x.unbind(1):
            h = self.step(h, x_t)
        out: Tensor = self.report(h)
        return out


def test_names_of_the_user_win() -> None:
    net, model = twins(OwnNames)
    for steps in (9, 30):
        same_run(net, model, signal(2, steps, 3))
    assert isinstance(net.report, nn.Linear) and net.recurrent == 0.5 and net.state.shape == (3,)
    same(net.step(x := signal(2, 3), x), model.step(x, x))
    assert list(net.state_dict()) == list(model.state_dict())
    converted(net)
    net.recurrent = model.recurrent = 0.25
    same_run(net, model, signal(2, 9, 3))


def test_compiled_inside_compiled() -> None:
    inner = LTI["CellsInModuleList"].make()
    head = nn.Linear(3, 2).double()
    plain = nn.Sequential(copy.deepcopy(inner), head)
    both = linrec.compile(nn.Sequential(linrec.compile(copy.deepcopy(inner)), head))
    for steps in (9, 21):
        same_run(both, plain, signal(2, steps, 3))
    assert list(linrec.compile(nn.Sequential(linrec.compile(inner), head)).state_dict()) == list(plain.state_dict())


@slow
def test_compiled_inside_plain_and_the_other_way() -> None:
    inner = LTI["CellsInModuleList"].make()
    head = nn.Linear(3, 2).double()
    plain = nn.Sequential(copy.deepcopy(inner), head)
    for outer in (nn.Sequential(linrec.compile(copy.deepcopy(inner)), head), linrec.compile(plain)):
        for steps in (9, 21):
            same_run(outer, plain, signal(2, steps, 3))


def test_a_module_called_twice_and_tied_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LTI["CellsInModuleList"].make()
            self.head = nn.Linear(3, 3)
            self.head.weight = self.layer.cells[0].project.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.layer(self.layer(x).flip(1)))
            return out

    net, model = twins(Twice)
    for steps in (9, 21):
        same_run(net, model, signal(2, steps, 3))
    assert len(converted(net)) == 4


def test_off_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    case = LTI["dense_matmul"]
    x, a, b = (arg.detach().float() for arg in case.args(2, 200))
    want = case.make()(x, a, b)
    fn = linrec.compile(case.make())
    with linrec.disabled():
        assert torch.equal(fn(x, a, b), want)
    assert linrec.report(fn).captures == 0
    fn(x, a, b)
    assert linrec.report(fn).captures == 1
    with linrec.disabled():
        assert torch.equal(fn(x, a, b), want)
    monkeypatch.setenv("LINREC", "off")
    off = linrec.compile(case.make())
    assert torch.equal(off(x, a, b), want) and torch.equal(fn(x, a, b), want)
    assert linrec.report(off).captures == 0
    monkeypatch.delenv("LINREC")
    fn(x, a, b)
    converted(fn)


def test_threads() -> None:
    case = LTI["diagonal"]
    fn = linrec.compile(case.make())
    jobs = [case.args(2, 9 + 3 * i) for i in range(6)]
    together = threading.Barrier(len(jobs), timeout=60)

    def work(job: tuple[Tensor, ...]) -> Tensor:
        together.wait()
        results: list[Tensor] = [fn(*job).detach() for _ in range(3)]
        return results[-1]

    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(work, jobs))
    for job, result in zip(jobs, results, strict=True):
        same(result, case.make()(*job).detach())
    same_run(fn, case.make(), *case.args(2, 9))


def test_training_follows_the_loop() -> None:
    net, model = twins(lambda: LTI["CellsInModuleList"].make())
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01, weight_decay=0.1) for m in (net, model)]
    for step in range(4):
        x = signal(2, 10 + 5 * step, 3, grad=False)
        losses = []
        for m, optimizer in zip((net, model), optimizers, strict=True):
            optimizer.zero_grad()
            loss = m(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        same(losses[0], losses[1], rel=1e-7)
    same(dict(net.state_dict()), dict(model.state_dict()), rel=1e-6)
    assert linrec.report(net).captures == 1


FACTORS = [0.9, 0.8]
ROWS = [torch.tensor([0.9, 0.5, -0.3], dtype=torch.float64)]
decay = 0.5  # of the name of an attribute that the module reads, and no global of it


class Global(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decay = 0.7

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            for factor in FACTORS:
                h = factor * self.decay * h
            for row in ROWS:
                h = h * row
            h = h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


def test_lists_outside_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """They grow, shrink, and hold other tensors, whether or not these were there at the first call."""
    row = torch.tensor([0.4, -0.6, 0.8], dtype=torch.float64)
    monkeypatch.setitem(globals(), "FACTORS", [*FACTORS])
    monkeypatch.setitem(globals(), "ROWS", [*ROWS])
    net, original, x = linrec.compile(Global(), verify="off"), Global(), signal(2, 20, 3)
    changes: list[Callable[[], object]] = [
        FACTORS.pop, lambda: ROWS.append(row), lambda: row.mul_(0.5), lambda: ROWS.__setitem__(1, row + 0.1),
        lambda: ROWS.pop(), lambda: FACTORS.extend([0.5, 1.1]), lambda: ROWS.clear(),
    ]  # fmt: skip
    same(net(x), original(x))
    for change in changes:
        change()
        same_run(net, original, x)
    captures = linrec.report(net).captures
    monkeypatch.setitem(globals(), "decay", 0.25)
    same(net(x), original(x))
    assert linrec.report(net).captures == captures
