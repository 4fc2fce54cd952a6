"""Systems: filters and state-space models by their coefficients, as modules whose forward is a scan.

    s[t+1] = A s[t] + B u[t],   y[t] = C s[t] + D u[t]

The state is kept in coordinates in which powers of A stay small (realization.py), so that any form computes what the
coefficients say; numbers are kept in double precision and cast to the input's dtype. As written a step costs
O(n^2 + n p + n q) a sequence.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import scipy.linalg
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from linrec.errors import DeclarationError, ShapeError
from linrec.frontends.realization import GROWTH, Array, Ladder, growth, input_normal, ladder, spectral_radius
from linrec.frontends.step import scan

log = logging.getLogger("linrec")
NORMALIZED = 48  # states up to which coordinates are changed: O(n^3) operations with many digits take seconds beyond
METHODS = ("zoh", "foh", "bilinear", "euler", "backward_diff", "impulse")


def _run(A: Tensor, B: Tensor, C: Tensor, D: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Final state and outputs for u (T, N, inputs), from s (N, n)."""
    # both rows of [s'; y] = [A B; C D] [s; u] at once
    left, right = (torch.cat(pair).to(u.dtype).T for pair in ((A, C), (B, D)))
    n = len(A)

    def step(s: Tensor, u_t: Tensor) -> tuple[Tensor, Tensor]:
        both = s @ left + u_t @ right
        return both[:, :n], both[:, n:]

    return scan(step, s, u)


class LinearSystem(nn.Module):
    """y = (A, B, C, D) u: (batch, T, inputs) -> (batch, T, outputs), from `state` (batch, n) or from rest.

    `state` is in the coordinates the system was given in. Trainable and stable, A = X R with R' R = (I + X'X)^-1, which
    is a contraction whatever X is, so it stays stable; trainable and unstable, A itself is learnt.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    there: Tensor

    def __init__(self, A: Array, B: Array, C: Array, D: Array, *, trainable: bool = False) -> None:
        super().__init__()
        self.remarks: tuple[str, ...] = _stability(np.linalg.eigvals(A), trainable)
        there: Any = np.eye(len(A))
        if (
            not self.remarks
            and len(A) <= NORMALIZED
            and growth(A) > GROWTH
            and (normal := input_normal(A, B, C)) is not None
        ):
            A, B, C, there = normal.A, normal.B, normal.C, normal.there
        self.is_contraction = trainable and not self.remarks and len(A) > 0
        if self.is_contraction:
            # W = A W A' + I makes A a contraction in the coordinates of its Cholesky factor
            root: Any = np.linalg.cholesky(scipy.linalg.solve_discrete_lyapunov(A, np.eye(len(A))))
            K, B, C, there = (
                np.linalg.solve(root, A @ root),
                np.linalg.solve(root, B),
                C @ root,
                np.linalg.solve(root, there),
            )
            # K = X M' with M M' = I - K'K = (I + X'X)^-1
            M = np.linalg.cholesky(np.eye(len(A)) - K.T @ K)
            self.X = nn.Parameter(torch.as_tensor(scipy.linalg.solve_triangular(M, K.T, lower=True).T.copy()))
        else:
            _register(self, trainable, A=A)
        _register(self, trainable, B=B, C=C, D=D)
        self.register_buffer("there", torch.as_tensor(there))

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, C, D as they are used."""
        if not self.is_contraction:
            return self.A, self.B, self.C, self.D
        X = self.X
        factor = torch.linalg.cholesky(X.T @ X + torch.eye(len(X), dtype=X.dtype, device=X.device))
        A = torch.linalg.solve_triangular(factor, X.T, upper=False).T
        return A, self.B, self.C, self.D

    def forward(self, u: Tensor, state: Tensor | None = None) -> Tensor:
        """Outputs (batch, T, outputs) for inputs u (batch, T, inputs)."""
        A, B, C, D = self.matrices()
        if u.dim() != 3 or u.shape[-1] != B.shape[1]:
            raise ShapeError(
                "LR0521", f"the system takes (batch, T, {B.shape[1]}), got {list(u.shape)}",
                help="u.unsqueeze(-1) gives a single input its axis",
            )  # fmt: skip
        s = u.new_zeros(u.shape[0], len(A))
        if state is not None:
            s = state.expand(u.shape[0], len(A)) @ self.there.to(u.dtype).T
        _, y = _run(A, B, C, D, u.transpose(0, 1), s)
        return y.transpose(0, 1)

    def extra_repr(self) -> str:
        """Sizes and remarks, for print(module)."""
        n, p, q = len(self.matrices()[0]), self.B.shape[1], self.C.shape[0]
        return "; ".join([f"{p} inputs, {n} states, {q} outputs", *self.remarks])


