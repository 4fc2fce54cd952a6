"""Law 1 through the public names: a compiled program is the same function, in value and in every gradient.

The programs are in `programs_lti`; Python state, caches and hooks have their own file, `test_contract_state`.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract import converted, run, same, same_answer, same_failure, same_run
from programs_lti import LTI, LTV, NONLINEAR, Case
from torch import Tensor, nn

import linrec

SOURCE = re.compile(r"programs_lti\.py:\d+")
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


# Programs close to one that the quick run has: they run with the slow tests.
COUSINS = set(
    """unbatched_scalar_tensor dense_einsum unbatched_mv error_feedback addcmul_and_division mean_over_state_axis
    rotation_as_pair polar_complex_with_readout channels_share_dense_a time_first two_batch_axes split_and_cat
    reduce_lambda countdown_into_preallocated insert_at_front neighbour_inputs initial_parameter_broadcast
    initial_python_float last_of_appended several_outputs narrow_readout unbind_walk fixed_where heads_by_view
    relu square tiny_sine absolute largest sorted_state division_by_state gated_attention math_of_t
    functional_linear momentum_two_states two_sided_products accumulate_lambda forward_and_backward
    states_with_the_initial_one output_before_update list_of_states initial_python_zero BuiltFromTheta layer_norm
    order_two_by_two_names lerp_spelling zip_of_two_signals reads_what_it_wrote where_positive zero_times_tanh
    dense_from_the_input scalar_constant bmm_own_matrix_each_row addmm_spelling split_and_join rolled_state inplace_operators reduce_lambda
    channels_final_only transposed_then_iterated time_last while_loop narrow_slices reversed_range negative_index
    initial_none final_only readout_with_feedthrough observer_with_gain order_two_with_if every_second_step
    nonlinear_before_and_after two_layers_in_one_body complex_modulus through_integers""".split()
)


def each(table: dict[str, Case]) -> pytest.MarkDecorator:
    cases = [pytest.param(case, id=name, marks=[slow] * (name in COUSINS)) for name, case in table.items()]
    return pytest.mark.parametrize("case", cases)


def leaky(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def signal(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(grad)


A3 = torch.tensor([0.9, -0.5, 0.3], dtype=torch.float64)


HELD = {"every_second_step"}  # a trip count of ceil(T / 2) is no polynomial in T: captured anew for each length
PERIODIC = {"parity_of_t"}

# ---- same function, all lengths ------------------------------------------------------------------


@each(LTI)
def test_linear_loops_are_exact_at_every_length_from_one_capture(case: Case) -> None:
    model = case.make()
    net = linrec.compile(model)
    same_run(net, model, *case.args(2, 9))
    for r in converted(net):
        assert r.kind == "lti", f"{r.name} is {r.kind}"
        assert SOURCE.search(r.source), r.source
        assert r.semiring == "sum-product"
        assert r.structure and r.cost is not None
    for steps in (29, 64, 1, 2, 3):
        same_run(net, model, *case.args(2, steps))
    if case.name not in HELD:
        assert linrec.report(net).captures == 1
    same_run(net, model, *case.args(5, 17))
    converted(net)


@each(LTV)
def test_time_varying_loops_are_exact(case: Case) -> None:
    model = case.make()
    net = linrec.compile(model)
    for batch, steps in ((2, 9), (2, 64), (2, 1), (3, 2)):
        same_run(net, model, *case.args(batch, steps))
    kinds = {r.kind for r in linrec.report(net).recurrences}
    # a coefficient with a period makes whole periods of steps time-invariant: both verdicts are right
    assert kinds & ({"ltv", "lti"} if case.name in PERIODIC else {"ltv"}) and "nonlinear" not in kinds
    for r in linrec.report(net).recurrences:
        assert r.form != "sequential" or (r.code and r.reason)


@each(NONLINEAR)
def test_nonlinear_loops_are_kept_with_a_reason_and_stay_exact(case: Case) -> None:
    model = case.make()
    net = linrec.compile(model)
    for batch, steps in ((2, 9), (2, 30), (2, 1), (3, 2)):
        same_run(net, model, *case.args(batch, steps))
    kept = [r for r in linrec.report(net).recurrences if r.kind == "nonlinear"]
    assert kept, [(r.name, r.kind, r.form) for r in linrec.report(net).recurrences]
    for r in kept:
        assert r.form == "sequential"
        assert re.fullmatch(r"LR1\d{3}", r.code), r.code
        assert r.reason and SOURCE.search(r.source), (r.reason, r.source)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("diagonal", 0),
        ("diagonal", 1),
        ("diagonal", 2),
        ("final_only", 1),
        ("final_only", 3),
        *[pytest.param("final_only", n, marks=slow) for n in (0, 2, 4, 5, 8, 65, 130)],
        *[pytest.param("diagonal", n, marks=slow) for n in (3, 4, 5, 8, 65, 130)],
    ],
)
def test_any_first_length_will_do(name: str, first: int) -> None:
    case = LTI[name]
    net = linrec.compile(case.make())
    try:
        same_run(net, case.make(), *case.args(2, first))
    except RuntimeError:
        assert first == 0  # the original stacks an empty list
    for steps in (2, 31, 1, 100):
        same_run(net, case.make(), *case.args(2, steps))
    assert linrec.report(net).captures == 1
    converted(net)


@pytest.mark.parametrize(
    ("name", "batches"),
    [
        ("diagonal", (1, 4, 2)),
        ("LinearAsTransition", (3, 0, 2)),
        pytest.param("diagonal", (4, 1, 3), marks=slow),
        pytest.param("LinearAsTransition", (0, 2, 3), marks=slow),
        *[pytest.param(n, b, marks=slow) for n in ("dense_matmul", "final_only") for b in ((1, 4), (4, 1), (0, 3, 0))],
    ],
)
def test_any_batch_size(name: str, batches: tuple[int, ...]) -> None:
    case = LTI[name]
    model = case.make()
    net = linrec.compile(model)
    for batch in batches:
        for steps in (7, 20, 1):
            same_run(net, model, *case.args(batch, steps))
    converted(net)


@pytest.mark.parametrize(
    ("name", "structure"),
    [("scalar_constant", "scalar"), ("diagonal", "diagonal"), ("dense_matmul", "dense"), ("complex_dense", "dense")],
)
def test_structure(name: str, structure: str) -> None:
    case = LTI[name]
    assert [r.structure for r in linrec.explain(case.make(), *case.args(2, 12)).recurrences] == [structure]


def test_every_loop_has_its_own_entry() -> None:
    case = LTI["two_layers_in_sequence"]
    report = linrec.explain(case.make(), *case.args(2, 9))
    assert len(report.recurrences) == 2
    assert len({r.name for r in report.recurrences}) == 2
    assert len({r.source for r in report.recurrences}) == 2


def test_a_nonlinear_layer_leaves_the_linear_one_parallel() -> None:
    def both(x: Tensor, a: Tensor) -> Tensor:
        h = g = torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)
        ys = []
        for t in range(x.shape[1]):
            h = a * h + x[:, t]
            g = torch.tanh(g + h)
            ys.append(g)
        return torch.stack(ys, 1)

    net: Any = linrec.compile(both)
    for steps in (9, 40, 1):
        same_run(net, both, signal(2, steps, 3), A3.clone().requires_grad_())
    assert {(r.kind, r.form == "sequential") for r in net.report.recurrences} == {("lti", False), ("nonlinear", True)}


# ---- identity of the wrapper ---------------------------------------------------------------------


def test_report_reads_for_people_and_for_programs() -> None:
    case = LTI["diagonal"]
    fn = linrec.compile(case.make())
    fn(*case.args(2, 9))
    assert fn.report is linrec.report(fn) or fn.report == linrec.report(fn)
    data = json.loads(json.dumps(fn.report.to_dict()))
    assert data["schema"] == 1
    assert data["recurrences"][0]["kind"] == "lti"
    assert "lti/diagonal" in str(fn.report)
    assert fn.__name__ == "diagonal"


def test_compile_is_a_decorator() -> None:
    plain = linrec.compile(leaky)
    x, a = signal(2, 9, 3), A3.clone().requires_grad_()
    same_run(plain, leaky, x, a)

    @linrec.compile(verify="off")
    def scaled(x: Tensor) -> Tensor:
        """Documented."""
        h = x[:, 0] * 0
        for t in range(x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    assert scaled.__doc__ == "Documented."
    assert scaled(x).shape == (2, 3)
    assert not linrec.report(scaled).verification.ran
    converted(scaled)


@pytest.mark.parametrize("options", [{}, pytest.param({"verify": "always"}, marks=slow)])
def test_compile_decorates_a_module_class(options: dict[str, Any]) -> None:
    class Plain(nn.Module):
        def __init__(self, width: int, decay: float = 0.9) -> None:
            super().__init__()
            self.inp = nn.Linear(3, width, dtype=torch.float64)
            self.decay = decay

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], self.inp.out_features)
            ys = []
            for t in range(x.shape[1]):
                h = self.decay * h + self.inp(x[:, t])
                ys.append(h)
            return torch.stack(ys, 1)

        def width(self) -> int:
            return self.inp.out_features

    wrapped = type("Plain", (Plain,), {})
    fast = linrec.compile(wrapped, **options) if options else linrec.compile(wrapped)
    net, model = fast(4, decay=0.8), Plain(4, decay=0.8)
    assert isinstance(net, Plain) and net.width() == 4
    assert list(net.state_dict()) == list(model.state_dict())
    net.load_state_dict(model.state_dict())
    for steps in (9, 33):
        x = signal(2, steps, 3)
        same(net(x), model(x))
    converted(net)
    other = fast(5)
    assert other(signal(2, 9, 3)).shape == (2, 9, 5)


def test_module_identity() -> None:
    case = LTI["CellsInModuleList"]
    model = case.make()
    net: Any = linrec.compile(model)
    assert isinstance(net, nn.Module) and net is not model
    for _ in range(2):  # before and after the first call
        assert list(net.state_dict()) == list(model.state_dict())
        assert [n for n, _ in net.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert all(p is q for p, q in zip(net.parameters(), model.parameters(), strict=True))
        assert [n for n, _ in net.named_buffers()] == [n for n, _ in model.named_buffers()]
        model.load_state_dict(net.state_dict())
        net.load_state_dict(model.state_dict())
        assert net.get_parameter("cells.0.h0") is model.cells[0].h0
        net(*case.args(2, 5))
    assert not hasattr(model, "report")
    assert type(model).forward(model, *case.args(2, 5)).shape == (2, 5, 3)


@pytest.mark.parametrize("options", [{"forms": "quick"}, {"verify": "sometimes"}])
def test_unknown_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"quick|sometimes"):
        linrec.compile(leaky, **options)
    number: Any = 3
    with pytest.raises(TypeError):
        linrec.compile(number)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["off", "always", pytest.param("first", marks=slow)])
def test_verify(verify: str) -> None:
    case = LTI["dense_matmul"]
    model = case.make()
    net = linrec.compile(model, verify=verify)
    for steps in (9, 100, 2):
        same_run(net, model, *case.args(2, steps))
    check = linrec.report(net).verification
    assert check.ran == (verify != "off")
    assert check.passed
    assert check.steps <= 64 or verify == "always"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("diagonal", "convolution"),
        ("diagonal", "chunked"),
        ("diagonal", "scan"),
        pytest.param("diagonal", "sequential", marks=slow),
        ("dense_matmul", "convolution"),
        pytest.param("dense_matmul", "chunked", marks=slow),
        pytest.param("dense_matmul", "sequential", marks=slow),
        pytest.param("channels_narrow_readout", "convolution", marks=slow),
        ("channels_narrow_readout", "chunked"),
        pytest.param("complex_dense", "convolution", marks=slow),
        pytest.param("complex_dense", "chunked", marks=slow),
        pytest.param("final_only", "sequential", marks=slow),
        pytest.param("two_layers_in_sequence", "chunked", marks=slow),
        pytest.param("initial_given", "convolution", marks=slow),
        ("initial_given", "chunked"),
    ],
)
def test_forms_can_be_chosen(name: str, form: str) -> None:
    case = LTI[name]
    model = case.make()
    net = linrec.compile(model, forms=form)
    for steps in (9, 100, 1):
        same_run(net, model, *case.args(2, steps))
    report = linrec.report(net)
    assert {r.form for r in report.recurrences} == {form}
    assert report.verification.passed


def test_forms_by_name() -> None:
    case = LTI["two_layers_in_sequence"]
    first, second = linrec.explain(case.make(), *case.args(2, 9)).recurrences
    net = linrec.compile(case.make(), forms={second.name: "sequential"})
    same_run(net, case.make(), *case.args(2, 30))
    found = {r.name: r.form for r in linrec.report(net).recurrences}
    assert found[second.name] == "sequential" != found[first.name]


def test_strict_raises_what_keeps_a_loop() -> None:
    case = NONLINEAR["tanh"]
    with pytest.raises(linrec.NotLinearError) as caught:
        linrec.compile(case.make(), strict=True)(*case.args(2, 9))
    assert isinstance(caught.value, linrec.LinrecError)
    assert "tanh" in str(caught.value) and "programs_lti.py" in str(caught.value)

    def branches(x: Tensor) -> Tensor:
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            if h.sum() > 0:
                h = h * 0.5 + x[:, t]
        return h

    with pytest.raises(linrec.CaptureError):
        linrec.compile(branches, strict=True)(signal(2, 9, 3))
    same_run(linrec.compile(leaky, strict=True), leaky, signal(2, 9, 3), A3)


# ---- shapes, layouts and types of inputs -----------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: signal(2, 20, 6)[..., ::2],
        lambda: signal(20, 2, 3).transpose(0, 1),
        lambda: signal(2, 3, 20).mT,
        lambda: signal(1, 20, 3).expand(2, -1, -1),
        lambda: signal(2, 1, 3).expand(-1, 20, -1),
        lambda: signal(2, 40, 3)[:, 10:30].flip(1),
        lambda: torch.zeros(2, 20, 3, dtype=torch.float64),
        lambda: torch.view_as_complex(signal(2, 20, 3, 2)).conj().imag,
    ],
)
@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=slow)])
def test_layouts(make: Any, traced: bool) -> None:
    net = called_before() if traced else linrec.compile(leaky)
    x = make().detach().requires_grad_()
    same_run(net, leaky, x, A3.clone().requires_grad_())
    converted(net)


def test_widths_never_traced() -> None:
    net: Any = linrec.compile(leaky)
    for width in (3, 5, 1, 2):
        same_run(net, leaky, signal(2, 12, width), signal(width))
    same_run(net, leaky, signal(2, 12, 3), signal())
    same_run(net, leaky, signal(2, 12, 3), signal(1))
    same_run(net, leaky, signal(2, 12, 3), signal(2, 1))
    same_run(net, leaky, signal(2, 12, 1), signal(4))  # the state widens at the first step


REFUSED_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "width": (torch.zeros(2, 9, 4), torch.ones(3)),
    "no batch": (torch.zeros(9, 3), torch.ones(3)),
    "one axis more": (torch.zeros(2, 9, 3, 1), torch.ones(3)),
    "matrix decay": (torch.zeros(2, 9, 3), torch.ones(2, 9)),
    "string": (torch.zeros(2, 9, 3), "0.9"),
    "none": (None, torch.ones(3)),
    "no steps": (torch.zeros(2, 0, 3), torch.ones(3)),
    "nothing at all": (torch.zeros(0, 0, 3), torch.ones(3)),
    "one missing": (torch.zeros(2, 9, 3),),
    "one too many": (torch.zeros(2, 9, 3), torch.ones(3), 1),
}
ODD_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "int x": (torch.ones(2, 9, 3, dtype=torch.int64), torch.ones(3)),
    "bool x": (torch.ones(2, 9, 3, dtype=torch.bool), torch.ones(3)),
    "complex x": (torch.ones(2, 9, 3, dtype=torch.complex64), torch.ones(3)),
    "complex decay": (torch.ones(2, 9, 3), torch.ones(3, dtype=torch.complex64)),
    "double decay": (torch.ones(2, 9, 3), torch.ones(3, dtype=torch.float64)),
    "all int": (torch.ones(2, 9, 3, dtype=torch.int64), torch.full((3,), 2)),
    "float decay": (torch.ones(2, 9, 3), 0.5),
    "int decay": (torch.ones(2, 9, 3), 2),
}


@pytest.mark.parametrize("kind", REFUSED_ARGUMENTS | ODD_ARGUMENTS)
def test_odd_arguments_in_the_first_call(kind: str) -> None:
    same_odd_call(linrec.compile(leaky), kind)


@pytest.mark.parametrize("kind", REFUSED_ARGUMENTS | ODD_ARGUMENTS)
def test_odd_arguments_in_a_later_call(kind: str) -> None:
    net = called_before()
    same_odd_call(net, kind)
    same(net(x := signal(2, 9, 3), A3), leaky(x, A3))


def same_odd_call(net: Any, kind: str) -> None:
    if kind in REFUSED_ARGUMENTS:
        same_failure(net, leaky, *REFUSED_ARGUMENTS[kind])
    else:
        same_answer(net, leaky, *ODD_ARGUMENTS[kind])


@functools.cache
def called_before() -> Any:
    net: Any = linrec.compile(leaky)
    net(signal(2, 9, 3), A3)
    return net


@pytest.mark.parametrize("traced", [True, pytest.param(False, marks=slow)])
@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 9, 4), torch.zeros(2, 9, 3, dtype=torch.float64), torch.zeros(2, 9, 3, dtype=torch.int64), "x"],
    ids=["width", "double", "int", "str"],
)
def test_modules_raise_their_own_errors(x: Any, traced: bool) -> None:
    model = LTI["LinearAsTransition"].make().float()
    net = linrec.compile(model)
    if traced:
        net(torch.zeros(2, 9, 3))
    same_failure(net, model, x)
    same(net(torch.ones(2, 11, 3)), model(torch.ones(2, 11, 3)), rel=1e-5)


def table_over_time(x: Tensor, w: Tensor) -> Tensor:
    h = x[:, 0] * 0
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t] * w[t]
    return h


def test_a_table_that_is_too_short() -> None:
    net = linrec.compile(table_over_time)
    same_failure(net, table_over_time, signal(2, 9, 3), signal(5))
    for steps in (4, 9, 30):
        same_answer(net, table_over_time, signal(2, steps, 3), signal(30))
    same_failure(net, table_over_time, signal(2, 31, 3), signal(30))
    same_run(net, table_over_time, signal(2, 9, 3), signal(9))
    converted(net)


def integer_hash(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.int64)
    ys = []
    for t in range(x.shape[1]):
        h = 3 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def any_so_far(x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 3, dtype=torch.bool)
    ys = []
    for t in range(x.shape[1]):
        h = h | (x[:, t] > 7)
        ys.append(h)
    return torch.stack(ys, 1)


@pytest.mark.parametrize("fn", [integer_hash, any_so_far])
def test_integer_states_are_exact(fn: Any) -> None:
    net = linrec.compile(fn)
    for steps in (9, 45, 90, 1):  # past 2**53 and past 2**63, where integers wrap
        x = torch.randint(0, 9, (2, steps, 3))
        same(net(x), fn(x))


def two_lengths(x: Tensor, y: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = 0.9 * h + x[:, t]
    for t in range(y.shape[1]):
        h = 0.5 * h + y[:, t]
    return h


@pytest.mark.parametrize(
    "lengths",
    [pytest.param([(7, 7), (9, 5), (1, 9)], marks=slow), pytest.param([(5, 9), (9, 5), (1, 9), (30, 2)], marks=slow)],
    ids=["equal first", "different first"],
)
def test_two_lengths_in_one_program(lengths: list[tuple[int, int]]) -> None:
    net = linrec.compile(two_lengths)
    for first, second in lengths:
        same_run(net, two_lengths, signal(2, first, 3), signal(2, second, 3))
    assert len(converted(net)) == 2
    # equal lengths may be taken for one; calls with different ones must then be captured again, once
    assert linrec.report(net).captures <= (2 if lengths[0][0] == lengths[0][1] else 1)


@slow
def test_capture_time_does_not_grow_with_two_lengths() -> None:
    net = linrec.compile(two_lengths)
    start = time.process_time()
    net(signal(2, 500, 3), signal(2, 784, 3))
    assert time.process_time() - start < 6  # twice the 3 s that a cold compilation may take
    converted(net)


def test_own_checks_still_raise() -> None:
    def checked(x: Tensor, limit: int = 50) -> Tensor:
        if x.shape[1] > limit:
            raise KeyError("too long")
        assert x.shape[2] == 3, "three channels"
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            h = 0.5 * h + x[:, t]
        return h

    net = linrec.compile(checked)
    same_run(net, checked, signal(2, 9, 3))
    same_failure(net, checked, signal(2, 51, 3))
    same_failure(net, checked, signal(2, 9, 4))
    same_failure(net, checked, signal(2, 0, 3))
    same_run(net, checked, signal(2, 51, 3), limit=100)


@pytest.mark.parametrize("name", ["enumerate_into_preallocated", "final_only", "states_with_the_initial_one"])
def test_no_steps(name: str) -> None:
    case = LTI[name]
    net = linrec.compile(case.make())
    same_run(net, case.make(), *case.args(2, 0))
    same_run(net, case.make(), *case.args(2, 9))
    same_run(net, case.make(), *case.args(2, 0))
    converted(net)


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


def test_functional_call() -> None:
    case = LTI["LinearAsTransition"]
    model = case.make()
    net = linrec.compile(model)
    x = case.args(2, 15)[0]
    net(x)
    other = {name: p.detach() * 0.5 for name, p in model.named_parameters()}
    same(torch.func.functional_call(net, other, (x,)), torch.func.functional_call(model, other, (x,)))
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


# ---- what cannot be captured -------------------------------------------------------------------------


def branch_on_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        if h.sum() > 0:
            h = h * 0.5 + x[:, t]
        else:
            h = h * 0.9 - x[:, t]
    return h


def item_in_the_loop(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * min(0.9, abs(x[0, t, 0].item())) + x[:, t]
    return h


def numpy_in_the_loop(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + torch.from_numpy(x[:, t].detach().numpy() * 2)
    return h


def length_from_values(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(int(x.detach().abs().sum()) % x.shape[1]):
        h = h * 0.5 + x[:, t]
    return h


def stop_early(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + x[:, t]
        if h[0, 0] > 1:
            break
    return h


class Straight(torch.autograd.Function):
    """Rounds forward, passes three times the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 3


