"""A compiled program reads its globals, closures and arguments of every kind at each call."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from cases import LTI, zeros
from contract import converted, same, same_run, signal
from torch import Tensor

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


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
