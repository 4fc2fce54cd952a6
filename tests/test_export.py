"""Out of linrec: plain source that runs without it, torch.export programs with a dynamic batch, ONNX files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import (
    HGRN,
    GRULoop,
    LSTMByHand,
    MambaBlock,
    Stack,
    average_from_the_first,
    windowed,
    with_positions,
)
from contract import same
from torch import Tensor, nn

import linrec
from linrec.errors import StateError
from linrec.nn import LMU
from linrec.recurrence import RecurrentModule


class Theta(nn.Module):
    """A memory whose matrices follow from a learned length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LMU(3, 4, 6, 12.0, trainable_theta=True)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.layer(x)
        return y, {"last": y[:, -1]}


MODELS: dict[str, tuple[Callable[..., Any], int]] = {
    "Stack": (Stack, 4), "HGRN": (HGRN, 3), "MambaBlock": (MambaBlock, 4), "GRULoop": (GRULoop, 3),
    "LSTMByHand": (LSTMByHand, 3), "Theta": (Theta, 3), "windowed": (windowed, 3), "with_positions": (with_positions, 3),
}  # fmt: skip

SCRIPT = """
import sys
sys.modules["linrec"] = None                     # an import of linrec fails
import torch
space = {}
for file in ("forward.py", "step.py"):
    exec(compile(open(file).read(), file, "exec"), space)
given = torch.load("given.pt", weights_only=True)
x, weights = given["x"], given["weights"]
with torch.no_grad():
    whole = space["forward"](weights, x)
    state, steps = space["first"](weights, x[:, :1]), []
    for t in range(x.shape[1]):
        y, state = space["step"](weights, x[:, t], state)
        steps.append(y)
assert not [name for name in sys.modules if name.startswith("linrec.")]
torch.save({"whole": whole, "steps": steps, "state": state}, "found.pt")
"""


def compiled(name: str) -> tuple[Any, Tensor]:
    """A compiled model after a call, and its input."""
    made, width = MODELS[name]
    torch.manual_seed(6)
    net = linrec.compile(made() if isinstance(made, type) else made, verify="off")
    x = torch.randn(5, 9, width)
    with torch.no_grad():
        net(x)
    return net, x


@pytest.mark.parametrize("name", MODELS)
def test_source_is_plain_pytorch(name: str) -> None:
    net, x = compiled(name)
    rnn = linrec.recurrent(net)
    assert isinstance(rnn, RecurrentModule)
    text, step = linrec.source(net), linrec.step_source(net)
    for written in (text, step):
        ast.parse(written)
        assert "import linrec" not in written and "from linrec" not in written
    space: dict[str, Any] = {}
    exec(text, space)
    exec(step, space)
    weights = net.state_dict() if isinstance(net, nn.Module) else {}
    with torch.no_grad():
        same(space["forward"](weights, x), net(x), rel=1e-5)
        state, kept = space["first"](weights, x), rnn.init_state(x)
        same(state, kept)
        for t in range(4):
            y, state = space["step"](weights, x[:, t], state)
            want, kept = rnn.step(x[:, t], state=kept)
            same(y, want, rel=1e-5)
            same(state, kept, rel=1e-5)


def test_source_runs_where_linrec_cannot_be_imported(tmp_path: Path) -> None:
    net, x = compiled("MambaBlock")
    (tmp_path / "forward.py").write_text(net.source())
    (tmp_path / "step.py").write_text(net.step_source())
    (tmp_path / "run.py").write_text(SCRIPT)
    torch.save({"x": x, "weights": net.state_dict()}, tmp_path / "given.pt")
    subprocess.run([sys.executable, "run.py"], cwd=tmp_path, check=True, timeout=120)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    with torch.no_grad():
        want = net(x)
    same(found["whole"], want, rel=1e-5)
    same(torch.stack(found["steps"], 1), want, rel=1e-5)


def test_what_is_not_in_the_state_dict() -> None:
    table = torch.randn(3)

    def scaled(x: Tensor) -> Tensor:
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.5 * h + table * x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    net: Any = linrec.compile(scaled)
    x = torch.randn(2, 6, 3)
    net(x)
    space: dict[str, Any] = {}
    exec(net.source(), space)
    same(space["forward"]({}, x), scaled(x), rel=1e-5)
    table = torch.randn(5000)
    wide = torch.randn(2, 6, 5000)
    with pytest.raises(StateError, match="register_buffer"):
        linrec.source(linrec.compile(scaled), wide)


