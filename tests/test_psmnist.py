"""The psMNIST example: its data are what was published or refused in one line, and it runs from end to end."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psmnist_data
import pytest
from psmnist_data import DataError, Images

SCRIPT = Path(psmnist_data.__file__).with_name("lmu_psmnist.py")


def example(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def official(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two training and two test images in official file names, with their checksums taken for the official ones."""
    for part in ("train", "t10k"):
        pixels = gzip.compress(bytes(16) + bytes(range(256)) * 6 + bytes(32))
        labels = gzip.compress(bytes(8) + bytes([3, 7]))
        for name, content in ((f"{part}-images-idx3-ubyte.gz", pixels), (f"{part}-labels-idx1-ubyte.gz", labels)):
            (folder / name).write_bytes(content)
            monkeypatch.setitem(psmnist_data.SHA256, name, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(("order", "start"), [("nru", [46, 466, 537, 44, 515]), ("keras", [693, 85, 647, 392, 765])])
def test_pixel_orders_are_the_published_ones(order: psmnist_data.Order, start: list[int]) -> None:
    shuffle, pixels = psmnist_data.permutations(order)
    assert pixels[:5].tolist() == start
    assert sorted(pixels) == list(range(784)) and sorted(shuffle) == list(range(60000))


def test_split_keeps_images_with_their_labels() -> None:
    labels = np.arange(12, dtype=np.uint8)
    images = Images(np.repeat(labels[:, None], 784, 1) + np.arange(784).astype(np.uint8), labels)
    data = psmnist_data.permuted("twelve", images, images, "nru")
    assert len(data.train.labels) == 10 and len(data.valid.labels) == 2
    for part in (data.train, data.valid, data.test):
        assert (part.pixels[:, 0] == part.labels + 46).all()


def test_official_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official(tmp_path, monkeypatch)
    name, train, test = psmnist_data.find(tmp_path, print)
    assert name == "mnist" and train.pixels.shape == test.pixels.shape == (2, 784)
    assert train.pixels[0, :3].tolist() == [0, 1, 2] and train.labels.tolist() == [3, 7]


def test_altered_file_is_named_with_both_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official(tmp_path, monkeypatch)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"altered")
    digests = hashlib.sha256(b"altered").hexdigest(), psmnist_data.SHA256[path.name]
    with pytest.raises(DataError) as error:
        psmnist_data.find(tmp_path, print)
    assert str(error.value) == f"{path}: sha256 is {digests[0]}, expected {digests[1]}"


def test_without_a_network_the_embedded_set_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(psmnist_data, "MIRRORS", ("http://127.0.0.1:9/",))
    lines: list[str] = []
    name, train, test = psmnist_data.find(None, lines.append)
    assert name == "mnist-mini-5000-1000" and len(lines) == 1
    assert train.pixels.shape == (5000, 784) and test.pixels.shape == (1000, 784)


def test_silent_mirror_does_not_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(psmnist_data, "REACH_S", 0.2)
    monkeypatch.setattr(psmnist_data, "READ_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts and never answers
        monkeypatch.setattr(psmnist_data, "MIRRORS", (f"http://127.0.0.1:{server.getsockname()[1]}/",))
        lines: list[str] = []
        assert psmnist_data.find(None, lines.append)[0] == "mnist-mini-5000-1000"
    assert "TimeoutError" in lines[0]


def test_wrong_data_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = example("--data", tmp_path)
    name, digest = next(iter(psmnist_data.SHA256.items()))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / name}: No such file or directory; expected a file with sha256 {digest}\n"
    )


@pytest.mark.slow
def test_example_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # no network, so the embedded set
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = example("--epochs", "3", "--json", tmp_path / "out.json", "--plot", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["parameters"] == 166_092
    assert result["test_accuracy"] > 0.85
    assert result["recurrent_max_abs_error"] < 1e-3
    assert result["train_step_speedup"] > 20
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
