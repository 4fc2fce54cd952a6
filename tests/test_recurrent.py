"""The recurrent form: errors that help, saving and casting, live parameters, and what has no such form."""

from __future__ import annotations

import copy
import functools
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import GRULoop, MambaBlock, Stack, average_from_the_first, moving_average
from contract import same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import linrec
from linrec.codes import CODES
from linrec.errors import StateError
from linrec.recurrence import RecurrentModule
from linrec.states import State


class Filter(nn.Module):
    """A learned first state, a decay from a parameter, a number that users change."""

    def __init__(self) -> None:
        super().__init__()
        self.logit, self.h0 = nn.Parameter(torch.tensor([0.5, 1.0])), nn.Parameter(torch.tensor([1.0, -1.0]))
        self.gain = 0.5

    def forward(self, x: Tensor) -> Tensor:
        h, hs = self.h0.expand(x.shape[0], 2), []
        for t in range(x.shape[1]):
            h = torch.sigmoid(self.logit) * h + self.gain * x[:, t]
            hs.append(h)
        return torch.stack(hs, 1)


def form(model: Any, *inputs: Tensor) -> RecurrentModule:
    """The recurrent form of a model."""
    found = linrec.recurrent(linrec.compile(model, verify="off"), *inputs)
    assert isinstance(found, RecurrentModule)
    return found


def folded(rnn: RecurrentModule, x: Tensor) -> Tensor:
    """All steps, one after the other."""
    state, ys = None, []
    for t in range(x.shape[1]):
        y, state = rnn.step(x[:, t], state=state)
        ys.append(y)
    return torch.stack(ys, 1)


# ---- no recurrent form -------------------------------------------------------------------------------


def backward(x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
    for t in reversed(range(x.shape[1])):
        h = 0.5 * h + x[:, t]  # here
        out[:, t] = h
    return out


def centred(x: Tensor) -> Tensor:
    return moving_average(x - x.mean(1, keepdim=True))  # here


def looks_at_the_next(x: Tensor) -> Tensor:
    x = F.pad(x, (0, 0, 0, 1))
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1] - 1):
        h = 0.5 * h + x[:, t + 1]  # here
        out.append(h)
    return torch.stack(out, 1)


def feeds_the_last_back(x: Tensor) -> Tensor:
    s = moving_average(x)
    return s - s[:, -1:]  # here


def same_convolution(x: Tensor) -> Tensor:
    w = torch.ones(3, 1, 3, dtype=x.dtype)
    return moving_average(F.conv1d(x.transpose(1, 2), w, padding=1, groups=3).transpose(1, 2))  # conv


