"""Masks and resets: padding, episode ends and packed borders are coefficients of 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from programs import A, D, X, index, lengths, linear, lti, ltv, mask, normal, program


@program(X, D, mask("B", "T"), expect=ltv("diagonal", "scalar"))
def arithmetic(x: Tensor, a: Tensor, m: Tensor) -> Tensor:
    """Hold the state where the mask is zero."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        live = m[:, t].unsqueeze(-1).to(x.dtype)
        h = live * (a * h + x[:, t]) + (1 - live) * h
        ys.append(h * live)
    return torch.stack(ys, 1)


@program(X, D, mask("B", "T"), expect=ltv("diagonal", "scalar"))
def where_keeps_the_state(x: Tensor, a: Tensor, m: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.where(m[:, t, None], a * h + x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, A, mask("B", "T"), expect=ltv("dense"))
def where_keeps_a_mixed_state(x: Tensor, a: Tensor, m: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = torch.where(m[:, t].unsqueeze(1), h @ a + x[:, t], h)
    return h


@program(X, D, mask("B", "T"), expect=ltv("diagonal", "scalar"))
def boolean_not(x: Tensor, a: Tensor, reset: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h * (~reset[:, t]).unsqueeze(-1) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(normal("T", "B"), normal("T", "B"), mask("T", "B"), normal("B"), expect=ltv("scalar", "diagonal"))
def done_flags(rewards: Tensor, values: Tensor, dones: Tensor, bootstrap: Tensor) -> Tensor:
    """Generalised advantage estimation, time first, with a special case at the last step."""
    T = rewards.shape[0]
    advantages = torch.zeros_like(rewards)
    last = torch.zeros_like(bootstrap)
    for t in reversed(range(T)):
        alive = 1.0 - dones[t].to(rewards.dtype)
        following = bootstrap if t == T - 1 else values[t + 1]
        delta = rewards[t] + 0.99 * following * alive - values[t]
        advantages[t] = last = delta + 0.99 * 0.95 * alive * last
    return advantages


@program(X, D, mask("B", "T"), expect=ltv("diagonal", "scalar"))
def masked_fill(x: Tensor, a: Tensor, start: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h.masked_fill(start[:, t, None], 0.0)
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, mask("B", "T"), expect=ltv("diagonal", "scalar"))
def boolean_index_assignment(x: Tensor, a: Tensor, start: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * h + x[:, t]
        ys.append(h)
        h = h.clone()
        h[start[:, t]] = 0.0
    return torch.stack(ys, 1)


@program(X, D, mask("B", "T"), normal(3), expect=ltv("diagonal", "scalar"))
def boolean_index_assignment_of_outputs_too(x: Tensor, a: Tensor, start: Tensor, h0: Tensor) -> Tensor:
    """A vector for each row that the mask names, and a number for each entry of a full mask."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = h.clone()
        h[start[:, t]] = h0
        h = a * h + x[:, t]
        y = h.clone()
        y[x[:, t] > 0.5] = -1.0
        y[start[:, t]] = 2.0
        ys.append(y)
    return torch.stack(ys, 1)


@program(X, D, mask("B", "T"), normal(3), expect=ltv("diagonal", "scalar"))
def reset_to_a_learned_state(x: Tensor, a: Tensor, start: Tensor, h0: Tensor) -> Tensor:
    h, ys = h0.expand(x.shape[0], 3), []
    for t in range(x.shape[1]):
        h = torch.where(start[:, t, None], h0, h)
        h = a * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, lengths("B"), expect=ltv("diagonal", "scalar"))
def padding_by_length(x: Tensor, a: Tensor, ends: Tensor) -> Tensor:
    """The final state of each sequence of a padded batch."""
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        new = a * h + x[:, t]
        h = torch.where((t < ends).unsqueeze(-1), new, h)
    return h


@program(X, D, index(3, "B", "T"), expect=ltv("diagonal", "scalar"))
def packed_borders(x: Tensor, a: Tensor, segment: Tensor) -> Tensor:
    """A new sequence starts where the id changes."""
    h, ys = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        same = (segment[:, t] == segment[:, t - 1]).unsqueeze(-1)
        h = a * h * same + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, mask("B", "T", 3), expect=ltv("diagonal", "scalar"))
def carried_forward(x: Tensor, seen: Tensor) -> Tensor:
    """Fill gaps with the last value that was seen."""
    last, filled = torch.zeros_like(x[:, 0]), []
    for value, ok in zip(x.unbind(1), seen.unbind(1), strict=True):
        last = torch.where(ok, value, last)
        filled.append(last)
    return torch.stack(filled, 1)


@program(X, mask("B", "T", 3), expect=(ltv("diagonal", "scalar"), ltv("diagonal", "scalar")))
class DecayingImputation(nn.Module):
    """GRU-D's input layer: last value seen, and the time since."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        last = torch.zeros_like(x[:, 0])
        since = torch.zeros_like(x[:, 0])
        mean = x.mean(1)
        out = []
        for t in range(x.shape[1]):
            m = seen[:, t].to(x.dtype)
            since = 1 + (1 - m) * since
            last = m * x[:, t] + (1 - m) * last
            gamma = torch.exp(-torch.relu(self.rate) * since)
            out.append(m * x[:, t] + (1 - m) * (gamma * last + (1 - gamma) * mean))
        return torch.stack(out, 1)


@program(normal("B", "T"), mask("B", "T"), expect=(ltv("scalar", "diagonal"), linear().maybe()))
def alive_until_done(rewards: Tensor, done: Tensor) -> Tensor:
    """Rewards up to the first done flag: the mask is itself a product over time."""
    alive = torch.ones_like(rewards[:, 0])
    total = torch.zeros_like(alive)
    for t in range(rewards.shape[1]):
        total = total + alive * rewards[:, t]
        alive = alive * (1 - (~done[:, t]).to(rewards.dtype))
    return total


@program(X, D, mask("T"), expect=ltv("diagonal", "scalar"))
def reset_for_the_whole_batch(x: Tensor, a: Tensor, reset: Tensor) -> Tensor:
    h, ys = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = a * torch.where(reset[t], torch.zeros_like(h), h) + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


@program(X, D, expect=lti("diagonal"))
def mask_that_never_changes(x: Tensor, a: Tensor) -> Tensor:
    frozen = torch.arange(3) == 1
    h, ys = torch.ones_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.where(frozen, h, a * h + x[:, t])
        ys.append(h)
    return torch.stack(ys, 1)
