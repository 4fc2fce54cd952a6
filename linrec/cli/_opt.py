"""One run of `linrec opt`: options become hooks, failures become exit codes and reproducers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from linrec.cli._output import FINE, INTERNAL, MISMATCH, USAGE, Ending, remark, result, table
from linrec.cli._target import EXITS, read_text
from linrec.debug.diagnostics import Diagnostic, compared, expectations, pieces, placed
from linrec.debug.export import TARGETS, Target, export
from linrec.debug.hooks import Limit, Measure, PrintIR, PrintRemarks, PrintRewrites, WriteTree
from linrec.debug.run import optimize, passes_named
from linrec.errors import IRSyntaxError, LinrecError, StateError, VerificationError
from linrec.ir import Graph
from linrec.manager import BROKEN, Context, Hook, Remark, RemarkKind
from linrec.reproducer import FOLDER, Reproducer, read, save, stem, until

KINDS: tuple[RemarkKind, ...] = ("passed", "missed", "analysis", "failed")


@dataclass
class Run:
    """Options as click gives them; `all` runs every graph of the file and returns the exit code."""

    target: str
    passes: str | None
    forms: str | None
    show_passes: bool
    emit: str
    output: str | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    before_all: bool
    after_all: bool
    after_change: bool
    after_failure: bool
    tree: str | None
    verify_each: bool
    timing: bool
    statistics: bool
    remarks: str | None
    remarks_filter: str | None
    bisect_limit: int | None
    split_input_file: bool
    verify_diagnostics: bool
    reproducer: str | None
    written: list[str] = field(default_factory=list)
    measure: Measure = field(default_factory=Measure)

    def all(self) -> int:
        """Every graph of the file; the worst exit code."""
        self._check()
        text = read_text(self.target)
        if self.show_passes:
            result("\n".join(p.name for p in passes_named(self._named(None))))
            return FINE
        codes = [self.one(piece) for piece in (pieces(text) if self.split_input_file else [text])]
        if self.timing or self.statistics:
            remark(table(self.measure.table(timing=self.timing, statistics=self.statistics)))
        self._write("\n// -----\n".join(self.written))
        return max(codes)

    def one(self, text: str) -> int:
        """One graph."""
        try:
            given = read(text, self.target)
        except IRSyntaxError as error:
            if self.verify_diagnostics:
                assert error.line is not None
                return self._diagnosed(text, [Diagnostic("error", error.line, error.message)])
            remark(str(error))
            return USAGE
        context = Context(forms=self.forms or given.forms)
        names = self._named(given.passes)
        hooks = self._hooks()
        try:
            made = optimize(given.graph, names, hooks, context)
        except BROKEN as error:  # told, and a reproducer is written
            return self._failed(error, given, names, context, text)
        code = self._emitted(given.graph, made)
        if self.verify_diagnostics:
            return self._diagnosed(text, placed(self._asked(context.remarks), made, text))
        return code

    # ---- options ----

    def _check(self) -> None:
        known = {p.name for p in passes_named(None)} | {"all"}
        for name in (*self.before, *self.after, *(self._named(None) or ())):
            if name not in known:
                raise Ending(f"no pass is called '{name}'", "`linrec passes` lists them")
        for kind in self._kinds():
            if kind not in KINDS:
                raise Ending(f"no remark is called '{kind}'", f"they are {', '.join(KINDS)}")
        for target in self.emit.split(","):
            if target not in TARGETS:
                raise Ending(f"nothing to emit is called '{target}'", f"they are {', '.join(TARGETS)}")
        try:
            re.compile(self.remarks_filter or "")
        except re.error as error:
            raise Ending(f'--remarks-filter "{self.remarks_filter}": {error}', "give a Python regex") from error

    def _kinds(self) -> tuple[str, ...]:
        return tuple(k.strip() for k in self.remarks.split(",")) if self.remarks else ()

    def _named(self, default: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return default if self.passes is None else tuple(p.strip() for p in self.passes.split(",") if p.strip())

    def _hooks(self) -> list[Hook]:
        hooks: list[Hook] = [self.measure]
        printing = any(
            (self.before, self.after, self.before_all, self.after_all, self.after_change, self.after_failure)
        )
        if printing:
            before = (*self.before, *(("all",) if self.before_all else ()))
            hooks.append(
                PrintIR(remark, before, self.after, self.after_all, self.after_change, self.after_failure)
            )  # fmt: skip
        if self.tree is not None:
            hooks.append(WriteTree(Path(self.tree)))
        if self.remarks is not None and not self.verify_diagnostics:
            pattern = re.compile(self.remarks_filter) if self.remarks_filter else None
            hooks.append(PrintRemarks(remark, self._kinds(), pattern))
        if self.bisect_limit is not None:
            hooks += [PrintRewrites(remark, self.bisect_limit), Limit(self.bisect_limit)]
        if self.verify_each:
            from linrec.debug import VerifyEach

            hooks.append(VerifyEach(measure=self.measure))
        return hooks

    def _asked(self, remarks: list[Remark]) -> list[Remark]:
        kinds = self._kinds() or KINDS
        return [r for r in remarks if r.kind in kinds]

    # ---- endings ----

    def _emitted(self, given: Graph, made: Graph) -> int:
        chosen: list[Target] = [t for t in TARGETS if t in self.emit.split(",")]
        try:
            for target in chosen:
                found = export(given, made, target)
                self.written.append(found if isinstance(found, str) else json.dumps(found, indent=2))
        except StateError as error:
            remark(str(error))
            return USAGE
        return FINE

    def _diagnosed(self, text: str, found: list[Diagnostic]) -> int:
        complaints = compared(expectations(text), found, complete=self.remarks is not None)
        for complaint in complaints:
            remark(f"error: {self.target}: {complaint}")
        return USAGE if complaints else FINE

    def _failed(
        self, error: Exception, given: Reproducer, names: tuple[str, ...] | None, context: Context, text: str
    ) -> int:
        code = error.code if isinstance(error, LinrecError) else "LR9002"
        known = next((c for kind, c in EXITS.items() if isinstance(error, kind)), INTERNAL)
        message = str(error) if isinstance(error, LinrecError) else f"error[LR9002] {type(error).__name__}: {error}"
        if self.verify_diagnostics:
            return self._diagnosed(text, [Diagnostic("error", 1, message)])
        remark(message)
        remark("note: " + "; ".join(error.__notes__) if getattr(error, "__notes__", None) else "note: no pass is known")
        kept = until(names or [p.name for p in passes_named(None)], context.by)
        file = Path(self.reproducer) if self.reproducer else FOLDER / f"{stem(given.graph)}-{code}.lir"
        found = Reproducer(given.graph, kept, self.forms or given.forms, f"{code} after {context.by}")
        remark(f"repro: {save(found, file)}   next: linrec reduce {file}")
        return MISMATCH if isinstance(error, VerificationError) else known

    def _write(self, text: str) -> None:
        if not text:
            return
        if self.output is None:
            result(text)
            return
        try:
            Path(self.output).write_text(text + "\n")
        except OSError as error:
            raise Ending(f"{self.output}: {error.strerror}", "give a file that can be written") from error
