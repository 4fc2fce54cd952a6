"""One linear memory, declared four ways: a loop, a step, its differential equation, and a scipy state space.

All four compile to the same structure and form and give the same numbers. Run it to see:

    python examples/lmu_four_ways.py --order 12 --theta 100 --length 500
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import scipy.signal
import sympy
import torch
from torch import Tensor, nn

import linrec
from linrec.nn.lmu import delay_network, zero_order_hold


class Loop(nn.Module):
    """m_t = Abar m_{t-1} + Bbar u_t as a loop: (batch, T, 1) -> (batch, T, order)."""

    Abar: Tensor
    Bbar: Tensor

    def __init__(self, order: int, theta: float) -> None:
        super().__init__()
        for name, value in zip(("Abar", "Bbar"), zero_order_hold(order, theta), strict=True):
            self.register_buffer(name, torch.as_tensor(value))

    def forward(self, u: Tensor) -> Tensor:
        m = u.new_zeros(u.shape[0], len(self.Bbar))
        memories = []
        for t in range(u.shape[1]):
            m = m @ self.Abar.T + u[:, t] * self.Bbar
            memories.append(m)
        return torch.stack(memories, 1)


class Step(Loop):
    """The same as a step that is scanned."""

    def forward(self, u: Tensor) -> Tensor:
        def step(m: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
            m = m @ self.Abar.T + u_t * self.Bbar
            return m, m

        _, memories = linrec.scan(step, u.new_zeros(u.shape[0], len(self.Bbar)), u.transpose(0, 1))
        return memories.transpose(0, 1)  # type: ignore[no-any-return]


def from_equation(order: int, theta: float) -> nn.Module:
    """theta m'(t) = A m(t) + B u(t), u held over each step."""
    t = sympy.Symbol("t")
    A, B, window = sympy.symbols("A B theta")
    m, u = sympy.Function("m"), sympy.Function("u")
    matrices = dict(zip((A, B), delay_network(order), strict=True))
    ode = sympy.Eq(window * m(t).diff(t), A * m(t) + B * u(t))
    return linrec.equations(ode, inputs=[u], outputs=[m], constants={**matrices, window: theta}, step=1.0, method="zoh")


def from_scipy(order: int, theta: float) -> nn.Module:
    """scipy's output is C m + D u from the state before the update, so C = Abar and D = Bbar give the one after it."""
    Abar, Bbar = zero_order_hold(order, theta)
    return linrec.system(scipy.signal.dlti(Abar, Bbar[:, None], Abar, Bbar[:, None]))


def four_ways(order: int, theta: float) -> dict[str, Any]:
    """The compiled networks by name."""
    return {
        "loop": linrec.compile(Loop(order, theta)),
        "step": linrec.compile(Step(order, theta)),
        "equation": from_equation(order, theta),
        "scipy": from_scipy(order, theta),
    }


def main() -> None:
    """Print what each became, and how far its numbers are from the loop's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--order", type=int, default=12)
    parser.add_argument("--theta", type=float, default=100.0)
    parser.add_argument("--length", type=int, default=500)
    options = parser.parse_args()
    u = torch.randn(4, options.length, 1, dtype=torch.float64)
    wanted = Loop(options.order, options.theta)(u)
    for name, net in four_ways(options.order, options.theta).items():
        found = net(u)
        (r,) = net.report.recurrences
        error = float(np.abs(found.detach().numpy() - wanted.numpy()).max())
        print(f"{name:9} {r.kind}/{r.structure}  {r.form:12}  largest difference to the plain loop {error:.1e}")


if __name__ == "__main__":
    main()
