"""Steps: what `scan` and `Recurrent` compute, and that a declared step compiles to what its loop compiles to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import linrec
from linrec.compiler import Engine, Options
from linrec.frontends.loop import capture
from linrec.interpret import interpret

torch.manual_seed(0)


def decay(a: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        h = a * h + x_t
        return h, 2 * h

    return step


def scanned(x: Tensor, h0: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    return linrec.scan(decay(a), h0, x)


def looped(x: Tensor, h0: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    h, ys = h0, []
    for t in range(x.shape[0]):
        h = a * h + x[t]
        ys.append(2 * h)
    return h, torch.stack(ys)


def example(length: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64
    return torch.randn(length, 4, 3, dtype=wide), torch.randn(4, 3, dtype=wide), torch.rand(3, dtype=wide)


def test_a_scan_is_its_loop() -> None:
    arguments = example(7)
    torch.testing.assert_close(scanned(*arguments), looped(*arguments), rtol=0, atol=0)


def test_one_capture_serves_all_lengths_and_batches() -> None:
    net: Any = linrec.compile(scanned)
    for length, batch in ((30, 4), (77, 4), (2, 9)):
        x, h0, a = torch.randn(length, batch, 3), torch.randn(batch, 3), torch.rand(3)
        torch.testing.assert_close(net(x, h0, a), scanned(x, h0, a))
    assert net.report.captures == 1
    assert net.report.verification.passed


def test_the_declared_step_and_the_loop_have_one_report() -> None:
    first, second = linrec.explain(scanned, *example()), linrec.explain(looped, *example())
    (r,), (s,) = first.recurrences, second.recurrences
    assert (r.kind, r.structure, r.form) == (s.kind, s.structure, s.form)
    assert (r.kind, r.structure, r.states) == ("lti", "diagonal", ("h",))


def test_the_step_is_traced_once_whatever_the_length() -> None:
    calls = itertools.count()

    def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        next(calls)
        return 0.5 * h + x_t, h

    def run(x: Tensor) -> Tensor:
        return linrec.scan(step, x.new_zeros(3), x)[1]  # type: ignore[no-any-return]

    engine = Engine(run, "run", Options())
    counts = []
    for length in (20, 400):
        before = next(calls)
        capture(run, engine._environment(), (torch.randn(length, 3),), {}, "run")
        counts.append(next(calls) - before)
    assert counts[0] == counts[1] <= 12  # once for each small length and axis that is tried


def test_delays_constants_and_old_states_need_no_guess() -> None:
    def run(x: Tensor, k: Tensor) -> Any:
        def step(s: Any, x_t: Any) -> Any:
            one, more = s["one"], s["more"]
            new = {"one": x_t["u"], "more": (one, more[0], more[2] + 0, torch.ones_like(one), more[4])}
            return new, (more[1] + more[2], one, k, x_t["v"])

        init = {"one": k, "more": (k + 1, k + 2, k + 3, k + 4, k + 5)}
        return linrec.scan(step, init, {"u": x, "v": 2 * x}, reverse=True)

    net: Any = linrec.compile(run)
    for length in (20, 2, 13):
        x, k = torch.randn(length, 3), torch.randn(3)
        torch.testing.assert_close(net(x, k), run(x, k), rtol=0, atol=0)
    assert net.report.verification.passed and net.report.captures == 1


@settings(max_examples=5, deadline=None)
@given(
    lags=st.lists(st.integers(-3, 3), min_size=1, max_size=3),
    length=st.integers(2, 12),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_order_equals_the_loop_and_the_interpreter(lags: list[int], length: int, reverse: bool, seed: int) -> None:
    def run(x: Tensor, start: Tensor) -> Any:
        def step(past: tuple[Tensor, ...], x_t: Tensor) -> Any:
            new = x_t
            for a, h in zip(lags, past, strict=True):
                new = new + a * h
            return (new, *past[:-1]), new - past[-1]

        return linrec.scan(step, tuple(k * start for k, _ in enumerate(lags)), x, reverse=reverse)

    # whole numbers in double precision: every order of addition gives the same
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (length, 2), generator=generator).double()
    start = torch.randint(-2, 3, (2,), generator=generator).double()
    state, ys = run(x, start)
    engine = Engine(run, "run", Options())
    graph = capture(run, engine._environment(), (x, start), {}, "run").graph
    (*got, out), _ = interpret(graph, {"x": x, "start": start})
    assert torch.equal(out, ys) and all(map(torch.equal, got, state))
    torch.testing.assert_close(linrec.compile(run)(x, start), (state, ys), rtol=1e-6, atol=1e-6)


def test_gradients() -> None:
    net: Any = linrec.compile(scanned)
    arguments = [x.requires_grad_() for x in example(9)]
    assert torch.autograd.gradcheck(net, arguments)
    assert torch.autograd.gradgradcheck(net, arguments)


def test_step_by_step_and_in_pieces() -> None:
    x, h0, a = example(12)
    _, ys = scanned(x, h0, a)
    rnn: Any = linrec.recurrent(scanned, x, h0, a)
    state = None
    for t in range(5):
        (_, y), state = rnn.step(x[t], h0, a, state=state)
        torch.testing.assert_close(y, ys[t])
    (_, rest), _ = rnn(x[5:], h0, a, state=state)
    torch.testing.assert_close(rest, ys[5:])


def test_layers_of_scans_are_no_loop_over_time() -> None:
    def deep(x: Tensor, a: Tensor) -> Tensor:
        for _ in range(4):
            _, x = linrec.scan(lambda h, x_t: (a * h + x_t, torch.tanh(h)), x.new_zeros(x.shape[1:]), x)
        return x

    net: Any = linrec.compile(deep)
    x, a = torch.randn(21, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(net(x, a), deep(x, a))
    assert [r.form != "sequential" for r in net.report.recurrences] == [True] * 4


def test_an_inner_scan_is_part_of_the_step() -> None:
    def run(x: Tensor) -> Tensor:  # (T, 3, 2)
        def outer(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            h, _ = linrec.scan(lambda s, row: (0.5 * s + row, s), h, x_t)
            return h, h

        return linrec.scan(outer, x.new_zeros(2), x)[1]  # type: ignore[no-any-return]

    net: Any = linrec.compile(run)
    x = torch.randn(20, 3, 2)
    torch.testing.assert_close(net(x), run(x))
    assert [r.form != "sequential" for r in net.report.recurrences] == [True]


def test_a_length_of_zero_and_one() -> None:
    x, h0, a = example(0)
    state, ys = linrec.compile(scanned)(x, h0, a)
    assert state is h0 and ys.shape == (0, 4, 3)
    x, h0, a = example(1)
    torch.testing.assert_close(linrec.compile(scanned)(x, h0, a), looped(x, h0, a))


def test_a_nonlinear_step_keeps_its_reason() -> None:
    report = linrec.explain(lambda x: linrec.scan(lambda h, x_t: (torch.tanh(h + x_t), h), x[0], x), torch.randn(9, 2))
    (r,) = report.recurrences
    assert (r.form, r.code) == ("sequential", "LR1204") and "test_steps.py" in r.source


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (lambda x: linrec.scan(decay(x[0]), x[0], (x, 0.5)), "LR0503", "a float"),
        (lambda x: linrec.scan(decay(x[0]), x[0], (x, x[1:])), "LR0503", "9, 8"),
        (lambda x: linrec.scan(decay(x[0]), x[0], ()), "LR0503", "nothing"),
        (lambda x: linrec.scan(decay(x[0]), x[0, 0], x), "LR0504", r"float32\[\] .* float32\[3\]"),
        (lambda x: linrec.scan(lambda h, x_t: h, x[0], x), "LR0504", "not a pair"),
        (lambda x: linrec.scan(lambda h, x_t: ((h, h), h), x[0], x), "LR0504", "before a step and"),
        (lambda x: linrec.scan(lambda h, x_t: (1.0, h), x[0], x), "LR0504", "a float, not a tensor"),
    ],
)
def test_refusals_name_the_leaf(call: Callable[[Tensor], Any], code: str, words: str) -> None:
    with pytest.raises(linrec.ShapeError, match=words) as caught:
        call(torch.randn(9, 3))
    assert caught.value.code == code and caught.value.help


def test_what_leaks_out_of_a_step_is_refused_and_runs_as_written() -> None:
    def run(x: Tensor) -> Tensor:
        seen = []

        def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(h)
            return h + x_t, h

        linrec.scan(step, x[0], x)
        return seen[-1]

    net: Any = linrec.compile(run)
    x = torch.randn(9, 3)
    torch.testing.assert_close(net(x), run(x))
    assert net.report.code == "LR0501"


# cells -----------------------------------------------------------------------------------------------


class Leaky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drive = nn.Linear(3, 5)
        self.decay = nn.Parameter(torch.rand(5))

    def forward(self, x_t: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x_t.new_zeros(x_t.shape[0], 5) if state is None else state
        h = self.decay * h + self.drive(x_t)
        return torch.relu(h), h


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(3, 5), nn.GRUCell(3, 5), nn.LSTMCell(3, 5), Leaky()], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True}], ids=str)
def test_cells_over_a_sequence(cell: nn.Module, options: dict[str, bool]) -> None:
    plain = linrec.Recurrent(cell, **options)
    net: Any = linrec.compile(plain)
    x = torch.randn(4, 17, 3)
    torch.testing.assert_close(net(x), plain(x))
    _, state = plain(x)
    torch.testing.assert_close(net(x, state), plain(x, state))
    assert net.report.verification.passed


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_torchs_cells_are_torchs_layers(kind: Any, bidirectional: bool) -> None:
    layer = kind(3, 5, batch_first=True, bidirectional=bidirectional)
    net = linrec.Recurrent(
        {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}[kind](3, 5), bidirectional=bidirectional
    )
    for name, value in layer.state_dict().items():
        cell = net.cell_reverse if name.endswith("_reverse") else net.cell
        getattr(cell, name.removesuffix("_reverse").removesuffix("_l0")).data.copy_(value)
    x = torch.randn(4, 9, 3)
    torch.testing.assert_close(net(x)[0], layer(x)[0])


def test_a_linear_cell_runs_in_parallel_both_ways() -> None:
    net: Any = linrec.compile(linrec.Recurrent(Leaky(), bidirectional=True))
    net(torch.randn(4, 17, 3))
    assert [(r.kind, r.structure) for r in net.report.recurrences] == [("lti", "diagonal")] * 2


def test_a_cells_second_direction_has_weights_of_its_own() -> None:
    net = linrec.Recurrent(nn.GRUCell(3, 5), bidirectional=True)
    assert not torch.equal(*(net.state_dict()[f"{cell}.weight_hh"] for cell in ("cell", "cell_reverse")))


# torch's own scan ------------------------------------------------------------------------------------


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Any:
        from torch._higher_order_ops.scan import scan

        def step(h: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
            h = self.decay * h + x_t
            return h, torch.tanh(h)

        h, ys = scan(step, x.new_zeros(2, 3), x, dim=0)
        return ys + 1, h


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_that_holds_torchs_scan() -> None:
    x = torch.randn(20, 2, 3)
    program: Any = torch.export.export(Exported(), (x,), dynamic_shapes=({0: torch.export.Dim("T", min=3)},))
    assert any("scan" in str(node.target) for node in program.graph.nodes)
    net: Any = linrec.compile(program)
    for length in (20, 33):
        x = torch.randn(length, 2, 3)
        torch.testing.assert_close(net(x), program.module()(x))
    (r,) = net.report.recurrences
    assert (r.kind, r.structure, net.report.captures) == ("lti", "diagonal", 1) and r.form != "sequential"
    net(x)[0].sum().backward()
    assert net.decay.grad is not None


def test_captures_in_several_threads_leave_no_tracer_behind() -> None:
    """make_fx keeps what it traces in a global, which two threads at once would leave set for torch's own scan."""

    def program(rate: float) -> Any:
        def net(x: Tensor) -> Tensor:
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = rate * h + x[:, t]
            return h

        return linrec.compile(net)

    threads = [
        threading.Thread(target=program(0.1 * k), args=(torch.randn(2, 20, 3),)) for k in range(3) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    test_an_exported_program_that_holds_torchs_scan()
