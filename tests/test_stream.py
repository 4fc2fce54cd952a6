"""Streams, and a machine that does to one what users do, in any order."""

from __future__ import annotations

import copy
import gc
import io
import resource
from typing import Any

import pytest
import torch
from architectures import MambaBlock, average_from_the_first, with_positions
from contract import same
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from torch import Tensor, nn

import linrec
from linrec.errors import StateError
from linrec.nn import LMU
from linrec.recurrence import RecurrentModule
from linrec.streaming import Stream


def test_a_stream_is_the_sequence() -> None:
    torch.manual_seed(0)
    net = linrec.compile(MambaBlock())
    x = torch.randn(3, 30, 4)
    with torch.no_grad():
        want = net(x)
    stream = linrec.stream(net, 3)
    got = [stream(x[:, :7])]
    got += [stream.step(x[:, t]).unsqueeze(1) for t in range(7, 12)]
    got += [stream.step_(x[:, t]).unsqueeze(1) for t in range(12, 20)]
    got.append(stream(x[:, 20:]))
    same(torch.cat(got, 1), want, rel=1e-5)
    assert not any(y.requires_grad for y in got)


def test_in_place_steps_keep_their_buffers() -> None:
    net = linrec.compile(MambaBlock())
    x = torch.randn(2, 12, 4)
    net(x)
    stream = linrec.stream(net, 2)
    stream.step_(x[:, 0])
    assert stream.state is not None
    places = {name: v.data_ptr() for name, v in stream.state.items()}
    for t in range(1, 12):
        y = stream.step_(x[:, t])
        if t == 5:
            stream.reset(torch.tensor([False, False]))
    assert {name: v.data_ptr() for name, v in stream.state.items()} == places
    with torch.no_grad():
        same(y, net(x)[:, -1], rel=1e-5)
    assert len(set(places.values())) == len(places), "no two buffers share their memory"


def test_reset_rows() -> None:
    net = linrec.compile(MambaBlock())
    x = torch.randn(3, 10, 4)
    with torch.no_grad():
        net(x)
        stream = linrec.stream(net, 3)
        stream(x[:, :4])
        stream.reset(torch.tensor([True, False, True]))
        got = stream(x[:, 4:])
        same(got[1], net(x)[1, 4:], rel=1e-5)
        same(got[[0, 2]], net(x[:, 4:])[[0, 2]], rel=1e-5)
        stream.reset()
        same(stream(x), net(x), rel=1e-5)
    same(stream.rows([2, 1])(x[[2, 1], :3]), stream(x[:, :3])[[2, 1]], rel=1e-5)


@pytest.mark.parametrize("model", [average_from_the_first, with_positions])
def test_rows_with_parts_in_common_are_not_reset_apart(model: Any) -> None:
    x = torch.randn(2, 6, 3)
    stream = linrec.stream(linrec.compile(model), 2, x)
    stream(x)
    with pytest.raises(StateError, match="LR4008"):
        stream.reset(torch.tensor([True, False]))
    with pytest.raises(StateError, match="booleans"):
        stream.reset(torch.tensor([1]))


# ---- a machine ---------------------------------------------------------------------------------------


