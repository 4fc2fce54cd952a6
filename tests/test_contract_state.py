"""A compiled program follows its Python: attributes, globals, closures, counters, caches, hooks, random numbers.

Each test runs a compiled and an original copy of one program through the same history and compares them.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import converted, run, same, same_run
from programs_lti import LTI, zeros
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import linrec

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def signal(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_(grad)


def twins(make: Callable[[], Any], **options: Any) -> tuple[Any, Any]:
    """A compiled copy and an original copy with equal weights."""
    torch.manual_seed(3)
    first = make().double()
    return linrec.compile(copy.deepcopy(first), **options), first


class Leaky(nn.Module):
    """The module that the histories below poke at."""

    frozen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.9, -0.5, 0.3]))
        self.inp = nn.Linear(3, 3)
        self.register_buffer("frozen", torch.randn(3, 3) * 0.3)
        self.decay = 0.9
        self.plain = torch.full((3,), 0.5, dtype=torch.float64)
        self.config = SimpleNamespace(gain=2.0, names=["a"], table={"shift": 0.25})
        self.drop = nn.Dropout(0.5)
        self.use_norm = False

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        ys = []
        u = self.drop(self.inp(x))
        for t in range(x.shape[1]):
            h = self.decay * self.a * h + h @ self.frozen * 0.1 + self.config.gain * u[:, t] * self.plain
            h = h + self.config.table["shift"]
            ys.append(F.layer_norm(h, (3,)) if self.use_norm else h)
        return torch.stack(ys, 1)


# ---- histories: something changes between calls ------------------------------------------------------


def set_decay(net: Any) -> None:
    net.decay = 0.1


def set_gain(net: Any) -> None:
    net.config.gain = -1.0


def set_table(net: Any) -> None:
    net.config.table["shift"] = -0.5


def set_flag(net: Any) -> None:
    net.use_norm = True


def mutate_plain(net: Any) -> None:
    net.plain.mul_(3.0)


def replace_plain(net: Any) -> None:
    net.plain = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def replace_plain_by_number(net: Any) -> None:
    net.plain = 0.25


def mutate_buffer(net: Any) -> None:
    net.frozen.mul_(0.5)


def mutate_buffer_data(net: Any) -> None:
    net.frozen.data.mul_(0.5)


def mutate_buffer_through_numpy(net: Any) -> None:
    net.frozen.numpy()[:] *= 0.5


def replace_buffer(net: Any) -> None:
    net.frozen = torch.eye(3, dtype=torch.float64) * 0.2


def mutate_parameter_data(net: Any) -> None:
    net.a.data.mul_(0.5)


def mutate_parameter_under_no_grad(net: Any) -> None:
    with torch.no_grad():
        net.a.copy_(torch.tensor([0.1, 0.2, 0.3]))


def replace_parameter_data(net: Any) -> None:
    net.a.data = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)


def replace_parameter(net: Any) -> None:
    net.a = nn.Parameter(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64))


def replace_submodule(net: Any) -> None:
    torch.manual_seed(11)
    net.inp = nn.Linear(3, 3, bias=False).double()


def swap_submodule_kind(net: Any) -> None:
    torch.manual_seed(11)
    net.inp = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()


def freeze(net: Any) -> None:
    net.a.requires_grad_(False)


def load_weights(net: Any) -> None:
    torch.manual_seed(12)
    net.load_state_dict(Leaky().double().state_dict())


def optimizer_steps(net: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(2, 12, 3, generator=draw, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def weight_norm(net: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(net.inp)


def tie_weights(net: Any) -> None:
    net.inp.bias = net.a


def train_mode(net: Any) -> None:
    net.train()


def hook_changes_the_output(net: Any) -> None:
    net.inp.register_forward_hook(lambda module, args, out: out * 2)


def hook_changes_the_input(net: Any) -> None:
    net.inp.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def hook_on_the_whole(net: Any) -> None:
    net.register_forward_hook(lambda module, args, out: out + 1)


def hook_on_gradients(net: Any) -> None:
    net.a.register_hook(lambda g: g * 2)


def backward_hook_on_submodule(net: Any) -> None:
    net.inp.register_full_backward_hook(lambda module, g_in, g_out: (g_in[0] * 2,))


def patch_forward_of_submodule(net: Any) -> None:
    net.inp.forward = lambda x: x * 0.5


HISTORIES: list[Any] = [
    set_decay,
    set_gain,
    set_table,
    pytest.param(set_flag, marks=slow),
    mutate_plain,
    replace_plain,
    pytest.param(replace_plain_by_number, marks=slow),
    pytest.param(mutate_buffer, marks=slow),
    mutate_buffer_data,
    pytest.param(mutate_buffer_through_numpy, marks=slow),
    pytest.param(replace_buffer, marks=slow),
    mutate_parameter_data,
    mutate_parameter_under_no_grad,
    pytest.param(replace_parameter_data, marks=slow),
    pytest.param(replace_parameter, marks=slow),
    replace_submodule,
    pytest.param(swap_submodule_kind, marks=slow),
    pytest.param(freeze, marks=slow),
    pytest.param(load_weights, marks=slow),
    optimizer_steps,
    pytest.param(weight_norm, marks=slow),
    pytest.param(tie_weights, marks=slow),
    train_mode,
    hook_changes_the_output,
    pytest.param(hook_changes_the_input, marks=slow),
    pytest.param(hook_on_the_whole, marks=slow),
    hook_on_gradients,
    backward_hook_on_submodule,
    pytest.param(patch_forward_of_submodule, marks=slow),
]


@pytest.mark.parametrize("event", HISTORIES, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_what_changes_between_calls_takes_effect(event: Callable[[Any], None]) -> None:
    net, model = twins(Leaky)
    net.eval()
    model.eval()
    same_run(net, model, signal(2, 9, 3))
    converted(net)
    event(net)
    event(model)
    for steps in (9, 20):
        same_run(net, model, signal(2, steps, 3))


@pytest.mark.parametrize("name", ["ConstantMemory", pytest.param("BuiltFromTheta", marks=slow)])
@pytest.mark.parametrize("how", ["data", "no_grad", "replace", "numpy", "load", "step"])
def test_no_stale_impulse_response(name: str, how: str) -> None:
    model = LTI[name].make().requires_grad_(False)
    net = linrec.compile(copy.deepcopy(model))
    x = LTI[name].args(2, 30)[0].detach()
    tensors = "a" if name == "ConstantMemory" else "theta"
    for _ in range(2):
        with torch.no_grad():
            same(net(x), model(x))
        for m in (net, model):
            value = getattr(m, tensors)
            if how == "data":
                value.data.mul_(0.7)
            elif how == "no_grad":
                with torch.no_grad():
                    value.mul_(0.7)
            elif how == "replace":
                value.data = value.data * 0.7
            elif how == "numpy":
                value.detach().numpy()[...] *= 0.7
            elif how == "load":
                m.load_state_dict({k: v * 0.7 for k, v in m.state_dict().items()})
            else:
                value.requires_grad_(True)
                m(x).sum().backward()
                torch.optim.SGD([value], lr=0.1).step()
                value.grad = None
        with torch.no_grad():
            same(net(x), model(x))
    converted(net)


def test_returned_tensors_may_be_overwritten() -> None:
    def free_run(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.ones_like(a)
        ys = []
        for t in range(x.shape[0]):
            h = a * h
            ys.append(h + 0 * t)
        return torch.stack(ys), h

    fn, a, x = linrec.compile(free_run), signal(3, grad=False), signal(9, grad=False)
    with torch.no_grad():
        for _ in range(3):
            out, last = fn(x, a)
            same((out, last), free_run(x, a))
            out.zero_()
            last.zero_()


class OnItsClass(nn.Module):
    """The coefficient and the step live on the class."""

    rate = 0.9

    def step(self, h: Tensor, x_t: Tensor) -> Tensor:
        return self.rate * h + x_t

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        for x_t in x.unbind(1):
            h = self.step(h, x_t)
        return h


def test_class_attributes_are_live(monkeypatch: pytest.MonkeyPatch) -> None:
    net, model = twins(OnItsClass)
    same_run(net, model, signal(2, 9, 3))
    monkeypatch.setattr(OnItsClass, "rate", 0.2)
    same_run(net, model, signal(2, 9, 3))
    monkeypatch.setattr(OnItsClass, "step", lambda self, h, x_t: -0.5 * h - x_t)
    same_run(net, model, signal(2, 20, 3))
    converted(net)


# ---- globals, closures, default arguments ------------------------------------------------------------

RATE = 0.9
TABLE = [0.9, 0.1]
SHIFT = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
SETTINGS: dict[str, Any] = {"rate": 0.5}
COUNT = 0


def activation(x: Tensor) -> Tensor:
    return x


def reads_globals(x: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = RATE * TABLE[0] * h + SETTINGS["rate"] * activation(x[:, t]) + SHIFT
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE", 0.1),
        pytest.param("RATE", 1, marks=slow),
        ("RATE", torch.tensor(0.3, dtype=torch.float64)),
        ("TABLE", [0.3]),
        pytest.param("SETTINGS", {"rate": -1.0}, marks=slow),
        ("SHIFT", torch.ones(3, dtype=torch.float64)),
        pytest.param("SHIFT", 0.5, marks=slow),
        ("activation", torch.sin),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_globals_are_live(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fn = linrec.compile(reads_globals)
    same_run(fn, reads_globals, signal(2, 9, 3))
    converted(fn)
    monkeypatch.setitem(globals(), name, value)
    same_run(fn, reads_globals, signal(2, 9, 3))
    same_run(fn, reads_globals, signal(2, 40, 3))


def test_globals_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TABLE", TABLE[:])
    monkeypatch.setitem(globals(), "SHIFT", SHIFT.clone())
    monkeypatch.setitem(globals(), "SETTINGS", dict(SETTINGS))
    fn = linrec.compile(reads_globals)
    same_run(fn, reads_globals, signal(2, 9, 3))
    for change in (lambda: TABLE.__setitem__(0, 0.2), lambda: SHIFT.mul_(2), lambda: SETTINGS.update(rate=3.0)):
        change()
        same_run(fn, reads_globals, signal(2, 9, 3))


def counts_calls(x: Tensor) -> Tensor:
    global COUNT
    COUNT += 1
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.5 if COUNT > 2 else 0.9) * h + x[:, t]
    return h


def test_global_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = linrec.compile(counts_calls)
    xs = [signal(2, 9, 3, grad=False) for _ in range(5)]
    monkeypatch.setitem(globals(), "COUNT", 0)
    want = [counts_calls(x) for x in xs]
    monkeypatch.setitem(globals(), "COUNT", 0)
    for i, x in enumerate(xs):
        same(fn(x), want[i], f"call {i}")
        assert i + 1 == COUNT


def test_closures_are_live() -> None:
    rate, shift, scale = 0.9, torch.ones(3, dtype=torch.float64, requires_grad=True), [1.0, 2.0]

    def closed(x: Tensor) -> Tensor:
        h = zeros(x)
        for t in range(x.shape[1]):
            h = rate * h + scale[1] * x[:, t] + shift
        return h

    fn: Any = linrec.compile(closed)
    x = signal(2, 15, 3)
    for step in range(4):
        same_run(fn, closed, x)
        got = torch.autograd.grad(fn(x).sum(), shift)
        same(got, torch.autograd.grad(closed(x).sum(), shift))
        if step == 0:
            rate = 0.2
        elif step == 1:
            scale[1] = -1.0
        else:
            shift = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
    assert fn.report.recurrences


def with_many_kinds_of_arguments(
    x: Tensor,
    decay: float = 0.9,
    *extra: Tensor,
    mask: Tensor | None = None,
    scale: Tensor = torch.ones(3, dtype=torch.float64),  # noqa: B008
    mode: str = "plain",
    reverse: bool = False,
    options: dict[str, Any] | None = None,
    **more: Tensor,
) -> dict[str, Tensor]:
    h = zeros(x)
    ys = []
    if reverse:
        x = x.flip(1)
    for t in range(x.shape[1]):
        u = x[:, t] * scale
        if mask is not None:
            u = u * mask[:, t, None]
        for tensor in (*extra, *more.values()):
            u = u + tensor[:, t]
        if options:
            u = u * options["gain"] + options.get("bias", 0)
        h = decay * h + (torch.tanh(u) if mode == "tanh" else u)
        ys.append(h)
    return {"y": torch.stack(ys, 1)}


def arguments(b: int, n: int) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    x, u, bits = signal(b, n, 3), signal(b, n, 3), torch.rand(b, n) > 0.5
    gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    return [
        ((x,), {}),
        ((x, 0.5), {}),
        ((), {"x": x, "decay": 0.25}),
        ((x, 1), {"mode": "tanh"}),
        ((x, 0.5, u), {}),
        ((x, 0.5, u, u), {"other": u}),
        ((x,), {"mask": bits}),
        ((x,), {"mask": None, "scale": signal(3)}),
        ((x,), {"reverse": True}),
        ((x,), {"options": {"gain": 0.5}}),
        ((x,), {"options": {"gain": gain, "bias": signal(3)}}),
        ((x,), {"options": {}}),
        ((x, gain), {}),
    ]


@slow
@pytest.mark.parametrize("which", range(len(arguments(2, 2))))
def test_arguments_of_every_kind(which: int) -> None:
    fn = linrec.compile(with_many_kinds_of_arguments)
    for steps in (9, 40, 1):
        args, kwargs = arguments(2, steps)[which]
        same_run(fn, with_many_kinds_of_arguments, *args, **kwargs)
    converted(fn)


def test_arguments_change_from_call_to_call() -> None:
    fn = linrec.compile(with_many_kinds_of_arguments)
    for steps in (7, 19):
        for args, kwargs in arguments(2, steps)[::3]:
            same_run(fn, with_many_kinds_of_arguments, *args, **kwargs)
            converted(fn)


def test_partial_and_method() -> None:
    fixed = functools.partial(with_many_kinds_of_arguments, decay=0.5, mode="tanh")
    fn = linrec.compile(fixed)
    same_run(fn, fixed, signal(2, 9, 3))
    model = LTI["LinearAsTransition"].make()
    bound = linrec.compile(model.forward)
    same(bound(x := signal(2, 9, 3)), model(x))


# ---- bodies that change after the traced lengths -----------------------------------------------------


def step_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 if t < 100 else 0.5) * h + x[:, t]
    return h


def index_saturates(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, min(t, 200)]
    return h


def own_counter(x: Tensor) -> Tensor:
    h, k = zeros(x), 0
    for x_t in x.unbind(1):
        k += 1
        if k > 50:
            h = 0.5 * h
        h = 0.9 * h + x_t
    return h


def length_of_list(x: Tensor) -> Tensor:
    h = zeros(x)
    ys: list[Tensor] = []
    for x_t in x.unbind(1):
        h = 0.9 * h + x_t
        ys.append(h if len(ys) < 40 else -h)
    return torch.stack(ys, 1)


COEFFICIENTS = [0.9 - 0.002 * t for t in range(400)]


def list_of_floats(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = COEFFICIENTS[t] * h + x[:, t]
    return h


def branch_on_length(x: Tensor) -> Tensor:
    h, a = zeros(x), 0.9
    if x.shape[1] > 100:
        a = 0.5
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
    return h


def scaled_by_length(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] / x.shape[1]
    return h * math.log(len(x[0]))


def last_step_differs(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.5 if t == x.shape[1] - 1 else 0.9) * h + x[:, t]
    return h


def every_64th_step(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t % 64 == 63:
            h = torch.zeros_like(h)
        h = 0.9 * h + x[:, t]
    return h


def bit_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 - 0.1 * ((t >> 7) & 1)) * h + x[:, t]
    return h


def string_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 - 0.1 * (len(str(t)) == 3)) * h + x[:, t]
    return h


def membership_of_t(x: Tensor) -> Tensor:
    h = zeros(x)
    marked = {77, 130, 250}
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        if t in marked:
            h = h * 0.1
    return h


def exception_driven(x: Tensor) -> Tensor:
    h = zeros(x)
    table = {t: 0.9 for t in range(70)}
    for t in range(x.shape[1]):
        try:
            a = table[t]
        except KeyError:
            a = 0.4
        h = a * h + x[:, t]
    return h


def capped_range(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(min(x.shape[1], 90)):
        h = 0.9 * h + x[:, t]
    return h


def skips_first_steps(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(max(0, x.shape[1] - 80), x.shape[1]):
        h = 0.9 * h + x[:, t]
    return h


def breaks_at(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t == 120:
            break
        h = 0.9 * h + x[:, t]
    return h


def continues_on(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        if t == 95:
            continue
        h = 0.9 * h + x[:, t]
    return h


def window_of_states(x: Tensor) -> Tensor:
    h = zeros(x)
    recent: list[Tensor] = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        recent.append(h)
        if len(recent) > 75:
            recent.pop(0)
    return torch.stack(recent).sum(0)


def delayed_feedback(x: Tensor) -> Tensor:
    hs: list[Tensor] = []
    for t in range(x.shape[1]):
        hs.append(x[:, t] + (0.5 * hs[t - 66] if t >= 66 else 0))
    return torch.stack(hs, 1)


def branch_on_batch(x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = (0.9 if x.shape[0] < 4 else 0.3) * h + x[:, t]
    return h / x.shape[0]


def position_table(x: Tensor) -> Tensor:
    h = zeros(x)
    table = torch.linspace(0, 1, 500, dtype=x.dtype)
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] * table[t]
    return h


def depends_on_grad_mode(x: Tensor) -> Tensor:
    h = zeros(x)
    a = 0.9 if torch.is_grad_enabled() and x.requires_grad else 0.3
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
    return h


CHANGING: list[Any] = [
    step_of_t,
    index_saturates,
    own_counter,
    pytest.param(length_of_list, marks=slow),
    list_of_floats,
    branch_on_length,
    pytest.param(scaled_by_length, marks=slow),
    last_step_differs,
    pytest.param(every_64th_step, marks=slow),
    pytest.param(bit_of_t, marks=slow),
    pytest.param(string_of_t, marks=slow),
    pytest.param(membership_of_t, marks=slow),
    pytest.param(exception_driven, marks=slow),
    pytest.param(capped_range, marks=slow),
    pytest.param(skips_first_steps, marks=slow),
    pytest.param(breaks_at, marks=slow),
    pytest.param(continues_on, marks=slow),
    window_of_states,
    delayed_feedback,
    pytest.param(branch_on_batch, marks=slow),
    pytest.param(position_table, marks=slow),
]


@pytest.mark.parametrize(
    ("lengths", "verify"),
    [
        ([(2, 8), (2, 260), (5, 20)], "off"),
        pytest.param([(2, 260), (2, 130)], "off", marks=slow),
        pytest.param([(2, 8), (2, 300)], "first", marks=slow),
        pytest.param([(2, 300), (2, 130)], "first", marks=slow),
    ],
    ids=["short then long", "long first", "short then long, checked", "long first, checked"],
)
@pytest.mark.parametrize("fn", CHANGING, ids=lambda f: f.__name__)
def test_bodies_that_change_later(fn: Any, lengths: list[tuple[int, int]], verify: str) -> None:
    net = linrec.compile(fn, verify=verify)
    for batch, steps in lengths:
        same_run(net, fn, signal(batch, steps, 3))


def test_grad_mode_read_by_the_program() -> None:
    net = linrec.compile(depends_on_grad_mode)
    for needed in (True, False, True):
        with torch.set_grad_enabled(needed):
            same(net(x := signal(2, 20, 3)), depends_on_grad_mode(x))
        same_run(net, depends_on_grad_mode, signal(2, 20, 3, grad=needed))


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


# ---- modes, copies, threads, nesting -----------------------------------------------------------------


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
        return [fn(*job).detach() for _ in range(3)][-1]

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
