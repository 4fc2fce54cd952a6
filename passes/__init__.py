"""Passes: graph in, graph out. The folder is the registry: file name, pass name and CLI name are one word."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import networkx as nx

from linrec.manager import Hook, Pass, Pipeline


def load_passes() -> dict[str, type[Pass]]:
    """Every pass by name, in the order in which the default pipeline runs them."""
    found: dict[str, type[Pass]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        module = importlib.import_module(f"linrec.passes.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Pass) and value.__module__ == module.__name__:
                found[value.name] = value
    edges: nx.DiGraph[str] = nx.DiGraph()
    edges.add_nodes_from(found)
    edges.add_edges_from((before, name) for name, kind in found.items() for before in kind.after)
    return {name: found[name] for name in nx.lexicographical_topological_sort(edges)}


def default_pipeline(hooks: Sequence[Hook] = ()) -> Pipeline:
    """All passes of the folder, in their order."""
    return Pipeline([kind() for kind in load_passes().values()], hooks)
