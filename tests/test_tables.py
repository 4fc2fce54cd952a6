"""Tables that are read at the number of the step: they name themselves where steps go past their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import leaky
from rowwise import form_of
from torch import Tensor, nn

import linrec
from linrec.errors import StateError

LONG = 20


class Table(nn.Module):
    """A table of 20 entries, looked up in some way."""

    def __init__(self, look: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.positions = nn.Parameter(torch.rand(LONG, 3)), nn.Embedding(LONG, 3)
        self.look = look

    def forward(self, x: Tensor) -> Tensor:
        return self.look(self, x)


def run(x: Tensor) -> Tensor:
    return leaky(x, torch.tensor(0.5))


def coefficients(m: Any, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = m.table[t] * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def coefficients_ahead(m: Any, x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = m.table[t + 2] * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def added_positions(m: Any, x: Tensor) -> Tensor:
    return run(x + m.positions(torch.arange(x.shape[1])))


def added_slice(m: Any, x: Tensor) -> Tensor:
    return run(x + m.table[: x.shape[1]])


LOOKS = {"table": (coefficients, 20), "positions": (added_positions, 20), "slice": (added_slice, 20)}
LOOKS["ahead"] = (coefficients_ahead, 18)


@pytest.mark.parametrize("how", ["chunk", "step", "stream", "call", "lengths"])
@pytest.mark.parametrize("name", LOOKS)
def test_a_table_names_itself_at_its_end(name: str, how: str) -> None:
    look, steps = LOOKS[name]
    net: Any = linrec.compile(Table(look), verify="off")
    x = torch.randn(2, 9, 3)
    rnn, stream = form_of(net, x), linrec.stream(net, 2, x)
    _, state = rnn(torch.randn(2, steps - 1, 3))
    rnn.step(x[:, 0], state=state)
    stream.state = state
    stream.step(x[:, 0])
    _, full = rnn(x[:, :1], state=state)
    for _ in range(2):  # the first step is checked, later ones are not
        with pytest.raises(StateError, match=r"LR4010.*(table|positions\.weight) has 20 entries") as caught:
            if how == "chunk":
                rnn(x[:, :2], state=state)
            elif how == "step":
                rnn.step(x[:, 0], state=full)
            elif how == "stream":
                stream.step(x[:, 0])
            elif how == "call":
                net(torch.randn(2, steps + 1, 3), return_state=True)
            else:
                net(torch.randn(2, steps + 1, 3), lengths=torch.tensor([3, steps + 1]))
        assert caught.value.line is not None and "start afresh" in str(caught.value)
    stream.reset()
    stream(x)
    net(torch.randn(2, steps + 1, 3), lengths=torch.tensor([3, steps]))


def test_other_lookups_keep_their_own_errors() -> None:
    """Tokens outside a vocabulary, beside a table that is long enough."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.table = nn.Embedding(5, 3), nn.Parameter(torch.rand(LONG, 3))

        def forward(self, x: Tensor) -> Tensor:
            return run(self.words(x) + self.table[: x.shape[1]])

    net: Any = linrec.compile(Tokens(), verify="off")
    rnn = form_of(net, torch.randint(0, 5, (2, 9)))
    with pytest.raises(IndexError):
        rnn(torch.full((2, 9), 7))
    _, state = rnn(torch.randint(0, 5, (2, 9)))
    with pytest.raises(IndexError):
        rnn.step(torch.full((2,), 7), state=state)
