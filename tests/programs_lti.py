"""Loops as people write them, each with the inputs it takes: one table for linear time-invariant programs, one for
time-varying and one for nonlinear ones.

`LTI`, `LTV` and `NONLINEAR` map a name to a `Case`. `Case.make()` gives a fresh function or module in float64 with the
same weights each time; `Case.args(batch, steps)` draws its inputs, all leaves that may carry a gradient requiring it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spec(NamedTuple):
    """How one argument is drawn: its shape (B and T stand for batch and steps) and its distribution."""

    shape: tuple[str | int, ...]
    low: float | None = None
    scale: float = 1.0
    dtype: torch.dtype = torch.float64


def like_x(*shape: str | int) -> Spec:
    """A standard normal signal."""
    return Spec(shape)


def decay(*shape: str | int) -> Spec:
    """Uniform in 0.3 .. 0.95."""
    return Spec(shape, low=0.3, scale=0.65)


def small(*shape: str | int) -> Spec:
    """A matrix with a spectral radius well below one."""
    return Spec(shape, scale=0.3)


def mask(*shape: str | int) -> Spec:
    """Booleans."""
    return Spec(shape, dtype=torch.bool)


@dataclass(frozen=True)
class Case:
    """One program: how to make it and what to call it with."""

    name: str
    make: Callable[[], Any]
    specs: tuple[Spec, ...]

    def args(self, batch: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Inputs for a batch size and a length; the same for the same seed."""
        draw = torch.Generator().manual_seed(1000 * batch + steps + seed)
        sizes = {"B": batch, "T": steps}
        args = []
        for spec in self.specs:
            shape = [sizes[s] if isinstance(s, str) else s for s in spec.shape]
            if spec.dtype == torch.bool:
                args.append(torch.rand(shape, generator=draw) > 0.4)
                continue
            made = spec.dtype if spec.dtype.is_complex else torch.float64
            if spec.low is None:
                value = torch.randn(shape, generator=draw, dtype=made) * spec.scale
            else:
                value = torch.rand(shape, generator=draw, dtype=made) * spec.scale + spec.low
            args.append((value if spec.dtype.is_complex else value.to(dtype)).requires_grad_())
        return tuple(args)


LTI: dict[str, Case] = {}
LTV: dict[str, Case] = {}
NONLINEAR: dict[str, Case] = {}


def _into(table: dict[str, Case], specs: tuple[Spec, ...]) -> Callable[[Any], Any]:
    def register(model: Any) -> Any:
        name = model.__name__

        def make() -> Any:
            if not isinstance(model, type):
                return model
            state = torch.get_rng_state()
            torch.manual_seed(7)
            made = model().double()
            torch.set_rng_state(state)
            return made

        assert name not in table
        table[name] = Case(name, make, specs)
        return model

    return register


def lti(*specs: Spec) -> Callable[[Any], Any]:
    """Every recurrence of the program is linear and time-invariant."""
    return _into(LTI, specs)


def ltv(*specs: Spec) -> Callable[[Any], Any]:
    """Every recurrence is linear, at least one varies with time."""
    return _into(LTV, specs)


def nonlinear(*specs: Spec) -> Callable[[Any], Any]:
    """At least one recurrence is not linear in its state."""
    return _into(NONLINEAR, specs)


X = like_x("B", "T", 3)
D = decay(3)
A = small(3, 3)


def zeros(x: Tensor) -> Tensor:
    """A zero state for x of shape (B, T, d)."""
    return torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)


# ---- spellings of the step ---------------------------------------------------------------------


@lti(like_x("B", "T"))
def scalar_constant(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, dim=1)


@lti(like_x("T"), decay())
def unbatched_scalar_tensor(x: Tensor, a: Tensor) -> Tensor:
    h = x.new_zeros(())
    ys = []
    for t in range(len(x)):
        h = a * h + x[t]
        ys.append(h)
    return torch.stack(ys)


