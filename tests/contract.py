"""What the contract tests share: small programs, values with gradients, and how far two of them may be apart."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import zeros
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import linrec

REL = 1e-9
A3 = torch.tensor([0.9, -0.5, 0.3], dtype=torch.float64)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def dispatched(call: Callable[..., Any], *args: Any) -> int:
    """How many operators a call dispatches."""
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        call(*args)
    return int(counter.count)


def signal(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    """A standard normal tensor, drawn in float64 whatever its type."""
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(grad)


def leaky(x: Tensor, a: Tensor) -> Tensor:
    """The states of h ↦ a h + x[:, t] for x of shape (B, T, d)."""
    h = torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@functools.cache
def called_before() -> Any:
    """`leaky`, compiled and called once: one for all tests, so that their calls come after others."""
    net: Any = linrec.compile(leaky)
    net(signal(2, 9, 3), A3)
    return net


class Leaky(nn.Module):
    """A module with a state of every kind: parameters, buffers, attributes, settings, a mode."""

    frozen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.9, -0.5, 0.3]))
        self.inp = nn.Linear(3, 3)
        self.register_buffer("frozen", torch.randn(3, 3) * 0.3)
        self.decay = 0.9
        self.plain = torch.full((3,), 0.5, dtype=torch.float64)
        self.config = SimpleNamespace(gain=2.0, names=["a"], table={"shift": 0.25})
        self.drop = nn.Dropout(0.5)
        self.use_norm = False

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        ys = []
        u = self.drop(self.inp(x))
        for t in range(x.shape[1]):
            h = self.decay * self.a * h + h @ self.frozen * 0.1 + self.config.gain * u[:, t] * self.plain
            h = h + self.config.table["shift"]
            ys.append(F.layer_norm(h, (3,)) if self.use_norm else h)
        return torch.stack(ys, 1)


def twins(make: Callable[[], Any], **options: Any) -> tuple[Any, Any]:
    """A compiled copy and an original copy with equal weights."""
    torch.manual_seed(3)
    first = make().double()
    return linrec.compile(copy.deepcopy(first), **options), first


def tensors(tree: Any) -> list[Tensor]:
    """The tensor leaves of a nest of containers."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def is_exact(leaf: Tensor) -> bool:
    """Integers and booleans."""
    return not (leaf.is_floating_point() or leaf.is_complex())


def parameters(model: Any) -> dict[str, Tensor]:
    """The named parameters of a module, none for a function."""
    return dict(model.named_parameters()) if isinstance(model, nn.Module) else {}


def run(model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
    """The outputs and the gradients of a fixed random weighting of them, for each differentiable input and parameter."""
    wanted = {f"input {i}": leaf for i, leaf in enumerate(tensors((args, kwargs))) if leaf.requires_grad}
    wanted |= {name: p for name, p in parameters(model).items() if p.requires_grad}
    out = model(*args, **kwargs)
    total: Any = 0.0
    draw = torch.Generator().manual_seed(5)
    for leaf in tensors(out):
        if leaf.requires_grad:
            real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
            total = total + (real * torch.randn(real.shape, generator=draw, dtype=real.dtype)).sum()
    if not (isinstance(total, Tensor) and wanted):
        return out, {}
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return out, {name: g for name, g in zip(wanted, found, strict=True) if g is not None}


def same(got: Any, want: Any, what: str = "output", rel: float = REL) -> None:
    """Equal structure, types and shapes; numbers equal to `rel` of the largest one."""
    leaves, spec = pytree.tree_flatten(got)
    expected, expected_spec = pytree.tree_flatten(want)
    assert spec == expected_spec, f"{what}: structure {spec}, expected {expected_spec}"
    for i, (g, w) in enumerate(zip(leaves, expected, strict=True)):
        if not isinstance(w, Tensor):
            assert type(g) is type(w) and g == w, f"{what} {i}: {g!r}, expected {w!r}"
            continue
        assert isinstance(g, Tensor) and (g.shape, g.dtype) == (w.shape, w.dtype), f"{what} {i}: {g!r}, expected {w!r}"
        g, w = g.detach(), w.detach()
        if is_exact(w):
            assert torch.equal(g, w), f"{what} {i}: {g!r}, expected {w!r}"
        elif w.numel():
            bad = ~torch.isfinite(w)
            assert torch.equal(~torch.isfinite(g), bad), f"{what} {i}: other non-finite places"
            scale = w[~bad].abs().max().item() if (~bad).any() else 0.0
            error = (g - w)[~bad].abs().max().item() if (~bad).any() else 0.0
            assert error <= rel * max(scale, 1e-3), f"{what} {i}: error {error:.2e} at scale {scale:.2e}"


def same_run(compiled: Any, original: Any, *args: Any, rel: float = REL, **kwargs: Any) -> None:
    """Same values, same gradients, for inputs and parameters; both run from the same random state."""
    state = torch.get_rng_state()
    want, want_grads = run(original, *args, **kwargs)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    got, got_grads = run(compiled, *args, **kwargs)
    assert torch.equal(torch.get_rng_state(), after), "the random state moved otherwise than in the original"
    same(got, want, rel=rel)
    needs = [leaf.requires_grad for leaf in tensors(got)], [leaf.requires_grad for leaf in tensors(want)]
    assert needs[0] == needs[1], f"requires_grad of outputs {needs[0]}, expected {needs[1]}"
    for name in want_grads | got_grads:
        like = want_grads.get(name, got_grads.get(name))
        assert like is not None
        zero = torch.zeros_like(like)
        same(got_grads.get(name, zero), want_grads.get(name, zero), f"gradient of {name}", rel)


def same_answer(compiled: Callable[..., Any], original: Callable[..., Any], *args: Any) -> None:
    """The same values, as near as the coarsest type among them allows."""
    want = original(*args)
    coarse = any(torch.finfo(leaf.dtype).bits == 32 for leaf in tensors(want) if not is_exact(leaf))
    same(compiled(*args), want, rel=1e-5 if coarse else REL)


def same_failure(compiled: Callable[..., Any], original: Callable[..., Any], *args: Any) -> None:
    """The same type of error, its message kept."""
    with pytest.raises(Exception) as wanted:
        original(*args)
    with pytest.raises(wanted.type) as found:
        compiled(*args)
    assert found.type is wanted.type, f"{found.type.__name__}: {found.value}; expected {wanted.type.__name__}"
    text = "\n".join([str(found.value), *getattr(found.value, "__notes__", [])])
    assert str(wanted.value).splitlines()[0] in text, f"{text!r} does not hold {str(wanted.value)!r}"


def converted(model: Any) -> list[linrec.Recurrence]:
    """The recurrences of a compiled program, all of them in a parallel form and checked."""
    report = linrec.report(model)
    assert report.recurrences, f"no recurrence found: {report.code} {report.reason}"
    for r in report.recurrences:
        assert r.form != "sequential", f"{r.name} kept: {r.code} {r.reason}"
    assert report.verification.passed, report.verification.note
    return list(report.recurrences)


def chunks(lengths: list[int]) -> Iterator[slice]:
    """Consecutive slices of these lengths."""
    start = 0
    for n in lengths:
        yield slice(start, start + n)
        start += n
