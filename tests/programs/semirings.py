"""Other semirings: recurrences that are linear once plus is a maximum, a minimum or a logsumexp, and times is plus."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import Expected, X, index, lti, ltv, mask, normal, open_, program, refused, uniform

MAX, MIN, LOG = "max-plus", "min-plus", "log-sum-exp"


@program(X, expect=lti(semiring=MAX))
def running_maximum(x: Tensor) -> Tensor:
    best, out = x[:, 0], [x[:, 0]]
    for t in range(1, x.shape[1]):
        best = torch.maximum(best, x[:, t])
        out.append(best)
    return torch.stack(out, 1)


@program(X, expect=lti(semiring=MIN))
def running_minimum(x: Tensor) -> Tensor:
    low, out = torch.full_like(x[:, 0], math.inf), []
    for u in x.unbind(1):
        low = torch.min(low, u)
        out.append(low)
    return torch.stack(out, 1)


@program(X, uniform(0.1, 0.5, 3), expect=lti(semiring=MAX))
def peak_that_fades(x: Tensor, fade: Tensor) -> Tensor:
    """A peak meter in decibels."""
    peak, out = x[:, 0], []
    for t in range(x.shape[1]):
        peak = torch.maximum(peak - fade, x[:, t])
        out.append(peak)
    return torch.stack(out, 1)


@program(normal("B", "T"), expect=ltv(semiring=MAX))
def waiting_times(x: Tensor) -> Tensor:
    """Lindley's recursion for a queue."""
    zero = torch.zeros_like(x[:, 0])
    w, out = zero, []
    for u in x.unbind(1):
        w = torch.maximum(w + u, zero)
        out.append(w)
    return torch.stack(out, 1)


@program(normal("B", "T"), expect=(ltv(semiring=MAX), lti(semiring=MAX)))
def best_subarray(x: Tensor) -> Tensor:
    """Kadane's algorithm."""
    here = best = x[:, 0]
    for t in range(1, x.shape[1]):
        here = torch.maximum(here + x[:, t], x[:, t])
        best = torch.maximum(best, here)
    return best


@program(normal("B", "T"), expect=(lti("scalar"), lti(semiring=MAX), lti(semiring=MAX).maybe()))
def maximum_drawdown(returns: Tensor) -> Tensor:
    """A linear state, its running maximum, and the largest gap between them."""
    wealth = peak = worst = torch.zeros_like(returns[:, 0])
    for t in range(returns.shape[1]):
        wealth = wealth + returns[:, t]
        peak = torch.maximum(peak, wealth)
        worst = torch.maximum(worst, peak - wealth)
    return worst


@program(X, normal(3, 3), expect=ltv(semiring=MAX))
def viterbi_scores(emissions: Tensor, transitions: Tensor) -> Tensor:
    score, out = emissions[:, 0], [emissions[:, 0]]
    for t in range(1, emissions.shape[1]):
        score = (score.unsqueeze(2) + transitions).amax(dim=1) + emissions[:, t]
        out.append(score)
    return torch.stack(out, 1)


@program(X, normal("B", "T", 3, 3), expect=ltv(semiring=MAX))
def viterbi_with_varying_transitions(emissions: Tensor, transitions: Tensor) -> Tensor:
    score = emissions[:, 0]
    for t in range(1, emissions.shape[1]):
        best, _ = torch.max(score.unsqueeze(-1) + transitions[:, t], dim=1)
        score = best + emissions[:, t]
    return score.max(dim=-1).values


@program(X, normal(3, 3), expect=ltv(semiring=LOG))
def hmm_forward(emissions: Tensor, transitions: Tensor) -> Tensor:
    """The forward algorithm in log space; emissions multiply every path, so they are coefficients."""
    log_A = F.log_softmax(transitions, dim=-1)
    log_b = F.log_softmax(emissions, dim=-1)
    alpha = log_b[:, 0] - math.log(3)
    for t in range(1, emissions.shape[1]):
        alpha = torch.logsumexp(alpha.unsqueeze(-1) + log_A, dim=1) + log_b[:, t]
    return torch.logsumexp(alpha, dim=-1)


@program(X, normal("B", "T", 3, 3), expect=ltv(semiring=LOG))
def hmm_forward_all_steps(emissions: Tensor, transitions: Tensor) -> Tensor:
    alpha, out = emissions[:, 0], []
    for t in range(emissions.shape[1]):
        alpha = emissions[:, t] + torch.logsumexp(transitions[:, t] + alpha[:, :, None], 1)
        out.append(alpha)
    return torch.stack(out, 1)


