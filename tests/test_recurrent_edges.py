"""What users do to a recurrent form: reuse buffers, write into results, exchange parts of the model, begin in odd ways."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rowwise import form_of
from test_rows import smoothed
from torch import Tensor, nn

import linrec
from linrec.errors import StateError


class Model(nn.Module):
    """A decay and a linear drive."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.drive = nn.Parameter(torch.rand(3, dtype=torch.float64)), nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.sigmoid(self.decay) * h + self.drive(x[:, t])
            ys.append(h)
        return torch.stack(ys, 1)


def sequence(steps: int = 12) -> Tensor:
    return torch.randn(2, steps, 3, dtype=torch.float64)


# ---- memory ------------------------------------------------------------------------------------------


def the_last_input(x: Tensor) -> Tensor:
    p, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        ys.append(x[:, t] - p)
        p = x[:, t]
    return torch.stack(ys, 1)


def two_back(x: Tensor) -> Tensor:
    p = q = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        ys.append(q + 1)
        p, q = x[:, t], p
    return torch.stack(ys, 1)


def exchanged(x: Tensor) -> Tensor:
    a, b, ys = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0]), []
    for t in range(x.shape[1]):
        a, b = b, a + x[:, t]
        ys.append(a)
    return torch.stack(ys, 1)


def begins_as_nothing(x: Tensor) -> Tensor:
    h, ys = None, []
    for t in range(x.shape[1]):
        h = x[:, t] if h is None else torch.tanh(h) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


MEMORIES = [the_last_input, two_back, exchanged, begins_as_nothing, smoothed]


@pytest.mark.parametrize("how", ["step", "chunk", "stream", "step_"])
@pytest.mark.parametrize("program", MEMORIES)
def test_one_buffer_for_all_samples(program: Callable[[Tensor], Tensor], how: str) -> None:
    """A ring buffer of an audio driver: what was read from it is not read again."""
    x, ys, state = sequence(), [], None
    net = linrec.compile(program, verify="off")
    rnn, stream = form_of(net, x), linrec.stream(net, 2, x)
    buffer = torch.empty(2, 3, 3, dtype=x.dtype) if how == "chunk" else torch.empty(2, 3, dtype=x.dtype)
    for t in range(0, 12, 3 if how == "chunk" else 1):
        buffer.copy_(x[:, t : t + 3] if how == "chunk" else x[:, t])
        if how == "chunk":
            y, state = rnn(buffer, state=state)
        elif how == "step":
            y, state = rnn.step(buffer, state=state)
        else:
            y = stream.step(buffer) if how == "stream" else stream.step_(buffer)
        ys.append(y.clone())
    torch.testing.assert_close(torch.cat(ys, 1) if how == "chunk" else torch.stack(ys, 1), program(x))


@pytest.mark.parametrize("program", MEMORIES)
def test_results_may_be_written_to(program: Callable[[Tensor], Tensor]) -> None:
    x, net = sequence(), linrec.compile(program, verify="off")
    rnn, want = form_of(net, x), program(x)
    y, state = rnn(x[:, :4])
    for t in range(4, 8):
        y.zero_()
        before = {name: value.clone() for name, value in state.items()}
        y, after = rnn.step(x[:, t], state=state)
        assert all(torch.equal(state[name], before[name]) for name in before)
        for value in state.values():  # nor does a state hang on to the one before
            value.zero_()
        torch.testing.assert_close(y, want[:, t])
        state = after
    y, _ = rnn(x[:, 8:], state=state)
    torch.testing.assert_close(y, want[:, 8:])


@pytest.mark.parametrize("program", MEMORIES)
def test_a_state_holds_no_more_than_itself(program: Callable[[Tensor], Tensor]) -> None:
    x = sequence(5000)
    _, state = form_of(linrec.compile(program, verify="off"), x)(x)
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 10_000 < x.nbytes


def test_a_first_state_is_no_parameter() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h0 = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            h, ys = self.h0.expand(x.shape[0], 3), []
            for t in range(x.shape[1]):
                h = 0.5 * h + x[:, t]
                ys.append(h)
            return torch.stack(ys, 1)

    model, x = Learned(), sequence()
    state = form_of(linrec.compile(model, verify="off"), x).init_state(2)
    torch.autograd.backward(state["h"].sum())
    assert model.h0.grad is not None and model.h0.grad.tolist() == [2.0, 2.0, 2.0]
    with torch.no_grad():
        model.h0.zero_()
        assert state["h"].tolist() == [[1.0] * 3] * 2


# ---- exchanged parts ---------------------------------------------------------------------------------