straight: Callable[[Tensor], Tensor] = Straight.apply


def custom_function_on_the_input(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + straight(x[:, t])
    return h


def custom_function_on_the_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = straight(h) * 0.5 + x[:, t]
    return h


def gradient_hook_on_the_state(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + x[:, t]
        if h.requires_grad:
            halve: Any = h.register_hook
            halve(lambda g: g * 0.5)
    return h


def no_grad_part(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        with torch.no_grad():
            k = h * 0.25
        h = h * 0.5 + k + x[:, t]
    return h


def conjugate_state(x: Tensor) -> Tensor:
    h = torch.complex(x[:, 0], x[:, 0] * 0)
    for t in range(1, x.shape[1]):
        h = h.conj() * (0.5 + 0.3j) + x[:, t]
    return torch.view_as_real(h)


def no_loop_at_all(x: Tensor) -> Tensor:
    return torch.tanh(x).cumsum(1)


def gather_from_the_past(x: Tensor) -> Tensor:
    hs = [x[:, 0]]
    for t in range(1, x.shape[1]):
        hs.append(0.5 * hs[t // 2] + x[:, t])
    return torch.stack(hs, 1)


def all_past_states(x: Tensor) -> Tensor:
    hs = [x[:, 0]]
    for t in range(1, x.shape[1]):
        hs.append(0.5 * torch.stack(hs).mean(0) + x[:, t])
    return torch.stack(hs, 1)


def nested_loops(x: Tensor) -> Tensor:
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        for _ in range(3):
            h = 0.8 * h + 0.1 * x[:, t]
    return h


def triangle_of_reads(x: Tensor) -> Tensor:
    ys = []
    for t in range(x.shape[1]):
        y = x[:, t] * 0
        for s in range(t + 1):
            y = y + 0.9 ** (t - s) * x[:, s]
        ys.append(y)
    return torch.stack(ys, 1)


REFUSED = [branch_on_state, item_in_the_loop, numpy_in_the_loop, length_from_values, stop_early]
ODD: list[Any] = [
    *REFUSED,
    custom_function_on_the_input,
    custom_function_on_the_state,
    gradient_hook_on_the_state,
    no_grad_part,
    conjugate_state,
    pytest.param(no_loop_at_all, marks=slow),
    gather_from_the_past,
    pytest.param(all_past_states, marks=slow),
    nested_loops,
    pytest.param(triangle_of_reads, marks=slow),
]


@pytest.mark.parametrize("fn", ODD, ids=lambda f: f.__name__)
def test_odd_programs_are_exact(fn: Any) -> None:
    net = linrec.compile(fn)
    for batch, steps in ((2, 9), (2, 30), (3, 3), (2, 1)):
        same_run(net, fn, signal(batch, steps, 3))
    assert str(linrec.report(net))


@pytest.mark.parametrize("fn", REFUSED, ids=lambda f: f.__name__)
def test_refusals_have_a_code_and_a_place(fn: Any) -> None:
    report = linrec.explain(fn, signal(2, 9, 3))
    refusals = [(report.code, report.reason, report.source)]
    refusals += [(r.code, r.reason, r.source) for r in report.recurrences if r.form == "sequential"]
    assert any(re.match(r"LR\d{4}", code) and reason for code, reason, _ in refusals), refusals
    assert any(re.search(r"test_contract\.py:\d+", source) for _, _, source in refusals), refusals
