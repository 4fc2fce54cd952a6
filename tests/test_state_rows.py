"""A state has its rows first, whatever the program's order of axes; rows are chosen, reset and taken apart by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rowwise import assert_laws, assert_rows_end_alone, assert_rows_start_alone, form_of, random_inputs
from test_rows import smoothed
from torch import Tensor, nn

import linrec
from linrec.errors import StateError
from linrec.streaming import Stream


def heads(x: Tensor) -> Tensor:
    B, T, _ = x.shape
    z = smoothed(x.view(B, T, 2, 2).transpose(1, 2).reshape(B * 2, T, 2))
    return z.view(B, 2, T, 2).transpose(1, 2).reshape(B, T, 4)


def heads_before_rows(x: Tensor) -> Tensor:
    B, T, _ = x.shape
    z = smoothed(x.view(B, T, 2, 2).permute(2, 0, 1, 3).reshape(2 * B, T, 2))
    return z.view(2, B, T, 2).permute(1, 2, 0, 3).reshape(B, T, 4)


def every_channel_a_row(x: Tensor) -> Tensor:
    B, T, d = x.shape
    z = x.transpose(1, 2).reshape(B * d, T)
    h, ys = z.new_ones(B * d), []
    for t in range(T):
        h = 0.9 * h + z[:, t]
        ys.append(h)
    return torch.stack(ys, 1).view(B, d, T).transpose(1, 2)


def rows_last(x: Tensor) -> Tensor:
    z = x.permute(2, 0, 1)
    h, ys = z.new_zeros(z.shape[:2]), []
    for t in range(z.shape[2]):
        h = 0.9 * h + z[:, :, t]
        ys.append(h)
    return torch.stack(ys, 2).permute(1, 2, 0)


def time_in_front(x: Tensor) -> Tensor:
    """A window over time whose rows are not the first axis, and a first step of its own."""
    z = x.transpose(0, 1)
    h, ys = z[0], [z[0] * 3]
    for t in range(1, z.shape[0]):
        h = 0.5 * h + z[t] - 0.2 * z[t - 1]
        ys.append(h)
    return torch.stack(ys, 0).transpose(0, 1)


@pytest.mark.parametrize("program", [heads, heads_before_rows, every_channel_a_row, rows_last, time_in_front])
def test_states_are_batch_first(program: Callable[[Tensor], Tensor]) -> None:
    make = random_inputs(4)
    rnn = assert_laws(program, make, (13, 2, 1))
    assert_rows_end_alone(program, make)
    assert_rows_start_alone(program, make)
    (x,) = make(5, 9)
    for first in (1, 4):  # while warming up, and behind that
        _, state = rnn(x[:, :first])
        assert all(v.shape[0] == 5 for v in state.values())
        some = linrec.state_index(state, [3, 0])
        torch.testing.assert_close(rnn(x[[3, 0], first:], state=some)[0], program(x[[3, 0]])[:, first:])


def test_rows_of_a_call_with_its_state() -> None:
    (x,) = random_inputs(4)(3, 9)
    net: Any = linrec.compile(heads, verify="off")
    _, state = net(x, lengths=torch.tensor([9, 2, 5]), return_state=True)
    for row, steps in enumerate((9, 2, 5)):
        _, alone = form_of(net, x)(x[row : row + 1, :steps])
        torch.testing.assert_close(state["h"][row : row + 1], alone["h"])


# ---- what rows have in common ------------------------------------------------------------------------


def common_gain(x: Tensor) -> Tensor:
    """A state as long as the batch that is not of the batch."""
    gain, h, ys = torch.ones(4, dtype=x.dtype), torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        gain = gain * 0.9
        h = h + gain * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def test_what_rows_have_in_common_is_named_so_and_stays() -> None:
    (x,) = random_inputs(4)(4, 9)
    net = linrec.compile(common_gain, verify="off")
    rnn = form_of(net, x)
    assert {leaf.name for leaf in rnn.leaves} == {"gain.shared", "h"}
    _, state = rnn(x[:, :4])
    some = linrec.state_index(state, [2, 1])
    torch.testing.assert_close(rnn(x[[2, 1], 4:], state=some)[0], common_gain(x[[2, 1]])[:, 4:])
    stream = Stream(rnn, 4)
    stream(x[:, :4])
    with pytest.raises(StateError, match=r"LR4008.*gain\.shared"):
        stream.reset(torch.tensor([True, False, False, False]))


@pytest.mark.parametrize("rows", [[True, False, True], torch.tensor([True, False, True]), [0, 2], slice(0, 3, 2)])
def test_rows_by_numbers_and_by_marks(rows: Any) -> None:
    state = {"h": torch.arange(6.0).view(3, 2), "t": torch.tensor(4), "g.shared": torch.ones(3)}
    found = linrec.state_index(state, rows)
    assert found["h"].tolist() == [[0.0, 1.0], [4.0, 5.0]] and found["t"] == 4 and found["g.shared"].shape == (3,)


def test_one_row_is_a_list_of_one() -> None:
    with pytest.raises(StateError, match=r"\[1\]"):
        linrec.state_index({"h": torch.zeros(3, 2)}, 1)  # type: ignore[arg-type]
    assert linrec.state_index({"h": torch.zeros(3, 2)}, [])["h"].shape == (0, 2)


# ---- streams -----------------------------------------------------------------------------------------


def from_the_first_input(x: Tensor) -> Tensor:
    return smoothed(x - x[:, :1])


def begins_with_the_input(x: Tensor) -> Tensor:
    h, ys = 2 * x[:, 0], []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("program", [from_the_first_input, begins_with_the_input])
def test_reset_rows_start_from_their_own_first_input(program: Callable[[Tensor], Tensor], in_place: bool) -> None:
    x = torch.randn(3, 12, 2, dtype=torch.float64)
    stream = linrec.stream(linrec.compile(program, verify="off"), 3, x)
    step = stream.step_ if in_place else stream.step
    for t in range(5):
        step(x[:, t])
    stream.reset(torch.tensor([False, True, False]))
    with pytest.raises(StateError, match="LR4006"):
        assert stream.state
    other = stream.rows([1, 2]).step(x[1:, 5])
    torch.testing.assert_close(other[0], program(x[1:2, 5:6])[0, -1])
    torch.testing.assert_close(other[1], program(x[2:, :6])[0, -1])
    step(x[:, 5])
    stream.reset(torch.tensor([False, False, True]))
    y = step(x[:, 6])
    for row, start in enumerate((0, 5, 6)):
        torch.testing.assert_close(y[row], program(x[row : row + 1, start:7])[0, -1])
    assert stream.state is not None


class Learned(nn.Module):
    """A first state that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.h0 = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = self.h0.expand(x.shape[0], 2), []
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


