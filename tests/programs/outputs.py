"""Outputs: how what was computed at each step is collected, and what of it is returned."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import TX, A, D, X, decays, index, lengths, lti, normal, program


@program(X, A, normal(3, 2), expect=lti("dense"))
def append_and_stack(x: Tensor, a: Tensor, c: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h @ c)
    return torch.stack(ys, dim=1)


@program(TX, D, expect=lti("diagonal"))
def append_and_cat(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[0]), []
    for u in x:
        h = a * h + u
        ys.append(h.unsqueeze(0))
    return torch.cat(ys)


@program(X, D, expect=lti("diagonal"))
def cat_along_features_then_view(x: Tensor, a: Tensor) -> Tensor:
    B, T, d = x.shape
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.cat(ys, dim=1).view(B, T, d)


@program(X, D, expect=lti("diagonal"))
def insert_at_the_front(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    ys: list[Tensor] = []
    for t in reversed(range(x.shape[1])):
        h = a * h + x[:, t]
        ys.insert(0, h)
    return torch.stack(ys, 1)


@program(X, D, expect=lti("diagonal"))
def reversed_by_slicing(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in reversed(range(x.shape[1])):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys[::-1], 1)


@program(X, D, expect=lti("diagonal"))
def flipped_before_and_after(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.flip(1).unbind(1):
        h = a * h + u
        ys.append(h)
    return torch.stack(ys, 1).flip(1)


@program(X, D, expect=lti("diagonal"))
def preallocated(x: Tensor, a: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    h = torch.zeros_like(out[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        out[:, t, :] = h
    return out


@program(X, D, expect=lti("diagonal"))
def preallocated_wider(x: Tensor, a: Tensor) -> Tensor:
    """Two halves of one array are written by two statements."""
    B, T, d = x.shape
    out = x.new_empty(B, T, 2 * d)
    h = x.new_zeros(B, d)
    for t in range(T):
        h = a * h + x[:, t]
        out[:, t, :d] = h
        out[:, t, d:] = x[:, t]
    return out


@program(X, D, expect=lti("diagonal"))
def chained_assignment(x: Tensor, a: Tensor) -> Tensor:
    out = torch.empty_like(x)
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        out[:, t] = h = a * h + x[:, t]
    return out + h.unsqueeze(1)


@program(X, A, expect=lti("dense"))
def last_value_only(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
    return h


@program(X, A, expect=lti("dense"))
def last_of_the_stack(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h @ a + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)[:, -1]


@program(X, D, expect=lti("diagonal"))
def last_saved_at_the_last_step(x: Tensor, a: Tensor) -> Tensor:
    T = x.shape[1]
    h = torch.zeros_like(x[:, 0])
    final = h
    for t in range(T):
        h = a * h + x[:, t]
        if t == T - 1:
            final = h
    return F.relu(final)


@program(X, D, expect=(lti("diagonal"), lti("scalar").maybe()))
def running_sum_of_outputs(x: Tensor, a: Tensor) -> Tensor:
    h = total = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        total = total + F.softplus(h)
    return total


@program(X, X, D, expect=(lti("diagonal"), lti("scalar").maybe()))
def loss_inside_the_loop(x: Tensor, target: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    loss: Any = 0.0
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        loss += F.mse_loss(h, target[:, t])
    return loss / x.shape[1]  # type: ignore[no-any-return]


@program(X, D, expect=(lti("diagonal"), lti("scalar").maybe()))
def in_place_sum_of_outputs(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    pooled = torch.zeros_like(x[:, 0])
    for u in x.unbind(1):
        h = a * h + u
        pooled += torch.softmax(h, dim=-1)
    return pooled


@program(X, D, expect=lti("diagonal"))
def read_before_the_update(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        ys.append(h)
        h = a * h + x[:, t]
    return torch.stack(ys, 1)


@program(X, D, normal(3), expect=lti("diagonal"))
def read_before_and_after(x: Tensor, a: Tensor, bonus: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        before = h
        h = a * h + x[:, t]
        ys.append(h + bonus * before)
    return torch.stack(ys, 1)


@program(normal("B", "T"), normal("B", "T"), decays("B", "T"), expect=lti("scalar", "diagonal").maybe(), many=True)
def appended_between_two_updates(r: Tensor, v: Tensor, c: Tensor) -> Tensor:
    """Retrace targets: append, then correct with what belongs to this step; coefficients come from the data."""
    T = r.shape[1]
    q = v[:, -1]
    out = []
    for t in reversed(range(T)):
        q = r[:, t] + 0.97 * q
        out.append(q)
        q = 0.9 * (q - v[:, t]) + v[:, t] * c[:, t]
    out.reverse()
    return torch.stack(out, 1)


@program(X, D, expect=lti("diagonal"))
def several_outputs(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h, ys, norms = torch.zeros_like(x[:, 0]), [], []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(torch.tanh(h))
        norms.append(h.norm(dim=-1))
    return torch.stack(ys, 1), torch.stack(norms, 1), h, x


@program(X, D, expect=lti("diagonal"))
def dict_of_outputs(x: Tensor, a: Tensor) -> dict[str, object]:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    hidden = torch.stack(ys, 1)
    return {"hidden": hidden, "last": h, "steps": x.shape[1], "mask": None}


@program(X, D, expect=lti("diagonal"))
def list_of_steps(x: Tensor, a: Tensor) -> list[Tensor]:
    """One tensor for each step, not stacked."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return ys


