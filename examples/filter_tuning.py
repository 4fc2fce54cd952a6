"""Design a filter with scipy, compile it, and fine-tune it by gradient on an electrocardiogram.

A lead of record 100 of the MIT-BIH Arrhythmia Database (360 Hz) is spoilt by mains hum, muscle noise and a wandering
baseline. A Butterworth band-pass of order 8 is the textbook cure; its 4 sections are then trained, in coordinates that
keep it stable, to give back the clean signal some samples later. The second half of the record is never trained on.

    python examples/filter_tuning.py --plot examples/filter_tuning.png             # downloads 2 MB once, checked
    python examples/filter_tuning.py --data FOLDER                                 # 100.dat lies there
    python examples/filter_tuning.py --generated                                   # a made-up heartbeat instead

Goldberger et al. 2000, PhysioBank, PhysioToolkit and PhysioNet; Moody and Mark 2001 (the database, ODC-By 1.0).
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import torch
from numpy.typing import NDArray

import linrec

URL = "https://physionet.org/files/mitdb/1.0.0/100.dat"
SHA256 = "b2ea3c250e56e48f4b7b90697832b8ecd1afa1e0bb31f2dcfea4ed6e1075a639"
RATE = 360  # samples a second
Signal = NDArray[np.float64]


class DataError(Exception):
    """The record is missing or not what it should be."""


def record(folder: Path | None) -> Signal:
    """The first lead in mV, (650000,): of `folder` if given, else downloaded once. Raises DataError."""
    if folder is not None:
        path = folder / "100.dat"
        if not path.is_file():
            raise DataError(f"{path} is missing; it is {URL}")
    else:
        import pooch

        try:
            path = Path(pooch.retrieve(URL, known_hash=f"sha256:{SHA256}", progressbar=False))
        except (OSError, ValueError) as error:
            raise DataError(f"{URL} could not be fetched ({error}); give --data FOLDER or --generated") from error
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise DataError(f"{path} has SHA-256 {found}, not {SHA256}")
    return decoded(data)


def decoded(data: bytes) -> Signal:
    """The first of two leads in format 212: three bytes are two signed samples of 12 bits, 200 to the mV around 1024."""
    triples = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
    first = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    first[first >= 2048] -= 4096
    return (first - 1024) / 200.0


def heartbeat(seconds: float, seed: int = 0) -> Signal:
    """A made-up lead: five bumps a beat, beats about 0.8 s apart."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    beats = np.cumsum(0.8 + 0.04 * rng.standard_normal(int(seconds / 0.8) + 2))
    waves = [(-0.2, 0.12, 0.03), (-0.03, -0.1, 0.012), (0.0, 1.1, 0.014), (0.035, -0.2, 0.013), (0.25, 0.25, 0.05)]
    return np.asarray(sum(h * np.exp(-((t - b - at) ** 2) / (2 * w**2)) for b in beats for at, h, w in waves))


def spoilt(clean: Signal, seed: int = 0) -> Signal:
    """Mains hum at 60 Hz, muscle noise, and a baseline that moves with the breath."""
    rng = np.random.default_rng(seed)
    t = np.arange(len(clean)) / RATE
    hum = 0.15 * np.sin(2 * np.pi * 60 * t + 1.0)
    breath = 0.3 * np.sin(2 * np.pi * 0.25 * t) + 0.1 * np.sin(2 * np.pi * 0.1 * t)
    return clean + hum + breath + 0.08 * rng.standard_normal(len(clean))


@dataclass(frozen=True)
class Outcome:
    """Signal-to-noise ratios in dB on the half that was not trained on, and what the plot shows."""

    before: float
    designed: float
    tuned: float
    losses: list[float]
    signals: dict[str, Signal]
    net: Any


def ratio(found: Signal, wanted: Signal) -> float:
    """10 log10 of the wanted signal's power over that of the difference, after the best gain."""
    gain = float(found @ wanted / (found @ found))
    return float(10 * np.log10(np.var(wanted) / np.var(wanted - gain * found)))