def test_special_first_steps_have_no_single_step() -> None:
    def differences(x: Tensor) -> Tensor:
        out = [x[:, 0] * 2]
        for t in range(1, x.shape[1]):
            out.append(0.5 * out[-1] + x[:, t] - x[:, t - 1])
        return torch.stack(out, 1)

    net: Any = linrec.compile(differences)
    x = torch.randn(2, 6, 3)
    net(x)
    for call in (net.step_source, net.export_step):
        with pytest.raises(StateError, match="LR4007"):
            call()
    assert "def forward" in net.source()
    assert linrec.recurrent(linrec.compile(average_from_the_first), x) is not None


@pytest.mark.parametrize("name", ["Stack", "MambaBlock", "GRULoop", "with_positions"])
def test_exported_steps_take_any_batch(name: str) -> None:
    net, x = compiled(name)
    program = net.export_step()
    assert isinstance(program, torch.export.ExportedProgram)
    run, rnn = program.module(), linrec.recurrent(net)
    assert isinstance(rnn, RecurrentModule)
    with torch.no_grad():
        for batch in (1, 3, 5):
            _, state = rnn.step(x[:batch, 0])
            want, after = rnn.step(x[:batch, 1], state=state)
            y, *held = run(x[:batch, 1], *state.values())
            same(y, want, rel=1e-5)
            same(held, list(after.values()), rel=1e-5)


@pytest.mark.parametrize("name", ["Stack", "MambaBlock", "GRULoop"])
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_onnx_steps(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs the packages of linrec[export]")
    runtime = pytest.importorskip("onnxruntime", reason="running ONNX needs the packages of linrec[export]")
    net, x = compiled(name)
    file = tmp_path / "step.onnx"
    net.export_step(str(file))
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    rnn = linrec.recurrent(net)
    assert isinstance(rnn, RecurrentModule)
    names = [leaf.name for leaf in rnn.leaves]
    assert [i.name for i in session.get_inputs()] == ["x", *names]
    for batch in (1, 4):
        steps = torch.randn(200, batch, x.shape[2])
        with torch.no_grad():
            state = rnn.init_state(batch)
            held = {n: v.numpy() for n, v in state.items()}
            worst = 0.0
            for x_t in steps:
                y, *after = session.run(None, {"x": x_t.numpy(), **held})
                held = dict(zip(names, after, strict=True))
                want, state = rnn.step(x_t, state=state)
                worst = max(worst, float((torch.from_numpy(y) - want).abs().max()))
    assert worst < 1e-5


def three_factors(x: torch.Tensor) -> torch.Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.5 * h + torch.einsum("bi,bj,bk->bi", x[:, t], x[:, t], h + 1)
        ys.append(h)
    return torch.stack(ys, 1)


def turned(x: torch.Tensor) -> torch.Tensor:
    h, ys = torch.zeros(x.shape[0], 3, dtype=torch.complex64), []
    for t in range(x.shape[1]):
        h = torch.exp(1j * x[:, t]) * h + x[:, t]
        ys.append(h.real)
    return torch.stack(ys, 1)


def test_a_product_of_three_leaves_the_batch_free() -> None:
    x = torch.randn(5, 6, 3)
    net: Any = linrec.compile(three_factors, verify="off")
    rnn: Any = linrec.recurrent(net, x)
    run: Any = linrec.export_step(net, None, x).module()
    for batch in (1, 3, 5):
        _, state = rnn(x[:batch, :2])
        y, h = run(x[:batch, 2], *state.values())
        want, after = rnn.step(x[:batch, 2], state=state)
        same([y, h], [want, *after.values()], rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_what_onnx_cannot_hold_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX export needs the packages of linrec[export]")
    net: Any = linrec.compile(turned, verify="off")
    with pytest.raises(StateError, match=r"LR4007.*complex"):
        linrec.export_step(net, str(tmp_path / "step.onnx"), torch.randn(2, 6, 3))
