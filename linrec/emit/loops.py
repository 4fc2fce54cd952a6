"""Loops: a recurrence as a for loop over steps."""

from __future__ import annotations

from linrec.emit.maps import Maps
from linrec.ir import Arg, Op, Time, Use, order


class Loops(Maps):
    """Writes recurrences that stay sequential."""

    def loop(self, component: list[str]) -> None:
        """A recurrence as a for loop; reads of outside signals are unbound once."""
        members = [self.by_name[n] for n in component]
        inside = set(component)
        time = self.graph.time(members[0].time or "")
        backward = time.direction == "backward"
        drives: dict[Use, str] = {}
        delays: dict[str, int] = {}
        for op in members:
            for use in self.signals(op):
                if use.name in inside:
                    delays[use.name] = max(delays.get(use.name, 0), use.delay)
                elif use not in drives:
                    if use.delay:
                        self.shift(use)
                    drives[use] = f"{use.name}[-{use.delay}]" if use.delay else use.name
        kept = [
            op for op in members
            if op.result in self.graph.roots() or any(r.result not in inside for r in self.readers.get(op.result, []))
        ]  # fmt: skip
        for op in members:
            for d in range(1, delays.get(op.result, 0) + 1):
                self.line(f"{self.delayed(op.result, d)} = {self.literal(op.init[d - 1])}")
        for op in kept:
            self.line(f"{self.name(op.result)} = []")
        self.loop_header(drives, time, backward)
        self.indent += 1

        def write(arg: Arg) -> str:
            if isinstance(arg, tuple):
                return "[" + ", ".join(map(write, arg)) + "]"
            if isinstance(arg, Use) and arg in drives:
                return f"{self.name(drives[arg])}_t"
            if isinstance(arg, Use) and arg.name in inside:
                return self.delayed(arg.name, arg.delay) if arg.delay else f"{self.name(arg.name)}_t"
            return self.literal(arg)

        for op in _in_step_order(members, inside):
            self.line(f"{self.name(op.result)}_t = {self.call(op, write)}")
        for op in members:
            for d in range(delays.get(op.result, 0), 0, -1):
                before = f"{self.name(op.result)}_t" if d == 1 else self.delayed(op.result, d - 1)
                self.line(f"{self.delayed(op.result, d)} = {before}")
        for op in kept:
            self.line(f"{self.name(op.result)}.append({self.name(op.result)}_t)")
        self.indent -= 1
        self.lists |= {op.result for op in kept}

    def loop_header(self, drives: dict[Use, str], time: Time, backward: bool) -> None:
        parts = []
        for use, key in drives.items():
            if use.name in self.lists and not use.delay:
                parts.append(self.name(key))
                continue
            steps = f"{self.name(key)}.unbind({self.axis[key]})"
            parts.append(f"reversed({steps})" if backward else steps)
        names = [f"{self.name(key)}_t" for key in drives.values()]
        if not parts:
            self.line(f"for _ in range({self.literal(time.trip)}):")
        elif len(parts) == 1:
            self.line(f"for {names[0]} in {parts[0]}:")
        else:
            self.line(f"for {', '.join(names)} in zip({', '.join(parts)}, strict=True):")


def _in_step_order(members: list[Op], inside: set[str]) -> list[Op]:
    plain = {op.result: op for op in members}
    inner = tuple(Op(op.result, op.kind, tuple(u for u in op.uses() if u.name in inside)) for op in members)
    return [plain[op.result] for op in order(inner)]
