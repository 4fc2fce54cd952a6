"""Block diagrams: a networkx graph of blocks and signals, as a module whose forward is one scan.

At each step every block is evaluated once, after the blocks whose output of the same step it needs; an edge with a delay
reads its block's output of earlier steps, 0 before the first. Blocks that need each other within one step are an
algebraic loop z = L z + e, which has one solution if 1 - L has an inverse: computed once a call, applied at every step.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from linrec.errors import DeclarationError, LinrecError, ShapeError
from linrec.frontends.step import Recurrent, scan
from linrec.frontends.systems import Filter, LinearSystem, is_system, read_system

Node = Hashable
PASSING = ("sum", "output")  # blocks whose output is the sum of what enters


class Diagram(nn.Module):
    """(batch, T, inputs) -> (batch, T, outputs). Modules and systems of nodes are submodules, named after them."""

    def __init__(self, graph: Any, inputs: Sequence[Node], outputs: Sequence[Node]) -> None:
        super().__init__()
        if not isinstance(graph, nx.DiGraph):
            raise _unread(f"a {type(graph).__name__} is no directed graph", "give a networkx.DiGraph")
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.blocks: dict[Node, Any] = {}
        self.places: dict[Node, str] = {}
        for number, (node, data) in enumerate(graph.nodes(data=True)):
            block = self._block(node, data)
            if isinstance(block, nn.Module):
                name = "".join(c if c.isalnum() else "_" for c in str(node)) or "block"
                self.places[node] = name if not hasattr(self, name) else f"{name}_{number}"
                self.add_module(self.places[node], block)
                block = "module"
            self.blocks[node] = block
        self.entering: dict[Node, list[tuple[Node, int]]] = {node: [] for node in graph}
        for source, target, data in graph.edges(data=True):
            self.entering[target].append((source, _delay(source, target, data.get("delay", 0))))
        # systems whose output does not depend on their input of the same step, now and in training
        self.late = frozenset(node for node in self.places if self._is_system(node) and self._late(node))
        self._require_ends()
        self.order = self._ordered()
        self.widths = self._widths()
        self.history: dict[Node, int] = {}
        for edges in self.entering.values():
            for source, delay in edges:
                if delay:
                    self.history[source] = max(delay, self.history.get(source, 0))
        for loop in self.order:
            if len(loop) > 1 or self._needs(loop[0], loop[0]):
                self._require_solvable(loop)

    def forward(self, u: Tensor) -> Tensor:
        """Run from rest over u (batch, T, inputs)."""
        if u.dim() != 3 or u.shape[-1] != len(self.inputs):
            raise ShapeError(
                "LR0521", f"the diagram takes (batch, T, {len(self.inputs)}), got {list(u.shape)}",
                help=f"channels are {', '.join(map(str, self.inputs))}, in this order",
            )  # fmt: skip
        matrices = {
            node: [m.to(u.dtype) for m in self._module(node).matrices()]
            for node in self.places
            if self._is_system(node)
        }
        solved = [self._solution(loop, u) for loop in self.order]

        def zeros(width: int) -> Tensor:
            return u.new_zeros(u.shape[0], width)

        past = {node: tuple(zeros(self.widths[node]) for _ in range(lags)) for node, lags in self.history.items()}
        inner: dict[Node, Any] = {node: zeros(len(m[0])) for node, m in matrices.items()}
        for node in self.places:
            cell = getattr(self._module(node), "cell", None)
            if isinstance(cell, nn.RNNCellBase):
                hidden = zeros(cell.hidden_size)
                inner[node] = (hidden, hidden) if isinstance(cell, nn.LSTMCell) else hidden
        key = {node: f"{i} {node}" for i, node in enumerate(self.history)}
        state = ({key[k]: v for k, v in past.items()}, {self.places[k]: v for k, v in inner.items()})

        def step(before: Any, u_t: Tensor) -> Any:
            past, inner = before
            now: dict[Node, Tensor] = {node: u_t[:, i : i + 1] for i, node in enumerate(self.inputs)}
            after = dict(inner)

            def entering(node: Node, without: Sequence[Node] = ()) -> Tensor:
                total = zeros(self._width_in(node)) if without else None
                for source, delay in self.entering[node]:
                    if delay == 0 and source in without:
                        continue
                    signal = past[key[source]][delay - 1] if delay else now[source]
                    total = signal if total is None else total + signal
                assert total is not None
                return total

            def output(node: Node, without: Sequence[Node] = ()) -> Any:
                block = self.blocks[node]
                if node in matrices:
                    _, _, C, D = matrices[node]
                    y = inner[self.places[node]] @ C.T
                    return y if node in self.late else y + entering(node, without) @ D.T
                x = entering(node, without)
                if block != "module":
                    return x if block in PASSING else x * block
                module = self._module(node)
                if isinstance(module, Recurrent):
                    after[self.places[node]] = hidden = module.cell(x, inner[self.places[node]])
                    return hidden[0] if isinstance(hidden, tuple) else hidden
                return module(x)

            for loop, inverse in zip(self.order, solved, strict=True):
                if inverse is None:
                    (node,) = loop
                    if node not in now:
                        now[node] = output(node)
                    continue
                # z = L z + e with e what each block gives if nothing of the loop enters it
                given = [output(node, loop) for node in loop]
                for i, node in enumerate(loop):
                    terms = [inverse[i, j] * e for j, e in enumerate(given)]
                    total = terms[0]
                    for term in terms[1:]:
                        total = total + term
                    now[node] = total
            for node, (A, B, _, _) in matrices.items():
                after[self.places[node]] = inner[self.places[node]] @ A.T + entering(node) @ B.T
            kept = {key[node]: (now[node], *past[key[node]][: lags - 1]) for node, lags in self.history.items()}
            return (kept, after), torch.cat([now[node] for node in self.outputs], -1)

        _, ys = scan(step, state, u.transpose(0, 1))
        return ys.transpose(0, 1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The ends, for print(module)."""
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"

    # reading -------------------------------------------------------------------------------------

    def _block(self, node: Node, data: Mapping[str, Any]) -> Any:
        block = data.get("block")
        if isinstance(block, bool) or block is None:
            raise _unread(
                f"node {node!r} has block {block!r}", "give a number, a module, a system, or input, output, sum"
            )
        if isinstance(block, str):
            if block not in ("input", *PASSING):
                raise _unread(f"node {node!r} has block {block!r}", 'the words are "input", "output" and "sum"')
            return block
        if isinstance(block, int | float):
            return float(block)
        if isinstance(block, Recurrent) and (block.bidirectional or block.reverse):
            raise _unread(f"the recurrence of node {node!r} runs backward", "a diagram runs forward in time")
        if isinstance(block, Recurrent) and not isinstance(block.cell, nn.RNNCellBase):
            raise _unread(
                f"the cell of node {node!r} is a {type(block.cell).__name__}, and only itself knows its initial state",
                "use one of torch's cells, or draw the recurrence with delays",
            )
        if isinstance(block, nn.Module):
            return block
        if is_system(block):
            try:
                return read_system(block)
            except LinrecError as error:
                error.add_note(f"in node {node!r}")
                raise
        raise _unread(f"node {node!r} has a {type(block).__name__} as block", "give a number, a module or a system")

    def _require_ends(self) -> None:
        for what, names in (("inputs", self.inputs), ("outputs", self.outputs)):
            for node in names:
                if node not in self.blocks:
                    raise _unread(
                        f"{what} names {node!r}, which is no node", f"nodes are {', '.join(map(str, self.blocks))}"
                    )
            if not names:
                raise _unread(f"{what} is empty", f"name at least one of {', '.join(map(str, self.blocks))}")
        for node, block in self.blocks.items():
            edges = self.entering[node]
            if (block == "input") != (node in self.inputs):
                raise _unread(
                    f"node {node!r} is {'' if block == 'input' else 'not '}an input, and inputs is {self.inputs}",
                    "list exactly the nodes with block input",
                )
            if block == "input" and edges:
                raise _unread(f"a signal enters the input {node!r}", "make it a sum")
            if block != "input" and not edges:
                raise _unread(f"nothing enters node {node!r}", "draw an edge into it, or remove it")

    def _module(self, node: Node) -> Any:
        return self.get_submodule(self.places[node])

    def _is_system(self, node: Node) -> bool:
        return node in self.places and isinstance(self._module(node), LinearSystem | Filter)

    def _late(self, node: Node) -> bool:
        D = self._module(node).matrices()[3]
        return not D.requires_grad and not bool(D.any())

    def _needs(self, node: Node, source: Node) -> bool:
        """Does the output of `node` need that of `source` of the same step?"""
        return (source, 0) in self.entering[node] and node not in self.late

    def _ordered(self) -> list[list[Node]]:
        """Blocks in the order in which a step evaluates them; those of an algebraic loop together."""
        needs: nx.DiGraph[Node] = nx.DiGraph()
        needs.add_nodes_from(self.blocks)
        needs.add_edges_from((s, n) for n in self.blocks for s, _ in self.entering[n] if self._needs(n, s))
        joined = nx.condensation(needs)
        place = {node: i for i, node in enumerate(self.blocks)}
        return [sorted(joined.nodes[c]["members"], key=place.__getitem__) for c in nx.topological_sort(joined)]

    def _width_in(self, node: Node) -> int:
        return max(self.widths[source] for source, _ in self.entering[node])

    def _widths(self) -> dict[Node, int]:
        """How many channels each block puts out."""
        widths: dict[Node, int] = dict.fromkeys(self.inputs, 1)
        for node in self.places:
            if self._is_system(node):
                widths[node] = len(self._module(node).matrices()[2])
            elif isinstance(cell := getattr(self._module(node), "cell", None), nn.RNNCellBase):
                widths[node] = cell.hidden_size
        for _ in self.blocks:
            for node in (n for loop in self.order for n in loop):
                known = [widths[s] for s, _ in self.entering[node] if s in widths]
                if not known or self._is_system(node) or node in self.inputs:
                    continue
                if self.blocks[node] != "module":
                    widths[node] = max(known)
                elif node not in widths:
                    widths[node] = self._probed(node, max(known))
        for node in self.blocks:
            given = {widths[s] for s, _ in self.entering[node] if s in widths}
            wanted = self._module(node).matrices()[1].shape[1] if self._is_system(node) else None
            if node not in widths or len(given - {1}) > 1 or (wanted is not None and given != {wanted}):
                need = "" if wanted is None else f", and its system takes {wanted}"
                raise DeclarationError(
                    "LR0531", f"node {node!r} is entered by signals of {sorted(given)} channels{need}",
                    help="signals that are summed have the same number of channels, or one",
                )  # fmt: skip
        return widths

    def _probed(self, node: Node, width: int) -> int:
        module = copy.deepcopy(self._module(node)).eval()
        like = next(module.parameters(), torch.zeros(()))
        try:
            with torch.no_grad():
                y = module(like.new_zeros(2, width))
        except (RuntimeError, TypeError, ValueError) as error:
            raise _unread(
                f"the module of node {node!r} does not take one step (batch, {width}): {error}",
                "give a module of one step",
            ) from error
        if not isinstance(y, Tensor) or y.dim() != 2 or len(y) != 2:
            raise _unread(f"the module of node {node!r} does not return (batch, channels)", "give a module of one step")
        return y.shape[1]

    # algebraic loops -----------------------------------------------------------------------------

    def _require_solvable(self, loop: Sequence[Node]) -> None:
        needs: nx.DiGraph[Node] = nx.DiGraph((s, n) for n in loop for s in loop if self._needs(n, s))
        cycle = [a for a, _ in nx.find_cycle(needs)]
        shown = " -> ".join(map(str, [*cycle, cycle[0]]))
        for node in loop:
            if self._gain(node) is None:
                kind = type(self._module(node)).__name__
                raise DeclarationError(
                    "LR0532", f"the loop {shown} has no delay, and node {node!r} ({kind}) is not a gain of one channel",
                    help="put a delay on one of its edges",
                )  # fmt: skip
        left = torch.eye(len(loop), dtype=torch.float64) - self._loop_matrix(loop)
        if torch.linalg.cond(left.detach()) > 1e12:
            raise DeclarationError(
                "LR0532",
                f"the loop {shown} has no delay and no unique solution",
                help="put a delay on one of its edges",
            )

    def _gain(self, node: Node) -> Any:
        """What a block multiplies a channel by within a step; None if that is not one number."""
        block = self.blocks[node]
        if block != "module":
            return 1.0 if block in PASSING else block
        module = self._module(node)
        if self._is_system(node):
            D = module.matrices()[3]
            return D[0, 0] if D.numel() == 1 else None
        if isinstance(module, nn.Linear) and module.weight.numel() == 1:
            return module.weight[0, 0]
        return 1.0 if isinstance(module, nn.Identity) else None

    def _loop_matrix(self, loop: Sequence[Node]) -> Tensor:
        """L of z = L z + e."""
        rows = []
        for node in loop:
            gain = torch.as_tensor(self._gain(node), dtype=torch.float64)
            count = [sum((s, d) == (source, 0) for s, d in self.entering[node]) for source in loop]
            rows.append(torch.stack([gain * float(c) for c in count]))
        return torch.stack(rows)

    def _solution(self, loop: Sequence[Node], u: Tensor) -> Tensor | None:
        """(1 - L)^-1, None for a block on its own."""
        if len(loop) == 1 and not self._needs(loop[0], loop[0]):
            return None
        L = self._loop_matrix(loop)
        eye = torch.eye(len(loop), dtype=L.dtype, device=L.device)
        inverse: Tensor = torch.linalg.inv(eye - L)
        return inverse.to(device=u.device, dtype=u.dtype)


def _delay(source: Node, target: Node, delay: Any) -> int:
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise _unread(
            f"the edge {source!r} -> {target!r} has delay {delay!r}", "give a whole number of steps, 0 or more"
        )
    return delay


def _unread(what: str, cure: str) -> DeclarationError:
    return DeclarationError("LR0531", f"the diagram cannot be read: {what}", help=cure)


def read_diagram(graph: Any, *, inputs: Sequence[Node], outputs: Sequence[Node]) -> Diagram:
    """The module of a block diagram; see `linrec.diagram`."""
    return Diagram(graph, inputs, outputs)
