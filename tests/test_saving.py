"""Saving and copying: compiled programs, recurrent forms, streams and states, through pickle, torch.save and copy."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import GRULoop, MambaBlock, Stack
from contract import same
from laws import by_steps
from rowwise import form_of
from torch import Tensor, nn

import linrec
from linrec.recurrence import RecurrentModule

decay = torch.rand(4)


def smoothed(x: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = decay * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@linrec.compile
def decorated(x: Tensor) -> Tensor:
    return smoothed(x)


@linrec.compile(verify="off")
class Decorated(nn.Module):
    """A class that is compiled as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = self.decay * h + x[:, t]
            ys.append(h)
        return torch.stack(ys, 1)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


MAKE: dict[str, Callable[[], Any]] = {
    "module": lambda: linrec.compile(Stack(), verify="off"),
    "convolution": lambda: linrec.compile(MambaBlock(), verify="off"),
    "class": Decorated,
    "function": lambda: linrec.compile(smoothed, verify="off"),
    "decorated": lambda: decorated,
    "plain": Stack,
}
WAYS = [pickled, saved, copy.deepcopy, copy.copy]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(n, w, marks=[pytest.mark.slow] if n != "module" and w is not pickled else [])
        for n in MAKE
        for w in WAYS
    ],
)
def test_programs_and_their_forms(name: str, way: Callable[[Any], Any]) -> None:
    """Before and after the first call; what was compiled is compiled afterwards, with its options."""
    torch.manual_seed(0)
    net, x = MAKE[name](), torch.randn(2, 7, 4)
    for _ in range(2):
        again = way(net)
        same(again(x), net(x))
        assert hasattr(again, "recurrent") == (name != "plain")
    rnn = form_of(net, x)
    want, state = rnn(x)
    other = way(rnn)
    assert isinstance(other, RecurrentModule) and list(other.state_dict()) == list(rnn.state_dict())
    got, after = other(x)
    same([got, after], [want, state])
    same(by_steps(other, x)[1], state, rel=1e-5)
    if way is not copy.copy and list(rnn.parameters()):
        with torch.no_grad():
            next(other.parameters()).zero_()
        same(rnn(x)[0], want)


@pytest.mark.parametrize("way", [pickled, saved, copy.deepcopy])
def test_streams_go_on(way: Callable[[Any], Any]) -> None:
    net, x = linrec.compile(MambaBlock(), verify="off"), torch.randn(2, 9, 4)
    stream, whole = linrec.stream(net, 2, x), linrec.stream(net, 2, x)(x)
    stream(x[:, :4])
    other = way(stream)
    for one in (stream, other):
        same(torch.stack([one.step_(x[:, t]) for t in range(4, 9)], 1), whole[:, 4:], rel=1e-5)


@pytest.mark.parametrize("model", [Stack, MambaBlock, GRULoop])
def test_states_are_plain_tensors(model: Callable[[], nn.Module]) -> None:
    """Written in one process, read in another, as weights are."""
    x = torch.randn(2, 9, 3 if model is GRULoop else 4)
    rnn = form_of(linrec.compile(model(), verify="off"), x)
    want, _ = rnn(x)
    _, state = rnn(x[:, :4])
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded.keys() == state.keys()
    same(rnn(x[:, 4:], state=loaded)[0], want[:, 4:], rel=1e-5)


def test_a_form_is_loaded_in_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 4)
    rnn = form_of(linrec.compile(Stack(), verify="off"), x)
    _, state = rnn(x)
    torch.save({"rnn": rnn, "state": state, "x": x}, tmp_path / "all.pt")
    script = (
        f"import sys, torch; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}\n"
        f"all_ = torch.load({str(tmp_path / 'all.pt')!r}, weights_only=False)\n"
        "y, state = all_['rnn'](all_['x'])\n"
        "torch.testing.assert_close(state, all_['state'])\n"
        "all_['rnn'].step(all_['x'][:, 0], state=state)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_what_has_no_name_cannot_be_pickled_and_says_so() -> None:
    x = torch.randn(2, 7, 4)
    rnn = form_of(linrec.compile(lambda x: smoothed(x), verify="off"), x)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(rnn)
    same(copy.deepcopy(rnn)(x)[0], rnn(x)[0])


def test_compiled_parts_inside_compiled_models() -> None:
    """The inner one is captured as written, whether it was called before or not."""
    x = torch.randn(2, 7, 4)
    for called in (False, True):
        inner: Any = linrec.compile(Stack(), verify="off")
        if called:
            inner(x)
        outer: Any = linrec.compile(nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(2, 4), Decorated()))
        want = outer(x)
        assert outer.report.recurrences and all(r.form != "sequential" for r in outer.report.recurrences)
        rnn = outer.recurrent()
        same(rnn(x)[0], want, rel=1e-5)
        same(by_steps(rnn, x)[0][0], want, rel=1e-5)
        same(inner(x), inner.original(x), rel=1e-5)


def test_two_models_that_share_parameters() -> None:
    """A step of either changes both."""
    first, second = Stack(), Stack()
    for name, module in first.named_modules():
        for key, value in list(module._parameters.items()):
            second.get_submodule(name)._parameters[key] = value
    x = torch.randn(2, 7, 4)
    forms = [form_of(linrec.compile(m, verify="off"), x) for m in (first, second)]
    same(forms[0](x)[0], forms[1](x)[0])
    optimizer = torch.optim.SGD(first.parameters(), 0.1)
    forms[0](x)[0].square().mean().backward()
    optimizer.step()
    for rnn in forms:
        same(rnn(x)[0], first(x), rel=1e-5)
        same(by_steps(rnn, x)[0][0], first(x), rel=1e-5)
