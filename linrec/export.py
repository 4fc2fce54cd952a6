"""Export: one step as a torch.export program with a dynamic batch, or as an ONNX file.

The step takes and returns its state: `(x_t, ..., *state) -> (y_t, ..., *state)`, leaves in the order of
`rnn.leaves`, under their names. Nothing of linrec is needed to run it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from linrec.dtypes import LONG
from linrec.errors import StateError
from linrec.program import Recurring
from linrec.sizes import Size, evaluate
from linrec.states import BATCH

EXAMPLE_BATCH = 2


class StepModule(nn.Module):
    """One step as a module of its own: the model's parameters and buffers, the state explicit."""

    def __init__(self, program: Recurring) -> None:
        super().__init__()
        module = program.engine.module
        if module is not None:
            for space in ("_parameters", "_buffers", "_modules"):
                vars(self)[space] = vars(module)[space]
        stepping = program.stepping
        self._run = stepping.program.run
        self._constants = [stepping.program.namespace[c.function] for c in stepping.program.constants]
        self._program = program
        self._count, self._outputs, self._results = program.arity, len(program.outputs), len(program.results)

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        """(x_t, ..., *state) -> (y_t, ..., *state)."""
        inputs, state = tensors[: self._count], tensors[self._count :]
        results: tuple[Any, ...] = self._run(self._constants, *inputs, *self._program.values(), *state)[0]
        return (*results[: self._outputs], *results[self._results :])


def export_step(program: Recurring, file: str | os.PathLike[str] | None = None) -> torch.export.ExportedProgram:
    """The step as a torch.export program, written to `file` as ONNX if one is given.

    Args:
        program: the recurring program; one whose first steps are special has no one step (StateError LR4007).
        file: where to write ONNX; needs the packages of `pip install linrec[export]`.

    What the program writes to attributes, buffers or arguments is not part of it: the state is. The batch is dynamic from 1 on wherever the program has a batch axis; element types are those of the example.
    """
    if program.warmup:
        raise StateError(
            "LR4007", f"the first {program.warmup} steps of {program.engine.name} are special, so one step does not tell all",
            help="start the loop at the first step, from a state before it: h = torch.zeros_like(x[:, 0])",
        )  # fmt: skip
    batch = torch.export.Dim(BATCH, min=1)
    examples: list[Tensor] = []
    dynamic: list[dict[int, Any]] = []
    for i in program.step_graph.inputs:
        if i.role != "input" and not i.path.startswith("state:"):
            continue
        shape = [evaluate(d, {**program.sizes, BATCH: EXAMPLE_BATCH}) for d in i.type.shape]
        examples.append(torch.zeros(shape, dtype=getattr(torch, LONG[i.type.dtype])))
        dynamic.append({a: batch for a, d in enumerate(i.type.shape) if isinstance(d, Size) and BATCH in d.names})
    # the best order of products depends on the batch, and to look for it would fix that
    with torch.no_grad(), torch.backends.opt_einsum.flags(enabled=False):
        exported = torch.export.export(StepModule(program).eval(), tuple(examples), dynamic_shapes=(tuple(dynamic),))
    if file is not None:
        names = [*program.names, *(leaf.name for leaf in program.leaves)]
        count = len(program.outputs)
        results = [f"y{n}" for n in range(count)] if count > 1 else ["y"]
        try:
            written = torch.onnx.export(
                exported, input_names=names, output_names=[*results, *(f"{leaf.name}.next" for leaf in program.leaves)],
                dynamo=True, verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise StateError(
                "LR4007", f"the step of {program.engine.name} cannot be written as ONNX: {_cause(error)}",
                help="write complex states as pairs of real numbers; without a file, the torch.export program has all operators",
            ) from error  # fmt: skip
        assert written is not None
        written.save(os.fspath(file))
    return exported


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}" if str(error) else type(error).__name__
