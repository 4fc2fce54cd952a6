"""Permuted sequential MNIST: every image one sequence of 784 pixels, in one fixed random order.

The four official files are read only if their SHA-256 is the official one. `find` takes them from a folder; without
one it downloads them once into a cache, and where there is no network it falls back on the 6,000 images beside this
file. Whatever is wrong with the data is a `DataError` of one line.

Two published orders, each with its own split of the 60,000 training images into 50,000 to train on and the last
10,000 to validate on:

    nru    Chandar et al. 2019, also used by Voelker, Kajic and Eliasmith 2019: RandomState(50) first shuffles the
           training images, then draws the order of the pixels
    keras  RandomState(0) draws the order of the pixels; the images stay in file order
"""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["nru", "keras"]

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {  # the smallest file first: it also tells whether a mirror can be reached
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
}
EMBEDDED = Path(__file__).parent / "data" / "mnist-mini-5000-1000.npz"
EMBEDDED_SHA256 = "b3e1e931eb21db5af5b764b1abfb015d1da2f421c627efce487f9a3bb0b3b089"
ORDER_SHA256 = {  # of the order of the pixels as little-endian int64
    "nru": "dda347f72737de70dcf06700b3a567682e34166f6ae9c3ffde5463bdf224f8b6",
    "keras": "fe62e3fef305ce16e55f08cd0056a8b237e12af6c9523ff3fb35395f6ec55222",
}
REACH_S = 8.0  # how long one mirror may take to hand over the smallest file
READ_S = 20.0  # how long a connection may stay silent after that


class DataError(Exception):
    """The data are missing or not what they should be."""


@dataclass(frozen=True)
class Images:
    """Images (N, 784) of bytes and their labels (N,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.shape != (len(self.labels), 784):
            raise DataError(f"expected as many images of 784 pixels as labels, got {self.pixels.shape}")


@dataclass(frozen=True)
class Dataset:
    """One permuted data set; `name` says which images and which order."""

    name: str
    train: Images
    valid: Images
    test: Images


def find(folder: Path | None, say: Callable[[str], None]) -> tuple[str, Images, Images]:
    """Name, training and test images: of `folder` if given, else downloaded, else the small set in the repository.

    A missing or altered file is a DataError that holds its path and both checksums; `say` gets one line for what else
    the user should know. Without a network this takes at most REACH_S a mirror.
    """
    if folder is None:
        folder = _download(say)
    if folder is None:
        _require(EMBEDDED, EMBEDDED_SHA256)
        with np.load(EMBEDDED) as arrays:
            train = Images(arrays["x_train"].reshape(-1, 784), arrays["y_train"])
            return "mnist-mini-5000-1000", train, Images(arrays["x_test"].reshape(-1, 784), arrays["y_test"])
    for name, digest in SHA256.items():
        _require(folder / name, digest)
    return "mnist", _read(folder, "train"), _read(folder, "t10k")


def permuted(name: str, train: Images, test: Images, order: Order) -> Dataset:
    """Shuffle, split and permute the way `order` was published; a sixth of the training images validates."""
    shuffle, pixels = permutations(order)
    if order == "nru" and len(train.labels) == len(shuffle):  # the small set has nothing to compare with: file order
        train = Images(train.pixels[shuffle], train.labels[shuffle])
    cut = len(train.labels) - len(train.labels) // 6
    return Dataset(
        f"{name}, order {order}",
        Images(train.pixels[:cut, pixels], train.labels[:cut]),
        Images(train.pixels[cut:, pixels], train.labels[cut:]),
        Images(test.pixels[:, pixels], test.labels),
    )


def permutations(order: Order) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The published order of the 60,000 training images and of the 784 pixels."""
    random = np.random.RandomState(50 if order == "nru" else 0)
    shuffle = random.permutation(60000) if order == "nru" else np.arange(60000)
    pixels = random.permutation(784)
    digest = hashlib.sha256(pixels.astype("<i8").tobytes()).hexdigest()
    if digest != ORDER_SHA256[order]:
        raise DataError(f"order {order}: sha256 is {digest}, expected {ORDER_SHA256[order]}")
    return shuffle, pixels


def _require(path: Path, digest: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file with sha256 {digest}") from None
    if found != digest:
        raise DataError(f"{path}: sha256 is {found}, expected {digest}")


def _read(folder: Path, part: str) -> Images:
    # idx format: a header of 4 bytes and 4 bytes a dimension, then the bytes of the array.
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return Images(
        np.frombuffer(pixels, np.uint8, offset=16).copy().reshape(-1, 784),
        np.frombuffer(labels, np.uint8, offset=8).copy(),
    )


def _download(say: Callable[[str], None]) -> Path | None:
    """The cache folder, filled and checked; None where no mirror can be reached."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    cache = Path(pooch.os_cache("linrec")) / "mnist"
    problem = OSError("there are no mirrors")
    for mirror in MIRRORS:
        try:
            _within(REACH_S, partial(_fetch, mirror, next(iter(SHA256)), cache))
            for name in SHA256:
                if not (cache / name).exists():
                    say(f"downloading {mirror}{name}")
                _fetch(mirror, name, cache)
            return cache
        except OSError as error:  # no connection, or no place to write to
            problem = error
        except ValueError as error:  # another checksum; the text holds both
            raise DataError(f"{mirror}: {' '.join(str(error).split())}") from None
    say(f"cannot download MNIST ({type(problem).__name__}): using the {EMBEDDED.name} that lies in the repository")
    return None


def _fetch(mirror: str, name: str, cache: Path) -> None:
    """Download to a temporary name, check, rename; a file that is there and right is left alone."""
    import pooch

    identity = {"Accept-Encoding": "identity"}  # or a server may unpack the .gz on the way
    downloader = pooch.HTTPDownloader(timeout=READ_S, headers=identity)
    pooch.retrieve(mirror + name, f"sha256:{SHA256[name]}", fname=name, path=cache, downloader=downloader)


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Run `action` or raise TimeoutError: a name server that does not answer obeys no timeout of the request."""
    raised: list[OSError | ValueError] = []

    def run() -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # what the caller tells apart: no connection, another checksum
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]