def fraction_of_length(x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = h + x[:, t]
    return h / x.shape[1]  # here


def keeps_everything(x: Tensor) -> Tensor:
    s = moving_average(x)
    return torch.softmax(s @ s.transpose(1, 2), -1) @ s  # here


@pytest.mark.parametrize(
    "model",
    [backward, centred, looks_at_the_next, feeds_the_last_back, same_convolution, fraction_of_length, keeps_everything],
)
def test_what_looks_ahead_is_refused_with_its_line(model: Callable[..., Tensor]) -> None:
    with pytest.raises(StateError) as caught:
        form(model, torch.randn(2, 9, 3))
    error = caught.value
    assert error.code in ("LR4003", "LR4004") and error.help and error.code in CODES
    lines, first = inspect.getsourcelines(model)
    wanted = [first + i for i, line in enumerate(lines) if "# here" in line]
    assert error.file is not None and error.line is not None
    assert not wanted or (error.file.endswith("test_recurrent.py") and error.line in wanted), error


# ---- errors ------------------------------------------------------------------------------------------


class CastInTheLoop(nn.Module):
    """Conversions that change nothing: the decay is no state, and follows training."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor([0.5, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        h, hs = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.decay.to(x.dtype).contiguous() * h.type_as(x) + x[:, t]
            hs.append(h)
        return torch.stack(hs, 1)


def test_a_conversion_that_changes_nothing_is_no_state() -> None:
    model, x = CastInTheLoop(), torch.randn(3, 6, 2)
    rnn = form(model, x)
    assert [leaf.type.shape[-1] for leaf in rnn.leaves] == [2] and len(rnn.leaves) == 1
    _, state = rnn(x[:, :3])
    with torch.no_grad():
        model.decay.mul_(0.5)
    y, _ = rnn.step(x[:, 3], state=state)
    same(y, model.decay * next(iter(state.values())) + x[:, 3], rel=1e-6)


def every_second(x: Tensor) -> Tensor:
    h, hs = torch.zeros_like(x[:, 0]), []
    for t in range(0, x.shape[1], 2):
        h = 0.5 * h + x[:, t] - x[:, t + 1]
        hs.append(h)
    return torch.stack(hs, 1)


def not_stacked(x: Tensor) -> list[Tensor]:
    h, hs = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        hs.append(h)
    return hs


@pytest.mark.parametrize("model", [every_second, not_stacked])
def test_what_holds_for_one_length_says_why_it_has_no_step(model: Callable[..., Any]) -> None:
    with pytest.raises(StateError, match=r"LR4004.*holds for the sizes of this call only: .*") as caught:
        form(model, torch.randn(2, 8, 3))
    assert caught.value.help


@pytest.fixture(scope="module")
def stack() -> tuple[RecurrentModule, Tensor, State]:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4)
    rnn = form(Stack(), x)
    return rnn, x, rnn(x)[1]


def wrong_states(state: State) -> dict[str, Any]:
    name = next(iter(state))
    return {
        "batch": {n: v[:2] for n, v in state.items()},
        "dtype": {n: v.double() for n, v in state.items()},
        "missing": {n: v for n, v in state.items() if n != name},
        "extra": {**state, "more": state[name]},
        "tuple": tuple(state.values()),
        "width": {**state, name: state[name][..., :-1]},
        "axis": {**state, name: state[name][0]},
        "number": {**state, name: 0.0},
        "device": {n: v.to("meta") for n, v in state.items()},
    }


@pytest.mark.parametrize("kind", wrong_states({"a": torch.zeros(3, 2)}))
@pytest.mark.parametrize("how", ["step", "chunk"])
def test_a_state_that_does_not_fit(stack: tuple[RecurrentModule, Tensor, State], kind: str, how: str) -> None:
    rnn, x, state = stack
    bad = wrong_states(state)[kind]
    rnn.step(x[:, 0], state=state)  # the quick way is open
    with pytest.raises(StateError) as caught:
        rnn.step(x[:, 0], state=bad) if how == "step" else rnn(x, state=bad)
    assert caught.value.code == "LR4001" and caught.value.help
    if kind == "batch":
        assert "batch 2" in str(caught.value) and "batch 3" in str(caught.value)
        assert "state_index" in str(caught.value)


def test_inputs_that_do_not_fit(stack: tuple[RecurrentModule, Tensor, State]) -> None:
    rnn, x, state = stack
    for call, word in (
        (lambda: rnn.step(x, state=state), "time axis"),
        (lambda: rnn.step(x), "rnn(x"),
        (lambda: rnn(x[:, 0], state=state), "step()"),
        (lambda: rnn(x[..., :3]), "shape"),
        (lambda: rnn(x[:, :0]), "at least one step"),
        (lambda: rnn(x, x), "expected 1 tensors"),
        (lambda: rnn.step(), "expected 1 tensors"),
    ):
        with pytest.raises(StateError, match="LR4002") as caught:
            call()
        assert word in str(caught.value) and caught.value.help


def test_rows_of_a_state(stack: tuple[RecurrentModule, Tensor, State]) -> None:
    rnn, x, state = stack
    for rows in ([2, 0], torch.tensor([True, False, True]), slice(1, 3)):
        kept = linrec.state_index(state, rows)
        want = rnn(x, state=state)[0][rows]
        same(rnn(x[rows], state=kept)[0], want, rel=1e-5)


def test_first_states() -> None:
    x = torch.randn(3, 6, 2)
    rnn = form(Filter(), x)
    state = rnn.init_state(3)
    assert {n: tuple(v.shape) for n, v in state.items()} == {"h": (3, 2)}
    same(rnn(x, state=state), rnn(x), rel=1e-6)
    same(rnn.init_state(x), state)
    late = form(average_from_the_first, x)
    assert late.init_state(3).keys() == {"x.seen"}
    same(late(x, state=late.init_state(3)), late(x), rel=1e-6)

    def from_the_first(x: Tensor) -> Tensor:
        h, out = x[:, 0], []
        for t in range(x.shape[1]):
            h = 0.9 * h + 0.1 * x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    with pytest.raises(StateError, match="LR4006"):
        form(from_the_first, x).init_state(3)


def test_codes_are_told_in_full() -> None:
    assert {"LR4001", "LR4002", "LR4003", "LR4004", "LR4005", "LR4006", "LR4007", "LR4008"} <= CODES.keys()


# ---- one model, two forms ----------------------------------------------------------------------------


def test_parameters_are_live() -> None:
    """Training, in-place changes, replaced parameters and attributes take effect at the next step."""
    model = Filter()
    net = linrec.compile(model, verify="off")
    x = torch.randn(3, 6, 2)
    rnn = form(net, x)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for change in range(5):
        same(folded(rnn, x), net(x), rel=1e-5)
        same(rnn(x)[0], net(x), rel=1e-5)
        if change == 0:
            net(x).square().mean().backward()
            optimizer.step()
        elif change == 1:
            with torch.no_grad():
                net.logit.add_(0.5)
        elif change == 2:
            net.gain = 2.0
        elif change == 3:
            net.h0.data = torch.tensor([3.0, 4.0])


def test_steps_train_too() -> None:
    x = torch.randn(3, 6, 2)
    rnn = form(Filter(), x)
    with torch.no_grad():
        folded(rnn, x)  # kept coefficients must not stop gradients later
    torch.autograd.backward(folded(rnn, x).square().mean())
    stepped = [p.grad.clone() for p in rnn.parameters() if p.grad is not None]
    rnn.zero_grad()
    rnn(x)[0].square().mean().backward()
    assert len(stepped) == 2
    same(stepped, [p.grad for p in rnn.parameters()], rel=1e-5)


def test_state_dicts_go_both_ways() -> None:
    torch.manual_seed(1)
    first, second = Stack(), Stack()
    x = torch.randn(2, 7, 4)
    rnn, net = form(first, x), linrec.compile(second, verify="off")
    assert list(rnn.state_dict()) == list(first.state_dict()) == list(net.state_dict())
    file = io.BytesIO()
    torch.save(rnn.state_dict(), file)
    file.seek(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    same(net(x), rnn(x)[0], rel=1e-5)
    rnn.load_state_dict(Stack().state_dict())
    same(first(x), rnn(x)[0], rel=1e-5)


@pytest.mark.parametrize("model", [Stack, GRULoop, MambaBlock])
def test_deep_copies_stand_alone(model: Callable[[], nn.Module]) -> None:
    x = torch.randn(2, 7, 3 if model is GRULoop else 4)
    rnn = form(model(), x)
    copied = copy.deepcopy(rnn)
    want = rnn(x)[0]
    same(copied(x)[0], want, rel=1e-6)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    same(rnn(x)[0], want, rel=1e-6)
    assert not torch.allclose(copied(x)[0], want)
    same(folded(copied, x), copied(x)[0], rel=1e-5)


def test_casting() -> None:
    torch.manual_seed(2)
    model = Stack()
    x = torch.randn(2, 7, 4)
    rnn = form(model, x)
    y, state = rnn(x)
    rnn.to(torch.float64)
    assert next(model.parameters()).dtype == torch.float64, "the model is the same one"
    wide, wide_state = rnn(x.double())
    assert wide.dtype == torch.float64 and all(v.dtype == torch.float64 for v in wide_state.values())
    same(wide.float(), y, rel=1e-4)
    same(folded(rnn, x.double()), wide)
    with pytest.raises(StateError, match="cast it"):
        rnn(x.double(), state=state)
    rnn(x.double(), state={n: v.double() for n, v in state.items()})
    rnn.float()
    same(rnn(x)[0], y, rel=1e-4)


def test_train_and_eval() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return moving_average(self.drop(x))

    model = Dropped()
    x = torch.randn(2, 50, 3)
    rnn = form(model, x)
    rnn.eval()
    assert not model.drop.training
    same(rnn(x)[0], moving_average(x), rel=1e-5)
    same(folded(rnn, x), moving_average(x), rel=1e-5)
    rnn.train()
    assert model.drop.training
    assert not torch.allclose(rnn(x)[0], moving_average(x), atol=1e-2)


def test_numbers_among_the_arguments() -> None:
    def decayed(x: Tensor, decay: float = 0.5) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = decay * h + x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    x = torch.randn(2, 6, 3)
    rnn = form(decayed, x)
    same(rnn(x)[0], decayed(x), rel=1e-5)
    other = linrec.recurrent(linrec.compile(decayed), x, decay=0.9)
    same(other(x, decay=0.9)[0], decayed(x, 0.9), rel=1e-5)
    same(other(x, decay=0.2)[0], decayed(x, 0.2), rel=1e-5)


def test_users_words_win() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor, state: Tensor | None = None, lengths: int = 3) -> tuple[Tensor, int]:
            h = x.new_zeros(x.shape[0], 2) if state is None else state
            for t in range(x.shape[1]):
                h = 0.5 * h + x[:, t]
            return h, lengths

        def stream(self) -> str:
            return "mine"

    net, x = linrec.compile(Own()), torch.randn(2, 5, 2)
    y, lengths = net(x, state=torch.ones(2, 2), lengths=7)
    assert lengths == 7 and net.stream() == "mine"
    same(y, Own()(x, torch.ones(2, 2))[0], rel=1e-5)
    assert linrec.stream(net, 2, x).step(x[:, 0])[0].shape == (2, 2)


# ---- calls with a state, lengths, resets ------------------------------------------------------------------


class LastAndAll(nn.Module):
    """Results at every step, and one of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Stack(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.block(x)
        h = torch.zeros_like(y[:, 0])
        for t in range(x.shape[1]):
            h = 0.9 * h + y[:, t]
        return {"all": y, "last": self.head(h)}


@functools.cache
def wide(model: Callable[[], nn.Module]) -> Any:
    """A model in double precision, compiled once for all examples."""
    torch.manual_seed(4)
    net = linrec.compile(model().double(), verify="off")
    net(torch.randn(5, 7, 3 if model is GRULoop else 4, dtype=torch.float64))
    return net


@pytest.mark.parametrize("model", [Stack, LastAndAll, GRULoop])
def test_initial_and_final_states_with_gradients(model: Callable[[], nn.Module]) -> None:
    net = wide(model)
    x = torch.randn(2, 12, 3 if model is GRULoop else 4, dtype=torch.float64, requires_grad=True)
    want, end = net(x, return_state=True)
    _, middle = net(x[:, :5], return_state=True)
    rest, split = net(x[:, 5:], state=middle, return_state=True)
    same(split, end)
    whole = want if isinstance(want, Tensor) else want["all"]
    later = rest if isinstance(rest, Tensor) else rest["all"]
    same(later, whole[:, 5:])

    def gradients(last: State) -> tuple[Tensor, ...]:
        total = sum((v.square().sum() for v in last.values()), torch.zeros(()))
        return torch.autograd.grad(total, [x, *net.parameters()], allow_unused=True, retain_graph=True)

    for got, wanted in zip(gradients(split), gradients(end), strict=True):
        same(got if got is not None else torch.zeros(1), wanted if wanted is not None else torch.zeros(1))
    assert isinstance(net(x, state=None), Tensor | dict)


@given(lengths=st.lists(st.integers(0, 9), min_size=4, max_size=4), junk=st.sampled_from([float("nan"), float("inf")]))
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize("model", [Stack, LastAndAll])
def test_padding_does_not_leak(model: Callable[[], nn.Module], lengths: list[int], junk: float) -> None:
    net = wide(model)
    x = torch.randn(4, 9, 4, dtype=torch.float64)
    padded = x.clone()
    for row, n in enumerate(lengths):
        padded[row, n:] = junk
    padded.requires_grad_()
    for with_state in (False, True):
        found = net(padded, lengths=torch.tensor(lengths), return_state=with_state)
        result, state = found if with_state else (found, None)
        parts = [result] if isinstance(result, Tensor) else [result["all"], result["last"]]
        total = sum((p.square().sum() for p in parts), torch.zeros(()))
        if not any(lengths):
            assert not any(p.any() for p in parts)
            continue
        grads = torch.autograd.grad(total, [padded, *net.parameters()], allow_unused=True)
        assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)
        assert grads[0] is None or all(bool((grads[0][r, n:] == 0).all()) for r, n in enumerate(lengths))
        alone_grads = None
        for row, n in enumerate(lengths):
            if not n:
                assert not parts[0][row].any()
                continue
            alone, end = net(x[row : row + 1, :n], return_state=True)
            mine = [alone] if isinstance(alone, Tensor) else [alone["all"], alone["last"]]
            same(parts[0][row, :n], mine[0][0])
            assert not parts[0][row, n:].any()
            if len(mine) > 1:
                same(parts[1][row], mine[1][0])
            if state is not None:
                same({k: v[row] for k, v in state.items()}, {k: v[0] for k, v in end.items()})
            alone_total = sum((m.square().sum() for m in mine), torch.zeros(()))
            g = torch.autograd.grad(alone_total, list(net.parameters()), allow_unused=True)
            zeros = [torch.zeros_like(p) if v is None else v for v, p in zip(g, net.parameters(), strict=True)]
            alone_grads = zeros if alone_grads is None else [a + b for a, b in zip(alone_grads, zeros, strict=True)]
        if alone_grads is not None:
            same(
                [torch.zeros_like(a) if g is None else g for g, a in zip(grads[1:], alone_grads, strict=True)],
                alone_grads,
            )


@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_resets_start_rows_afresh(data: st.DataObject) -> None:
    net = wide(LastAndAll)
    x = torch.randn(3, 8, 4, dtype=torch.float64)
    marks = data.draw(st.lists(st.booleans(), min_size=24, max_size=24).map(lambda m: torch.tensor(m).view(3, 8)))
    _, before = net(x, return_state=True)
    given_state = before if data.draw(st.booleans()) else None
    result, state = net(x, state=given_state, reset_mask=marks, return_state=True)
    for row in range(3):
        held = None if given_state is None else linrec.state_index(given_state, [row])
        for t in range(8):  # step by step, dropping the state where the mask says so
            held = None if marks[row, t] else held
            y, held = net(x[row : row + 1, t : t + 1], state=held, return_state=True)
            same(result["all"][row, t], y["all"][0, 0])
        same(result["last"][row], y["last"][0])
        assert held is not None
        same({k: v[row] for k, v in state.items()}, {k: v[0] for k, v in held.items()})


def test_rows_that_cannot_be_told_apart() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return moving_average(x - x.mean(0))

    x = torch.randn(3, 6, 2)
    net = linrec.compile(Mixed())
    with pytest.raises(StateError, match="LR4008") as caught:
        net(x, lengths=torch.tensor([1, 2, 3]))
    assert caught.value.line is not None and "`mean`" in str(caught.value)
    plain: Any = linrec.compile(moving_average)
    for bad in (torch.tensor([1, 2]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 9])):
        with pytest.raises(StateError, match="LR4008"):
            plain(x, lengths=bad)
    with pytest.raises(StateError, match="LR4008"):
        plain(x, reset_mask=torch.zeros(3, 5, dtype=torch.bool))