class Small(nn.Module):
    """A linear memory behind a convolution, and a nonlinear cell behind that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=2)
        self.lmu, self.cell = LMU(2, 3, 3, 5.0), nn.GRUCell(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.lmu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        h, out = x.new_zeros(x.shape[0], 2), []
        for t in range(x.shape[1]):
            h = self.cell(z[:, t], h)
            out.append(h)
        return torch.stack(out, 1)


BATCH = 3
_prepared: list[RecurrentModule] = []


def prepared() -> RecurrentModule:
    """The recurrent form, captured once; each machine takes a copy."""
    if not _prepared:
        torch.manual_seed(0)
        net = linrec.compile(Small().double(), verify="off")
        found = linrec.recurrent(net, torch.randn(BATCH, 5, 2, dtype=torch.float64))
        assert isinstance(found, RecurrentModule)
        _prepared.append(found)
    return _prepared[0]


class Streaming(RuleBasedStateMachine):
    """A stream beside the original, which is run on everything that each row has seen since its last reset."""

    @initialize(seed=st.integers(0, 99))
    def start(self, seed: int) -> None:
        self.rnn = prepared()
        self.saved_weights = copy.deepcopy(self.rnn.state_dict())
        self.draw = torch.Generator().manual_seed(seed)
        self.dtype = torch.float64
        self.model = Small().double()
        self.model.load_state_dict(self.rnn.state_dict())
        self.stream = Stream(self.rnn, BATCH)
        self.seen: list[Tensor] = [torch.zeros(0, 2, dtype=torch.float64) for _ in range(BATCH)]
        self.saved: tuple[Any, list[Tensor]] | None = None

    def teardown(self) -> None:
        if hasattr(self, "saved_weights"):
            self.rnn.to(torch.float64)
            self.rnn.load_state_dict(self.saved_weights)

    def random(self, steps: int) -> Tensor:
        return torch.randn(BATCH, steps, 2, generator=self.draw, dtype=torch.float64).to(self.dtype)

    def expect(self, x: Tensor, y: Tensor) -> None:
        self.seen = [torch.cat([s, row.double()]) for s, row in zip(self.seen, x, strict=True)]
        tolerance = 1e-9 if self.dtype == torch.float64 else 1e-4
        for row, (seen, got) in enumerate(zip(self.seen, y, strict=True)):
            with torch.no_grad():
                want = self.model(seen.unsqueeze(0))[0, -x.shape[1] :]
            error = float((got.double() - want).abs().max())
            assert error <= tolerance, f"row {row}: {error}"

    @rule(steps=st.integers(1, 6))
    def chunk(self, steps: int) -> None:
        x = self.random(steps)
        self.expect(x, self.stream(x))

    @rule()
    def step(self) -> None:
        x = self.random(1)
        self.expect(x, self.stream.step(x[:, 0]).unsqueeze(1))

    @rule()
    def step_in_place(self) -> None:
        x = self.random(1)
        self.expect(x, self.stream.step_(x[:, 0]).unsqueeze(1))

    @rule(mask=st.lists(st.booleans(), min_size=BATCH, max_size=BATCH))
    def reset_rows(self, mask: list[bool]) -> None:
        self.stream.reset(torch.tensor(mask))
        self.seen = [s[:0] if m else s for s, m in zip(self.seen, mask, strict=True)]

    @rule()
    def save(self) -> None:
        file = io.BytesIO()
        torch.save(self.stream.state, file)
        file.seek(0)
        self.saved = torch.load(file, weights_only=True), list(self.seen)

    @rule()
    def load(self) -> None:
        if self.saved is not None:
            state, self.seen = self.saved[0], list(self.saved[1])
            self.stream.state = None if state is None else {k: v.to(self.dtype) for k, v in state.items()}

    @rule(single=st.booleans())
    def cast(self, single: bool) -> None:
        if single and self.dtype == torch.float64:
            # rounding starts here, so the double model gets the rounded weights too
            self.dtype = torch.float32
            self.rnn.to(torch.float32)
            self.model.load_state_dict(self.rnn.state_dict())
            if self.stream.state is not None:
                self.stream.state = {k: v.float() for k, v in self.stream.state.items()}

    @rule()
    def train(self) -> None:
        """Weights move: what was seen is forgotten, coefficients follow at once."""
        x = self.random(4)
        self.rnn(x)[0].square().mean().backward()
        with torch.no_grad():
            for p in self.rnn.parameters():
                if p.grad is not None:
                    p.sub_(0.1 * p.grad)
                p.grad = None
        self.model.load_state_dict(self.rnn.state_dict())
        self.stream.reset()
        self.saved = None
        self.seen = [s[:0] for s in self.seen]

    @invariant()
    def state_is_bounded(self) -> None:
        if hasattr(self, "stream") and self.stream.state is not None:
            assert sum(v.numel() for v in self.stream.state.values()) <= BATCH * 40


def test_a_machine() -> None:
    run_state_machine_as_test(Streaming, settings=settings(max_examples=20, stateful_step_count=30, deadline=None))


@pytest.mark.slow
def test_a_machine_for_long() -> None:
    run_state_machine_as_test(Streaming, settings=settings(max_examples=500, stateful_step_count=30, deadline=None))


# ---- soak --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_steps() -> None:
    """Memory stays flat, and the drift from double precision stays within ten times that of the loop in float32."""
    torch.manual_seed(0)
    layer = LMU(1, 4, 6, 50.0)
    double = copy.deepcopy(layer).double()
    net = linrec.compile(layer)
    with torch.no_grad():
        net(torch.randn(2, 9, 1))
        stream = linrec.stream(net, 1)
        noise = torch.randn(1000, 1, 1, generator=torch.Generator().manual_seed(1))
        m, wide = torch.zeros(1, 1, 6), torch.zeros(1, 1, 6, dtype=torch.float64)
        peaks = []
        for n in range(1_000_000):
            x = noise[n % 1000]
            y = stream.step_(x)
            if n % 100 == 0 and n < 100_000:
                continue
            if n in (100_000, 999_999):
                gc.collect()
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        for n in range(999_000, 1_000_000):  # the memory forgets what is a thousand steps back
            x = noise[n % 1000]
            m = m @ layer.Abar.T + torch.relu(layer.U_x(x)).unsqueeze(-1) * layer.Bbar
            wide = wide @ double.Abar.T + torch.relu(double.U_x(x.double())).unsqueeze(-1) * double.Bbar
        loop = torch.relu(layer.W_m(m.flatten(1)) + layer.W_x(x))
        exact = torch.relu(double.W_m(wide.flatten(1)) + double.W_x(x.double()))
    assert peaks[1] - peaks[0] < 8 * 1024, f"{peaks[1] - peaks[0]} KiB more after a million steps"
    ours, theirs = (float((v.double() - exact).abs().max()) for v in (y, loop))
    assert ours <= 10 * theirs + 1e-6


# ---- arguments that do not fit ------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [-1, True, "4", 2.0])
def test_a_batch_is_a_number_of_rows(batch: Any) -> None:
    net = linrec.compile(MambaBlock(), verify="off")
    net(torch.randn(2, 12, 4))
    with pytest.raises(StateError, match="LR4002"):
        linrec.stream(net, batch)


def test_a_stream_keeps_its_number_of_rows() -> None:
    net = linrec.compile(MambaBlock(), verify="off")
    net(torch.randn(2, 12, 4))
    with pytest.raises(StateError, match="stream is one of 3 rows"):
        linrec.stream(net, 3).step(torch.randn(2, 4))
    fresh = linrec.stream(net, 3).rows([0, 2])  # no step was taken yet
    assert fresh.batch == 2 and fresh.step(torch.randn(2, 4)).shape[0] == 2


@pytest.mark.parametrize("mask", [[0, 1], torch.ones(2), torch.ones(3, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_refused_before_the_first_step_too(mask: Any) -> None:
    net = linrec.compile(MambaBlock(), verify="off")
    net(torch.randn(2, 12, 4))
    with pytest.raises(StateError, match="LR4008"):
        linrec.stream(net, 2).reset(mask)
