"""States: where they start, what they are made of, what is read of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import A, D, X, like_x, lti, small, zeros

# ---- initial states ------------------------------------------------------------------------------


@lti(X, D, like_x("B", 3))
def initial_given(x: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1), h


@lti(X, A, like_x(3))
def initial_parameter_broadcast(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    h = h0.expand(x.shape[0], -1)
    ys = []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_python_zero(x: Tensor, a: Tensor) -> Tensor:
    h: Any = 0
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_python_float(x: Tensor, a: Tensor) -> Tensor:
    h: Any = 1.5
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_none(x: Tensor, a: Tensor) -> Tensor:
    h = None
    ys = []
    for t in range(x.shape[1]):
        h = x[:, t] if h is None else a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D)
def initial_first_input(x: Tensor, a: Tensor) -> Tensor:
    h = x[:, 0]
    ys = [h]
    for t in range(1, x.shape[1]):
        h = a * h + (1 - a) * x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@lti(X, D, like_x("B", 3))
def states_with_the_initial_one(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    hs = [h0]
    for t in range(x.shape[1]):
        hs.append(a * hs[-1] + x[:, t])
    return torch.stack(hs, 1)


@lti(X, D)
def output_before_update(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        ys.append(h)
        h = a * h + x[:, t]
    return torch.stack(ys, 1)


# ---- states and outputs of many kinds ------------------------------------------------------------


@lti(X, D, A)
def dict_state(x: Tensor, a: Tensor, b: Tensor) -> dict[str, Any]:
    state = {"fast": zeros(x), "slow": zeros(x)}
    ys = []
    for t in range(x.shape[1]):
        fast = a * state["fast"] + x[:, t]
        state = {"fast": fast, "slow": state["slow"] @ b + fast}
        ys.append(state["slow"])
    return {"y": torch.stack(ys, 1), "state": state, "steps": x.shape[1], "nothing": None}


@lti(X, D)
def list_of_states(x: Tensor, a: Tensor) -> Tensor:
    hs = [zeros(x) for _ in range(3)]
    ys = []
    for t in range(x.shape[1]):
        below = x[:, t]
        for i in range(3):
            hs[i] = a * hs[i] + below
            below = hs[i]
        ys.append(below)
    return torch.stack(ys, 1)


@lti(X, A)
def final_only(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
    return h


@lti(X, D)
def last_of_appended(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return ys[-1]


@lti(X, A, small(3, 1))
def narrow_readout(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h @ c)
    return torch.cat(ys, 1)


@lti(X, A, small(3, 2), small(3, 2))
def readout_with_feedthrough(x: Tensor, a: Tensor, c: Tensor, d: Tensor) -> Tensor:
    h = zeros(x)
    out = x.new_zeros(x.shape[0], x.shape[1], 2)
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        out[:, t] = h @ c + x[:, t] @ d
    return out


@lti(X, D)
def reads_what_it_wrote(x: Tensor, a: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 0] = x[:, 0]
    for t in range(1, x.shape[1]):
        out[:, t] = a * out[:, t - 1].clone() + x[:, t]
    return out


@lti(X, D)
def nonlinear_before_and_after(x: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    ys = []
    for t in range(x.shape[1]):
        h = torch.sigmoid(a) * h + torch.tanh(x[:, t]) ** 2
        ys.append(F.layer_norm(torch.relu(h), (3,)))
    return torch.stack(ys, 1)


@lti(X, X, D)
def loss_accumulated(x: Tensor, target: Tensor, a: Tensor) -> Tensor:
    h = zeros(x)
    loss = x.new_zeros(())
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        loss = loss + ((h - target[:, t]) ** 2).mean()
    return loss / x.shape[1]


@lti(X, D)
def several_outputs(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = zeros(x)
    ys, norms = [], []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
        norms.append(h.norm(dim=-1))
    return torch.stack(ys, 1), torch.stack(norms, 1), h, x


@lti(X, X, X)
def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q.new_zeros(q.shape[0], 3, 3)
    ys = []
    for t in range(q.shape[1]):
        s = s + k[:, t, :, None] * v[:, t, None, :]
        ys.append(torch.einsum("bk,bkv->bv", q[:, t], s))
    return torch.stack(ys, 1)
