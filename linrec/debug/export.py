"""What `linrec opt --emit` writes: text, the emitted Python of either form, plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from linrec.ir import Graph, Type
from linrec.text import show, show_arg

Target = Literal["ir", "python", "step", "json"]
TARGETS: tuple[Target, ...] = ("ir", "python", "step", "json")


def export(given: Graph, made: Graph, target: Target) -> str | dict[str, Any]:
    """`made` as text or data; "step" is the recurrent form of `given`. Raises StateError where there is none."""
    if target == "ir":
        return show(made).rstrip("\n")
    if target == "json":
        return plain(made)
    from linrec.emit.source import emit

    if target == "python":
        return emit(made).text.rstrip("\n")
    from linrec.debug.run import optimize
    from linrec.emit.stateful import stateful
    from linrec.manager import Context

    clean = optimize(given, ("canonicalize", "cse", "hoist", "dce"))
    step = optimize(stateful(clean).onward, None, (), Context({"T": 1}, forms="sequential"))
    return emit(step).text.rstrip("\n")


def plain(graph: Graph) -> dict[str, Any]:
    """The graph as plain data, "schema" 1; arguments are in the text's notation."""

    def typed(made: Type | tuple[Type, ...] | None) -> Any:
        return list(map(str, made)) if isinstance(made, tuple) else None if made is None else str(made)

    return {
        "schema": 1,
        "name": graph.name,
        "inputs": [{"name": i.name, "type": str(i.type), "role": i.role, "path": i.path} for i in graph.inputs],
        "times": [{"name": t.name, "trip": str(t.trip), "direction": t.direction} for t in graph.times],
        "ops": [
            {
                "result": op.result,
                "kind": op.kind,
                "args": [show_arg(a) for a in op.args],
                "attrs": {key: show_arg(a) for key, a in op.attrs},
                "type": typed(op.type),
                "time": op.time,
                "init": [show_arg(a) for a in op.init],
                "source": None if op.source is None else str(op.source),
            }
            for op in graph.ops
        ],
        "outputs": [show_arg(o) for o in graph.outputs],
        "effects": [{"path": path, "value": show_arg(use)} for path, use in graph.effects],
        "recurrences": [asdict(r) for r in graph.recurrences],
    }
