"""As exact as the loop, beside overflow, non-normal transitions and half precision; and in every mode of torch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases import LTI
from contract import A3, called_before, converted, leaky, run, same, same_run, signal
from torch import Tensor, nn

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


# ---- numerics --------------------------------------------------------------------------------------


ACCURATE = ["dense_matmul", "channels_final_only", "LinearAsTransition", "diagonal", "narrow_readout", "BuiltFromTheta"]
ACCURATE += ["companion_shift_register", "momentum_two_states"]


@pytest.mark.parametrize("name", [*ACCURATE[:3], *[pytest.param(name, marks=slow) for name in ACCURATE[3:]]])
def test_float32_is_as_good_as_the_loop(name: str) -> None:
    case = LTI[name]
    exact, model = case.make(), case.make()
    if isinstance(model, nn.Module):
        model = model.float()
    net = linrec.compile(model)
    for steps in (9, 300):
        args = case.args(3, steps, dtype=torch.float32)
        wide = [a.detach().double().requires_grad_() for a in args]
        want, want_grads = run(exact, *wide)
        loop, loop_grads = run(model, *args)
        got, got_grads = run(net, *args)
        assert got.dtype == torch.float32
        pairs = [(got, loop, want)] + [(got_grads[n], loop_grads[n], want_grads[n]) for n in want_grads]
        for g, own, w in pairs:
            bar = 3 * (own - w).abs().max() + 1e-6 * w.abs().max()
            assert (g - w).abs().max() <= bar
    converted(net)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=slow)])
def test_half_precision(dtype: torch.dtype) -> None:
    x, a = signal(2, 100, 3, dtype=dtype, grad=False), A3.to(dtype)
    want = leaky(x.double(), a.double())
    net: Any = linrec.compile(leaky)
    got = net(x, a)
    assert got.dtype == dtype
    own = (leaky(x, a) - want).abs().max()
    assert (got - want).abs().max() <= 3 * own + 1e-6


@pytest.mark.parametrize("forms", ["auto", "convolution", "chunked"])
def test_first_bad_step_is_where_the_loop_has_it(forms: str) -> None:
    case = LTI["dense_matmul"]
    net = linrec.compile(case.make(), forms=forms)
    net(*case.args(2, 150))
    for value, t0 in itertools.product((math.nan, math.inf, -math.inf), (0, 37, 149)):
        x, a, b = (arg.detach().clone() for arg in case.args(2, 150))
        x[1, t0, 2] = value
        got, want = net(x, a, b), case.make()(x, a, b)
        same(got[0], want[0])
        same(got[:, :t0], want[:, :t0])
        assert not torch.isfinite(got[1, t0]).all()


def test_one_bad_channel_leaves_the_others() -> None:
    net: Any = linrec.compile(leaky)
    net(signal(2, 50, 3), A3)
    x = signal(2, 50, 3, grad=False)
    x[0, 20, 1] = float("nan")
    same(net(x, A3), leaky(x, A3))


@pytest.mark.parametrize("name", ["diagonal", "dense_matmul"])
@pytest.mark.parametrize("first", [True, False])
def test_unstable_transitions_overflow_where_the_loop_does(name: str, first: bool) -> None:
    case = LTI[name]
    net = linrec.compile(case.make())
    if not first:
        net(*case.args(2, 400, dtype=torch.float32))
    x, a, *rest = (arg.detach() for arg in case.args(2, 400, dtype=torch.float32))
    a = torch.full_like(a, 1.5) if name == "diagonal" else 1.5 * torch.eye(3)
    got, want = net(x, a, *rest), case.make()(x, a, *rest)
    bad = ~torch.isfinite(want)
    assert bad.any() and not bad.all()
    assert torch.equal((~torch.isfinite(got)).any(-1), bad.any(-1))
    fine = torch.isfinite(want) & torch.isfinite(got)
    assert ((got - want).abs()[fine] <= 1e-4 * want.abs()[fine]).all()


def test_non_normal_transition() -> None:
    case = LTI["dense_matmul"]
    net = linrec.compile(case.make())
    net(*case.args(2, 200, dtype=torch.float32))
    a = torch.tensor([[0.9, 300.0, 0.0], [0.0, 0.9, 300.0], [0.0, 0.0, 0.9]])
    x, _, b = (arg.detach() for arg in case.args(2, 200, dtype=torch.float32))
    want = case.make()(x.double(), a.double(), b.double())
    own = (case.make()(x, a, b) - want).abs().amax((0, 1))
    got = (net(x, a, b) - want).abs().amax((0, 1))
    assert (got <= 3 * own + 1e-6 * want.abs().amax((0, 1))).all()


def test_quiet_part_beside_a_loud_one() -> None:
    net: Any = linrec.compile(leaky)
    net(signal(1, 512, 3, dtype=torch.float32), A3.float())
    x = signal(1, 512, 3, dtype=torch.float32, grad=False)
    x[:, 400] *= 1e6
    want = leaky(x.double(), A3.float().double())[:, :400]
    own = (leaky(x, A3.float())[:, :400] - want).abs().max()
    assert (net(x, A3.float())[:, :400] - want).abs().max() <= 3 * own + 1e-6 * want.abs().max()


@pytest.mark.parametrize("a", [0.0, 1.0, -1.0, 1e-30, -0.99, 0.999999])
def test_decay_values(a: float) -> None:
    net = called_before()
    same_run(net, leaky, signal(2, 200, 3), torch.full((3,), a, dtype=torch.float64, requires_grad=True))


def test_long_input_does_not_raise_the_cost_of_the_check() -> None:
    net: Any = linrec.compile(leaky)
    x = torch.randn(1, 5000, 3)
    same(net(x, A3.float()), leaky(x, A3.float()), rel=1e-5)
    assert net.report.verification.steps <= 64


# ---- modes of torch --------------------------------------------------------------------------------


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("second", ["grad", *[pytest.param(m, marks=slow) for m in MODES if m != "grad"]])
@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("name", ["ConstantMemory", pytest.param("BuiltFromTheta", marks=slow)])
def test_grad_modes_in_any_order(name: str, first: str, second: str) -> None:
    case = LTI[name]
    model = case.make()
    net = linrec.compile(model)
    for mode in (first, second, "grad"):
        with MODES[mode]():
            x = case.args(2, 21)[0]
            if mode == "grad":
                same_run(net, model, x)
            else:
                got = net(x)
                same(got, model(x))
                assert not got.requires_grad
    converted(net)


def test_only_some_inputs_need_gradients() -> None:
    net: Any = linrec.compile(leaky)
    for x_grad, a_grad in ((False, False), (True, False), (False, True), (True, True)):
        same_run(net, leaky, signal(2, 20, 3, grad=x_grad), A3.clone().requires_grad_(a_grad))
    converted(net)


@pytest.mark.parametrize("name", ["diagonal", "dense_matmul", "initial_given", "complex_diagonal_real_output"])
def test_second_order_gradients(name: str) -> None:
    case = LTI[name]
    fn = linrec.compile(case.make())
    fn(*case.args(1, 9))
    args = case.args(1, 4)

    def real(*args: Tensor) -> Any:
        out = fn(*args)
        return out[0] if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(real, args)
    assert torch.autograd.gradgradcheck(real, args)
    converted(fn)


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=slow)])
@pytest.mark.parametrize("name", ["diagonal", "dense_matmul", pytest.param("final_only", marks=slow)])
def test_func_transforms(name: str, traced: bool) -> None:
    case = LTI[name]
    fn, original = linrec.compile(case.make()), case.make()
    x, a, *rest = (arg.detach() for arg in case.args(4, 13))
    if traced:
        fn(x, a, *rest)
    batched = x.reshape(2, 2, 13, 3)
    many = (0, None, *[None for _ in rest])
    same(torch.func.vmap(fn, many)(batched, a, *rest), torch.func.vmap(original, many)(batched, a, *rest))
    tangents = (torch.randn_like(x), torch.randn_like(a), *[torch.randn_like(r) for r in rest])
    primals = (x, a, *rest)
    same(torch.func.jvp(fn, primals, tangents), torch.func.jvp(original, primals, tangents))

    def loss(fn: Any) -> Any:
        return lambda x, a: (fn(x, a, *rest) ** 2).sum()

    same(torch.func.grad(loss(fn), (0, 1))(x, a), torch.func.grad(loss(original), (0, 1))(x, a))
    per_row = torch.func.vmap(torch.func.grad(lambda x, a: loss(fn)(x[None], a)), (0, None))
    want_row = torch.func.vmap(torch.func.grad(lambda x, a: loss(original)(x[None], a)), (0, None))
    same(per_row(x, a), want_row(x, a))
    converted(fn)


def test_functional_call() -> None:
    case = LTI["LinearAsTransition"]
    model = case.make()
    net = linrec.compile(model)
    x = case.args(2, 15)[0]
    net(x)
    other = {name: p.detach() * 0.5 for name, p in model.named_parameters()}
    same(torch.func.functional_call(net, other, (x,)), torch.func.functional_call(model, other, (x,)))
    same(net(x), model(x))


TRANSFORMS: dict[str, Any] = {
    "grad": lambda f, p, x: torch.func.grad(f)(p, x),
    "per example": lambda f, p, x: torch.func.vmap(torch.func.grad(lambda p, x: f(p, x[None])), (None, 0))(p, x),
    "ensemble": lambda f, p, x: torch.func.vmap(f, (0, None))({k: torch.stack([v, 0.5 * v]) for k, v in p.items()}, x),
    "jvp": lambda f, p, x: torch.func.jvp(lambda p: f(p, x), (p,), ({k: torch.ones_like(v) for k, v in p.items()},)),
    "hessian": lambda f, p, x: torch.func.hessian(f)(p, x),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in ("grad", "hessian") else n for n in TRANSFORMS])
def test_transforms_of_parameters(name: str) -> None:
    """The first call of all is inside a transform, which has wrapped the parameters: it is compiled all the same."""
    model = LTI["LinearAsTransition"].make()
    net = linrec.compile(model)
    p, x = {k: v.detach() for k, v in model.named_parameters()}, LTI["LinearAsTransition"].args(2, 15)[0].detach()

    def loss(module: Any) -> Any:
        return lambda p, x: torch.func.functional_call(module, p, (x,)).square().sum()

    got, want = (torch.utils._pytree.tree_leaves(TRANSFORMS[name](loss(m), p, x)) for m in (net, model))
    for a, b in zip(got, want, strict=True):
        same(a, b)
    converted(net)
    same(net(x), model(x))


@pytest.mark.parametrize("traced", [True, False])
def test_autocast(traced: bool) -> None:
    model = LTI["LinearAsTransition"].make().float()
    net = linrec.compile(model)
    x = torch.randn(2, 40, 3)
    if traced:
        net(x)
    with torch.autocast("cpu", torch.bfloat16):
        got, loop = net(x), model(x)
    want = model(x)
    assert got.dtype == loop.dtype
    assert (got - want).abs().max() <= 3 * (loop - want).abs().max() + 1e-6
    same(net(x), want, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        same(net(x), want, rel=1e-5)


def test_unused_parameters_get_no_gradient() -> None:
    case = LTI["CellsInModuleList"]
    model = case.make()
    model.unused = nn.Linear(2, 2).double()
    net = linrec.compile(model)
    net(*case.args(2, 8)).sum().backward()
    assert model.unused.weight.grad is None
    assert all(p.grad is not None for p in net.get_submodule("cells").parameters())
