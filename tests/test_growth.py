"""Growth: time a step does not depend on the length, and states are not stored where only a readout of them is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn_shapes import Dense, Modes, decay, gated
from test_plain import attention, delta
from torch import Tensor

import linrec
from linrec.debug.memory import peak
from linrec.kernels import compiled_matrix

LENGTHS = tuple(1 << k for k in range(11, 17))
FLAT = 1.3


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


# time ------------------------------------------------------------------------------------------------

TIMED: dict[str, tuple[str, Callable[[], Any], Callable[[int, int], tuple[Tensor, ...]]]] = {
    "gates": ("scan", lambda: gated, lambda b, t: (torch.rand(b, t, 64), torch.randn(b, t, 64))),
    "decay": ("scan", lambda: decay, lambda b, t: (torch.rand(64), torch.randn(b, t, 64))),
    "dense": ("chunked", lambda: Dense(32, 4, 4, "readout", False), lambda b, t: (torch.randn(8 * b, t, 4),)),
    "attention": (
        "chunked", lambda: attention,
        lambda b, t: (*(torch.randn(b, t, 64) for _ in range(3)), 0.9 + 0.1 * torch.rand(b, t, 64)),
    ),
    "delta rule": ("wy", lambda: delta, lambda b, t: (torch.randn(b, t, 64), unit(torch.randn(b, t, 64)), torch.randn(b, t, 64))),
}  # fmt: skip
TURNS = 30


def seconds(run: Callable[[], object]) -> float:
    started = time.thread_time()  # of this thread alone, in which everything runs
    run()
    return time.thread_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMED)
def test_time_a_step_is_flat(name: str) -> None:
    """From 2^11 to 2^16 steps within FLAT, for equally many numbers: twice the steps are half the rows.

    So all calls move the same memory and have the same fixed part, and what grows with the length alone is seen. The
    fastest of several calls in turns counts.
    """
    form, make, inputs = TIMED[name]
    net = linrec.compile(make(), verify="off", forms=form)
    given = {steps: inputs(2 * LENGTHS[-1] // steps, steps) for steps in LENGTHS}
    best = dict.fromkeys(LENGTHS, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            net(*given[LENGTHS[0]])
            assert linrec.report(net).recurrences[0].form == form
            for _ in range(TURNS):
                for steps, tensors in given.items():
                    best[steps] = min(best[steps], seconds(lambda tensors=tensors: net(*tensors)))  # type: ignore[misc]
                if max(best.values()) <= FLAT * min(best.values()):
                    break
    finally:
        torch.set_num_threads(threads)
    told = ", ".join(f"{steps}: {1e9 * s / (2 * LENGTHS[-1]):.1f} ns" for steps, s in best.items())
    print(f"{name}, a step of a row: {told}")
    assert max(best.values()) <= FLAT * min(best.values()), told


# memory ----------------------------------------------------------------------------------------------


def test_the_peak_is_what_is_held_at_once() -> None:
    def run() -> Tensor:
        one = torch.zeros(1000, 250)  # 1 MB
        two = one + 1
        del one
        return two * two

    assert 1.9e6 < peak(run) < 2.2e6


STEPS = 2048
FRACTIONS = {("compiled", False): 0.25, ("compiled", True): 0.5, ("plain", False): 0.5, ("plain", True): 0.75}
READ: dict[str, tuple[str, Callable[[], Any], Callable[[], tuple[Tensor, ...]], int]] = {
    # form, program, inputs, numbers of a state
    "attention": (
        "chunked", lambda: attention,
        lambda: (*(torch.randn(2, STEPS, 64) for _ in range(3)), 0.9 + 0.1 * torch.rand(2, STEPS, 64)), 2 * 64 * 64,
    ),
    "delta rule": (
        "wy", lambda: delta,
        lambda: (torch.randn(2, STEPS, 64), unit(torch.randn(2, STEPS, 64)), torch.randn(2, STEPS, 64)), 2 * 64 * 64,
    ),
    "modes": ("convolution", lambda: Modes(4, 64), lambda: (torch.randn(16, STEPS, 4),), 16 * 4 * 64),
    "dense": ("convolution", lambda: Dense(128, 1, 1, "readout", True), lambda: (torch.randn(128, STEPS, 1),), 128 * 128),
    "dense in chunks": ("chunked", lambda: Dense(128, 1, 1, "readout", True), lambda: (torch.randn(128, STEPS, 1),), 128 * 128),
    "last of dense": ("final", lambda: Dense(128, 1, 1, "last", False), lambda: (torch.randn(256, STEPS, 1),), 256 * 128),
}  # fmt: skip


@pytest.mark.parametrize("kernels", ["compiled", "plain"])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])
@pytest.mark.parametrize("name", READ)
def test_states_are_not_stored(name: str, train: bool, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call holds at most is a fraction of all states: rows, chunks and, with gradients, what they need again."""
    form, make, inputs, numbers = READ[name]
    if kernels == "plain":
        monkeypatch.setattr(compiled_matrix, "fits", lambda _: False)
    net = linrec.compile(make(), verify="off", forms=form)
    given = [x.requires_grad_(train) for x in inputs()]
    weights = list(net.parameters()) if isinstance(net, torch.nn.Module) else []
    leaves = [x for x in (*given, *weights) if x.requires_grad]

    def run() -> object:
        with torch.set_grad_enabled(train):
            y = net(*given)
            return torch.autograd.grad(y.sum(), leaves, allow_unused=True) if train else y

    held = peak(run)
    assert linrec.report(net).recurrences[0].form == form
    states = 4 * numbers * STEPS
    print(f"{name}: {held / 2**20:.1f} MiB at most, all states are {states / 2**20:.1f} MiB")
    assert held <= states * FRACTIONS[kernels, train]
