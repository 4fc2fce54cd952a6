"""What changes between two calls takes effect: attributes, parameters, submodules, hooks, classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import LTI, zeros
from contract import Leaky, converted, same, same_run, signal, twins
from torch import Tensor, nn

import linrec

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


def set_decay(net: Any) -> None:
    net.decay = 0.1


def set_gain(net: Any) -> None:
    net.config.gain = -1.0


def set_table(net: Any) -> None:
    net.config.table["shift"] = -0.5


def set_flag(net: Any) -> None:
    net.use_norm = True


def mutate_plain(net: Any) -> None:
    net.plain.mul_(3.0)


def replace_plain(net: Any) -> None:
    net.plain = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def replace_plain_by_number(net: Any) -> None:
    net.plain = 0.25


def mutate_buffer(net: Any) -> None:
    net.frozen.mul_(0.5)


def mutate_buffer_data(net: Any) -> None:
    net.frozen.data.mul_(0.5)


def mutate_buffer_through_numpy(net: Any) -> None:
    net.frozen.numpy()[:] *= 0.5


def replace_buffer(net: Any) -> None:
    net.frozen = torch.eye(3, dtype=torch.float64) * 0.2


def mutate_parameter_data(net: Any) -> None:
    net.a.data.mul_(0.5)


def mutate_parameter_under_no_grad(net: Any) -> None:
    with torch.no_grad():
        net.a.copy_(torch.tensor([0.1, 0.2, 0.3]))


def replace_parameter_data(net: Any) -> None:
    net.a.data = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)


def replace_parameter(net: Any) -> None:
    net.a = nn.Parameter(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64))


def replace_submodule(net: Any) -> None:
    torch.manual_seed(11)
    net.inp = nn.Linear(3, 3, bias=False).double()


def swap_submodule_kind(net: Any) -> None:
    torch.manual_seed(11)
    net.inp = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()


def freeze(net: Any) -> None:
    net.a.requires_grad_(False)


def load_weights(net: Any) -> None:
    torch.manual_seed(12)
    net.load_state_dict(Leaky().double().state_dict())


def optimizer_steps(net: Any) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(2, 12, 3, generator=draw, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def weight_norm(net: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(net.inp)


def tie_weights(net: Any) -> None:
    net.inp.bias = net.a


def train_mode(net: Any) -> None:
    net.train()


def hook_changes_the_output(net: Any) -> None:
    net.inp.register_forward_hook(lambda module, args, out: out * 2)


def hook_changes_the_input(net: Any) -> None:
    net.inp.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def hook_on_the_whole(net: Any) -> None:
    net.register_forward_hook(lambda module, args, out: out + 1)


def hook_on_gradients(net: Any) -> None:
    net.a.register_hook(lambda g: g * 2)


def backward_hook_on_submodule(net: Any) -> None:
    net.inp.register_full_backward_hook(lambda module, g_in, g_out: (g_in[0] * 2,))


def patch_forward_of_submodule(net: Any) -> None:
    net.inp.forward = lambda x: x * 0.5


HISTORIES: list[Any] = [
    set_decay,
    set_gain,
    set_table,
    pytest.param(set_flag, marks=slow),
    mutate_plain,
    replace_plain,
    pytest.param(replace_plain_by_number, marks=slow),
    pytest.param(mutate_buffer, marks=slow),
    mutate_buffer_data,
    pytest.param(mutate_buffer_through_numpy, marks=slow),
    pytest.param(replace_buffer, marks=slow),
    mutate_parameter_data,
    mutate_parameter_under_no_grad,
    pytest.param(replace_parameter_data, marks=slow),
    pytest.param(replace_parameter, marks=slow),
    replace_submodule,
    pytest.param(swap_submodule_kind, marks=slow),
    pytest.param(freeze, marks=slow),
    pytest.param(load_weights, marks=slow),
    optimizer_steps,
    pytest.param(weight_norm, marks=slow),
    pytest.param(tie_weights, marks=slow),
    train_mode,
    hook_changes_the_output,
    pytest.param(hook_changes_the_input, marks=slow),
    pytest.param(hook_on_the_whole, marks=slow),
    hook_on_gradients,
    backward_hook_on_submodule,
    pytest.param(patch_forward_of_submodule, marks=slow),
]


@pytest.mark.parametrize("event", HISTORIES, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_what_changes_between_calls_takes_effect(event: Callable[[Any], None]) -> None:
    net, model = twins(Leaky)
    net.eval()
    model.eval()
    same_run(net, model, signal(2, 9, 3))
    converted(net)
    event(net)
    event(model)
    for steps in (9, 20):
        same_run(net, model, signal(2, steps, 3))


@pytest.mark.parametrize("name", ["ConstantMemory", pytest.param("BuiltFromTheta", marks=slow)])
@pytest.mark.parametrize("how", ["data", "no_grad", "replace", "numpy", "load", "step"])
def test_no_stale_impulse_response(name: str, how: str) -> None:
    model = LTI[name].make().requires_grad_(False)
    net = linrec.compile(copy.deepcopy(model))
    x = LTI[name].args(2, 30)[0].detach()
    tensors = "a" if name == "ConstantMemory" else "theta"
    for _ in range(2):
        with torch.no_grad():
            same(net(x), model(x))
        for m in (net, model):
            value = getattr(m, tensors)
            if how == "data":
                value.data.mul_(0.7)
            elif how == "no_grad":
                with torch.no_grad():
                    value.mul_(0.7)
            elif how == "replace":
                value.data = value.data * 0.7
            elif how == "numpy":
                value.detach().numpy()[...] *= 0.7
            elif how == "load":
                m.load_state_dict({k: v * 0.7 for k, v in m.state_dict().items()})
            else:
                value.requires_grad_(True)
                m(x).sum().backward()
                torch.optim.SGD([value], lr=0.1).step()
                value.grad = None
        with torch.no_grad():
            same(net(x), model(x))
    converted(net)


def test_returned_tensors_may_be_overwritten() -> None:
    def free_run(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.ones_like(a)
        ys = []
        for t in range(x.shape[0]):
            h = a * h
            ys.append(h + 0 * t)
        return torch.stack(ys), h

    fn, a, x = linrec.compile(free_run), signal(3, grad=False), signal(9, grad=False)
    with torch.no_grad():
        for _ in range(3):
            out, last = fn(x, a)
            same((out, last), free_run(x, a))
            out.zero_()
            last.zero_()


class OnItsClass(nn.Module):
    """The coefficient and the step live on the class."""

    rate = 0.9

    def step(self, h: Tensor, x_t: Tensor) -> Tensor:
        return self.rate * h + x_t

    def forward(self, x: Tensor) -> Tensor:
        h = zeros(x)
        for x_t in x.unbind(1):
            h = self.step(h, x_t)
        return h


def test_class_attributes_are_live(monkeypatch: pytest.MonkeyPatch) -> None:
    net, model = twins(OnItsClass)
    same_run(net, model, signal(2, 9, 3))
    monkeypatch.setattr(OnItsClass, "rate", 0.2)
    same_run(net, model, signal(2, 9, 3))
    monkeypatch.setattr(OnItsClass, "step", lambda self, h, x_t: -0.5 * h - x_t)
    same_run(net, model, signal(2, 20, 3))
    converted(net)
