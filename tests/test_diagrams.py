"""Block diagrams: what they compute, which loops close, what is refused, and how compiled programs are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import linrec


def build(blocks: dict[Any, Any], edges: list[tuple[Any, ...]]) -> Any:
    graph: Any = nx.MultiDiGraph()
    for node, block in blocks.items():
        graph.add_node(node, block=block)
    for source, target, *delay in edges:
        graph.add_edge(source, target, **({"delay": delay[0]} if delay else {}))
    return graph


def signal(channels: int = 1, length: int = 30) -> Tensor:
    return torch.randn(3, length, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_leaky_integrator() -> None:
    graph: Any = nx.DiGraph()
    graph.add_node("u", block="input")
    graph.add_node("s", block="sum")
    graph.add_node("decay", block=0.9)
    graph.add_node("y", block="output")
    graph.add_edges_from([("u", "s"), ("decay", "s"), ("s", "y")])
    graph.add_edge("s", "decay", delay=1)
    net: Any = linrec.diagram(graph, inputs=["u"], outputs=["y"])
    x = signal()
    np.testing.assert_allclose(net(x)[..., 0], scipy.signal.lfilter([1], [1, -0.9], x[..., 0].numpy()), atol=1e-12)
    np.testing.assert_allclose(net.original(x), net(x), atol=1e-12)
    (r,) = net.report.recurrences
    assert (r.kind, r.structure) == ("lti", "scalar") and r.form != "sequential"


@settings(max_examples=8, deadline=None)
@given(
    taps=st.lists(st.sampled_from([-0.3, -0.1, 0.2, 0.3]), min_size=1, max_size=3),
    delays=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    ahead=st.integers(0, 3),
)
def test_delays_of_any_length(taps: list[float], delays: list[int], ahead: int) -> None:
    blocks: dict[Any, Any] = {"u": "input", "y": "sum"} | {i: tap for i, tap in enumerate(taps)}
    edges: list[tuple[Any, ...]] = [("u", "y", ahead)]
    for i, delay in zip(range(len(taps)), delays, strict=False):
        edges += [("y", i, delay), (i, "y")]
    a = np.zeros(6)
    a[0] = 1
    for tap, delay in zip(taps, delays, strict=False):
        a[delay] -= tap
    x = signal()
    want = scipy.signal.lfilter([0.0] * ahead + [1.0], a, x[..., 0].numpy())
    np.testing.assert_allclose(
        linrec.diagram(build(blocks, edges), inputs=["u"], outputs=["y"])(x)[..., 0], want, atol=1e-10
    )


def test_modules_systems_recurrences_and_parallel_edges() -> None:
    torch.manual_seed(0)
    wide, cell = nn.Linear(1, 4).double(), nn.GRUCell(4, 2).double()
    b, a = scipy.signal.butter(3, 0.3)
    blocks = {
        "u": "input", "v": "input", "wide": wide, "act": nn.Tanh(), "cell": linrec.Recurrent(cell),
        "filter": scipy.signal.dlti(b, a), "sos": linrec.filter(b, a), "out": "output", ("any", "name"): 0.5,
    }  # fmt: skip
    edges = [
        ("u", "wide"), ("wide", "act"), ("act", "cell", 2), ("u", "filter"), ("u", "filter"), ("v", "sos"),
        ("filter", "out"), ("sos", "out", 1), ("cell", ("any", "name")),
    ]  # fmt: skip
    net: Any = linrec.diagram(build(blocks, edges), inputs=["v", "u"], outputs=["out", ("any", "name")])
    x = signal(2)
    v, u = x[..., 0].numpy(), x[..., 1].numpy()
    first = scipy.signal.lfilter(b, a, 2 * u) + scipy.signal.lfilter([0, *b], a, v)
    drive = torch.cat([torch.zeros(3, 2, 4, dtype=torch.float64), torch.tanh(wide(x[..., 1:]))[:, :-2]], 1)
    second, _ = linrec.Recurrent(cell)(drive)
    want = torch.cat([torch.as_tensor(first).unsqueeze(-1), 0.5 * second], -1)
    torch.testing.assert_close(net.original(x), want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(net(x), want, rtol=1e-9, atol=1e-10)
    forms = {r.kind: r.form != "sequential" for r in net.report.recurrences}
    assert forms == {"lti": True, "nonlinear": False}
    assert {"wide.weight", "cell.cell.weight_ih"} <= net.state_dict().keys()


def test_a_controller_around_a_plant_needs_no_delay() -> None:
    """The plant's output does not depend on its input of the same step, so the loop closes without a delay."""
    plant = scipy.signal.dlti([[0.9]], [[0.2]], [[1.0]], [[0.0]])
    blocks = {"r": "input", "error": "sum", "minus": -1.0, "gain": 2.0, "plant": plant}
    edges = [("r", "error"), ("plant", "minus"), ("minus", "error"), ("error", "gain"), ("gain", "plant")]
    net: Any = linrec.diagram(build(blocks, edges), inputs=["r"], outputs=["plant"])
    x = signal()
    want = scipy.signal.lfilter([0, 0.4], [1, -0.9 + 0.4], x[..., 0].numpy())
    np.testing.assert_allclose(net(x)[..., 0], want, atol=1e-12)
    assert [r.form != "sequential" for r in net.report.recurrences] == [True]


