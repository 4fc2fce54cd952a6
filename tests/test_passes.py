"""The law of every pass: it changes no meaning. The step interpreter judges, in double precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from linrec.dtypes import LONG
from linrec.emit.operators import KERNELS
from linrec.interpret import interpret
from linrec.ir import Graph
from linrec.manager import Context, Pipeline
from linrec.passes import load_passes
from linrec.sizes import evaluate
from linrec.text import parse, show

GRAPHS = sorted((Path(__file__).parent / "filecheck").glob("*.lir"))


def inputs_of(graph: Graph, lengths: dict[str, int]) -> dict[str, Tensor]:
    """Small random inputs; coefficients small enough for any recurrence to be stable."""
    generator = torch.Generator().manual_seed(5)
    made = {}
    for i in graph.inputs:
        shape = [evaluate(d, lengths) for d in i.type.shape]
        if LONG[i.type.dtype] == "bool":
            made[i.name] = torch.ones(shape, dtype=torch.bool)  # a write to true places has a number for each
            continue
        assert LONG[i.type.dtype] == "float32"
        made[i.name] = torch.randn(shape, generator=generator, dtype=torch.float64) * (
            1.0 if "T" in map(str, i.type.shape) else 0.3
        )
    return made


def double(text: str) -> Graph:
    return parse(text.replace("f32[", "f64["), "<text>")


@pytest.mark.parametrize("steps", [1, 2, 3, 29])
@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: p.stem)
def test_meaning_is_kept_by_every_pass(path: Path, steps: int) -> None:
    """After each pass of the whole pipeline the outputs are what they were before the first."""
    text = path.read_text()
    if "dropout" in text:
        text = text.replace("true", "false")
    graph = parse(text, path.name)
    inputs = inputs_of(graph, {"B": 2, "T": steps, "N": 3})
    graph = double(text)
    torch.set_default_dtype(torch.float64)
    try:
        wanted, _ = interpret(graph, inputs)
        for kind in load_passes().values():
            graph = Pipeline([kind()]).run(graph, Context())
            assert parse(show(graph)) == graph
            found, _ = interpret(graph, inputs, kernels=KERNELS)
            for a, b in zip(wanted, found, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("form", ["convolution", "chunked"])
def test_forms_agree(form: str) -> None:
    """Each form that applies gives the same numbers."""
    graph = double((Path(__file__).parent / "filecheck" / "fold-readout.lir").read_text())
    inputs = inputs_of(parse(show(graph).replace("f64[", "f32[")), {"B": 3, "T": 200})
    torch.set_default_dtype(torch.float64)
    try:
        wanted, _ = interpret(graph, inputs)
        pipeline = Pipeline([kind() for kind in load_passes().values()])
        lowered = pipeline.run(graph, Context(forms=form))
        assert lowered.recurrences[0].form == form
        found, _ = interpret(lowered, inputs, kernels=KERNELS)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)
