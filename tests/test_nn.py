"""The layers: their mathematics against closed forms and other libraries, and compiled against themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.polynomial import Legendre
from torch import Tensor, nn

import linrec
from linrec.nn import LMU, LMUCell, delay_network, zero_order_hold


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def closed_form(layer: LMU, x: Tensor) -> Tensor:
    """Chilkuri and Eliasmith 2021, eqs. 18, 22 and 20, with a sum over the past for every step."""
    Abar, Bbar = layer.discretized()
    u = layer.encoder(layer.U_x(x))
    outputs = []
    for t in range(x.shape[1]):
        m = torch.zeros(x.shape[0], layer.memory_size, layer.order, dtype=x.dtype)
        for j in range(t + 1):
            m = m + u[:, j, :, None] * (torch.linalg.matrix_power(Abar, t - j) @ Bbar)
        outputs.append(layer.decoder(layer.W_m(m.flatten(1)) + layer.W_x(x[:, t])))
    return torch.stack(outputs, 1)


def test_one_coefficient_is_a_leaky_integrator() -> None:
    Abar, Bbar = zero_order_hold(1, 5.0)
    np.testing.assert_allclose([Abar[0, 0], Bbar[0]], [np.exp(-1 / 5), 1 - np.exp(-1 / 5)], rtol=1e-12)


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (6, 100.0), (40, 50.0)])
def test_zero_order_hold_is_scipys(order: int, theta: float) -> None:
    A, B = delay_network(order)
    C, D = np.eye(order), np.zeros((order, 1))
    wanted = scipy.signal.cont2discrete((A / theta, B[:, None] / theta, C, D), dt=1.0, method="zoh")
    Abar, Bbar = zero_order_hold(order, theta)
    np.testing.assert_allclose(Abar, wanted[0], atol=1e-12)
    np.testing.assert_allclose(Bbar, wanted[1][:, 0], atol=1e-12)


def test_memory_holds_the_window() -> None:
    # u(t - r theta) = sum_i P_i(2r - 1) m_i(t), for a signal that is slow beside theta / order
    order, theta = 12, 100.0
    Abar, Bbar = zero_order_hold(order, theta)
    u = np.sin(2 * np.pi * np.arange(400) / 150)
    m = np.zeros(order)
    for value in u:
        m = Abar @ m + Bbar * value
    for r in (0.1, 0.35, 0.5, 0.8):
        # u held over a step is u half a step late
        delayed = np.sin(2 * np.pi * (399 + 0.5 - r * theta) / 150)
        assert Legendre(m)(2 * r - 1) == pytest.approx(delayed, abs=0.01)


@pytest.mark.parametrize("memory_size", [1, 3])
@pytest.mark.parametrize("options", [{}, {"trainable_theta": True}, {"trainable_A": True, "trainable_B": True}])
def test_loop_is_the_closed_form(memory_size: int, options: dict[str, Any]) -> None:
    layer = LMU(2, 5, order=4, theta=6.5, memory_size=memory_size, dtype=torch.float64, **options)
    x = torch.randn(3, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), closed_form(layer, x), rtol=1e-10, atol=1e-12)


def test_last_output_only() -> None:
    layer = LMU(1, 5, order=4, theta=6.0)
    x = torch.randn(3, 9, 1)
    every = layer(x)
    layer.return_sequences = False
    assert torch.equal(layer(x), every[:, -1])


def test_theta_is_learnt_through_the_matrix_exponential() -> None:
    layer = LMU(1, 2, order=3, theta=4.0, encoder=torch.tanh, decoder=torch.tanh, trainable_theta=True).double()
    x = torch.randn(2, 5, 1, dtype=torch.float64)

    def loss(log_theta: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, {"log_theta": log_theta}, (x,))
        return result

    assert torch.autograd.gradcheck(loss, (layer.log_theta.detach().requires_grad_(),))
    Abar, Bbar = layer.discretized()
    wanted = zero_order_hold(3, layer.theta)
    np.testing.assert_allclose(Abar.detach(), wanted[0], atol=1e-7)  # log(4) was rounded to float32
    np.testing.assert_allclose(Bbar.detach(), wanted[1], atol=1e-7)


def test_what_is_not_learnt_is_a_buffer() -> None:
    frozen = LMU(1, 346, order=468, theta=784, return_sequences=False)
    network = nn.Sequential(frozen, nn.Linear(346, 10))
    assert sum(p.numel() for p in network.parameters()) == 166_092
    assert {"Abar", "Bbar"} == {name for name, _ in frozen.named_buffers()}
    learnt = LMU(1, 3, order=4, theta=6, trainable_A=True)
    assert "Abar" in dict(learnt.named_parameters()) and "Bbar" in dict(learnt.named_buffers())
    assert learnt(torch.randn(2, 3, 1)).requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order must be positive, got 0"),
        ({"theta": -2.0}, "theta must be positive, got -2.0"),
        ({"trainable_theta": True, "trainable_A": True}, "derives Abar and Bbar from theta"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LMU(**{"input_size": 1, "hidden_size": 2, "order": 3, "theta": 4.0, **options})


def test_cell_without_feedback_is_the_layer() -> None:
    cell = LMUCell(2, 5, order=4, theta=6.0)
    layer = LMU(2, 5, order=4, theta=6.0, encoder=nn.Identity(), decoder=torch.tanh)
    with torch.no_grad():
        for parameter in (cell.e_h.weight, cell.e_m.weight, cell.W_h.weight, layer.W_m.bias):
            parameter.zero_()
        layer.U_x.weight.copy_(cell.e_x.weight)
        layer.W_x.weight.copy_(cell.W_x.weight)
        layer.W_m.weight.copy_(cell.W_m.weight)
    x = torch.randn(3, 7, 2)
    state, outputs = None, []
    for t in range(7):
        h, state = cell(x[:, t], state)
        outputs.append(h)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(x))


def test_cell_feeds_back_and_learns() -> None:
    cell = LMUCell(1, 5, order=4, theta=6.0, trainable_A=True)
    nn.init.normal_(cell.e_m.weight)
    x = torch.randn(3, 4, 1)
    h, m = torch.zeros(3, 5), torch.zeros(3, 4)
    for t in range(4):  # Voelker, Kajic and Eliasmith 2019, eqs. 4, 6, 7
        u = x[:, t] @ cell.e_x.weight.T + h @ cell.e_h.weight.T + m @ cell.e_m.weight.T
        m = m @ cell.Abar.T + u * cell.Bbar
        h = torch.tanh(x[:, t] @ cell.W_x.weight.T + h @ cell.W_h.weight.T + m @ cell.W_m.weight.T)
    state = None
    for t in range(4):
        found, state = cell(x[:, t], state)
    torch.testing.assert_close(found, h)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cell.parameters())


COMPILED = [
    pytest.param({}, id="every output"),
    pytest.param({"return_sequences": False}, id="last output"),
    pytest.param({"memory_size": 3}, id="channels"),
    pytest.param({"trainable_theta": True}, id="theta"),
    pytest.param({"trainable_A": True, "trainable_B": True}, id="A and B"),
]


@pytest.mark.parametrize("options", COMPILED)
def test_compiled_layer_is_the_layer(options: dict[str, Any]) -> None:
    layer = LMU(2, 5, order=6, theta=20.0, dtype=torch.float64, **options)
    net = linrec.compile(layer, strict=True)
    for steps in (70, 33, 1):
        x = torch.randn(4, steps, 2, dtype=torch.float64)
        wanted = layer(x)
        torch.testing.assert_close(net(x), wanted)
        parameters = list(layer.parameters())
        weights = torch.randn_like(wanted)
        torch.testing.assert_close(
            torch.autograd.grad((net(x) * weights).sum(), parameters),
            torch.autograd.grad((wanted * weights).sum(), parameters),
        )
    (recurrence,) = linrec.report(net).recurrences
    assert recurrence.kind == "lti" and recurrence.form != "sequential"


def test_compiled_layer_steps() -> None:
    layer = LMU(2, 5, order=6, theta=20.0, memory_size=2)
    x = torch.randn(4, 30, 2)
    rnn = linrec.recurrent(linrec.compile(layer), x)
    state, outputs = None, []
    for t in range(30):
        o, state = rnn.step(x[:, t], state=state)  # type: ignore[operator]
        outputs.append(o)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(x))


def test_compiled_cell_loop_stays_and_says_why() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = LMUCell(1, 5, order=4, theta=6.0)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for t in range(x.shape[1]):
                h, state = self.cell(x[:, t], state)
            result: Tensor = h
            return result

    plain = Net()
    net = linrec.compile(plain)
    x = torch.randn(3, 40, 1)
    torch.testing.assert_close(net(x), plain(x))
    kinds = [(r.kind, r.form) for r in linrec.report(net).recurrences]
    assert ("nonlinear", "sequential") in kinds