def agree(net: Any, rnn: Any, x: Tensor) -> None:
    """Call, chunk and steps, each against the class's own forward on the model as it is."""
    want = Model.forward(net, x)
    torch.testing.assert_close(net(x), want)
    torch.testing.assert_close(rnn(x)[0], want)
    state = None
    for t in range(3):
        y, state = rnn.step(x[:, t], state=state)
        torch.testing.assert_close(y, want[:, t])


def test_parts_that_are_exchanged_take_effect() -> None:
    x, net = sequence(), linrec.compile(Model(), verify="off")
    rnn = form_of(net, x)
    agree(net, rnn, x)
    net.drive = nn.Linear(3, 3, dtype=torch.float64)
    agree(net, rnn, x)
    net.decay = nn.Parameter(torch.rand(3, dtype=torch.float64))
    agree(net, rnn, x)
    net.load_state_dict({k: v + 0.1 for k, v in net.state_dict().items()}, assign=True)
    agree(net, rnn, x)
    torch.nn.utils.parametrizations.weight_norm(net.drive)
    with torch.no_grad():
        dict(net.named_parameters())["drive.parametrizations.weight.original0"].mul_(2)
    agree(net, rnn, x)


def test_hooks_that_come_between_steps_are_not_passed_over() -> None:
    x, net = sequence(), linrec.compile(Model(), verify="off")
    rnn = form_of(net, x)
    agree(net, rnn, x)
    hook = net.drive.register_forward_hook(lambda module, args, result: result * 10)
    _, state = rnn.program.take([x[:, 0]], None, {"T": 1, "B": 2})
    with pytest.raises(StateError, match=r"LR4005.*hooks"):
        rnn.step(x[:, 1], state=state)
    torch.testing.assert_close(net(x), Model.forward(net, x))
    hook.remove()
    agree(net, rnn, x)


# ---- odd beginnings ----------------------------------------------------------------------------------


def test_a_first_call_without_rows_holds_nothing_to_that() -> None:
    net: Any = linrec.compile(Model(), verify="off")
    x = sequence()
    assert net(x[:0], lengths=torch.zeros(0, dtype=torch.long)).shape == (0, 12, 3)
    torch.testing.assert_close(net(x, lengths=torch.tensor([12, 12])), Model.forward(net, x))


def test_other_sizes_after_the_first_call_with_a_state() -> None:
    net: Any = linrec.compile(smoothed, verify="off")
    for size in (3, 5, 3):
        x = torch.randn(2, 8, size, dtype=torch.float64)
        y, state = net(x[:, :5], return_state=True)
        torch.testing.assert_close(torch.cat([y, net(x[:, 5:], state=state)], 1), smoothed(x))
    with pytest.raises(StateError, match="LR4001"):
        net(x[:1], state=state)


def test_a_form_after_calls_with_a_state_only() -> None:
    net: Any = linrec.compile(Model(), verify="off")
    x = sequence()
    net(x, return_state=True)
    torch.testing.assert_close(net.recurrent()(x)[0], Model.forward(net, x))


def test_tokens_behind_the_end_of_the_first_call() -> None:
    table = nn.Embedding(5, 3, dtype=torch.float64)

    def net(tokens: Tensor) -> Tensor:
        return smoothed(table(tokens))

    tokens = torch.randint(0, 5, (3, 12))
    tokens[1, 4:] = -100
    compiled: Any = linrec.compile(net, verify="off")
    y = compiled(tokens, lengths=torch.tensor([12, 4, 7]))
    torch.testing.assert_close(y[1, :4], net(tokens[1:2, :4])[0])


def test_first_steps_that_do_not_run_alone_say_how_to_begin() -> None:
    def from_two(x: Tensor) -> Tensor:
        h, g = x[:, 0], x[:, 1]
        ys = [h, g]
        for t in range(2, x.shape[1]):
            h, g = g, 0.5 * h - 0.3 * g + x[:, t]
            ys.append(g)
        return torch.stack(ys, 1)

    x = sequence()
    rnn = form_of(linrec.compile(from_two, verify="off"), x)
    with pytest.raises(StateError, match=r"LR4007.*1 steps"):
        rnn.step(x[:, 0])
    y, state = rnn(x[:, :3])
    later, _ = rnn(x[:, 3:], state=state)
    torch.testing.assert_close(torch.cat([y, later], 1), from_two(x))


@pytest.mark.parametrize("how", ["step", "chunk"])
def test_an_input_of_another_type_is_told(how: str) -> None:
    x, net = sequence(), linrec.compile(Model(), verify="off")
    rnn = form_of(net, x)
    with pytest.raises(StateError, match=r"LR4002.*float32.*float64"):
        rnn.step(x[:, 0].float()) if how == "step" else rnn(x.float())
    torch.testing.assert_close(rnn(x)[0], Model.forward(net, x))
