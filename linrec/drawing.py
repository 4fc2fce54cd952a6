"""Drawings: what was compiled as a networkx graph, and that graph as a picture."""

from __future__ import annotations

from typing import Any

import networkx as nx

from linrec.api import _require_engine
from linrec.ir import Graph, Op, Type

_COLOURS = ("#9ecae1", "#a1d99b", "#fdae6b", "#bcbddc", "#fdd0a2", "#c7e9c0")


def to_networkx(net: Any) -> nx.MultiDiGraph[str]:
    """The program that was last compiled for `net`, as captured: a node a value, an edge a read.

    Nodes have "op" and "type", and "source" where known; inputs have "role" instead of "op"; what belongs to a recurrence has
    "recurrence" and that recurrence's "kind", "structure" and "form". Edges have "delay"; the graph has "name" and
    "recurrences", name -> kind, structure and form. Raises StateError if `net` was not called or not captured.
    """
    engine = _require_engine(net)
    compiled = engine.program_for((), {})
    program: Graph = compiled.captured.graph
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=program.name)
    for i in program.inputs:
        graph.add_node(i.name, role=i.role, type=str(i.type))
    known = {r.name: {"kind": r.kind, "structure": r.structure, "form": r.form} for r in compiled.report.recurrences}
    members = {m: r.name for r in compiled.graph.recurrences for m in r.members}
    for op in program.ops:
        graph.add_node(op.result, op=op.kind, **_facts(op))
        if op.result in members and members[op.result] in known:
            graph.nodes[op.result].update(recurrence=members[op.result], **known[members[op.result]])
    for op in program.ops:
        for use in sorted(set(op.all_uses()), key=str):
            graph.add_edge(use.name, op.result, delay=use.delay)
    graph.graph["recurrences"] = known
    return graph


def _facts(op: Op) -> dict[str, str]:
    facts = {"type": str(op.type)} if isinstance(op.type, Type) else {}
    return facts | ({"source": str(op.source)} if op.source else {})


def draw(net: Any, *, tool: str = "matplotlib", axes: Any = None) -> Any:
    """Draw what was compiled, recurrences in colour, reads of earlier steps dashed.

    Args:
        net: anything compiled and called.
        tool: "matplotlib" draws on `axes`, or on new ones, and returns them; "graphviz" returns the picture in graphviz's
            own language, for `dot -Tsvg` or `graphviz.Source`.

    Raises ValueError for another tool, ImportError without matplotlib (`pip install linrec[draw]`).
    """
    graph = to_networkx(net)
    if tool == "graphviz":
        return _dot(graph)
    if tool != "matplotlib":
        raise ValueError(f'tool is "matplotlib" or "graphviz", got {tool!r}')
    return _plotted(graph, axes)


def _label(name: str, data: dict[str, Any]) -> str:
    lines = [name, data.get("op", data.get("role", ""))]
    if "recurrence" in data:
        lines.append(f"{data['recurrence']}: {data['kind']}/{data['structure']}, {data['form']}")
    return "\n".join(lines)


def _colours(graph: Any) -> dict[str, str]:
    return {r: _COLOURS[i % len(_COLOURS)] for i, r in enumerate(graph.graph["recurrences"])}


def _delay(steps: int) -> str:
    return f"z^-{steps}" if steps else ""


def _dot(graph: Any) -> str:
    colours = _colours(graph)
    lines = [f'digraph "{graph.name}" {{', "  node [shape=box, style=filled, fillcolor=white];"]
    for name, data in graph.nodes(data=True):
        label = _label(name, data).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  "{name}" [label="{label}", fillcolor="{colours.get(data.get("recurrence"), "white")}"];')
    for source, target, delay in graph.edges(data="delay"):
        style = f' [label="{_delay(delay)}", style=dashed, constraint=false]' if delay else ""
        lines.append(f'  "{source}" -> "{target}"{style};')
    return "\n".join([*lines, "}"]) + "\n"


def _plotted(graph: Any, axes: Any) -> Any:
    import matplotlib.pyplot as plt

    now: nx.DiGraph[str] = nx.DiGraph()
    now.add_nodes_from(graph)
    now.add_edges_from((s, t) for s, t, delay in graph.edges(data="delay") if not delay)
    layers = list(nx.topological_generations(now))
    for depth, layer in enumerate(layers):
        for name in layer:
            now.nodes[name]["layer"] = depth
    places = nx.multipartite_layout(now, subset_key="layer", align="horizontal", scale=-1)
    if axes is None:
        _, axes = plt.subplots(figsize=(9, max(3, 0.9 * len(layers))), layout="constrained")
    colours = _colours(graph)
    for source, target, delay in graph.edges(data="delay"):
        style = {"arrowstyle": "->", "color": "0.4", "shrinkA": 12, "shrinkB": 12}
        bend = {"linestyle": "--", "connectionstyle": "arc3,rad=0.4"} if delay else {}
        axes.annotate("", places[target], places[source], arrowprops={**style, **bend})
        if delay:
            middle = (places[source] + places[target]) / 2
            axes.annotate(_delay(delay), middle, color="0.4", fontsize=7)
    for name, data in graph.nodes(data=True):
        box = {"boxstyle": "round", "facecolor": colours.get(data.get("recurrence"), "white"), "edgecolor": "0.6"}
        axes.text(*places[name], _label(name, data), ha="center", va="center", fontsize=7, bbox=box)
    axes.set_axis_off()
    axes.set_title(graph.name)
    return axes