def test_algebraic_loops_are_solved() -> None:
    # y = k (u - y) + 0.5 y[-1]: y = (k u + 0.5 y[-1]) / (1 + k), through a gain and a system with feedthrough
    for k in (3.0, scipy.signal.dlti([[0.0]], [[0.0]], [[0.0]], [[3.0]])):
        blocks = {"u": "input", "e": "sum", "minus": -1.0, "k": k, "y": "sum", "half": 0.5}
        edges = [("u", "e"), ("y", "minus"), ("minus", "e"), ("e", "k"), ("k", "y"), ("half", "y"), ("y", "half", 1)]
        net: Any = linrec.diagram(build(blocks, edges), inputs=["u"], outputs=["y"])
        x = signal()
        want = scipy.signal.lfilter([0.75], [1, -0.125], x[..., 0].numpy())
        np.testing.assert_allclose(net(x)[..., 0], want, atol=1e-12)
        assert all(r.form != "sequential" for r in net.report.recurrences) and net.report.recurrences


def test_gradients_pass_through_loops() -> None:
    gain = nn.Linear(1, 1).double()
    graph = build({"u": "input", "k": gain, "y": "sum"}, [("u", "y"), ("y", "k"), ("k", "y"), ("y", "y", 1)])
    with torch.no_grad():
        gain.weight.fill_(-0.7)
    net: Any = linrec.diagram(graph, inputs=["u"], outputs=["y"])
    x = signal(1, 8).requires_grad_()
    assert torch.autograd.gradcheck(net, x)

    def run(weight: Tensor, bias: Tensor) -> Any:
        return torch.func.functional_call(net.original, {"k.weight": weight, "k.bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (gain.weight, gain.bias))


@pytest.mark.parametrize(
    ("blocks", "edges", "code", "words"),
    [
        ({"u": "input", "y": None}, [("u", "y")], "LR0531", "'y' has block None"),
        ({"u": "input", "y": "add"}, [("u", "y")], "LR0531", "'y' has block 'add'"),
        ({"u": "input", "y": [1]}, [("u", "y")], "LR0531", "a list as block"),
        ({"u": "input", "y": "sum"}, [("u", "y", -1)], "LR0531", "delay -1"),
        ({"u": "input", "y": "sum"}, [("u", "y", 0.5)], "LR0531", "delay 0.5"),
        ({"u": "input", "y": "sum"}, [], "LR0531", "nothing enters node 'y'"),
        ({"u": "input", "y": "sum"}, [("u", "y"), ("y", "u")], "LR0531", "enters the input 'u'"),
        ({"u": "sum", "y": "sum"}, [("u", "y")], "LR0531", "'u' is not an input"),
        ({"u": "input", "z": "sum"}, [("u", "z")], "LR0531", "'y', which is no node"),
        ({"u": "input", "v": "input", "y": "sum"}, [("u", "y")], "LR0531", "'v' is an input"),
        ({"u": "input", "y": nn.Linear(2, 3)}, [("u", "y")], "LR0531", "does not take one step"),
        ({"u": "input", "a": nn.Linear(1, 2), "b": nn.Linear(1, 3), "y": "sum"},
         [("u", "a"), ("u", "b"), ("a", "y"), ("b", "y")], "LR0531", r"\[2, 3\] channels"),
        ({"u": "input", "y": ([1.0, 2, 3], [1.0, 2])}, [("u", "y")], "LR0522", "improper"),
        ({"u": "input", "y": "sum", "k": 1.0}, [("u", "y"), ("y", "k"), ("k", "y")], "LR0532", "k -> y -> k .*no unique"),
        ({"u": "input", "y": "sum", "k": nn.Tanh()}, [("u", "y"), ("y", "k"), ("k", "y")], "LR0532", "k -> y -> k .*Tanh"),
    ],
)  # fmt: skip
def test_refusals_name_the_node_or_cycle(blocks: Any, edges: Any, code: str, words: str) -> None:
    with pytest.raises(linrec.DeclarationError, match=words) as caught:
        linrec.diagram(build(blocks, edges), inputs=["u"], outputs=["y"])
    assert caught.value.code == code and caught.value.help


# compiled programs as graphs -------------------------------------------------------------------------


def decayed(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(torch.tanh(h))
    return torch.stack(ys, 1)


def test_anything_compiled_is_a_graph() -> None:
    net = linrec.compile(decayed)
    x, a = torch.randn(2, 20, 3), torch.rand(3)
    with pytest.raises(linrec.StateError, match="not called yet"):
        linrec.to_networkx(net)
    net(x, a)
    graph: Any = linrec.to_networkx(net)
    (r,) = net.report.recurrences  # type: ignore[attr-defined]
    h = graph.nodes["h"]
    assert (h["op"], h["recurrence"], h["kind"], h["structure"], h["form"]) == (
        "add",
        "r0",
        r.kind,
        r.structure,
        r.form,
    )
    assert graph.nodes["x"]["role"] == "input" and "recurrence" not in graph.nodes["tanh"]
    assert ("h", "mul") in {(s, t) for s, t, d in graph.edges(data="delay") if d == 1}
    assert len(list(nx.simple_cycles(graph))) == 1
    assert nx.is_directed_acyclic_graph(nx.MultiDiGraph((s, t) for s, t, d in graph.edges(data="delay") if d == 0))


def test_drawing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    net: Any = linrec.filter(*scipy.signal.butter(2, 0.3))
    net(torch.randn(2, 20))
    axes = linrec.draw(net)
    shown = {text.get_text().split("\n")[0] for text in axes.texts}
    assert set(linrec.to_networkx(net)) <= shown
    axes.figure.savefig(tmp_path / "net.png")
    assert (tmp_path / "net.png").stat().st_size > 5000
    source = linrec.draw(net, tool="graphviz")
    assert "digraph" in source and "r0" in source and 'label="z^-1"' in source
    with pytest.raises(ValueError, match="tool"):
        linrec.draw(net, tool="pencil")