@program(X, mask("B", "T"), expect=ltv(semiring=LOG))
class ConditionalRandomField(nn.Module):
    """The partition function of pytorch-crf, with its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(3))
        self.end = nn.Parameter(torch.randn(3))
        self.transitions = nn.Parameter(torch.randn(3, 3))

    def forward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        score = self.start + emissions[:, 0]
        for i in range(1, emissions.shape[1]):
            broadcast = score.unsqueeze(2) + self.transitions + emissions[:, i].unsqueeze(1)
            new = torch.logsumexp(broadcast, dim=1)
            score = torch.where(mask[:, i].unsqueeze(1), new, score)
        return torch.logsumexp(score + self.end, dim=1)


@program(X, expect=lti(semiring=LOG))
def running_logsumexp(x: Tensor) -> Tensor:
    total, out = torch.full_like(x[:, 0], -math.inf), []
    for u in x.unbind(1):
        total = torch.logaddexp(total, u)
        out.append(total)
    return torch.stack(out, 1)


@program(X, X, expect=ltv(semiring=LOG))
def discounted_logsumexp(x: Tensor, log_gate: Tensor) -> Tensor:
    """A gated recurrence of positive numbers, kept in logarithms."""
    state, out = x[:, 0], []
    for t in range(x.shape[1]):
        state = torch.logaddexp(F.logsigmoid(log_gate[:, t]) + state, x[:, t])
        out.append(state)
    return torch.stack(out, 1)


CHEAP = Expected(("ltv",), None, "either", ("", "LR2003"), (LOG,))  # in a few steps the loop is as fast


@program(normal("B", "T", 5), expect=CHEAP)
def ctc_forward(log_probs: Tensor) -> Tensor:
    """States in a row; each is reached from itself and from its left neighbour."""
    log_probs = log_probs.log_softmax(-1)
    none = torch.full_like(log_probs[:, 0, :1], -1e30)
    alpha = torch.cat([log_probs[:, 0, :1], none.expand(-1, 4)], 1)
    for t in range(1, log_probs.shape[1]):
        shifted = torch.cat([none, alpha[:, :-1]], dim=1)
        alpha = torch.logaddexp(alpha, shifted) + log_probs[:, t]
    return torch.logaddexp(alpha[:, -1], alpha[:, -2])


@program(normal("B", "T", 4), uniform(0.0, 2.0, 4, 4), expect=ltv(semiring=MIN))
def shortest_paths(cost: Tensor, edges: Tensor) -> Tensor:
    """The cheapest way to each node after every step."""
    d, out = torch.zeros_like(cost[:, 0]), []
    for t in range(cost.shape[1]):
        d = torch.min(d[:, :, None] + edges, dim=1).values + cost[:, t]
        out.append(d)
    return torch.stack(out, 1)


@program(uniform(0.0, 1.0, "B", "T", 4), expect=ltv(semiring=MIN))
def seam_carving(energy: Tensor) -> Tensor:
    """Each pixel continues the cheapest of the three above it."""
    m = energy[:, 0]
    rows = [m]
    for i in range(1, energy.shape[1]):
        padded = F.pad(m, (1, 1), value=1e9)
        m = energy[:, i] + torch.minimum(torch.minimum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        rows.append(m)
    return torch.stack(rows, 1)


@program(X, mask("B", "T"), expect=ltv(semiring=MAX))
def maximum_with_resets(x: Tensor, start: Tensor) -> Tensor:
    best, out = x[:, 0], []
    for t in range(x.shape[1]):
        best = torch.where(start[:, t, None], x[:, t], torch.maximum(best, x[:, t]))
        out.append(best)
    return torch.stack(out, 1)


@program(mask("B", "T"), expect=open_("LR1204", "LR1207", "LR1299"))
def seen_so_far(done: Tensor) -> Tensor:
    """Booleans: or of all before."""
    ever, out = torch.zeros_like(done[:, 0]), []
    for t in range(done.shape[1]):
        ever = ever | done[:, t]
        out.append(ever)
    return torch.stack(out, 1)


@program(X, expect=open_("LR1204", "LR1207", "LR1208"))
def relu_of_a_sum(x: Tensor) -> Tensor:
    """max(h + u, 0) is linear over (max, +); nobody would call it wrong to refuse it."""
    h, ys = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = F.relu(h + u)
        ys.append(h)
    return torch.stack(ys, 1)


# ---- near misses: one operator away from a semiring --------------------------------------------------

WRONG = ("LR1201", "LR1204", "LR1207", "LR1208")


@program(X, expect=refused(*WRONG, "LR1299", blames="maximum"))
def maximum_of_a_scaled_state(x: Tensor) -> Tensor:
    """A peak follower with a factor: not linear over (max, +), where scaling is a power."""
    env, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        env = torch.maximum(0.9 * env, u.abs())
        out.append(env)
    return torch.stack(out, 1)


@program(X, expect=refused(*WRONG, "LR1299"))
def maximum_then_scale(x: Tensor) -> Tensor:
    """Each of the two statements is linear, over different semirings."""
    h, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = torch.maximum(h, u)
        h = 0.5 * h + u
        out.append(h)
    return torch.stack(out, 1)


@program(X, expect=refused(*WRONG, "LR1209", "LR1299", blames="logsumexp"))
def logsumexp_with_temperature(x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = torch.logsumexp(2.0 * h, dim=-1, keepdim=True) / 6 + u
        out.append(h)
    return torch.stack(out, 1)


@program(X, expect=refused(*WRONG, "LR1299"))
def maximum_and_minimum(x: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = torch.maximum(torch.minimum(h + u, u * u + 1), u - 1)
        out.append(h)
    return torch.stack(out, 1)


@program(X, normal(3, 3), expect=refused(*WRONG, "LR1209", "LR1299"))
def maximum_plus_logsumexp(x: Tensor, w: Tensor) -> Tensor:
    h, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = torch.maximum(torch.logsumexp(h.unsqueeze(-1) + w, dim=1), u) - 1
        out.append(h)
    return torch.stack(out, 1)


@program(X, expect=refused(*WRONG, "LR1299"))
def sum_of_two_maxima(x: Tensor) -> Tensor:
    """The plus of a state with itself is a product over (max, +)."""
    h, out = torch.zeros_like(x[:, 0]), []
    for u in x.unbind(1):
        h = 0.5 * (torch.maximum(h, u) + torch.maximum(h, -u))
        out.append(h)
    return torch.stack(out, 1)


@program(X, index(3, "B", "T", 1), expect=ltv(semiring=MAX))
def best_score_in_a_table(x: Tensor, slot: Tensor) -> Tensor:
    """The maximum of each slot, written where the input says."""
    best = torch.full_like(x[:, 0], -10.0)
    for t in range(x.shape[1]):
        here = F.one_hot(slot[:, t, 0], 3).bool()
        best = torch.where(here, torch.maximum(best, x[:, t]), best)
    return best