@lti(X, D)
def diagonal(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A, small(3, 3))
def dense_matmul(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.size(1)):
        h = h @ a.T + x[:, t] @ b
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A)
def dense_einsum(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.einsum("ij,bj->bi", a, h) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A, small(3), small(3, 3))
def functional_linear(x: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = F.linear(h, w, b) + F.linear(x[:, t], u)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, A)
def addmm_spelling(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.addmm(x[:, t], h, a, beta=0.5, alpha=0.75)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("T", 3), A)
def unbatched_mv(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(3, dtype=x.dtype)
    ys = []
    for x_t in x:
        h = torch.mv(a, h) + x_t
        ys.append(h)
    return torch.stack(ys)


@lti(X, small("B", 3, 3))
def bmm_own_matrix_each_row(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, 1, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = torch.bmm(a, h) + x[:, t].unsqueeze(-1)
        ys.append(h.squeeze(-1))
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(4), small(4))
def companion_shift_register(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    s = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        new = x[:, t] + s @ a
        s = torch.cat([new.unsqueeze(1), s[:, :-1]], dim=1)
        ys.append(s @ c)
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(), small())
def order_two_by_two_names(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    y1 = y2 = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] + a1 * y1 + a2 * y2
        y1, y2 = y, y1
        ys.append(y)
    return torch.stack(ys, 1)


@lti(like_x("B", "T"), small(), small())
def order_two_with_if(x: Tensor, a1: Tensor, a2: Tensor) -> Tensor:
    ys: list[Tensor] = []
    for t in range(x.shape[1]):
        y = x[:, t]
        if t >= 1:
            y = y + a1 * ys[t - 1]
        if t >= 2:
            y = y + a2 * ys[t - 2]
        ys.append(y)
    return torch.stack(ys, 1)


@lti(X, D)
def lerp_spelling(x: Tensor, w: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.lerp(h, x[:, t], w)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def addcmul_and_division(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.addcmul(x[:, t], a, h, value=-0.5) - h / 4
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def error_feedback(x: Tensor, k: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h + k * (x[:, t] - h)
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, decay(), decay())
def momentum_two_states(g: Tensor, mu: Tensor, lr: Tensor) -> Tensor:
    p = v = zeros(g)
    ps = []
    for t in range(g.shape[1]):
        v = mu * v + g[:, t]
        p = p - lr * v
        ps.append(p)
    return torch.stack(ps, 1)


@lti(X, A, small(3, 2))
def observer_with_gain(y: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h = zeros(y)
    out = []
    for t in range(y.shape[1]):
        innovation = y[:, t, :2] - h @ c
        h = h @ a + innovation @ c.T
        out.append(innovation)
    return torch.stack(out, 1)


@lti(like_x("B", "T", 2, 3), small(2, 2), small(3, 3))
def two_sided_products(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 2, 3, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = a @ h @ b + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def rolled_state(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * torch.roll(h, 1, dims=-1) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def fixed_where(x: Tensor, a: Tensor) -> Tensor:
    keep = torch.tensor([True, False, True])
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.where(keep, a * h, -h) * 0.9 + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 4), A, decay(1))
def split_and_join(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 4)
    ys = []
    for t in range(x.shape[1]):
        left, right = torch.split(h, [3, 1], dim=-1)
        h = torch.cat([left @ a, b * right], -1) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 6), small(2, 2))
def heads_by_view(x: Tensor, a: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 6)
    ys = []
    for t in range(x.shape[1]):
        h = (h.view(-1, 3, 2) @ a).reshape(-1, 6) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def mean_over_state_axis(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * (h - h.mean(-1, keepdim=True)) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def inplace_operators(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h.clone()
        h *= a.detach()
        h += x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X)
def inplace_methods_on_one_tensor(x: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h.mul_(0.8).add_(x[:, t])
        ys.append(h.clone())
    return torch.stack(ys, 1)


# ---- complex states ------------------------------------------------------------------------------

Z = Spec((3,), scale=0.4, dtype=torch.complex128)


@lti(X, Z)
def complex_diagonal_real_output(x: Tensor, lam: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.complex128)
    ys = []
    for t in range(x.shape[1]):
        h = lam * h + x[:, t]
        ys.append(2 * h.real)
    return torch.stack(ys, 1)


@lti(Spec(("B", "T", 3), dtype=torch.complex128), Spec((3, 3), scale=0.2, dtype=torch.complex128))
def complex_dense(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for t in range(x.shape[1]):
        h = h @ a.mH + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, decay(3), decay(3), Z)
def polar_complex_with_readout(x: Tensor, log_r: Tensor, theta: Tensor, c: Tensor) -> Tensor:
    lam = torch.polar(torch.exp(-log_r), theta)
    h = torch.zeros(x.shape[0], 3, dtype=torch.cdouble)
    ys = []
    for t in range(x.shape[1]):
        h = lam * h + x[:, t]
        ys.append((h * c).sum(-1).real)
    return torch.stack(ys, 1)


@lti(X, decay(3))
def rotation_as_pair(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    re, im = zeros(x), zeros(x)
    out = []
    for t in range(x.shape[1]):
        re, im = 0.9 * (w.cos() * re - w.sin() * im) + x[:, t], 0.9 * (w.sin() * re + w.cos() * im)
        out.append(re)
    return torch.stack(out, 1), im


# ---- channel axes and layouts --------------------------------------------------------------------


@lti(like_x("B", "T", 2), A, small(3))
def channels_share_dense_a(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    m = u.new_zeros(u.shape[0], u.shape[2], 3)
    ys = []
    for t in range(u.shape[1]):
        m = m @ a.T + u[:, t].unsqueeze(-1) * b
        ys.append(m)
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 2), A, small(3), small(2, 3))
def channels_narrow_readout(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    m = u.new_zeros(u.shape[0], 2, 3)
    ys = []
    for t in range(u.shape[1]):
        m = torch.einsum("ij,bcj->bci", a, m) + torch.einsum("bc,j->bcj", u[:, t], b)
        ys.append((m * c).sum((-1, -2)))
    return torch.stack(ys, 1)


@lti(like_x("B", "T", 2), A, small(3))
def channels_final_only(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    m = u.new_zeros(u.shape[0], 2, 3)
    for t in range(u.shape[1]):
        m = m @ a.T + u[:, t, :, None] * b
    return m.flatten(1)


@lti(like_x("T", "B", 3), D)
def time_first(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[0])
    ys = []
    for x_t in x:
        h = a * h + x_t
        ys.append(h)
    return torch.stack(ys)


@lti(like_x("B", 3, "T"), D)
def time_last(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[..., 0])
    ys = []
    for t in range(x.shape[-1]):
        h = a * h + x[..., t]
        ys.append(h)
    return torch.stack(ys, dim=-1)


@lti(like_x("B", 2, "T", 3), D)
def two_batch_axes(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, :, 0])
    ys = []
    for t in range(x.size(2)):
        h = a * h + x.select(2, t)
        ys.append(h)
    return torch.stack(ys, 2)


@lti(X, D)
def transposed_then_iterated(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys = []
    for x_t in x.transpose(0, 1):
        h = a * h + x_t
        ys.append(h)
    return torch.stack(ys).transpose(0, 1)


# ---- ways to walk over time ----------------------------------------------------------------------


@lti(X, D)
def unbind_walk(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for x_t in x.unbind(1):
        h = a * h + x_t
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def enumerate_into_preallocated(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    out = torch.zeros_like(x)
    for t, x_t in enumerate(x.unbind(1)):
        h = a * h + x_t
        out[:, t] = h
    return out


@lti(X, X, D)
def zip_of_two_signals(x: Tensor, u: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for x_t, u_t in zip(x.unbind(1), torch.unbind(u, dim=1), strict=True):
        h = a * h + x_t * u_t
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def while_loop(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    t = 0
    while t < x.shape[1]:
        h = a * h + x[:, t]
        ys.append(h)
        t += 1
    return torch.stack(ys, 1)


@lti(X, D)
def split_and_cat(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, :1])
    ys = []
    for x_t in torch.split(x, 1, dim=1):
        h = a * h + x_t
        ys.append(h)
    return torch.cat(ys, dim=1)


@lti(X, D)
def narrow_slices(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0:1])
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t : t + 1]
        ys.append(h)
    return torch.cat(ys, 1)


@lti(X, D)
def accumulate_lambda(x: Tensor, a: Tensor) -> Tensor:
    return torch.stack(list(itertools.accumulate(x.unbind(1), lambda h, x_t: a * h + x_t)), 1)


@lti(X, D)
def reduce_lambda(x: Tensor, a: Tensor) -> Tensor:
    return functools.reduce(lambda h, x_t: a * h + x_t, x.unbind(1), zeros(x))


@lti(X, D)
def reversed_range(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in reversed(range(x.shape[1])):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys[::-1], 1)


@lti(X, D)
def countdown_into_preallocated(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    out = torch.empty_like(x)
    for t in range(x.shape[1] - 1, -1, -1):
        h = a * h + x[:, t]
        out[:, t, :] = h
    return out


@lti(X, D)
def insert_at_front(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys: list[Tensor] = []
    for x_t in reversed(x.unbind(1)):
        h = a * h + x_t
        ys.insert(0, h)
    return torch.stack(ys, 1)


@lti(X, D)
def negative_index(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, -1 - t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def forward_and_backward(x: Tensor, a: Tensor) -> Tensor:
    h = g = zeros(x)
    hs, gs = [], []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        hs.append(h)
    for t in reversed(range(x.shape[1])):
        g = a * g + x[:, t]
        gs.append(g)
    return torch.cat([torch.stack(hs, 1), torch.stack(gs[::-1], 1)], -1)


@lti(X, D)
def neighbour_inputs(x: Tensor, a: Tensor) -> Tensor:
    padded = F.pad(x, (0, 0, 1, 0))
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + padded[:, t + 1] - 0.5 * padded[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def every_second_step(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(0, x.shape[1], 2):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


# ---- initial states ------------------------------------------------------------------------------


@lti(X, D, like_x("B", 3))
def initial_given(x: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1), h


@lti(X, A, like_x(3))
def initial_parameter_broadcast(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    h = h0.expand(x.shape[0], -1)
    ys = []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_python_zero(x: Tensor, a: Tensor) -> Tensor:
    h: Any = 0
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_python_float(x: Tensor, a: Tensor) -> Tensor:
    h: Any = 1.5
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_none(x: Tensor, a: Tensor) -> Tensor:
    h = None
    ys = []
    for t in range(x.shape[1]):
        h = x[:, t] if h is None else a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_first_input(x: Tensor, a: Tensor) -> Tensor:
    h = x[:, 0]
    ys = [h]
    for t in range(1, x.shape[1]):
        h = a * h + (1 - a) * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D, like_x("B", 3))
def states_with_the_initial_one(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    hs = [h0]
    for t in range(x.shape[1]):
        hs.append(a * hs[-1] + x[:, t])
    return torch.stack(hs, 1)


@lti(X, D)
def output_before_update(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        ys.append(h)
        h = a * h + x[:, t]
    return torch.stack(ys, 1)


# ---- states and outputs of many kinds ------------------------------------------------------------


@lti(X, D, A)
def dict_state(x: Tensor, a: Tensor, b: Tensor) -> dict[str, Any]:
    state = {"fast": zeros(x), "slow": zeros(x)}
    ys = []
    for t in range(x.shape[1]):
        fast = a * state["fast"] + x[:, t]
        state = {"fast": fast, "slow": state["slow"] @ b + fast}
        ys.append(state["slow"])
    return {"y": torch.stack(ys, 1), "state": state, "steps": x.shape[1], "nothing": None}


@lti(X, D)
def list_of_states(x: Tensor, a: Tensor) -> Tensor:
    hs = [zeros(x) for _ in range(3)]
    ys = []
    for t in range(x.shape[1]):
        below = x[:, t]
        for i in range(3):
            hs[i] = a * hs[i] + below
            below = hs[i]
        ys.append(below)
    return torch.stack(ys, 1)


@lti(X, A)
def final_only(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
    return h


@lti(X, D)
def last_of_appended(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return ys[-1]


@lti(X, A, small(3, 1))
def narrow_readout(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h @ c)
    return torch.cat(ys, 1)


@lti(X, A, small(3, 2), small(3, 2))
def readout_with_feedthrough(x: Tensor, a: Tensor, c: Tensor, d: Tensor) -> Tensor:
    h = zeros(x)
    out = x.new_zeros(x.shape[0], x.shape[1], 2)
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        out[:, t] = h @ c + x[:, t] @ d
    return out


@lti(X, D)
def reads_what_it_wrote(x: Tensor, a: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 0] = x[:, 0]
    for t in range(1, x.shape[1]):
        out[:, t] = a * out[:, t - 1].clone() + x[:, t]
    return out


@lti(X, D)
def nonlinear_before_and_after(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.sigmoid(a) * h + torch.tanh(x[:, t]) ** 2
        ys.append(F.layer_norm(torch.relu(h), (3,)))
    return torch.stack(ys, 1)


@lti(X, X, D)
def loss_accumulated(x: Tensor, target: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    loss = x.new_zeros(())
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        loss = loss + ((h - target[:, t]) ** 2).mean()
    return loss / x.shape[1]


@lti(X, D)
def several_outputs(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = zeros(x)
    ys, norms = [], []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
        norms.append(h.norm(dim=-1))
    return torch.stack(ys, 1), torch.stack(norms, 1), h, x


@lti(X, X, X)
def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q.new_zeros(q.shape[0], 3, 3)
    ys = []
    for t in range(q.shape[1]):
        s = s + k[:, t, :, None] * v[:, t, None, :]
        ys.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(ys, 1)


# ---- several loops -------------------------------------------------------------------------------


@lti(X, D, A)
def two_layers_in_sequence(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    z = F.gelu(torch.stack(ys, 1))
    h = zeros(x)
    ys = []
    for t in range(z.shape[1]):
        h = h @ b + z[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D, A)
def two_layers_in_one_body(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h1 = h2 = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h1 = a * h1 + x[:, t]
        h2 = h2 @ b + torch.relu(h1)
        ys.append(h2)
    return torch.stack(ys, 1)


# ---- modules -------------------------------------------------------------------------------------


@lti(X)
class LinearAsTransition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(3, 4)
        self.rec = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 2)
        nn.init.normal_(self.rec.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            h = self.rec(h) + self.inp(x[:, t])
            ys.append(self.out(h))
        return torch.stack(ys, 1)


class Cell(nn.Module):
    """One step of a diagonal recurrence with a learned first state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.randn(width))
        self.project = nn.Linear(width, width)
        self.h0 = nn.Parameter(torch.randn(width))

    def forward(self, x_t: Tensor, h: Tensor | None) -> Tensor:
        if h is None:
            h = self.h0.expand(x_t.shape[0], -1)
        new: Tensor = torch.exp(-F.softplus(self.log_a)) * h + self.project(x_t)
        return new


@lti(X)
class CellsInModuleList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Cell(3) for _ in range(2))
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            h, ys = None, []
            for x_t in x.unbind(1):
                h = cell(x_t, h)
                ys.append(h)
            x = x + self.norm(torch.stack(ys, 1))
        return x


@lti(like_x("B", "T", 1))
class ConstantMemory(nn.Module):
    """Frozen A and B in buffers, final state only, a classifier on top."""

    a: Tensor
    b: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.randn(5, 5) * 0.3)
        self.register_buffer("b", torch.randn(5), persistent=False)
        self.encode = nn.Linear(1, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        u = self.encode(x)
        m = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            m = m @ self.a.T + u[:, t] * self.b
        scores: Tensor = self.head(torch.relu(m))
        return scores


@lti(like_x("B", "T", 1))
class BuiltFromTheta(nn.Module):
    """The transition is computed from a trainable scalar on each call."""

    base: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("base", torch.randn(3, 3) - 3 * torch.eye(3))
        self.c = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        a = torch.matrix_exp(self.base / self.theta)
        m = x.new_zeros(x.shape[0], 3)
        ys = []
        for t in range(x.shape[1]):
            m = m @ a.mT + x[:, t]
            ys.append((m * self.c).sum(-1, keepdim=True))
        return torch.stack(ys, 1)


# ---- linear, varying with time -------------------------------------------------------------------


@ltv(X, X)
def gated(x: Tensor, z: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        g = torch.sigmoid(z[:, t])
        h = g * h + (1 - g) * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@ltv(X)
def running_mean(x: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h + (x[:, t] - h) / (t + 1)
        ys.append(h)
    return torch.stack(ys, 1)


@ltv(X, D)
def parity_of_t(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = (a if t % 2 == 0 else 0.5) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@ltv(X, D)
def math_of_t(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * math.exp(-t / 20) * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@ltv(X, D, mask("B", "T"))
def reset_by_mask(x: Tensor, a: Tensor, start: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.where(start[:, t, None], x[:, t], a * h + x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)


@ltv(X, D, Spec(("B",), low=1.0, scale=9.0))
def held_after_its_length(x: Tensor, a: Tensor, length: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = torch.where((t < length)[:, None], a * h + x[:, t], h)
    return h


@ltv(X, X, X, X)
def gated_attention(q: Tensor, k: Tensor, v: Tensor, z: Tensor) -> Tensor:
    s = q.new_zeros(q.shape[0], 3, 3)
    ys = []
    for t in range(q.shape[1]):
        s = torch.sigmoid(z[:, t, :, None]) * s + k[:, t, :, None] * v[:, t, None, :]
        ys.append((q[:, t, :, None] * s).sum(1))
    return torch.stack(ys, 1)


@ltv(X, X, like_x("B", "T"))
def delta_rule(k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    s = k.new_zeros(k.shape[0], 3, 3)
    ys = []
    for t in range(k.shape[1]):
        k_t = F.normalize(k[:, t], dim=-1)
        b_t = torch.sigmoid(beta[:, t, None])
        read = torch.einsum("bk,bkv->bv", k_t, s)
        s = s + torch.einsum("bk,bv->bkv", k_t, b_t * (v[:, t] - read))
        ys.append(read)
    return torch.stack(ys, 1)


@ltv(like_x("B", "T", 3, 3), X)
def dense_from_the_input(m: Tensor, x: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = torch.einsum("bij,bj->bi", 0.3 * m[:, t], h) + x[:, t]
    return h


# ---- not linear, some by a hair --------------------------------------------------------------------


def _near_miss(step: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    @functools.wraps(step)
    def run(x: Tensor, a: Tensor) -> Tensor:
        h = torch.full_like(x[:, 0], 0.5)
        ys = []
        for t in range(x.shape[1]):
            h = step(a * h + x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    return run


@nonlinear(X, D)
@_near_miss
def tanh(new: Tensor, h: Tensor) -> Tensor:
    return torch.tanh(new)


@nonlinear(X, D)
@_near_miss
def relu(new: Tensor, h: Tensor) -> Tensor:
    return F.relu(new)


@nonlinear(X, D)
@_near_miss
def square(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.01 * h * h


@nonlinear(X, D)
@_near_miss
def rounding(new: Tensor, h: Tensor) -> Tensor:
    return new + torch.round(h * 8) / 64


@nonlinear(X, D)
@_near_miss
def wide_clamp(new: Tensor, h: Tensor) -> Tensor:
    return new.clamp(-1e6, 1e6)


@nonlinear(X, D)
@_near_miss
def where_positive(new: Tensor, h: Tensor) -> Tensor:
    return torch.where(h > 0, new, 0.5 * new)


@nonlinear(X, D)
@_near_miss
def zero_times_tanh(new: Tensor, h: Tensor) -> Tensor:
    return new + 0 * torch.tanh(h)


@nonlinear(X, D)
@_near_miss
def tiny_sine(new: Tensor, h: Tensor) -> Tensor:
    return new + 1e-13 * torch.sin(h)


@nonlinear(X, D)
@_near_miss
def layer_norm(new: Tensor, h: Tensor) -> Tensor:
    return F.layer_norm(new, (3,))


@nonlinear(X, D)
@_near_miss
def division_by_state(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 / (h.detach() ** 2 + 2)


@nonlinear(X, D)
@_near_miss
def absolute(new: Tensor, h: Tensor) -> Tensor:
    return new.abs()


@nonlinear(X, D)
@_near_miss
def largest(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 * h.max(-1, keepdim=True).values


@nonlinear(X, D)
@_near_miss
def through_integers(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.01 * h.long()


@nonlinear(X, D)
@_near_miss
def sorted_state(new: Tensor, h: Tensor) -> Tensor:
    return new + 0.1 * h.sort(-1).values


@nonlinear(X, D)
@_near_miss
def detached(new: Tensor, h: Tensor) -> Tensor:
    return new - 0.25 * h.detach()


@nonlinear(Spec(("B", "T", 3), dtype=torch.complex128), Z)
@_near_miss
def complex_modulus(new: Tensor, h: Tensor) -> Tensor:
    return new * 0.5 + 0.1 * h.abs()


@nonlinear(X)
class GruLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        ys = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)
