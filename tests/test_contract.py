"""Law 1 through the public names: a compiled program is the same function, in value and in every gradient.

The programs are in `cases`. The files test_contract_*.py try inputs, numerics, modes of torch, Python state.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from cases import LTI, LTV, NONLINEAR, Case
from contract import A3, converted, leaky, same, same_run, signal
from torch import Tensor, nn

import linrec

SOURCE = re.compile(r"(layers|nonlinear|states|steps|varying|walks)\.py:\d+")
pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


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
    assert "tanh" in str(caught.value) and "nonlinear.py" in str(caught.value)

    def branches(x: Tensor) -> Tensor:
        h = x[:, 0]
        for t in range(1, x.shape[1]):
            if h.sum() > 0:
                h = h * 0.5 + x[:, t]
        return h

    with pytest.raises(linrec.CaptureError):
        linrec.compile(branches, strict=True)(signal(2, 9, 3))
    same_run(linrec.compile(leaky, strict=True), leaky, signal(2, 9, 3), A3)
