"""Workloads: each a naive loop, its inputs, the least work any form has to do, and hand-written forms beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from linrec.nn import zero_order_hold

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Target:
    """A bound on a ratio of times: the loop's to ours is at least that, ours to any other's at most.

    Of "output" or "bytes" it bounds the memory that a call holds at most, in outputs or in bytes.
    """

    what: str  # "forward" or "train"
    beside: str  # "loop", "floor", the name of a peer, "output" or "bytes"
    bound: float
    speedup: bool = False  # of the loop: times as fast


@dataclass(frozen=True)
class Workload:
    """`floor` is the bytes-moved or bare-product floor for the forward pass, `floor_train` for a train step."""

    name: str
    loop: Any  # what is compiled: the loop as written
    inputs: tuple[Tensor, ...]
    floor: Run
    floor_train: Run | None = None
    peers: dict[str, Run] = field(default_factory=dict)
    loop_steps: int = 0  # the loop takes minutes, or more memory than there is: timed at so many steps, and scaled
    targets: tuple[Target, ...] = ()


class Memory(nn.Module):
    """A dense recurrence of order 468 driven by one channel; `read` says what is read from it."""

    A: Tensor
    B: Tensor

    def __init__(self, read: str, order: int, steps: int) -> None:
        super().__init__()
        a, b = zero_order_hold(order, float(steps))
        self.read = read
        self.register_buffer("A", torch.tensor(a, dtype=torch.float32))
        self.register_buffer("B", torch.tensor(b, dtype=torch.float32))
        self.scale = nn.Parameter(torch.ones(1))
        self.readout = nn.Linear(order, 1)

    def forward(self, x: Tensor) -> Tensor:
        m = x.new_zeros(x.shape[0], self.A.shape[0])
        outputs = []
        for t in range(x.shape[1]):
            m = m @ self.A.T + (self.scale * x[:, t]) * self.B
            if self.read == "all":
                outputs.append(m)
            elif self.read == "readout":
                outputs.append(self.readout(m))
        return m if self.read == "last" else torch.stack(outputs, 1)


def memories(batch: int, steps: int, order: int) -> list[Workload]:
    """The dense memory: last state, one channel read out, all states."""
    x, response = torch.randn(batch, steps, 1), torch.randn(order, steps)
    size = 2 * steps

    def convolved(channels: Tensor) -> Run:
        spectrum = torch.fft.rfft(channels, size)
        return lambda x: torch.fft.irfft(torch.fft.rfft(x.transpose(1, 2), size) * spectrum, size)[..., :steps]

    floors: dict[str, Run] = {
        "last": lambda x: x.squeeze(-1) @ response.T,
        "readout": convolved(response[:1]),
        "all": convolved(response),
    }
    targets = {
        "last": (Target("train", "loop", 400, speedup=True), Target("train", "floor", 1.2)),
        "readout": (Target("train", "loop", 450, speedup=True),),
        "all": (Target("forward", "loop", 0.5), Target("train", "loop", 0.6), Target("forward", "output", 1.3)),
    }
    return [
        Workload(f"memory {read}", Memory(read, order, steps), (x,), floors[read], targets=targets[read])
        for read in floors
    ]


def gated(a: Tensor, x: Tensor) -> Tensor:
    """h = a h + x."""
    h, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def gates(batch: int, steps: int, channels: int) -> Workload:
    """The gated diagonal recurrence beside one `addcmul`, and three with fresh outputs for a train step."""
    a, x = torch.rand(batch, steps, channels), torch.randn(batch, steps, channels)
    out = torch.empty_like(x)

    def three(a: Tensor, x: Tensor) -> Tensor:
        a, x = a.detach(), x.detach()
        return torch.stack([torch.addcmul(x, a, x)[0, 0, 0] for _ in range(3)])

    alone = batch * channels == 1
    targets = (Target("forward", "floor", 6.0 if alone else 2.0), *(() if alone else (Target("train", "floor", 1.25),)))
    return Workload(
        f"gated {batch}x{steps}x{channels}", gated, (a, x), lambda a, x: torch.addcmul(x, a, x, out=out), three,
        loop_steps=1 << 14 if steps > 1 << 14 else 0, targets=targets,
    )  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
    """S = a S + k v^T, o = q S; a per key or one a head."""
    s, out = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3]), []
    for t in range(q.shape[1]):
        s = a[:, t].unsqueeze(-1) * s + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], s))
    return torch.stack(out, 1)


def delta(q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """S = S + b k (v - k^T S), o = q S."""
    s, out = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3]), []
    for t in range(q.shape[1]):
        error = v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], s)
        s = s + k[:, t].unsqueeze(-1) * (b[:, t] * error).unsqueeze(-2)
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], s))
    return torch.stack(out, 1)


def _chunks(x: Tensor, size: int) -> Tensor:  # (B,T,H,K) -> (B,H,N,C,K)
    return x.transpose(1, 2).unflatten(2, (-1, size))  # type: ignore[no-any-return, no-untyped-call]


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor, a: Tensor, size: int = 64) -> Tensor:
    """Chunks of 64 with decays as differences of logs around the middle of a chunk; exact for mild decays only."""
    q, k, v, g = (_chunks(x, size) for x in (q, k, v, a.log()))
    g = g.cumsum(-2)
    middle, last = g[..., size // 2 - 1 : size // 2, :], g[..., -1:, :]
    inside = ((q * (g - middle).exp()) @ (k * (middle - g).exp()).mT).tril()
    added = (k * (last - g).exp()).mT @ v
    state, befores = torch.zeros_like(added[:, :, 0]), []
    for n in range(added.shape[2]):
        befores.append(state)
        state = last[:, :, n].exp().mT * state + added[:, :, n]
    y = inside @ v + (q * g.exp()) @ torch.stack(befores, 2)
    return y.flatten(2, 3).transpose(1, 2)


def delta_by_hand(q: Tensor, k: Tensor, v: Tensor, b: Tensor, size: int = 64) -> Tensor:
    """Chunks of 64 as one triangular solve each."""
    q, k, v, b = (_chunks(x, size) for x in (q, k, v, b))
    right = b * k
    lower = (right @ k.mT).tril(-1) + torch.eye(size)
    solved = torch.linalg.solve_triangular(lower, torch.cat([b * v, right], -1), upper=False, unitriangular=True)
    y, w = solved.split([v.shape[-1], k.shape[-1]], -1)
    inside = (q @ k.mT).tril()
    state, out = torch.zeros_like(k[:, :, 0, :1].mT * v[:, :, 0, :1]), []
    for n in range(q.shape[2]):
        new = y[:, :, n] - w[:, :, n] @ state
        out.append(q[:, :, n] @ state + inside[:, :, n] @ new)
        state = state + k[:, :, n].mT @ new
    return torch.cat(out, 2).transpose(1, 2)


def matrices(batch: int, steps: int, heads: int, width: int) -> list[Workload]:
    """Matrix states beside hand-written chunks and four bare products of the same size."""
    q, k, v = (torch.randn(batch, steps, heads, width) for _ in range(3))
    k = normalize(k, dim=-1)
    square = torch.randn(batch * heads * steps // 64, 64, width)

    def floor(*_: Tensor) -> Tensor:
        return torch.stack([torch.bmm(square, square.mT)[0, 0, 0] for _ in range(4)])

    hand = {"by hand": attention_by_hand}

    def targets(speedup: float) -> tuple[Target, ...]:
        return (
            Target("train", "by hand", 1.0), Target("train", "loop", speedup, speedup=True),
            Target("forward", "jax scan", 1.0),
        )  # fmt: skip

    mild = 0.9 + 0.1 * torch.rand(batch, steps, heads, width)
    return [
        Workload("attention key decay", attention, (q, k, v, mild), floor, floor, hand, targets=targets(55)),
        Workload(
            "attention scalar decay",
            attention,
            (q, k, v, mild[..., :1].contiguous()),
            floor,
            floor,
            hand,
            targets=targets(55),
        ),
        Workload(
            "delta rule",
            delta,
            (q, k, v, torch.rand(batch, steps, heads, 1)),
            floor,
            floor,
            {"by hand": delta_by_hand},
            targets=targets(35),
        ),
    ]


class Modes(nn.Module):
    """A diagonal complex state space: H channels with N modes each."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        rate = torch.complex(-0.5 * torch.ones(modes), torch.pi * torch.arange(modes).float())
        self.a = nn.Parameter(torch.exp(0.01 * rate).repeat(channels, 1))
        self.c = nn.Parameter(torch.randn(channels, modes, dtype=torch.complex64) / modes)

    def forward(self, x: Tensor) -> Tensor:
        h, out = torch.zeros(x.shape[0], *self.a.shape, dtype=self.a.dtype), []
        for t in range(x.shape[1]):
            h = self.a * h + x[:, t].unsqueeze(-1)
            out.append((self.c * h).sum(-1).real)
        return torch.stack(out, 1)


