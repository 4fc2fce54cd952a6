"""Pictures: a graph laid out in layers, as SVG with one group a value.

Layers follow reads without delay; reads with a delay go back and are dashed, labelled with the delay. Within a layer
values are ordered by the mean place of what they read (Sugiyama, Tagawa and Toda 1981, barycentres), a few sweeps
down and up. Members of a recurrence share its colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import networkx as nx

from linrec.ir import Graph, Op, uses_in
from linrec.text import show_op

WIDTH, HEIGHT, GAP_X, GAP_Y = 150, 34, 26, 40
COLOURS = ("#d1495b", "#00798c", "#edae49", "#5b8e7d", "#8d6a9f", "#bc6c25")
_SWEEPS = 6


def picture(graph: Graph, identity: str, *, redact: bool = False) -> str:
    """The graph as an SVG element with the id `identity`; the op's text is in each group's `data-text`."""
    places = layout(graph)
    if not places:
        return f'<svg id="{identity}" class="graph" viewBox="0 0 10 10"></svg>'
    right = max(x for x, _ in places.values()) + WIDTH + GAP_X
    bottom = max(y for _, y in places.values()) + HEIGHT + GAP_Y
    parts = [f'<svg id="{identity}" class="graph" viewBox="0 0 {right} {bottom}" role="img"><g class="all">']
    parts += _edges(graph, places)
    parts += _nodes(graph, places, redact)
    return "\n".join([*parts, "</g></svg>"])


def layout(graph: Graph) -> dict[str, tuple[int, int]]:
    """The left upper corner of every value."""
    down = _down(graph)
    layers: dict[str, int] = {}
    for name in nx.topological_sort(down):
        layers[name] = max((layers[p] + 1 for p in down.predecessors(name)), default=0)
    for name in reversed(list(nx.topological_sort(down))):  # inputs stand right above their first reader
        later = [layers[s] for s in down.successors(name)]
        if later and not list(down.predecessors(name)):
            layers[name] = min(later) - 1
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name, layer in layers.items():
        rows[layer].append(name)
    for sweep in range(_SWEEPS):
        near = down.predecessors if sweep % 2 == 0 else down.successors
        place = {name: x - len(row) / 2 for row in rows for x, name in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            row.sort(key=lambda n: _mean([place[m] for m in near(n)], place[n]))
            place |= {name: x - len(row) / 2 for x, name in enumerate(row)}
    widest = max((len(row) for row in rows), default=0)
    return {
        name: (round((x + (widest - len(row)) / 2) * (WIDTH + GAP_X)) + GAP_X, y * (HEIGHT + GAP_Y) + GAP_Y // 2)
        for y, row in enumerate(rows)
        for x, name in enumerate(row)
    }


def _mean(places: list[float], own: float) -> float:
    return sum(places) / len(places) if places else own


def _down(graph: Graph) -> nx.DiGraph[str]:
    """Reads without delay, and initial values: what lies above what."""
    down: nx.DiGraph[str] = nx.DiGraph()
    used = {u.name for op in graph.ops for u in op.all_uses()}
    down.add_nodes_from(i.name for i in graph.inputs if i.name in used)
    for op in graph.ops:
        down.add_node(op.result)
        down.add_edges_from((u.name, op.result) for u in op.uses() if u.delay == 0)
        down.add_edges_from((u.name, op.result) for u in uses_in(op.init))
    return down


def _edges(graph: Graph, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    for op in graph.ops:
        x, y = places[op.result]
        initial = {u.name for u in uses_in(op.init)}
        for use in dict.fromkeys(op.all_uses()):
            a, b = places[use.name]
            ends = f'data-from="{escape(use.name)}" data-to="{escape(op.result)}"'
            start: tuple[float, float]
            end: tuple[float, float]
            if use.delay:
                start, end = (a + WIDTH, b + HEIGHT // 2), (x + WIDTH, y + HEIGHT // 2)
                bend = max(start[0], end[0]) + GAP_X
                path = f"M {start[0]} {start[1]} C {bend} {start[1]}, {bend} {end[1]}, {end[0]} {end[1]}"
                middle = (start[1] + end[1]) / 2
                yield f'<path class="edge delayed" {ends} d="{path}" marker-end="url(#arrow)"/>'
                yield f'<text class="delay" x="{bend - 6}" y="{middle}">z<tspan dy="-4">-{use.delay}</tspan></text>'
                continue
            start, end = (a + WIDTH // 2, b + HEIGHT), (x + WIDTH // 2, y)
            half = (start[1] + end[1]) / 2
            path = f"M {start[0]} {start[1]} C {start[0]} {half}, {end[0]} {half}, {end[0]} {end[1]}"
            kind = "edge initial" if use.name in initial else "edge"
            yield f'<path class="{kind}" {ends} d="{path}" marker-end="url(#arrow)"/>'


def _nodes(graph: Graph, places: dict[str, tuple[int, int]], redact: bool) -> Iterator[str]:
    colour = {m: COLOURS[i % len(COLOURS)] for i, r in enumerate(graph.recurrences) for m in r.members}
    named = {m: r.name for r in graph.recurrences for m in r.members}
    roots = graph.roots()
    by_name = graph.by_name()
    for i in graph.inputs:
        if i.name in places:
            where = f"{i.role} {i.path}".rstrip()
            yield _node(i.name, str(i.type), f"%{i.name} : {i.type}   ({where})", "", "input", places[i.name], "")
    for name, op in by_name.items():
        classes = "op" + " signal" * (op.time is not None) + " root" * (name in roots)
        line = "" if op.source is None or redact else str(op.source)
        yield _node(name, op.kind, _text(op), line, classes, places[name], colour.get(name, ""), named.get(name, ""))


def _text(op: Op) -> str:
    return show_op(op).partition("  //")[0].rstrip()


def _node(
    name: str, label: str, text: str, line: str, classes: str, place: tuple[int, int], colour: str, recurrence: str = ""
) -> str:
    x, y = place
    fill = f' style="fill:{colour}"' if colour else ""
    inside = " coloured" if colour else ""
    shown = _cut(f"{name} = {label}" if "input" not in classes else name)
    return (
        f'<g class="node {classes}{inside}" tabindex="0" data-name="{escape(name)}" data-text="{escape(text)}" '
        f'data-line="{escape(line)}" data-recurrence="{escape(recurrence)}">'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"{fill}/>'
        f'<text x="{x + WIDTH / 2}" y="{y + HEIGHT / 2 + 4}">{escape(shown)}</text></g>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= 22 else text[:21] + "…"