@program(X, D, expect=lti("diagonal"))
def grown_by_cat(x: Tensor, a: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    out = x.new_empty(x.shape[0], 0, x.shape[2])
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        out = torch.cat([out, h.unsqueeze(1)], dim=1)
    return out


@program(X, D, normal("B", 3), expect=lti("diagonal"))
def first_state_among_the_outputs(x: Tensor, a: Tensor, h0: Tensor) -> Tensor:
    hs = [h0]
    for t in range(x.shape[1]):
        hs.append(a * hs[-1] + x[:, t])
    return torch.stack(hs, 1)


@program(X, D, lengths("B"), expect=lti("diagonal"))
def last_valid_step_of_each_row(x: Tensor, a: Tensor, ends: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    out = torch.stack(ys, 1)
    return out[torch.arange(x.shape[0]), ends - 1]


@program(X, D, expect=lti("diagonal"))
def every_second_output(x: Tensor, a: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)[:, ::2]


@program(X, D, normal(3, 3), expect=lti("diagonal"))
def attention_over_the_states(x: Tensor, a: Tensor, w: Tensor) -> Tensor:
    """All states are read together after the loop."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = a * h + u
        ys.append(h)
    states = torch.stack(ys, 1)
    return torch.softmax(states @ w @ states.mT / 3**0.5, dim=-1) @ states


@program(X, expect=lti("diagonal"))
class PooledClassifier(nn.Module):
    """Mean over time, dropout in eval mode, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.randn(3))
        self.norm = nn.LayerNorm(3)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        h, ys = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.sigmoid(self.decay) * h + x[:, t]
            ys.append(self.dropout(self.norm(h)))
        return self.head(torch.stack(ys, 1).mean(1))  # type: ignore[no-any-return]


@program(index(7, "B", "T"), expect=lti("dense"))
class LanguageModel(nn.Module):
    """Token indices in, logits and a loss out, with the loop between."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.transition = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 7)
        nn.init.normal_(self.transition.weight, std=0.25)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        e = self.embedding(tokens)
        h = torch.zeros_like(e[:, 0])
        logits = []
        for t in range(e.shape[1]):
            h = self.transition(h) + e[:, t]
            logits.append(self.head(F.silu(h)))
        out = torch.stack(logits, dim=1)
        return out, F.cross_entropy(out.flatten(0, 1), tokens.flatten())
