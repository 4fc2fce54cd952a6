"""Batch and time in one axis, before or after a recurrence: each step is still a step, each row still a row."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rowwise import assert_laws, assert_rows_end_alone, assert_rows_start_alone, random_inputs
from test_rows import smoothed
from torch import Tensor, nn

import linrec
from linrec.errors import StateError

WEIGHT = torch.randn(4, 5, dtype=torch.float64)


class Before(nn.Module):
    """A projection of (B*T, d) in front of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        return smoothed(torch.tanh(self.project(x.reshape(-1, d))).reshape(B, T, d))


class After(nn.Module):
    """A norm and a head of (B*T, d) behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(4, dtype=torch.float64), nn.Linear(4, 6, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return self.head(F.gelu(self.norm(smoothed(x).flatten(0, 1)))).view(B, T, 6)  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """An embedding of (B, T), logits of (B*T, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4, dtype=torch.float64), nn.Linear(4, 7, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(smoothed(self.embed(x)).flatten(0, 1)).view(*x.shape, 7)  # type: ignore[no-any-return]


def time_first(x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    T, B, d = x.shape
    z = (x.reshape(T * B, d) @ WEIGHT).relu().reshape(T, B, 5)
    h, ys = torch.zeros(B, 5, dtype=x.dtype), []
    for t in range(T):
        h = 0.5 * h + z[t]
        ys.append(h)
    return torch.stack(ys, 0).transpose(0, 1)


def an_image_a_step(x: Tensor) -> Tensor:
    B, T, d = x.shape
    return F.conv1d(smoothed(x).reshape(B * T, 1, d), torch.ones(1, 1, 3, dtype=x.dtype), padding=1).reshape(B, T, d)


def heads_and_steps_in_one(x: Tensor) -> Tensor:
    B, T, d = x.shape
    return smoothed(x).reshape(B * T * 2, d // 2).softmax(-1).reshape(B, T, d)


def statistics_that_are_known(x: Tensor) -> Tensor:
    y = smoothed(x)
    mean, variance = torch.zeros(4, dtype=x.dtype), 2 * torch.ones(4, dtype=x.dtype)
    return F.batch_norm(y.reshape(-1, 4), mean, variance, training=False).reshape(y.shape)


def both_sides(x: Tensor) -> tuple[Tensor, Tensor]:
    B, T, d = x.shape
    y = smoothed((x.reshape(B * T, d) * 2).reshape(B, T, d))
    z = torch.einsum("nd,de->ne", y.reshape(B * T, d), WEIGHT).reshape(B, T, 5)
    return z, z[:, -1]


PROGRAMS = [time_first, an_image_a_step, heads_and_steps_in_one, statistics_that_are_known, both_sides]


@pytest.mark.parametrize(
    "program", [Before(), After(), *PROGRAMS], ids=lambda p: getattr(p, "__name__", type(p).__name__)
)
def test_steps_are_steps_and_rows_are_rows(program: Callable[..., Tensor]) -> None:
    make = random_inputs(4)
    assert_laws(program, make)
    assert_rows_end_alone(program, make)
    assert_rows_start_alone(program, make)


def test_tokens() -> None:
    assert_laws(Tokens(), lambda batch, steps: [torch.randint(0, 7, (batch, steps))])


def over_all_steps(x: Tensor) -> Tensor:
    B, T, d = x.shape
    y = smoothed(x).reshape(B * T, d)
    return (y - y.mean(0)).reshape(B, T, d)  # here


def neighbours_of_other_steps(x: Tensor) -> Tensor:
    y = smoothed(x).reshape(-1, x.shape[2])
    return y.roll(1, 0).reshape(x.shape)  # here


def the_wrong_way_back(x: Tensor) -> Tensor:
    B, T, d = x.shape
    return smoothed(x).reshape(B * T, d).reshape(T, B, d).transpose(0, 1)  # here


def statistics_of_the_call(x: Tensor) -> Tensor:
    y = smoothed(x)
    return F.batch_norm(y.reshape(-1, x.shape[2]), None, None, training=True).reshape(y.shape)  # here


def left_in_one(x: Tensor) -> Tensor:
    return smoothed(x).reshape(-1, x.shape[2])  # here


@pytest.mark.parametrize(
    "program", [over_all_steps, neighbours_of_other_steps, the_wrong_way_back, statistics_of_the_call, left_in_one]
)
def test_what_mixes_steps_is_refused_with_its_line(program: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(StateError, match=r"LR400[34]") as found:
        linrec.recurrent(linrec.compile(program, verify="off"), torch.randn(3, 9, 4, dtype=torch.float64))
    assert found.value.line is not None and "# here" in linecache.getline(__file__, found.value.line)


def test_rows_folded_the_other_way_round_are_not_taken_apart() -> None:
    def mixed(x: Tensor) -> Tensor:
        y = smoothed(x)
        return y.reshape(-1, x.shape[2]).roll(x.shape[1], 0).reshape(y.shape)

    net: Any = linrec.compile(mixed, verify="off")
    with pytest.raises(StateError, match=r"LR400[348]"):
        net(torch.randn(3, 9, 4, dtype=torch.float64), lengths=torch.tensor([9, 4, 2]))