class Filter(nn.Module):
    """A cascade of rational filters along the last axis: y = filter(x), or (y, zf) = filter(x, zi) as scipy has it.

    Each stable section is a normalized lattice: learning changes the artanh of its reflection coefficients, its taps and
    its gain, so that it stays stable. Numbers of an unstable one are learnt as they are.
    """

    def __init__(self, sections: list[tuple[Array, Array]], *, stacked: bool, trainable: bool = False) -> None:
        super().__init__()
        self.stacked = stacked  # zi is (sections, ..., 2), as sosfilt's, not (..., n)
        poles = np.concatenate([np.roots(a) for _, a in sections])
        found = [ladder(b, a) for b, a in sections]
        self.remarks = _stability(poles, trainable)
        self.order = [max(len(b), len(a)) - 1 for b, a in sections]
        self.lattices = nn.ModuleList(_Section(f, b, a, trainable) for f, (b, a) in zip(found, sections, strict=True))
        if not trainable:
            for name, value in zip("ABCD", self._cascade(), strict=True):
                self.register_buffer(name, value)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, C, D of the whole cascade."""
        if hasattr(self, "A"):
            return self.A, self.B, self.C, self.D  # type: ignore[return-value]
        return self._cascade()

    def _sections(self) -> list[Any]:
        return list(self.lattices)

    def _cascade(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, *others = self._sections()
        A, B, C, D = first.matrices()
        for section in others:
            # s' = [A1 0; B2 C1 A2] s + [B1; B2 D1] u,  y = [D2 C1 C2] s + D2 D1 u
            A2, B2, C2, D2 = section.matrices()
            corner = A.new_zeros(len(A), len(A2))
            A = torch.cat([torch.cat([A, corner], 1), torch.cat([B2 @ C, A2], 1)])
            B, C, D = torch.cat([B, B2 @ D]), torch.cat([D2 @ C, C2], 1), D2 @ D
        return A, B, C, D

    def forward(self, x: Tensor, zi: Tensor | None = None) -> Any:
        """Filter x (..., T); zi is the state of a transposed direct form II, as lfilter and sosfilt take it."""
        A, B, C, D = self.matrices()
        n, lead = len(A), x.shape[:-1]
        rows = x.reshape(-1, x.shape[-1])
        s = x.new_zeros(rows.shape[0], n)
        if zi is not None:
            self._require(zi, lead)
            parts = list(zi) if self.stacked else [zi]
            s = torch.cat(
                [
                    z.reshape(-1, z.shape[-1]) @ f.there.to(x.dtype).T
                    for z, f in zip(parts, self._sections(), strict=True)
                ],
                -1,
            )
        final, y = _run(A, B, C, D, rows.transpose(0, 1).unsqueeze(-1), s)
        y = y.squeeze(-1).transpose(0, 1).reshape(x.shape)
        if zi is None:
            return y
        left = [
            (part @ f.back.to(x.dtype).T).reshape(*lead, -1)
            for part, f in zip(torch.split(final, self.order, -1), self._sections(), strict=True)
        ]
        return y, torch.stack(left) if self.stacked else left[0]

    def _require(self, zi: Tensor, lead: torch.Size) -> None:
        wanted = (len(self.order), *lead, 2) if self.stacked else (*lead, sum(self.order))
        if tuple(zi.shape) != wanted:
            raise ShapeError(
                "LR0521", f"zi has shape {tuple(zi.shape)}, this input needs {wanted}",
                help="time is the last axis of x; zi has the order of the filter there",
            )  # fmt: skip

    def extra_repr(self) -> str:
        """Orders and remarks, for print(module)."""
        return "; ".join([f"order {sum(self.order)} in {len(self.order)} sections", *self.remarks])


class _Section(nn.Module):
    """One rational filter of a cascade."""

    def __init__(self, found: Ladder | None, b: Array, a: Array, trainable: bool) -> None:
        super().__init__()
        self.is_ladder = found is not None
        if found is None:
            n = max(len(b), len(a)) - 1
            num, den = (np.pad(p / a[0], (0, n + 1 - len(p))) for p in (b, a))
            A = np.diag(np.ones(n - 1), 1)
            A[:, 0] -= den[1:]
            _register(self, trainable, A=A, C=np.eye(1, n))
            _register(self, trainable, taps=(num[1:] - den[1:] * num[0])[:, None], gain=num[:1, None])
            there = back = np.eye(n)
        else:
            if trainable:
                _register(self, True, angles=found.angles)
            else:
                _register(self, False, A=found.A, C=found.C)
            _register(self, trainable, taps=found.taps, gain=np.array([[found.gain]]))
            there, back = found.there, found.back
        self.register_buffer("there", torch.as_tensor(there))
        self.register_buffer("back", torch.as_tensor(back))

    def matrices(self) -> tuple[Any, Any, Any, Any]:
        """A, B, C, D."""
        if hasattr(self, "A"):
            return self.A, self.taps, self.C, self.gain
        A, C = lattice(self.angles)  # type: ignore[arg-type]
        return A, self.taps, C, self.gain


def lattice(angles: Tensor) -> tuple[Tensor, Tensor]:  # (n,) -> (n, n), (1, n)
    """A and C of the normalized lattice with reflection coefficients k = tanh(angles): realization.Ladder, for gradients."""
    k, c = torch.tanh(angles), 1 / torch.cosh(angles)
    n = len(k)
    # run[i, j] = c_i ... c_j for i <= j, else 1; left[i] = k_{i-1}, k_{-1} = 1
    upper = torch.ones(n, n, dtype=torch.bool, device=k.device).triu()
    run = torch.where(upper, c, torch.ones_like(c)).cumprod(-1)
    one = torch.ones_like(run[:, :1])
    left = torch.cat([one[0], k[:-1]])
    inner = -(left.unsqueeze(-1) * torch.cat([one, run[:, :-1]], -1) * k).triu()
    return (inner + torch.diag(c[:-1], -1)).T, (left * run[:, -1]).unsqueeze(0)


def read_system(system: Any, *, dt: Any = None, method: str = "zoh", trainable: bool = False) -> LinearSystem:
    """The module of a scipy.signal system, a tuple or an array of coefficients, or anything with A, B, C, D."""
    A, B, C, D = _discrete(_state_space(system, dt), dt, method)
    return LinearSystem(A, B, C, D, trainable=trainable)


def is_system(value: Any) -> bool:
    """Does `read_system` take this?"""
    kinds = (tuple, np.ndarray, scipy.signal.lti, scipy.signal.dlti)
    return isinstance(value, kinds) or all(hasattr(value, m) for m in "ABCD")


def _state_space(system: Any, dt: Any) -> Any:
    """Anything that says what it is, as A, B, C, D and its sampling time (None for continuous)."""
    if isinstance(system, np.ndarray) and system.ndim == 2 and system.shape[1] == 6:
        system = scipy.signal.ZerosPolesGain(*scipy.signal.sos2zpk(system), dt=True if dt is None else dt)
        return (*_whole(system), system.dt)
    if isinstance(system, tuple):
        kinds = {2: scipy.signal.TransferFunction, 3: scipy.signal.ZerosPolesGain}
        if len(system) not in (2, 3, 4):
            raise _unread(f"a tuple of {len(system)}", "give (b, a), (zeros, poles, gain) or (A, B, C, D)")
        if len(system) == 4:
            return (*_checked(*system), True if dt is None else dt)
        _proper(system)
        system = kinds[len(system)](*system, dt=True if dt is None else dt)
    if isinstance(system, scipy.signal.lti | scipy.signal.dlti):
        if isinstance(system, scipy.signal.TransferFunction):
            _proper((system.num, system.den))
        elif isinstance(system, scipy.signal.ZerosPolesGain):
            if len(system.zeros) > len(system.poles):
                raise _improper(len(system.zeros), len(system.poles))
        return (*_whole(system), system.dt)
    if all(hasattr(system, m) for m in "ABCD"):
        # python-control writes 0 for continuous, True or None for an unspecified sampling time
        step = getattr(system, "dt", True)
        return (*_checked(system.A, system.B, system.C, system.D), None if step == 0 and step is not False else step)
    raise _unread(f"a {type(system).__name__}", "give a scipy.signal system, (b, a), sos, or an object with A, B, C, D")


def _whole(system: Any) -> tuple[Array, Array, Array, Array]:
    state_space = system.to_ss()
    return _checked(state_space.A, state_space.B, state_space.C, state_space.D)


def _checked(*matrices: Any) -> tuple[Array, Array, Array, Array]:
    A, B, C, D = (np.atleast_2d(np.asarray(m)) for m in matrices)
    for name, m in zip("ABCD", (A, B, C, D), strict=True):
        if np.iscomplexobj(m) and np.abs(m.imag).max(initial=0) > 0:
            raise _unread(f"{name} with complex entries", "join conjugate poles into real systems of order two")
        if not np.isfinite(m).all():
            raise _unread(f"{name} with entries that are not finite", "check the coefficients it was made from")
    n = len(A)
    if A.size == 0:
        A, B, C = np.zeros((0, 0)), np.zeros((0, D.shape[1])), np.zeros((D.shape[0], 0))
    elif A.shape != (n, n) or B.shape[0] != n or C.shape[1] != n or D.shape != (C.shape[0], B.shape[1]):
        shown = ", ".join(f"{name} {m.shape}" for name, m in zip("ABCD", (A, B, C, D), strict=True))
        raise DeclarationError(
            "LR0521", f"the matrices do not fit together: {shown}",
            help="A is (n, n), B (n, inputs), C (outputs, n), D (outputs, inputs)",
        )  # fmt: skip
    return tuple(np.real(m).astype(np.float64) for m in (A, B, C, D))  # type: ignore[return-value]


def _discrete(system: Any, dt: Any, method: str) -> tuple[Array, Array, Array, Array]:
    *matrices, step = system
    if step is None:
        if method not in METHODS:
            raise _unread(f"the method {method!r}", f"one of {', '.join(METHODS)}")
        if dt is None or isinstance(dt, bool) or not dt > 0:
            raise DeclarationError(
                "LR0523", f"a continuous system needs a step size, got dt={dt!r}", help="linrec.system(system, dt=0.01)"
            )
        A, B, C, D, _ = scipy.signal.cont2discrete(tuple(matrices), float(dt), method=method)
        return A, B, C, D
    if dt is not None and step is not True and step != dt:
        raise DeclarationError(
            "LR0523", f"the system is discrete with dt={step}, and dt={dt} was asked for",
            help="leave dt out, or give the continuous system",
        )  # fmt: skip
    return tuple(matrices)


def _proper(system: tuple[Any, ...]) -> None:
    if len(system) == 2:
        num, den = (np.trim_zeros(np.atleast_1d(np.asarray(p, dtype=np.float64)).ravel(), "f") for p in system)
        if len(num) > len(den):
            raise _improper(len(num) - 1, len(den) - 1)
    if len(system) == 3 and len(np.atleast_1d(system[0])) > len(np.atleast_1d(system[1])):
        raise _improper(len(np.atleast_1d(system[0])), len(np.atleast_1d(system[1])))


def _improper(zeros: int, poles: int) -> DeclarationError:
    return DeclarationError(
        "LR0522", f"the transfer function is improper: {zeros} zeros and {poles} poles, so it would look ahead",
        help="multiply it by z^-1 (add poles at 0) until it is causal",
    )  # fmt: skip


def _unread(what: str, cure: str) -> DeclarationError:
    return DeclarationError("LR0523", f"a system cannot be read from {what}", help=cure)


def _stability(poles: NDArray[Any], trainable: bool) -> tuple[str, ...]:
    """A remark on the poles that are not inside of the unit circle."""
    outside = poles[np.abs(poles) >= 1]
    if not outside.size:
        return ()
    shown = ", ".join(f"{p.real:.6g}" if abs(p.imag) < 1e-12 else f"{p:.6g}" for p in outside)
    text = f"unstable: poles {shown} of absolute value {np.abs(outside).max():.6g}"
    if trainable:
        text += "; its coefficients are learnt as they are, nothing keeps it stable"
    log.warning("LR0524 %s", text)
    return (text,)


def _register(module: nn.Module, trainable: bool, **values: Array) -> None:
    for name, value in values.items():
        tensor = torch.as_tensor(np.ascontiguousarray(value))
        if trainable:
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)


def read_filter(b: Any = None, a: Any = 1.0, *, sos: Any = None, trainable: bool = False) -> Filter:
    """The module of coefficients (b, a) or of second-order sections (S, 6)."""
    if (b is None) == (sos is None):
        raise DeclarationError("LR0523", "a filter is given by b and a, or by sos", help="linrec.filter(b, a)")
    if sos is not None:
        sections = np.atleast_2d(np.asarray(sos, dtype=np.float64))
        if sections.ndim != 2 or sections.shape[1] != 6 or not len(sections):
            raise DeclarationError(
                "LR0521",
                f"sos has shape {sections.shape}, not (sections, 6)",
                help="scipy.signal.butter(n, w, output='sos')",
            )
        return Filter(
            [_rational(s[:3], s[3:], f"section {i}") for i, s in enumerate(sections)], stacked=True, trainable=trainable
        )
    return Filter([_rational(b, a, "the filter")], stacked=False, trainable=trainable)


def _rational(b: Any, a: Any, place: str) -> tuple[Array, Array]:
    b, a = (np.atleast_1d(np.asarray(p)) for p in (b, a))
    for name, p in (("b", b), ("a", a)):
        if np.iscomplexobj(p) or p.ndim != 1 or not p.size or not np.isfinite(p.astype(np.float64)).all():
            raise DeclarationError(
                "LR0521",
                f"{name} of {place} is not a list of finite real numbers",
                help="give coefficients of z^0, z^-1, ...",
            )
    if a[0] == 0:
        raise DeclarationError(
            "LR0522", f"a[0] of {place} is 0, so it would look ahead", help="shift a so that it starts with a number"
        )
    return b.astype(np.float64), a.astype(np.float64)


__all__ = ["Filter", "LinearSystem", "is_system", "lattice", "read_filter", "read_system", "spectral_radius"]
