"""Intervals: differential equations s' = A s + b(u) over steps of length dt, as s[n] = F s[n-1] + G b.

    zoh              b held at b[n]:            F = exp(A dt), G = integral of exp(A r) over 0 <= r <= dt
    foh              b straight from b[n-1] to b[n]
    bilinear         F = P (1 + A dt/2), G = P dt/2 on b[n-1] + b[n], P = (1 - A dt/2)^-1
    backward_euler   F = (1 - A dt)^-1, G = F dt
    euler            s[n] = s[n-1] + dt s'(s[n-1], u[n]), linear or not

The first two are exact (Van Loan 1978: integrals of exponentials are blocks of one exponential). Matrices are
computed in double precision: once if they do not vary, else for all steps at once, O(T B n^3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from linrec.frontends.equations import Reading

METHODS = ("zoh", "foh", "bilinear", "backward_euler", "euler")


class Interval:
    """One step of the differential equations of `read`, for inputs (T, batch, inputs)."""

    def __init__(self, read: Reading, symbols: Mapping[str, Tensor], inputs: Tensor) -> None:
        self.read, self.dtype = read, inputs.dtype
        self.rows: dict[str, Tensor] = {}
        self.start: tuple[Tensor, ...] = (inputs.new_zeros(inputs.shape[1], read.width),)
        wide = inputs.double()
        varying = {(name, 0): wide[..., i] for i, name in enumerate(read.inputs)}
        dt: Any = (
            varying[read.step_name, 0] if read.step_name in read.inputs else symbols.get(read.step_name, read.step)
        )
        self.dt = (
            dt if isinstance(dt, Tensor) else torch.as_tensor(float(dt), dtype=torch.float64, device=inputs.device)
        )
        if read.method == "euler":
            self._keep(dt=self.dt)
            return
        # not made like the inputs: what depends on no input is computed once
        still = {key: torch.zeros((), dtype=torch.float64, device=inputs.device) for key in varying}
        A = self._jacobian({**symbols}, varying if read.varies else still, inputs.shape[:2] if read.varies else ())
        self._keep(**dict(zip(("F", "G", "H"), _matrices(str(read.method), A, self.dt), strict=False)))
        if read.method in ("foh", "bilinear"):
            quiet = {key: inputs.new_zeros(inputs.shape[1]) for key in varying}
            narrow = {key: value.to(self.dtype) for key, value in symbols.items()}
            self.start = (*self.start, read.drive(self.start[0], quiet, narrow))

    def _keep(self, **values: Tensor) -> None:
        """What varies is read row by row, the rest is the same at every step."""
        varies = self.read.varies or self.read.step_name in self.read.inputs
        self.fixed: dict[str, Tensor] = {}
        for key, value in values.items():
            (self.rows if varies else self.fixed)[key] = value.to(self.dtype)

    def _jacobian(self, symbols: Mapping[str, Tensor], now: Any, lead: tuple[int, ...]) -> Tensor:  # -> (*lead, n, n)
        """A of s' = A s + b, column by column: the equations are affine, so differences are exact derivatives."""
        n = self.read.width
        eye = torch.eye(n, dtype=torch.float64, device=self.start[0].device)
        origin = self.read.derivative(torch.zeros(n, dtype=eye.dtype, device=eye.device).expand(*lead, n), now, symbols)
        columns = [self.read.derivative(eye[i].expand(*lead, n), now, symbols) - origin for i in range(n)]
        return torch.stack(columns, -1)

    def advance(
        self, past: tuple[Tensor, ...], now: Any, row: Mapping[str, Tensor], symbols: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """The state at the end of the interval, from that at the end of the last one."""
        s, use = past[0], {**self.fixed, **row}
        if self.read.method == "euler":
            dt = use["dt"]
            return (s + (dt.unsqueeze(-1) if dt.dim() else dt) * self.read.derivative(s, now, symbols),)
        b = self.read.drive(torch.zeros_like(s), now, symbols)
        if self.read.method == "foh":
            return _apply(use["F"], s) + _apply(use["G"], past[1]) + _apply(use["H"], b - past[1]), b
        if self.read.method == "bilinear":
            return _apply(use["F"], s) + _apply(use["G"], past[1] + b), b
        return (_apply(use["F"], s) + _apply(use["G"], b),)


def _apply(matrix: Tensor, s: Tensor) -> Tensor:  # (n, n) or (batch, n, n), (batch, n) -> (batch, n)
    if matrix.shape[-1] == 1:
        return matrix[..., 0] * s
    return s @ matrix.T if matrix.dim() == 2 else (matrix @ s.unsqueeze(-1)).squeeze(-1)


def _matrices(method: str, A: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
    """F, G and, for foh, H: the weights of the old state, of b at the start, and of its change."""
    n = A.shape[-1]
    dt = dt.unsqueeze(-1).unsqueeze(-1) if dt.dim() else dt
    A, eye = A * dt, torch.eye(n, dtype=A.dtype, device=A.device)
    one = eye.expand(A.shape)
    if method == "zoh" and n == 1:
        return torch.exp(A), torch.where(A == 0, dt * one, torch.expm1(A) / torch.where(A == 0, one, A) * dt)
    if method in ("zoh", "foh"):
        none = torch.zeros(A.shape, dtype=A.dtype, device=A.device)
        blocks = (
            [[A, one, none], [none, none, one], [none, none, none]] if method == "foh" else [[A, one], [none, none]]
        )
        whole = torch.linalg.matrix_exp(torch.cat([torch.cat(rows, -1) for rows in blocks], -2))
        F, *rest = whole[..., :n, :].split(n, -1)
        return (F, *(dt * part for part in rest))
    if method == "bilinear":
        return torch.linalg.solve(one - A / 2, one + A / 2), torch.linalg.solve(one - A / 2, dt * one / 2)
    inverse = torch.linalg.inv(one - A)
    return inverse, dt * inverse
