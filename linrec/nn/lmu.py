"""Legendre Memory Units: a layer and a cell around one fixed linear memory, as plain PyTorch.

The memory m of order d holds the last theta steps of its input u as d Legendre coefficients:

    theta * dm/dt = A m + B u,    u(t - r * theta) ~= sum_i P_i(2r - 1) m_i(t),    0 <= r <= 1

(Voelker, Kajic and Eliasmith 2019, eqs. 1-3). With u held over each step it becomes m_t = Abar m_{t-1} + Bbar u_t.

Nothing here is parallel by itself. A step of the loop costs O(d^2) a channel, and the loop runs step by step until
the network is compiled as a whole: `net = linrec.compile(Net())`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def delay_network(order: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A (order, order) and B (order,) of theta * dm/dt = A m + B u; all entries are whole numbers."""
    # Voelker, Kajic and Eliasmith 2019, eq. 2:
    # A_ij = (2i + 1) * (-1 if i < j else (-1)^(i - j + 1)),  B_i = (2i + 1) * (-1)^i
    i = np.arange(order, dtype=np.float64)
    row, column = i[:, None], i[None, :]
    sign = np.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    return (2 * row + 1) * sign, (2 * i + 1) * (-1.0) ** i


def zero_order_hold(order: int, theta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Abar (order, order) and Bbar (order,): the delay network over one step during which u is constant."""
    # exp([[A, B], [0, 0]] / theta) = [[Abar, Bbar], [0, 1]], so Bbar = A^-1 (Abar - I) B needs no inverse.
    exponential = scipy.linalg.expm(_generator(order) / theta)
    return exponential[:order, :order], exponential[:order, order]


def _generator(order: int) -> NDArray[np.float64]:  # -> (order + 1, order + 1)
    A, B = delay_network(order)
    return np.block([[A, B[:, None]], [np.zeros((1, order + 1))]])


class LMU(nn.Module):
    """A recurrent layer whose only recurrence is a linear, time-invariant memory.

    At each step, with f1 = `encoder` and f2 = `decoder`, applied element by element,

        u_t = f1(U_x x_t + b_u)                    (18)  what is written, (B, memory_size)
        m_t = Abar m_{t-1} + Bbar u_t              (19)  a memory for each channel of u (21), (B, memory_size, order)
        o_t = f2(W_m m_t + W_x x_t + b_o)          (20)  what is read, (B, hidden_size)

    from m_0 = 0; equation numbers of Chilkuri and Eliasmith 2021, "Parallelizing Legendre Memory Unit Training".

    Shapes: x is (B, T, input_size) with T >= 1; the result is (B, T, hidden_size), or (B, hidden_size), the last
    step's, with `return_sequences=False`. All channels share one Abar (order, order) and one Bbar (order,).

    Cost: the loop below takes T dependent steps, O(T * memory_size * order^2) operations a sequence for the memory,
    and training keeps all T states. It is an ordinary loop: `linrec.compile` on the network that holds this layer
    runs it in parallel (one product with the impulse response where only the last step is read).

    Arguments:
        theta: length of the remembered window in steps; about the length of the longest dependency.
        order: number of Legendre coefficients; more resolve faster changes inside the window.
        memory_size: number of channels remembered.
        trainable_theta: learn log(theta); Abar and Bbar follow through the matrix exponential, in float64, once a call.
        trainable_A, trainable_B: learn the discrete Abar, Bbar themselves, from the zero-order hold at theta.
            What is not learnt is a buffer.

    U_x starts at one where there is one input (as in Voelker, Kajic and Eliasmith 2019), else LeCun uniform, so
    that u has the scale of x; b_u starts at zero; the readouts start as nn.Linear does.
    """

    Abar: Tensor
    Bbar: Tensor
    generator: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        order: int,
        theta: float,
        *,
        memory_size: int = 1,
        encoder: Activation = torch.relu,
        decoder: Activation = torch.relu,
        trainable_theta: bool = False,
        trainable_A: bool = False,
        trainable_B: bool = False,
        return_sequences: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _require_positive(input_size=input_size, hidden_size=hidden_size, order=order, memory_size=memory_size)
        _require_positive(theta=theta)
        if trainable_theta and (trainable_A or trainable_B):
            raise ValueError("trainable_theta derives Abar and Bbar from theta; drop it, or drop trainable_A and _B")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.order = order
        self.memory_size = memory_size
        self.encoder = encoder
        self.decoder = decoder
        self.trainable_theta = trainable_theta
        self.return_sequences = return_sequences
        self._theta = float(theta)

        self.U_x = nn.Linear(input_size, memory_size, device=device, dtype=dtype)
        self.W_m = nn.Linear(memory_size * order, hidden_size, device=device, dtype=dtype)
        self.W_x = nn.Linear(input_size, hidden_size, bias=False, device=device, dtype=dtype)
        if trainable_theta:
            self.log_theta = nn.Parameter(torch.tensor(math.log(theta), device=device, dtype=dtype))
            # Whole numbers below 2 * order: exact in every dtype a module is likely to be cast to but bfloat16.
            generator = torch.as_tensor(_generator(order), device=device)
            self.register_buffer("generator", generator, persistent=False)
        else:
            Abar, Bbar = zero_order_hold(order, theta)
            _register(self, "Abar", Abar, trainable_A, device, dtype)
            _register(self, "Bbar", Bbar, trainable_B, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; the memory's own matrices stay as they are."""
        _reset_encoder(self.U_x)
        nn.init.zeros_(self.U_x.bias)
        self.W_m.reset_parameters()
        self.W_x.reset_parameters()

    @property
    def theta(self) -> float:
        """Length of the window in steps, the learnt one if it is learnt."""
        return float(self.log_theta.detach().exp()) if self.trainable_theta else self._theta

    def discretized(self) -> tuple[Tensor, Tensor]:
        """Abar (order, order) and Bbar (order,) as this call uses them, with gradients where they are learnt."""
        if not self.trainable_theta:
            return self.Abar, self.Bbar
        # float32 is not enough: squaring exp(A / theta / 2^k) k times loses a digit for each few of k.
        exponential = torch.linalg.matrix_exp(self.generator.double() * torch.exp(-self.log_theta.double()))
        exponential = exponential.to(self.log_theta.dtype)
        return exponential[: self.order, : self.order], exponential[: self.order, self.order]

    def forward(self, x: Tensor) -> Tensor:  # (B, T, input_size) -> (B, T, hidden_size) or (B, hidden_size)
        """Run over all T steps of x from an empty memory."""
        Abar, Bbar = self.discretized()
        m = x.new_zeros(x.shape[0], self.memory_size, self.order)
        outputs = []
        for t in range(x.shape[1]):
            u = self.encoder(self.U_x(x[:, t]))
            m = m @ Abar.T + u.unsqueeze(-1) * Bbar
            o = self.decoder(self.W_m(m.flatten(1)) + self.W_x(x[:, t]))
            outputs.append(o)
        return torch.stack(outputs, dim=1) if self.return_sequences else outputs[-1]

    def extra_repr(self) -> str:
        """The sizes, for print(module)."""
        return (
            f"{self.input_size}, {self.hidden_size}, order={self.order}, theta={self.theta:g}, "
            f"memory_size={self.memory_size}, return_sequences={self.return_sequences}"
        )


class LMUCell(nn.Module):
    """One step of the original unit, whose hidden state feeds back into what is written.

        u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}              what is written, (B, 1)
        m_t = Abar m_{t-1} + Bbar u_t                          the memory, (B, order)
        h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)            the hidden state, (B, hidden_size)

    (Voelker, Kajic and Eliasmith 2019, eqs. 4-7). Used as nn.LSTMCell is, in a loop of the user's:

        state = None
        for t in range(x.shape[1]):
            h, state = cell(x[:, t], state)

    Shapes: x_t is (B, input_size), the state is the pair (h, m), `None` standing for zeros; the result is
    (h, (h, m)). A step costs O(order^2 + hidden_size * (hidden_size + order + input_size)) a sequence.

    e_h and W_h put tanh into the recurrence, so a compiled loop over this cell stays sequential (e_m alone would
    not: Abar + Bbar e_m is as linear as Abar); `LMU` is the unit without the three, after Chilkuri and Eliasmith 2021.

    e_x starts at one where there is one input, else LeCun uniform as e_h does; e_m starts at zero; the W Xavier normal.
    """

    Abar: Tensor
    Bbar: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        order: int,
        theta: float,
        *,
        trainable_A: bool = False,
        trainable_B: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _require_positive(input_size=input_size, hidden_size=hidden_size, order=order, theta=theta)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.order = order
        self.theta = float(theta)

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype)

        self.e_x, self.e_h, self.e_m = linear(input_size, 1), linear(hidden_size, 1), linear(order, 1)
        self.W_x, self.W_h, self.W_m = (linear(n, hidden_size) for n in (input_size, hidden_size, order))
        Abar, Bbar = zero_order_hold(order, theta)
        _register(self, "Abar", Abar, trainable_A, device, dtype)
        _register(self, "Bbar", Bbar, trainable_B, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; the memory's own matrices stay as they are."""
        _reset_encoder(self.e_x)
        _lecun_uniform(self.e_h)
        nn.init.zeros_(self.e_m.weight)
        for readout in (self.W_x, self.W_h, self.W_m):
            nn.init.xavier_normal_(readout.weight)

    def forward(
        self, x_t: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # (B, input_size) -> (B, hidden_size) and the pair (h, m)
        """Take one step; `state` is the second result of the step before."""
        if state is None:
            state = x_t.new_zeros(x_t.shape[0], self.hidden_size), x_t.new_zeros(x_t.shape[0], self.order)
        h, m = state
        u = self.e_x(x_t) + self.e_h(h) + self.e_m(m)
        m = m @ self.Abar.T + u * self.Bbar
        h = torch.tanh(self.W_x(x_t) + self.W_h(h) + self.W_m(m))
        return h, (h, m)

    def extra_repr(self) -> str:
        """The sizes, for print(module)."""
        return f"{self.input_size}, {self.hidden_size}, order={self.order}, theta={self.theta:g}"


def _register(
    module: nn.Module,
    name: str,
    value: NDArray[np.float64],
    trainable: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    tensor = torch.as_tensor(value, device=device, dtype=dtype or torch.get_default_dtype())
    if trainable:
        module.register_parameter(name, nn.Parameter(tensor))
    else:
        module.register_buffer(name, tensor)


def _require_positive(**sizes: float) -> None:
    for name, value in sizes.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")


def _reset_encoder(encoder: nn.Linear) -> None:
    if encoder.in_features == 1:
        nn.init.ones_(encoder.weight)
    else:
        _lecun_uniform(encoder)


def _lecun_uniform(layer: nn.Linear) -> None:
    bound = math.sqrt(3 / layer.in_features)
    nn.init.uniform_(layer.weight, -bound, bound)
