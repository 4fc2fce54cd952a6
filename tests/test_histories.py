"""Lists that keep values from step to step for longer than any short trace: right at every length, one capture where it can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import linrec

LENGTHS = (12, 40, 64, 23)


def in_a_deque(x: Tensor) -> Tensor:
    past = deque([torch.zeros_like(x[:, 0])] * 20, maxlen=20)
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * past[0] + x[:, t]
        past.append(h)
        ys.append(h)
    return torch.stack(ys, 1)


def in_a_list(x: Tensor) -> Tensor:
    past = [torch.zeros_like(x[:, 0])] * 20
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * past[0] + x[:, t]
        past = [*past[1:], h]
        ys.append(h)
    return torch.stack(ys, 1)


def before_the_outputs(x: Tensor) -> Tensor:
    ys = [torch.zeros_like(x[:, 0])] * 15
    for t in range(x.shape[1]):
        ys.append(0.5 * ys[-15] + x[:, t])
    return torch.stack(ys, 1)


def in_their_places(x: Tensor) -> Tensor:
    states = [torch.zeros_like(x[:, 0])] * 9
    ys = []
    for t in range(x.shape[1]):
        for i in range(9):
            states[i] = 0.1 * i * states[i] + x[:, t]
        ys.append(states[0] + states[8])
    return torch.stack(ys, 1)


def at_every_second_step(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    past = [h] * 20
    ys = []
    for t in range(x.shape[1]):
        if t % 2 == 0:
            h = 0.9 * past[0] + x[:, t]
            past = [*past[1:], h]
        ys.append(h)
    return torch.stack(ys, 1)


def taken_and_put(x: Tensor) -> Tensor:
    past = deque([torch.zeros_like(x[:, 0])] * 15)
    for t in range(x.shape[1]):
        past.append(0.5 * past.popleft() + x[:, t])
    return torch.stack(list(past), 1)


def from_the_front(x: Tensor) -> Tensor:
    past = [torch.zeros_like(x[:, 0])] * 15
    ys = []
    for t in range(x.shape[1]):
        h = 0.5 * past.pop() + x[:, t]
        past.insert(0, h)
        ys.append(h)
    return torch.stack(ys, 1)


class InAnAttribute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.past = [torch.zeros_like(x[:, 0])] * 18
        ys = []
        for t in range(x.shape[1]):
            h = 0.5 * self.past.pop(0) + x[:, t]
            self.past.append(h)
            ys.append(h)
        return torch.stack(ys, 1)


def in_a_ring(x: Tensor) -> Tensor:
    seasons = [torch.ones_like(x[:, 0]) for _ in range(7)]
    level, ys = x[:, 0], []
    for t in range(x.shape[1]):
        season = seasons[t % 7]
        ys.append(level + season)
        risen = 0.5 * (x[:, t] - season) + 0.5 * level
        seasons[t % 7] = 0.9 * season + 0.1 * (x[:, t] - risen)
        level = risen
    return torch.stack(ys, 1)


def as_they_were(x: Tensor) -> Tensor:
    seasons = [0.1 * i * torch.ones_like(x[:, 0]) for i in range(4)]
    ys = []
    for t in range(x.shape[1]):
        season = seasons[t % 4]
        ys.append(season)
        seasons[t % 4] = season + 0.3 * (x[:, t] - season)
    return torch.stack(ys, 1)


ONE_CAPTURE = (in_a_deque, in_a_list, before_the_outputs, in_their_places, in_a_ring, as_they_were)
RIGHT = (at_every_second_step, taken_and_put, from_the_front, InAnAttribute)


@pytest.mark.parametrize("make", (*ONE_CAPTURE, *RIGHT), ids=lambda f: f.__name__)
def test_old_values_come_back(make: Callable[..., Any]) -> None:
    original: Any = make() if isinstance(make, type) else make
    compiled: Any = linrec.compile(make() if isinstance(make, type) else make, verify="off")
    for length in LENGTHS:
        x = torch.randn(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(compiled(x), original(x), rtol=1e-12, atol=1e-12, msg=f"T={length}")
    if make in ONE_CAPTURE:
        report = linrec.report(compiled)
        assert report.captures == 1
        assert all(r.form != "sequential" for r in report.recurrences)