def modes(batch: int, channels: int, steps: int, count: int) -> Workload:
    """Many independent channels, beside bare FFTs of twice their length."""
    x = torch.randn(batch, steps, channels)
    return Workload(
        f"modes {batch}x{channels}x{steps}", Modes(channels, count), (x,),
        lambda x: torch.fft.irfft(torch.fft.rfft(x.transpose(1, 2), 2 * steps), 2 * steps),
        loop_steps=512 if steps > 512 else 0,
        targets=(Target("forward", "floor", 0.9), Target("train", "jax fft", 0.9), Target("train", "bytes", 1.5e9)),
    )  # fmt: skip


def workloads(quick: bool) -> list[Workload]:
    """The whole table; `quick` shrinks every size to seconds, and leaves the targets out."""
    if quick:
        small = [
            *memories(4, 64, 16), gates(2, 128, 16), gates(1, 4096, 1), *matrices(1, 128, 2, 16), modes(1, 4, 256, 8),
        ]  # fmt: skip
        return [replace(w, targets=()) for w in small]
    shapes = [(8, 2048, 256), (64, 128, 512), (1, 65536, 64), (1, 1_000_000, 1)]
    return [
        *memories(100, 784, 468), *(gates(*s) for s in shapes), *matrices(1, 2048, 4, 64), modes(4, 256, 16384, 64),
    ]  # fmt: skip
