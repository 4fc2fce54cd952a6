"""Networks that are declared, compiled: systems, filters, equations and block diagrams.

Each function reads a declaration into an ordinary module and compiles it; `.original` is that module, which runs as
written. A declaration that cannot be read is a DeclarationError at once, with the place, the fact and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from linrec.api import compile
from linrec.frontends.diagrams import read_diagram
from linrec.frontends.equations import Equations, Reading
from linrec.frontends.systems import read_filter, read_system


def system(system: Any, *, dt: float | None = None, method: str = "zoh", trainable: bool = False) -> nn.Module:
    """A linear system as a module (batch, T, inputs) -> (batch, T, outputs).

    Args:
        system: a `scipy.signal` StateSpace, TransferFunction or ZerosPolesGain, continuous or discrete; a tuple (b, a) in powers of z,
            (zeros, poles, gain) or (A, B, C, D); an array of second-order sections (S, 6); anything with attributes A,
            B, C, D (and dt, 0 being continuous). Tuples and arrays are discrete.
        dt: the step size at which a continuous system is made discrete, in its unit of time.
        method: "zoh", "foh", "bilinear", "euler", "backward_diff" or "impulse", as in `scipy.signal.cont2discrete`.
        trainable: make the coefficients parameters; a stable system then stays stable.

    The module takes an initial state as second argument, (batch, n) or (n,), in the coordinates of A. It computes what
    `scipy.signal.dlsim` does. Raises DeclarationError for matrices that do not fit (LR0521), improper transfer
    functions (LR0522) and what is no system (LR0523); an unstable system is a remark (LR0524).
    """
    return compile(read_system(system, dt=dt, method=method, trainable=trainable))


def filter(b: Any = None, a: Any = 1.0, *, sos: Any = None, trainable: bool = False) -> nn.Module:
    """A filter along the last axis, as `scipy.signal.lfilter(b, a, x)` or `sosfilt(sos, x)`; differentiable.

    Args:
        b, a: coefficients of z^0, z^-1, ...; of any order.
        sos: second-order sections (S, 6), instead.
        trainable: make the coefficients parameters, in a lattice that stays stable whatever they become.

    The module maps x (..., T) to y (..., T), and (x, zi) to (y, zf) with zi and zf as scipy has them: (..., n), and
    (S, ..., 2) for sections. Raises DeclarationError as `system` does.
    """
    return compile(read_filter(b, a, sos=sos, trainable=trainable))


def equations(
    eqs: Any,
    *,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    parameters: Mapping[Any, Any] | None = None,
    constants: Mapping[Any, Any] | None = None,
    step: Any = None,
    method: str | None = None,
) -> nn.Module:
    """Equations in sympy as a module (batch, T, inputs) -> (batch, T, outputs), from rest.

    Args:
        eqs: one or several `sympy.Eq`, of scalars or of matrices: difference equations, each giving x(n) from values
            at n and before, or differential equations, each giving a multiple of x(t).diff(t, ...) from values at t,
            beside which equations y(t) = ... may define outputs.
        inputs, outputs: lists of sympy functions (x, not x(n)); each list is one tensor, channels in that order. A
            function whose equation has a symbol of shape (d,) or (d, d) is a vector of d channels.
        parameters, constants: values of symbols, numbers or arrays; parameters are learnt.
        step: for differential equations, the length of an interval: a number, a symbol with a value, or an input.
        method: "zoh" (default for linear equations: exact for inputs that are held over an interval), "foh" (exact for
            inputs that go straight from one value to the next), "bilinear", "backward_euler", "euler" (default, and
            the only one, for equations that are not linear in their states).

    x(n) is the value after step n, a state of a differential equation its value at the end of interval n. Raises
    DeclarationError for symbols without a value (LR0511), what is no recurrence (LR0512) or has no such method (LR0513).
    """
    return compile(Equations(Reading(eqs, inputs, outputs, parameters, constants, step, method)))


def diagram(graph: Any, *, inputs: Sequence[Any], outputs: Sequence[Any]) -> nn.Module:
    """A block diagram as a module (batch, T, inputs) -> (batch, T, outputs), from rest.

    Args:
        graph: a `networkx.DiGraph` (or MultiDiGraph). Node data "block" is "input", "output", "sum", a number (a gain), a
            module of one step (batch, channels), a `linrec.Recurrent` of one of torch's cells, or anything that
            `linrec.system` takes. Edge data "delay" is a number of steps, 0 if absent. Signals that enter one node are summed.
        inputs, outputs: lists of node names; each list is one tensor, channels in that order.

    Cycles close through delays, or through systems whose output does not depend on their input of the same step. A cycle
    without is solved where its blocks are gains, sums and one-channel systems and the solution is unique; otherwise it is
    a DeclarationError that prints the cycle (LR0532). What cannot be read is one as well (LR0531).
    """
    return compile(read_diagram(graph, inputs=inputs, outputs=outputs))
