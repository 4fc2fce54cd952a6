"""Many programs: judged in processes, counted, failures written to a folder and made small.

Program number n is the same on every machine, so a run from seed S with N programs is the programs S .. S + N - 1; a run
that was cut off goes on where its log ends. Prints the share of programs that are linear by construction and ran in
parallel form, how often each rule of the operator table was used, and one line for each failure.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from fuzz import check
from fuzz.choices import replayed, seeded
from fuzz.grammar import write
from fuzz.program import Generated
from fuzz.shrink import shrunk

PROGRAMS_A_PROCESS = 400


@dataclass
class Result:
    """What became of one program."""

    seed: int
    kind: str
    note: str
    cause: str
    linear: int
    nonlinear: int
    codes: list[str]
    operators: list[int]
    traits: list[str]
    rules: dict[str, int]
    seconds: float
    captures: int
    refused: dict[str, int]


def run(seeds: Iterable[int], processes: int, *, shrink: float = 0, folder: Path | None = None) -> Iterator[Result]:
    """Judge the programs of all seeds, in any order; `shrink` is how many seconds a failure may be made small for.

    A program that ends the process it is judged in is one result, and the rest go on in another process.
    """
    work = functools.partial(_one, shrink=shrink, folder=folder)
    if processes == 0:
        yield from map(work, seeds)
        return
    waiting = iter(seeds)
    judges: dict[object, _Judge] = {}

    def start(judge: _Judge) -> None:
        seed = next(waiting, None)
        if seed is None:
            judge.dismiss()
        else:
            judges[judge.send(seed)] = judge

    for _ in range(processes):
        start(_Judge(work))
    while judges:
        for end in wait([judge.end for judge in judges.values()]):
            judge = judges.pop(end)
            yield judge.result()
            start(judge if judge.is_fit else _Judge(work))


class _Judge:
    """A process that judges programs, one after the other, for so long."""

    def __init__(self, work: Callable[[int], Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.end, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, work), daemon=True)
        self.process.start()
        other.close()
        self.judged, self.is_fit = 0, True

    def send(self, seed: int) -> object:
        self.seed, self.since = seed, time.perf_counter()
        self.end.send(seed)
        return self.end

    def result(self) -> Result:
        """What the process found; that it ended is a finding too."""
        self.judged += 1
        try:
            found: Result = self.end.recv()
        except EOFError:
            self.process.join()
            self.is_fit = False
            took = time.perf_counter() - self.since
            # the alarm may ring where C++ cannot be left by an exception
            kind, note = "exception", f"the process ended with {self.process.exitcode}"
            if took > check.SECONDS:
                kind, note = "timeout", f"more than {check.SECONDS} s"
            program = write(seeded(self.seed))
            return Result(
                self.seed, kind, note, f"{kind}: {note}", program.linear, program.nonlinear, [], [0, 0],
                sorted(program.traits), {}, took, 0, {},
            )  # fmt: skip
        if self.judged == PROGRAMS_A_PROCESS:
            self.dismiss()
        return found

    def dismiss(self) -> None:
        self.is_fit = False
        self.end.close()
        self.process.join()


def _serve(end: Connection, work: Callable[[int], Result]) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            seed = end.recv()
        except EOFError:
            return
        end.send(work(seed))


def _one(seed: int, *, shrink: float, folder: Path | None) -> Result:
    started = time.perf_counter()
    choices = seeded(seed)
    program = write(choices)
    with tempfile.TemporaryDirectory() as place, counted_rules() as (rules, refused):
        found = check.judge(program, Path(place))
        used, denied = dict(rules), dict(refused)
        if found.kind in check.FAILURES and folder is not None:
            small = program
            if shrink:
                small = write(replayed(shrunk(choices.taken, _fails_alike(found, Path(place)), shrink)))
            _keep(folder, seed, found, program, small)
    return Result(
        seed, found.kind, found.note, found.cause, program.linear, program.nonlinear, list(found.codes),
        list(found.operators), sorted(program.traits), used, time.perf_counter() - started,
        found.captures, denied,
    )  # fmt: skip


def _fails_alike(found: check.Judgement, place: Path) -> Callable[[Generated], bool]:
    def fails(program: Generated) -> bool:
        again = check.judge(program, place)
        return again.kind == found.kind and (found.kind != "not parallel" or again.note[:40] == found.note[:40])

    return fails


def _keep(folder: Path, seed: int, found: check.Judgement, program: Generated, small: Generated) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in ((f"{seed:06}", small), (f"{seed:06}-whole", program)):
        again = found
        lines = [f"# {again.kind}", *(f"# {line}" for line in again.note.splitlines())]
        lines += [
            f"# inputs: {', '.join(str(d.sizes) + ' ' + d.kind for d in text.inputs)}",
            f"# linear {text.linear}, nonlinear {text.nonlinear}",
        ]
        (folder / f"{stem}.py").write_text("\n".join(lines) + "\n" + text.source)


def _label(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else " ".join(key)


class counted_rules:
    """Counts, within its context, how often each rule of the operator table gives a form or a refusal."""

    def __enter__(self) -> tuple[Counter[str], Counter[str]]:
        from linrec.linear.rules import RULES

        self.table, self.kept = RULES, dict(RULES)
        forms: Counter[str] = Counter()
        refusals: Counter[str] = Counter()

        def counting(kind: str, rule: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(rule)
            def call(*args: Any, **kwargs: Any) -> Any:
                result = rule(*args, **kwargs)
                (refusals if type(result).__name__ == "Refusal" else forms)[kind] += 1
                return result

            return call

        RULES.update({key: counting(_label(key), rule) for key, rule in RULES.items()})
        return forms, refusals

    def __exit__(self, *raised: object) -> None:
        self.table.update(self.kept)


# ---- what a run tells --------------------------------------------------------------------------------


@dataclass
class Summary:
    """Counts over many programs."""

    kinds: Counter[str]
    causes: Counter[str]
    examples: dict[str, list[int]]
    rules: Counter[str]
    linear: int = 0
    parallel: int = 0
    recaptured: int = 0

    @staticmethod
    def of(results: Iterable[Result]) -> Summary:
        """The counts of these results."""
        made = Summary(Counter(), Counter(), {}, Counter())
        for r in results:
            made.kinds[r.kind] += 1
            made.rules.update(r.rules)
            if r.kind in check.FAILURES:
                made.causes[r.cause] += 1
                made.examples.setdefault(r.cause, []).append(r.seed)
            if r.nonlinear == 0 and r.kind != check.INVALID:
                made.linear += 1
                made.parallel += r.kind == check.SAME
                made.recaptured += r.captures > 1
        return made

    @property
    def share(self) -> float:
        """Percent of the programs that are linear by construction that ran in parallel form, with the right results."""
        return 100 * self.parallel / max(1, self.linear)

    def __str__(self) -> str:
        from linrec.linear.rules import RULES

        lines = [f"programs: {sum(self.kinds.values())}", *(f"  {k:14} {n}" for k, n in self.kinds.most_common())]
        lines.append(
            f"linear by construction: {self.linear}, of these in parallel form: {self.parallel} ({self.share:.2f} %)"
        )
        lines.append(f"  captured more than once: {self.recaptured}")
        counts = {_label(key): self.rules.get(_label(key), 0) for key in RULES}
        lines.append("rules of the operator table, least used first:")
        lines.append("  " + ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items(), key=lambda x: x[1])))
        order = {kind: i for i, kind in enumerate(check.FAILURES)}
        if self.causes:
            lines.append("failures by cause, with seeds:")
        for cause, n in sorted(self.causes.items(), key=lambda x: (order[x[0].partition(":")[0]], -x[1])):
            lines.append(f"  {n:5}  {cause}  {self.examples[cause][:6]}")
        return "\n".join(lines)


def _logged(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives 1 if a program was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--programs", "-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first program")
    parser.add_argument("--processes", "-j", type=int, default=min(2, os.cpu_count() or 1), help="0 for this one")
    parser.add_argument("--folder", type=Path, help="where failing programs and the log are written")
    parser.add_argument("--shrink", type=float, default=0, help="seconds to spend on making each failing program small")
    parser.add_argument("--show", action="store_true", help="print the first program and what is found, nothing else")
    options = parser.parse_args(arguments)
    if options.show:
        program = write(seeded(options.seed))
        print(program.source, program.inputs, sorted(program.traits), sep="\n")
        with tempfile.TemporaryDirectory() as place:
            print(check.judge(program, Path(place)))
        return 0
    log = None if options.folder is None else options.folder / f"log-{options.seed}.jsonl"
    results = [] if log is None else _logged(log)
    done = {r.seed for r in results}
    seeds = [s for s in range(options.seed, options.seed + options.programs) if s not in done]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    for result in run(seeds, options.processes, shrink=options.shrink, folder=options.folder):
        results.append(result)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        if result.kind in check.FAILURES and result.kind != "not parallel":
            print(f"{result.seed}: {result.cause}", flush=True)
    summary = Summary.of(results)
    print(summary)
    return int(any(summary.kinds[kind] for kind in check.FAILURES if kind != "not parallel"))


if __name__ == "__main__":
    sys.exit(main())
