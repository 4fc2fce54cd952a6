"""Steps that compare, round or look up by their state. None may be called linear, all of them run as written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import D, X, index, normal, program, refused
from programs.operators import looped

# ---- comparisons -------------------------------------------------------------------------------------


@program(X, D, expect=refused("LR1207", blames="where"))
@looped
def where_the_state_is_positive(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return torch.where(h > 0, a * h, 0.5 * h) + u


@program(X, expect=refused("LR1207"))
def leaky_integrate_and_fire(current: Tensor) -> Tensor:
    """Threshold and reset to zero."""
    v, spikes = torch.zeros_like(current[:, 0]), []
    for t in range(current.shape[1]):
        v = 0.9 * v + current[:, t]
        spike = (v > 1.0).to(v.dtype)
        v = v * (1 - spike)
        spikes.append(v)
    return torch.stack(spikes, 1)


@program(X, expect=refused("LR1207"))
def integrate_and_fire_soft_reset(current: Tensor) -> Tensor:
    """Subtract the threshold at a spike."""
    v, out = torch.zeros_like(current[:, 0]), []
    for t in range(current.shape[1]):
        v = v + current[:, t]
        v = v - (v >= 1.0).double()
        out.append(v)
    return torch.stack(out, 1)


@program(X, expect=refused("LR1207", blames="where"))
def compressor(level: Tensor) -> Tensor:
    """Attack and release: the state selects its own coefficient."""
    env, out = torch.zeros_like(level[:, 0]), []
    for t in range(level.shape[1]):
        coefficient = torch.where(level[:, t] > env, 0.3, 0.95)
        env = coefficient * env + (1 - coefficient) * level[:, t]
        out.append(env)
    return torch.stack(out, 1)


@program(X, D, expect=refused("LR1207", "LR1204", blames="sign"))
@looped
def sign_of_the_state(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h - 0.01 * torch.sign(h) + u


@program(X, D, expect=refused("LR1207", "LR1204"))
def sparse_state(x: Tensor, a: Tensor) -> Tensor:
    """Soft thresholding: an iterative shrinkage step."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        h = h * (h.abs() > 0.1)
        ys.append(h)
    return torch.stack(ys, 1)


# ---- rounding and clamping ---------------------------------------------------------------------------


@program(X, D, expect=refused("LR1208", blames="round"))
@looped
def rounded(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + torch.round(h * 8) / 64 + u


@program(X, D, expect=refused("LR1208", blames="clamp"))
@looped
def clamped_far_away(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return (a * h + u).clamp(-1e6, 1e6)


@program(normal("B", "T"), expect=refused("LR1208", blames="clamp"))
def garch_with_a_floor(r: Tensor) -> Tensor:
    sigma2, out = torch.ones_like(r[:, 0]), []
    for t in range(r.shape[1]):
        sigma2 = torch.clamp(0.1 + 0.1 * r[:, t] ** 2 + 0.8 * sigma2, min=1e-6)
        out.append(sigma2)
    return torch.stack(out, 1)


@program(X, D, expect=refused("LR1208", "LR1204", blames="floor"))
@looped
def floored(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + 0.01 * h.floor() + u


@program(X, expect=refused("LR1208", "LR1204", "LR1299", blames="%"))
@looped
def phase_that_wraps(phase: Tensor, u: Tensor) -> Tensor:
    """An oscillator's phase."""
    return (phase + 0.1 * u.abs()) % 1.0


@program(X, D, expect=refused("LR1208", "LR1204", "LR1206", blames="long"))
@looped
def through_integers(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + 0.01 * h.long() + u


@program(X, D, expect=refused("LR1206", "LR1208"))
@looped
def straight_through_rounding(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * (h + (torch.round(h * 16) / 16 - h).detach()) + u


@program(X, D, expect=refused("LR1208", "LR1204", blames="hardtanh"))
@looped
def hard_limits(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return F.hardtanh(a * h + u, -100.0, 100.0)


# ---- indices -----------------------------------------------------------------------------------------


@program(X, D, expect=refused("LR1210"))
@looped
def index_from_argmax(h: Tensor, u: Tensor, a: Tensor) -> Tensor:
    return a * h + 0.1 * h.gather(1, h.argmax(dim=1, keepdim=True)) + u


@program(normal("B", "T", 4), expect=refused("LR1210", "LR1297"))
@looped
def order_from_the_state(h: Tensor, u: Tensor) -> Tensor:
    order = torch.argsort(h[0])
    return 0.8 * h[:, order] + u


@program(index(4, "B", "T"), index(5, 5, 4), expect=refused("LR1210"))
def automaton(letters: Tensor, successor: Tensor) -> Tensor:
    """The state is an index into a table."""
    at, path = torch.zeros_like(letters[:, 0]), []
    for t in range(letters.shape[1]):
        at = successor[at, letters[:, t]]
        path.append(at)
    return torch.stack(path, 1)


@program(X, expect=refused("LR1210"))
class GreedyDecoder(nn.Module):
    """The last answer is embedded and fed back."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        token = torch.zeros(x.shape[0], dtype=torch.long)
        out = []
        for t in range(x.shape[1]):
            logits = self.head(self.embedding(token) + x[:, t])
            token = logits.argmax(-1)
            out.append(logits)
        return torch.stack(out, 1)
