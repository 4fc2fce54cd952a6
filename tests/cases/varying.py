"""Linear recurrences whose coefficients vary with time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import D, Spec, X, like_x, ltv, mask, zeros


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
