"""The table of README's section on speed, from the JSON that a run of the benchmark wrote.

    python benchmarks/bench_forms.py --threads 1 --json benchmarks/results.json
    python benchmarks/table.py

What stands between the two marks in README.md is replaced; every figure in it comes from the JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
BEGIN, END = "<!-- speed: benchmarks/table.py -->\n", "<!-- /speed -->\n"


def table(data: dict[str, Any]) -> str:
    """In Markdown: the conditions, a row a workload and pass, the growth, and what was missed."""
    threads = data["threads"]
    clock = "processor time" if threads == 1 else "time"
    lines = [
        f"float32, {threads} thread{'s' * (threads > 1)}, torch {data['torch']}; medians of {clock}, all of a row in "
        "one process, in turns. The targets are meant for two threads.",
        "",
        "| workload | pass | ms | of the bare work | of the best other | times the loop | to reach |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in data["results"]:
        lines += [_row(found, what) for what in ("forward", "train")]
    if "growth" in data:
        told = "; ".join(f"{name} {each['ratio']:.2f}" for name, each in data["growth"].items())
        lines += [
            "",
            f"Time a step on the wall clock, the longest over the shortest, the fastest call of each of the lengths of 2^11 to 2^16 (to reach 1.3): {told}.",
        ]
    if "corpus" in data:
        lines += ["", f"Of {len(data['corpus']['rows'])} calls of the programs of the tests {_late(data['corpus'])}."]
    if any(found["loop_steps"] for found in data["results"]):
        lines += ["", "~ The loop was timed at fewer steps, and its time scaled."]
    return "\n".join(lines) + "\n"


def _late(corpus: dict[str, Any]) -> str:
    return f"{corpus['missed']} took more than 1.1 times their loop (below 1 ms: 50 microseconds more)"


def _row(found: dict[str, Any], what: str) -> str:
    times, mine = found[what], found[what]["compiled"]
    others = {name: mine / ms for name, ms in times.items() if name not in ("compiled", "floor", "loop", "bytes")}
    best = max(others, key=others.__getitem__, default="")
    loop = f"{'~' * bool(found['loop_steps'])}{times['loop'] / mine:.3g}x" if "loop" in times else ""
    goals = [_goal(t, times) for t in found["targets"] if t["what"] == what]
    cells = (
        found["workload"], what, f"{mine:.3g}", f"{mine / times['floor']:.2f}x",
        f"{others[best]:.2f}x {best}" if best else "", loop, "; ".join(goals),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _goal(target: dict[str, Any], times: dict[str, float]) -> str:
    verdict = "met" if target["met"] else f"**missed: {target['ratio']:.3g}**"
    if target["speedup"] and not target["met"]:
        bare = times["loop"] / times["floor"]
        verdict += f" (the bare work alone in this run: {bare:.0f}x)"
    if target["beside"] == "bytes":
        return f"<= {target['bound'] / 1e9:g} GB {verdict}"
    beside = {"floor": "the bare work", "loop": "the loop", "output": "the output's memory"}
    bound = f">= {target['bound']:g}x" if target["speedup"] else f"<= {target['bound']:g}"
    return f"{bound} {beside.get(target['beside'], target['beside'])} {verdict}"


def main() -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + table(json.loads(RESULTS.read_text())) + END + after)


if __name__ == "__main__":
    main()
