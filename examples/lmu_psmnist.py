"""Permuted sequential MNIST with a Legendre Memory Unit: written as a loop, trained in parallel, run step by step.

    python examples/lmu_psmnist.py --data FOLDER --json out.json --plot out.png

The network is the one of Chilkuri and Eliasmith 2021 (section 4.1: order 468, theta 784, 346 units, 166,092
parameters). It trains on 50,000 of the 60,000 training images; the 10,000 others validate after every epoch; the test
images are looked at once, after the last epoch. Then one training step of the same network is timed in three ways,
interleaved: as the loop it is written as, compiled, and with the memory's one matrix product written by hand.

Exit status: 0, or 2 with one line on stderr for data or arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from psmnist_data import DataError, Dataset, Images, find, permuted
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import linrec
from linrec.nn import LMU, zero_order_hold

ORDER, THETA, HIDDEN, CLASSES = 468, 784, 346, 10
PEAK_LEARNING_RATE = 8e-3  # chosen on the validation images
STREAMED = 256  # images that are also run one pixel at a time


class Network(nn.Module):
    """Pixels one at a time (B, T, 1) -> scores of the ten digits (B, 10), read after the last pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = LMU(1, HIDDEN, order=ORDER, theta=THETA, return_sequences=False)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, not probabilities."""
        scores: Tensor = self.head(self.dropout(self.memory(x)))
        return scores


class HandWritten(nn.Module):
    """A `Network` with its memory's last state written as one product, which is what a compiler should find."""

    response: Tensor

    def __init__(self, network: Network, steps: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        # Chilkuri and Eliasmith 2021, eq. 25: m_T = sum_t Abar^(T-t) Bbar u_t, a product with the reversed response.
        Abar, Bbar = (torch.from_numpy(matrix) for matrix in zero_order_hold(ORDER, THETA))
        columns = [Bbar]
        for _ in range(steps - 1):
            columns.append(Abar @ columns[-1])
        self.register_buffer("response", torch.stack(columns[::-1]).float())  # (T, order)

    def forward(self, x: Tensor) -> Tensor:
        """The same scores as the network's."""
        memory = self.network.memory
        u = memory.encoder(memory.U_x(x)).squeeze(-1)
        o = memory.decoder(memory.W_m(u @ self.response) + memory.W_x(x[:, -1]))
        scores: Tensor = self.network.head(self.network.dropout(o))
        return scores


@dataclass
class Epoch:
    """What one epoch of training came to."""

    seconds: float
    loss: float
    valid_accuracy: float


def sequences(images: Images) -> tuple[Tensor, Tensor]:
    """(N, 784, 1) of 0..1 and labels (N,)."""
    pixels = torch.from_numpy(images.pixels).float().div_(255).unsqueeze(-1)
    return pixels, torch.from_numpy(images.labels).long()


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """Forward, loss, backward, update; returns the loss."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def train(net: nn.Module, data: Dataset, epochs: int, batch_size: int, console: Console) -> Iterator[Epoch]:
    """Adam with one cycle of the learning rate; each epoch shuffles and leaves out the rest of less than a batch."""
    x, y = sequences(data.train)
    valid = sequences(data.valid)
    batches = len(y) // batch_size
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * batches, pct_start=0.2
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for epoch in range(epochs):
            net.train()
            start = time.perf_counter()
            losses = []
            shuffled = torch.randperm(len(y))[: batches * batch_size].view(batches, batch_size)
            for batch in progress.track(shuffled.unbind(), description=f"epoch {epoch + 1}/{epochs}"):
                losses.append(train_step(net, optimizer, x[batch], y[batch]))
                schedule.step()
            seconds = time.perf_counter() - start
            yield Epoch(seconds, float(torch.stack(losses).mean()), accuracy(net, *valid))


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The part of the sequences whose highest score is their label's."""
    net.eval()
    scores = torch.cat([net(x[i : i + 1000]) for i in range(0, len(x), 1000)])
    return float((scores.argmax(-1) == y).double().mean())


def step_times(network: Network, x: Tensor, y: Tensor, rounds: int = 5, repeats: int = 12) -> dict[str, float]:
    """Median milliseconds of a training step as a loop, compiled and by hand, from one interleaved run.

    A round is one step of the loop, which is long, and `repeats` of the two others in turn.
    """
    nets: dict[str, nn.Module] = {
        "loop": copy.deepcopy(network),
        "compiled": linrec.compile(copy.deepcopy(network)),
        "handwritten": HandWritten(network, x.shape[1]),
    }
    optimizers = {name: torch.optim.Adam(net.train().parameters()) for name, net in nets.items()}
    times: dict[str, list[float]] = {name: [] for name in nets}
    for name in nets:  # the first step captures, allocates and starts the threads
        train_step(nets[name], optimizers[name], x, y)
    for round_ in range(rounds):
        pair = ("compiled", "handwritten") if round_ % 2 == 0 else ("handwritten", "compiled")
        for name in ("loop", *pair * repeats):
            start = time.perf_counter()
            train_step(nets[name], optimizers[name], x, y)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def streaming_error(net: Any, x: Tensor) -> float:  # Any: a compiled module has more than nn.Module declares
    """Largest difference of the scores after the last pixel: the recurrent form, one pixel at a time, to the parallel.

    Scores are of order ten.
    """
    net.eval()
    rnn = net.recurrent(x)
    state = None
    for t in range(x.shape[1]):
        scores, state = rnn.step(x[:, t], state=state)
    return float((scores - net(x)).abs().max())


def plot(path: Path, epochs: list[Epoch], result: dict[str, Any]) -> None:
    """Accuracy by epoch beside the time of a training step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(range(1, len(epochs) + 1), [100 * e.valid_accuracy for e in epochs], marker="o", label="validation")
    left.axhline(100 * result["test_accuracy"], color="black", linestyle="--", label="test, after the last epoch")
    left.set(xlabel="epoch", ylabel="accuracy, %", title=result["data"])
    left.legend()
    names = ("loop", "compiled", "handwritten")
    bars = right.bar(names, [result[f"{name}_step_ms"] for name in names], color=("C1", "C0", "C7"))
    right.bar_label(bars, fmt="%.1f ms")
    right.set(yscale="log", ylabel="ms", title=f"training step, {result['batch_size']} images of 784 steps")
    right.margins(y=0.15)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train, test, stream and time; prints as it goes and returns what `--json` holds."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    data = permuted(*find(arguments.data, say), arguments.perm)
    if arguments.batch_size > len(data.train.labels):
        raise DataError(f"--batch-size {arguments.batch_size}: there are {len(data.train.labels)} training images")
    torch.manual_seed(arguments.seed)
    network = Network()
    parameters = sum(p.numel() for p in network.parameters())
    say(f"data        {data.name}: {len(data.train.labels):,} to train, {len(data.valid.labels):,} to validate")
    say(f"parameters  {parameters:,}")

    net = linrec.compile(network, strict=True)  # rather stop than train for hours as a loop
    epochs = []
    for epoch in train(net, data, arguments.epochs, arguments.batch_size, console):
        epochs.append(epoch)
        say(
            f"epoch {len(epochs):2}/{arguments.epochs}  loss {epoch.loss:.4f}  "
            f"validation {100 * epoch.valid_accuracy:.2f} %  {epoch.seconds:.1f} s"
        )
    x, y = sequences(data.test)
    test_accuracy = accuracy(net, x, y)
    say(f"test        {100 * test_accuracy:.2f} % of {len(y):,} images")
    say(str(linrec.report(net)))

    error = streaming_error(net, x[:STREAMED])
    say(f"streaming   {len(x[:STREAMED])} images one pixel at a time: scores differ by at most {error:.1e}")
    ms = step_times(network, x[: arguments.batch_size], y[: arguments.batch_size])
    speedup = ms["loop"] / ms["compiled"]
    say(f"train step  loop {ms['loop']:.1f} ms, compiled {ms['compiled']:.2f} ms, by hand {ms['handwritten']:.2f} ms")
    say(f"speed-up    {speedup:.0f}x over the loop")
    result = {
        "data": data.name,
        "test_accuracy": test_accuracy,
        "parameters": parameters,
        **{f"{name}_step_ms": value for name, value in ms.items()},
        "train_step_speedup": speedup,
        "recurrent_max_abs_error": error,
        "seconds_per_epoch": statistics.median(e.seconds for e in epochs),
        "valid_accuracies": [e.valid_accuracy for e in epochs],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if arguments.plot is not None:
        plot(arguments.plot, epochs, result)
    return result


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above zero, got {text}")
    return value


def parse_arguments() -> argparse.Namespace:
    """The flags of this example."""
    parser = argparse.ArgumentParser(description="Train and time a Legendre Memory Unit on permuted sequential MNIST.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the four official MNIST files")
    parser.add_argument("--epochs", type=positive, default=15)
    parser.add_argument("--batch-size", type=positive, default=100)
    parser.add_argument("--perm", choices=("nru", "keras"), default="nru", help="which published order of the pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive, help="number of threads; torch's own choice if not given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write accuracies and step times to FILE.png")
    return parser.parse_args()


def main() -> int:
    """Run with the arguments of the command line; returns the exit status."""
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        for path in (arguments.json, arguments.plot):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        result = run(arguments, Console())
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
