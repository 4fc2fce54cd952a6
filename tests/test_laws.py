"""The three laws, for values and gradients, over many architectures and over the whole corpus.

1. The compiled program equals the program as written.   2. A fold of `step` equals it, final state included.
3. So does any split into chunks with the state carried over.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from architectures import Architecture, architectures
from contract import parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import as_written, assert_same_run, by_steps, in_chunks, measured, shares_parameters, whole, without_state
from programs import Program, corpus

import linrec
from linrec.errors import StateError
from linrec.recurrence import RecurrentModule

ALL = architectures()
CORPUS = corpus()
STEPS = 11


@functools.cache
def made(name: str) -> tuple[Any, RecurrentModule]:
    """An architecture and its recurrent form, made once for all tests."""
    model = ALL[name].build()
    rnn = linrec.recurrent(linrec.compile(model, verify="off"), *ALL[name].inputs(9, 5))
    assert isinstance(rnn, RecurrentModule)
    return model, rnn


def test_there_are_many() -> None:
    assert len(ALL) >= 25


@pytest.mark.parametrize("architecture", ALL.values(), ids=ALL.keys())
def test_the_three_laws(architecture: Architecture) -> None:
    model, rnn = made(architecture.name)
    inputs = architecture.inputs(STEPS, 3)
    assert shares_parameters(rnn, model)
    want = measured(whole, rnn, inputs)
    written = measured(as_written(model), model, inputs)
    assert_same_run(measured(without_state(whole), rnn, inputs), written, "whole and as written")
    assert_same_run(measured(by_steps, rnn, inputs), want, "steps and whole")
    for sizes in ([1, 1, 1], [2, 3, 5], [7]):
        assert_same_run(measured(in_chunks(sizes), rnn, inputs), want, f"chunks {sizes} and whole")


@pytest.mark.parametrize("name", ["LegendreMemory", "MambaBlock", "GRULoop", "average_from_the_first"])
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_any_split_batch_and_length(name: str, data: st.DataObject) -> None:
    _, rnn = made(name)
    steps, batch = data.draw(st.integers(1, 20), "steps"), data.draw(st.integers(1, 4), "batch")
    sizes = data.draw(st.lists(st.integers(1, 6), max_size=6), "sizes")
    inputs = ALL[name].inputs(steps, batch)
    want = measured(whole, rnn, inputs)
    assert_same_run(measured(in_chunks(sizes), rnn, inputs), want, f"chunks {sizes} and whole")
    assert_same_run(measured(by_steps, rnn, inputs), want, "steps and whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_split_of_any_architecture(name: str, data: st.DataObject) -> None:
    _, rnn = made(name)
    smallest = 2 if name == "trend_forecast" else 1
    steps, batch = data.draw(st.integers(smallest, 70), "steps"), data.draw(st.integers(1, 4), "batch")
    sizes = data.draw(st.lists(st.integers(1, 17), max_size=6), "sizes")
    inputs = ALL[name].inputs(steps, batch)
    want = measured(whole, rnn, inputs)
    assert_same_run(measured(in_chunks(sizes), rnn, inputs), want, f"chunks {sizes} and whole", 1e-8)


RANDOM = {"dropout_on_the_state", "DropoutModuleInTraining", "zoneout", "noise_at_every_step", "Noisy"}


@pytest.mark.slow
@pytest.mark.parametrize("program", [pytest.param(p, id=p.name) for p in CORPUS.values()])
def test_the_corpus(program: Program) -> None:
    """Each program has a recurrent form that keeps the laws, or is refused with its reason."""
    steps = program.length(13)
    inputs = program.inputs(steps, 2)
    model = program.build()
    with torch.set_grad_enabled(program.gradients):
        try:
            rnn = linrec.recurrent(linrec.compile(model, verify="off"), *(x.clone() for x in inputs))
        except StateError as error:
            assert error.code in ("LR4003", "LR4004", "LR4005"), error
            assert error.help or error.code == "LR4005", error
            return
        if program.name in RANDOM:
            return  # one stream of random numbers, drawn in another order by step and whole
        assert isinstance(rnn, RecurrentModule)
        torch.manual_seed(5)
        want = measured(whole, rnn, inputs) if program.gradients else ((whole(rnn, *inputs)), {})
        for run, what in ((by_steps, "steps"), (in_chunks([1, 3, 2]), "chunks")):
            got = measured(run, rnn, inputs) if program.gradients else (run(rnn, *inputs), {})
            assert_same_run(got, want, f"{what} and whole", max(1e-8, program.tolerance))


def test_parameters_are_the_models_own() -> None:
    model, rnn = made("Stack")
    assert set(dict(rnn.named_parameters())) == set(parameters(model))
