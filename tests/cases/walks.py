"""Ways to walk over time, and layouts of what is walked over."""

from __future__ import annotations

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import A, D, X, like_x, lti, small, zeros

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
