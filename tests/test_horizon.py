"""What short traces do not show: lists and tensors that are cut, sizes that are compared, numbers made of the length."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from contract import converted, same
from torch import Tensor

import linrec

LENGTHS = (12, 64, 7, 19, 20, 21, 22, 3, 41)
HUNDRED = 100


class Settings:
    window = 20
    sizes: ClassVar = {"window": 20}
    weights: ClassVar = [0.9] * 10

    @property
    def half(self) -> int:
        return 10 + self.window // 2


SETTINGS = Settings()


def steps(x: Tensor, a: float = 0.5) -> list[Tensor]:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return ys


def final(x: Tensor, a: float = 0.5, b: float = 1.0) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + b * x[:, t]
    return h


def over(pieces: tuple[Tensor, ...]) -> Tensor:
    h = torch.zeros_like(pieces[0][:, 0])
    for piece in pieces:
        h = 0.1 * h
        for t in range(piece.shape[1]):
            h = 0.5 * h + piece[:, t]
    return h


def newest(ys: list[Tensor], n: int) -> list[Tensor]:
    return ys[-n:]


def cleared(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, -20:] = 0.5
    return x


def deleted(x: Tensor) -> Tensor:
    ys = steps(x)
    del ys[20:]
    return sum(ys, x[:, 0])


def tried(x: Tensor) -> Tensor:
    ys = steps(x)
    try:
        return ys[20]
    except IndexError:
        return ys[-1]


def shortened(x: Tensor) -> Tensor:
    ys = steps(x)
    while len(ys) > 20:
        ys.pop(0)
    return torch.stack(ys).sum(0)


def kept_short(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys: list[Tensor] = []
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        ys = [*ys, h][-20:]
    return torch.stack(ys).sum(0)


def after_a_history(x: Tensor) -> Tensor:
    ys = [x[:, 0]] * 20
    for t in range(x.shape[1]):
        ys.append(0.5 * ys[-1] + x[:, t])
    return torch.stack(ys[:25]).sum(0) + torch.stack(ys[20:]).sum(0)


def queue_of_twenty(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys: deque[Tensor] = deque(maxlen=20)
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        ys.append(h)
    return torch.stack(list(ys)).mean(0)


def zipped(x: Tensor, with_what: Iterable[object]) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for u, _ in zip(x.unbind(1), with_what, strict=False):
        h = 0.5 * h + u
    return h


def zipped_list(x: Tensor) -> Tensor:
    h, weights = torch.zeros_like(x[:, 0]), [0.9] * 20
    for u, w in zip(x.unbind(1), weights, strict=False):
        h = 0.5 * h + w * u
    return h


def zipped_table(x: Tensor) -> Tensor:
    h, table = torch.zeros_like(x[:, 0]), torch.linspace(0, 1, 20, dtype=x.dtype)
    for u, w in zip(x.unbind(1), table, strict=False):
        h = 0.5 * h + w * u
    return h


def zipped_range(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for _, u in zip(range(20), x.unbind(1), strict=False):
        h = 0.5 * h + u
    return h


def sliced_range(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1])[:20]:
        h = 0.5 * h + x[:, t]
    return h


def first_of_iterator(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for u in itertools.islice(x.unbind(1), 20):
        h = 0.5 * h + u
    return h


def in_blocks(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for i in range(0, x.shape[1], 20):
        for u in x[:, i : i + 20].unbind(1):
            h = 0.5 * h + u
        h = 0.1 * h
    return h


def compared_by_difference(x: Tensor) -> Tensor:
    if x.shape[1] - 20 > 0:
        x = 2 * x
    return final(x)


def compared_by_name(x: Tensor) -> Tensor:
    over = x.shape[1] - 20
    return final(2 * x if over > 0 else x)


def compared_after_the_loop(x: Tensor) -> Tensor:
    h, n = final(x), x.shape[1]
    return 2 * h if n > 20 else h


def compared_in_a_list(x: Tensor) -> Tensor:
    h, sizes = final(x), [x.shape[1]]
    return 2 * h if sizes[0] > 20 else h


def found_in_a_range(x: Tensor) -> Tensor:
    return final(x) * (2 if 20 in range(x.shape[1]) else 1)


def compared_by_ratio(x: Tensor) -> Tensor:
    if HUNDRED / x.shape[1] < 5:
        x = 2 * x
    return final(x)


def counted_down(x: Tensor) -> Tensor:
    h, n = final(x), x.shape[1]
    while n > 20:
        h, n = 0.5 * h, n - 7
    return h


def at_most_fifty(x: Tensor) -> Tensor:
    assert x.shape[1] <= 50
    return final(x)


def constant_of_length(x: Tensor) -> Tensor:
    return final(x) * torch.tensor(1.0 / x.shape[1], dtype=x.dtype)


def table_of_length(x: Tensor) -> Tensor:
    T = x.shape[1]
    w = torch.tensor([math.cos(t / T) for t in range(T)], dtype=x.dtype)
    h = torch.zeros_like(x[:, 0])
    for t in range(T):
        h = 0.5 * h + w[t] * x[:, t]
    return h


CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "first steps": lambda x: final(x[:, :20]),
    "last steps": lambda x: final(x[:, -20:]),
    "last steps by length": lambda x: final(x[:, x.shape[1] - 20 :]),
    "every twentieth": lambda x: final(x[:, ::20]),
    "smaller of two": lambda x: final(x[:, : min(x.shape[1], 20)]),
    "last values": lambda x: sum(steps(x)[-20:], x[:, 0]),
    "first values": lambda x: sum(steps(x)[:20], x[:, 0]),
    "but first values": lambda x: sum(steps(x)[20:], x[:, 0]),
    "every twentieth value": lambda x: sum(steps(x)[::20], x[:, 0]),
    "stack of last values": lambda x: torch.stack(steps(x)[-20:], 1).mean(1),
    "by a setting": lambda x: sum(steps(x)[-Settings.window :], x[:, 0]),
    "by an entry": lambda x: sum(steps(x)[-SETTINGS.sizes["window"] :], x[:, 0]),
    "by a property": lambda x: sum(steps(x)[-SETTINGS.half :], x[:, 0]),
    "zip of a list twice": lambda x: zipped(x, list(SETTINGS.weights) * 2),
    "by a slice": lambda x: sum(steps(x)[slice(0, 20)], x[:, 0]),
    "by a function": lambda x: sum(newest(steps(x), 20), x[:, 0]),
    "queue at the end": lambda x: sum(deque(steps(x), 20), x[:, 0]),
    "chosen by number": lambda x: sum((y for i, y in enumerate(steps(x)) if i < 20), x[:, 0]),
    "split": lambda x: over(torch.split(x, 20, 1)),
    "chunk": lambda x: over(x.chunk(20, 1)),
    "mean of split": lambda x: torch.stack([c.mean(1) for c in torch.split(torch.stack(steps(x), 1), 20, 1)]).sum(0),
    "at most": lambda x: final(x, b=min(0.1, 2 / x.shape[1])),
    "divided": lambda x: final(x) * (5 // x.shape[1] + 1),
    "largest": lambda x: final(x) * max(x.shape[1], 20),
    "last steps set to zero": lambda x: final(cleared(x)),
    "zip of a range": lambda x: zipped(x, range(20)),
} | {
    f.__name__: f
    for f in (
        deleted, tried, shortened, kept_short, after_a_history, queue_of_twenty, zipped_list, zipped_table, zipped_range, sliced_range,
        first_of_iterator, in_blocks, compared_by_difference, compared_by_name, compared_after_the_loop, compared_in_a_list, found_in_a_range, compared_by_ratio, counted_down,
        at_most_fifty, constant_of_length, table_of_length,
    )
}  # fmt: skip


def outcome(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | type[Exception]:
    try:
        return call(x)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        return type(error)


SLOW = {"queue at the end"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CUT])
def test_what_short_traces_do_not_show_is_not_lost(name: str) -> None:
    program = CUT[name]
    net = linrec.compile(program, verify="off")
    for length in LENGTHS:
        x = torch.randn(2, length, 3, dtype=torch.float64)
        want, got = outcome(program, x), outcome(net, x)
        if isinstance(want, Tensor) and isinstance(got, Tensor):
            same(got, want, f"T={length}")
        else:
            assert got is want, length


def by_the_mean(x: Tensor) -> Tensor:
    return final(x) * (1.0 / x.shape[1])


def by_named_numbers(x: Tensor) -> Tensor:
    T = x.shape[1]
    dt = 1.0 / T
    decay = math.exp(-dt)
    h = torch.zeros_like(x[:, 0])
    for t in range(T):
        h = decay * h + dt * x[:, t]
    return h


def by_a_factor(x: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    for t in range(T):
        h = torch.add((1 - 1 / T) * h, x[:, t] / math.sqrt(T))
    return h + (T // 3) * x[:, 0]


def by_an_alpha(x: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    for t in range(T):
        h = torch.add(0.5 * h, x[:, t], alpha=1.0 / T).add(x[:, t], alpha=1.0 / (t + 1))
        h = torch.sub(x[:, t], h, alpha=T**-0.5)
    return h


def by_the_last_step(x: Tensor) -> Tensor:
    """The first step of a loop in reverse has a number of its own, which the length makes."""
    T = x.shape[1]
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in reversed(range(T)):
        h = 0.5 * h * math.cos(0.3 * t) + x[:, t] if t != T - 1 else h * math.cos(0.3 * t) - x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def by_the_first_value(x: Tensor) -> Tensor:
    h, ys = None, []
    for t in reversed(range(x.shape[1])):
        u = x[:, t] * math.cos(0.3 * t)
        h = u if h is None else 0.5 * h + u
        ys.append(h)
    return torch.stack(ys, 1)


def at_most_a_million(x: Tensor) -> Tensor:
    assert x.shape[1] <= 1_000_000
    return F.silu(final(x) / x.shape[1])


def last_of_three_hundred(x: Tensor) -> Tensor:
    return torch.stack(steps(x), 1)[:, :300].mean(1)


@pytest.mark.parametrize(
    "program",
    [by_the_mean, by_named_numbers, by_a_factor, by_an_alpha, by_the_last_step, by_the_first_value, at_most_a_million,
     last_of_three_hundred],
)  # fmt: skip
def test_numbers_made_of_the_length_are_captured_once(program: Callable[[Tensor], Tensor]) -> None:
    net = linrec.compile(program, verify="off")
    for length in (12, 64, 7, 29, 200):
        x = torch.randn(2, length, 3, dtype=torch.float64)
        same(net(x), program(x), f"T={length}")
        assert converted(net), "no recurrence is parallel"
    assert linrec.report(net).captures == 1


def test_a_number_of_the_length_that_has_none_is_raised() -> None:
    def program(x: Tensor) -> Tensor:
        return final(x) * (1.0 / (x.shape[1] - 3)) * (1.0 / (x.shape[1] - 20))

    net = linrec.compile(program, verify="off")
    for length in (3, 20):
        net(torch.randn(2, 12, 3))
        with pytest.raises(ZeroDivisionError):
            net(torch.randn(2, length, 3))


def test_the_last_twenty_of_many_are_parallel() -> None:
    def program(x: Tensor) -> Tensor:
        return torch.stack(steps(x)[-20:], 1).mean(1)

    net = linrec.compile(program, verify="off")
    for length in (64, 100, 300):
        x = torch.randn(2, length, 3, dtype=torch.float64)
        same(net(x), program(x))
        assert converted(net)
    assert linrec.report(net).captures == 1
