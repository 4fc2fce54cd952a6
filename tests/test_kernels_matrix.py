"""Matrix states against their definition in double precision, compiled and in plain operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from linrec import native
from linrec.kernels import matrix
from linrec.kernels.matrix import Parts

BOTH = pytest.mark.parametrize("path", ["compiled", "plain"], indirect=True)
STEPS = pytest.mark.parametrize("steps", [1, 2, 3, 29, 64, 257, 1000])


def loop(steps: int, p: Parts) -> tuple[Tensor, ...]:
    """The definition."""

    def at(x: Tensor, t: int) -> Tensor:
        return x[t if x.shape[0] > 1 else 0]

    state, reads = p.start, [list[Tensor]() for _ in p.queries]
    for t in range(steps):
        new = state if p.decay is None else at(p.decay, t) * state
        for u, w, v in zip(p.lefts, p.inners, p.values, strict=True):
            if w is not None:
                new = new + torch.einsum("...i,...j,...jv->...iv", at(u, t), at(w, t), state)
            if v is not None:
                new = new + torch.einsum("...i,...v->...iv", at(u, t), at(v, t))
        for read, q, delay in zip(reads, p.queries, p.delays, strict=True):
            read.append(torch.einsum("...k,...kv->...v", at(q, t), state if delay else new))
        state = new
    return (*(torch.stack(r) for r in reads), state)


K, V = 6, 5


def recurrence(
    steps: int,
    decay: str = "none",
    updates: str = "v",
    delays: tuple[int, ...] = (0,),
    dtype: torch.dtype = torch.float64,
    sizes: tuple[int, int] = (K, V),
    passing: tuple[int, ...] = (2, 3),
) -> Parts:
    """`updates`: v has a value, w an inner read, b both; `decay`: where it differs."""
    g = torch.Generator().manual_seed(steps)
    k, v = sizes

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    shape = {"none": None, "scalar": (1, 1), "key": (k, 1), "value": (1, v), "full": (k, v)}[decay.partition(":")[0]]
    a = None if shape is None else torch.rand(steps, *passing, *shape, generator=g, dtype=torch.float64).to(dtype)
    if ":" in decay:
        assert a is not None
        kind = decay.partition(":")[2]
        if kind == "constant":
            a = a[:1, :1]
        else:
            a = torch.where(torch.rand(a.shape, generator=g) < 0.3, torch.tensor(float(kind), dtype=dtype), a)
    lefts = [torch.nn.functional.normalize(made(steps, *passing, k), dim=-1) for _ in updates]
    inners = [
        None if kind == "v" else -torch.rand(steps, *passing, 1, generator=g, dtype=torch.float64).to(dtype) * u.conj()
        for kind, u in zip(updates, lefts, strict=True)
    ]
    values = [None if kind == "w" else made(steps, *passing, v) for kind in updates]
    queries = [made(steps, *passing, k) for _ in delays]
    parts = Parts(a, lefts, inners, values, queries, delays, made(*passing, k, v))
    return parts.with_given([x.requires_grad_() for x in parts.given()])


def near(have: Tensor, want: Tensor, tolerance: float) -> None:
    assert have.shape == want.shape
    scale = want.abs().max().item() + 1e-30
    assert (have.to(want.dtype) - want).abs().max().item() / scale <= tolerance


def run(steps: int, p: Parts) -> tuple[Tensor, ...]:
    return matrix.matrix_scan(steps, p.decay, p.lefts, p.inners, p.values, p.queries, p.delays, p.start)


def check(steps: int, parts: Parts, tolerance: float, found: Callable[[int, Parts], tuple[Tensor, ...]] = run) -> None:
    double = torch.complex128 if parts.start.is_complex() else torch.float64
    wide = parts.with_given([x.detach().to(double).requires_grad_() for x in parts.given()])
    want, have = loop(steps, wide), found(steps, parts)
    for one, other in zip(have, want, strict=True):
        near(one, other, tolerance)
    probes = [torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype) for x in want]
    wanted = torch.autograd.grad(want, wide.given(), probes)
    given = torch.autograd.grad(have, parts.given(), [x.to(h.dtype) for x, h in zip(probes, have, strict=True)])
    for one, other in zip(given, wanted, strict=True):
        near(one, other, tolerance)


@BOTH
@pytest.mark.parametrize("decay", ["none", "scalar"])
@pytest.mark.parametrize("updates", ["vv", "bw", "wvb"])
def test_what_is_shared_along_some_axes(path: str, updates: str, decay: str) -> None:
    """Each left vector, inner vector and value along others, or along time."""
    p = recurrence(70, decay, updates, (0, 1))
    lefts = [u[:1, :1] if i == 0 else u[:, :, :1] for i, u in enumerate(p.lefts)]
    inners = [w if w is None or i == 0 else w[:1, :, :1] for i, w in enumerate(p.inners)]
    values = [v if v is None or i == 0 else v[:, :1] for i, v in enumerate(p.values)]
    parts = Parts(p.decay, lefts, inners, values, [p.queries[0][:, :1], p.queries[1]], p.delays, p.start)
    check(70, parts.with_given([x.detach().requires_grad_() for x in parts.given()]), 1e-11)


@BOTH
@STEPS
@pytest.mark.parametrize("decay", ["none", "scalar", "key"])
def test_linear_attention(path: str, steps: int, decay: str) -> None:
    check(steps, recurrence(steps, decay), 1e-11)


@BOTH
@STEPS
@pytest.mark.parametrize("decay", ["none", "scalar", "key"])
def test_delta_rule(path: str, steps: int, decay: str) -> None:
    check(steps, recurrence(steps, decay, "b"), 1e-10)


@BOTH
@pytest.mark.parametrize(
    "decay",
    [
        "value",
        "full",
        "scalar:constant",
        "key:constant",
        "key:0",
        "scalar:0",
        "key:1",
        "scalar:1e-8",
        "key:-1",
        "full:0",
    ],
)
@pytest.mark.parametrize("updates", ["v", "b"])
def test_decays(path: str, decay: str, updates: str) -> None:
    check(130, recurrence(130, decay, updates), 1e-10)


@BOTH
@pytest.mark.parametrize("updates", ["vv", "bw", "vw", "www", "bvb"])
@pytest.mark.parametrize("decay", ["none", "key"])
def test_several_updates_a_step(path: str, updates: str, decay: str) -> None:
    check(67, recurrence(67, decay, updates), 1e-10)


@BOTH
@pytest.mark.parametrize("delays", [(1,), (0, 1), (1, 1, 0), ()])
@pytest.mark.parametrize("updates", ["v", "b"])
def test_reads(path: str, delays: tuple[int, ...], updates: str) -> None:
    check(67, recurrence(67, "key", updates, delays), 1e-10)


@BOTH
@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (17, 3), (64, 64), (70, 130)])
@pytest.mark.parametrize("passing", [(), (2,)])
def test_sizes(path: str, sizes: tuple[int, int], passing: tuple[int, ...]) -> None:
    check(40, recurrence(40, "key", "b", sizes=sizes, passing=passing), 1e-10)


@BOTH
def test_single_precision(path: str) -> None:
    check(500, recurrence(500, "key", "b", dtype=torch.float32, sizes=(16, 16)), 2e-4)
    check(500, recurrence(500, "scalar", "v", dtype=torch.float32, sizes=(16, 16)), 2e-5)


def test_scratch_memory_is_never_read_before_it_is_written() -> None:
    """Freed memory full of nan comes back as scratch: lanes past the end of K must not be made of it."""
    p = recurrence(40, "key", "b", sizes=(4, 5), passing=(1,))
    for size in range(64, 4096, 64):
        poison = [torch.full((size,), torch.nan, dtype=torch.float64) for _ in range(8)]
        del poison
        grads = torch.autograd.grad(run(40, p)[0].sum(), p.given())
        assert all(torch.isfinite(g).all() for g in grads)


def test_complex() -> None:
    check(67, recurrence(67, "key", "b", dtype=torch.complex128), 1e-10)
    check(67, recurrence(67, "full", "v", dtype=torch.complex128), 1e-10)


@BOTH
def test_broadcast_and_batch_first(path: str) -> None:
    """Heads that share keys, one decay for all, batch before time in memory."""
    p = recurrence(40, "scalar", "b")
    parts = p.with_given([x.detach() for x in p.given()])
    shared = parts.lefts[0][:, :, :1].contiguous()
    again = Parts(
        parts.decay[:, :1, :1], [shared], [-0.5 * shared], [parts.values[0].transpose(0, 1).contiguous().transpose(0, 1)],  # type: ignore[index, union-attr]
        [parts.queries[0].transpose(1, 2).contiguous().transpose(1, 2)], (0,), parts.start,
    )  # fmt: skip
    check(40, again.with_given([x.requires_grad_() for x in again.given()]), 1e-11)


@BOTH
def test_decay_in_any_layout(path: str) -> None:
    p = recurrence(40, "full")
    assert p.decay is not None
    turned = p.decay.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
    check(40, p.with_given([turned, *p.given()[1:]]), 1e-11)


@BOTH
def test_half_precision_keeps_single_precision_states(path: str) -> None:
    p = recurrence(600, "scalar", "v", dtype=torch.bfloat16, sizes=(8, 8))
    wide = p.with_given([x.detach().double() for x in p.given()])
    for one, other in zip(run(600, p), loop(600, wide), strict=True):
        assert one.dtype == torch.bfloat16
        near(one.double(), other, 2e-2)


class TestTransforms:
    """Compiled kernels step aside for what they do not know of."""

    def parts(self) -> Parts:
        return recurrence(5, "key", "b", (0, 1), sizes=(2, 2), passing=(1,))

    def function(
        self, p: Parts, f: Callable[[int, Parts], tuple[Tensor, ...]] = run
    ) -> Callable[..., tuple[Tensor, ...]]:
        return lambda *x: f(5, p.with_given(x))

    def test_second_order(self) -> None:
        p = self.parts()
        torch.autograd.gradgradcheck(self.function(p), tuple(p.given()))

    def test_func(self) -> None:
        p = self.parts()
        inputs = tuple(x.detach() for x in p.given())
        tangents = tuple(torch.randn_like(x) for x in inputs)
        have = torch.func.jvp(self.function(p), inputs, tangents)
        want = torch.func.jvp(self.function(p, loop), inputs, tangents)
        for one, other in zip(have, want, strict=True):
            for a, b in zip(one, other, strict=True):
                near(a, b, 1e-12)
        many = tuple(torch.stack([x, 2 * x, -x]) for x in inputs)
        for a, b in zip(
            torch.func.vmap(self.function(p))(*many), torch.func.vmap(self.function(p, loop))(*many), strict=True
        ):
            near(a, b, 1e-12)

        def total(f: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
            return lambda *x: torch.stack([y.square().sum() for y in f(*x)]).sum()

        every = tuple(range(len(inputs)))
        for a, b in zip(
            torch.func.grad(total(self.function(p)), every)(*inputs),
            torch.func.grad(total(self.function(p, loop)), every)(*inputs),
            strict=True,
        ):
            near(a, b, 1e-12)

    def test_torch_compile_and_export(self) -> None:
        p = self.parts()
        f = self.function(p)
        inputs = tuple(x.detach() for x in p.given())
        for a, b in zip(
            torch.compile(f, backend="aot_eager", fullgraph=True)(*inputs), self.function(p, loop)(*inputs), strict=True
        ):
            near(a, b, 1e-12)

        class Module(torch.nn.Module):
            def forward(self, *x: Tensor) -> tuple[Tensor, ...]:
                return f(*x)

        half = tuple(0.5 * x for x in inputs)
        for a, b in zip(
            torch.export.export(Module(), inputs).module()(*half), self.function(p, loop)(*half), strict=True
        ):
            near(a, b, 1e-12)


def test_states_are_not_stored() -> None:
    """What the way back keeps grows with chunks, not with steps."""
    if native.kernels() is None:
        pytest.skip("built without compiled kernels")
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    p = recurrence(512, "key", "b", dtype=torch.float32, sizes=(64, 64), passing=(1,))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run(512, p)
    assert sum(sizes) < 512 * 64 * 64 / 4