def tune(clean: Signal, *, steps: int = 100, window: int = 3600, rate: float = 1e-2) -> Outcome:
    """Fine-tune the designed filter on the first half of `clean`, judge it on the second."""
    clean = clean - np.median(clean)
    sos = scipy.signal.butter(4, [0.7, 35.0], "bandpass", fs=RATE, output="sos")
    noisy = spoilt(clean)
    half = len(clean) // 2
    settled = RATE  # the first second of a window starts from rest and is not judged
    designed = scipy.signal.sosfilt(sos, noisy)
    # the designed filter's own delay: where its output is nearest to the signal, found on the first half
    lags = [ratio(designed[settled + k : half], clean[settled : half - k]) for k in range(RATE // 8)]
    delay = int(np.argmax(lags))
    late = np.concatenate([np.zeros(delay), clean[: len(clean) - delay]])
    count = half // window
    x, y = (torch.as_tensor(s[: count * window].reshape(count, window)) for s in (noisy, late))
    net: Any = linrec.filter(sos=sos, trainable=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(x)[:, settled:] - y[:, settled:]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        after = net(torch.as_tensor(noisy[half:])[None])[0].numpy()
    judged, wanted = slice(half + settled, None), late[half + settled :]
    signals = {"clean": late[half:], "noisy": noisy[half:], "designed": designed[half:], "tuned": after}
    before = ratio(noisy[judged], clean[judged])
    return Outcome(before, ratio(designed[judged], wanted), ratio(after[settled:], wanted), losses, signals, net)


def plot(outcome: Outcome, path: Path) -> None:
    """Three seconds of the signals, and the frequency responses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", width_ratios=[2, 1])
    at = slice(10 * RATE, 13 * RATE)
    time = np.arange(at.stop - at.start) / RATE
    for (name, signal), colour in zip(outcome.signals.items(), ("black", "0.8", "tab:blue", "tab:orange"), strict=True):
        left.plot(time, signal[at], color=colour, lw=1, label=name, zorder=0 if name == "noisy" else 2)
    left.set(xlabel="time in s", ylabel="mV", title="an electrocardiogram, 3 s that were not trained on")
    left.legend(ncols=4, fontsize=8)
    impulse = torch.zeros(1, 20 * RATE, dtype=torch.float64)
    impulse[0, 0] = 1
    with torch.no_grad():
        tuned = np.abs(np.fft.rfft(outcome.net(impulse)[0].numpy()))
    sos = scipy.signal.butter(4, [0.7, 35.0], "bandpass", fs=RATE, output="sos")
    designed = np.abs(np.fft.rfft(scipy.signal.sosfilt(sos, impulse[0].numpy())))
    hertz = np.fft.rfftfreq(20 * RATE, 1 / RATE)
    right.loglog(hertz[1:], designed[1:], color="tab:blue", label=f"designed, {outcome.designed:.1f} dB")
    right.loglog(hertz[1:], tuned[1:], color="tab:orange", label=f"tuned, {outcome.tuned:.1f} dB")
    right.set(
        xlabel="frequency in Hz",
        ylabel="gain",
        ylim=(1e-3, 3),
        title=f"signal to noise: {outcome.before:.1f} dB before",
    )
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Tune, print the ratios, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with 100.dat")
    parser.add_argument("--generated", action="store_true", help="a made-up heartbeat instead of the record")
    parser.add_argument("--seconds", type=float, default=300.0, help="how much of the record to use")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    try:
        clean = heartbeat(options.seconds) if options.generated else record(options.data)
    except DataError as error:
        parser.exit(2, f"error: {error}\n")
    outcome = tune(clean[: int(options.seconds * RATE)], steps=options.steps)
    print(outcome.net.report)
    print(
        f"signal to noise: {outcome.before:.1f} dB spoilt, {outcome.designed:.1f} dB designed, {outcome.tuned:.1f} dB tuned"
    )
    if options.plot:
        plot(outcome, options.plot)


if __name__ == "__main__":
    main()