def test_reset_rows_start_from_the_first_state_as_it_is_now() -> None:
    x, model = torch.randn(3, 8, 2, dtype=torch.float64), Learned()
    stream = linrec.stream(linrec.compile(model, verify="off"), 3, x)
    stream(x[:, :4])
    with torch.no_grad():
        model.h0.fill_(-5.0)
    stream.reset(torch.tensor([False, True, False]))
    assert stream.state is not None and torch.equal(stream.state["h"][1], model.h0)
    torch.testing.assert_close(stream(x[:, 4:])[1], model(x[1:2, 4:])[0])


def test_rows_that_depend_on_each_other_are_not_reset() -> None:
    def centred(x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.9 * h + x[:, t]
            h = h - h.mean(0)  # here
            ys.append(h)
        return torch.stack(ys, 1)

    x = torch.randn(3, 6, 2, dtype=torch.float64)
    stream = linrec.stream(linrec.compile(centred, verify="off"), 3, x)
    stream(x)
    with pytest.raises(StateError, match=r"LR4008.*rows"):
        stream.reset(torch.tensor([True, False, False]))


def test_a_stream_keeps_its_rows_after_a_reset_too() -> None:
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    stream = linrec.stream(linrec.compile(smoothed, verify="off"), 3, x)
    stream(x)
    stream.reset()
    with pytest.raises(StateError, match=r"LR4002.*3 rows"):
        stream(x[:2])


@pytest.mark.parametrize("change", ["dtype", "rows", "axes", "names", "kind"])
def test_inputs_kept_while_warming_up_are_checked(change: str) -> None:
    (x,) = random_inputs(4)(3, 9)
    rnn = form_of(linrec.compile(time_in_front, verify="off"), x)
    _, state = rnn.step(x[:, 0])
    ((name, seen),) = state.items()
    broken: dict[str, Any] = {
        "dtype": {name: seen.float()}, "rows": {name: seen[:2]}, "axes": {name: seen[0]}, "names": {**state, "h": seen},
        "kind": {name: [1.0]},
    }  # fmt: skip
    with pytest.raises(StateError, match="LR4001"):
        rnn.step(x[:, 1], state=broken[change])


def test_results_that_are_no_tensors_pass() -> None:
    def net(x: Tensor) -> tuple[Tensor, str, int]:
        return smoothed(x), "smoothed", 3

    (x,) = random_inputs(4)(3, 9)
    compiled: Any = linrec.compile(net, verify="off")
    y, *rest = compiled(x, lengths=torch.tensor([9, 2, 4]))
    assert rest == ["smoothed", 3] and not y[1, 2:].any()
