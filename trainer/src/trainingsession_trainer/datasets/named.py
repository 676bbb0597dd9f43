"""The data sets that are known by name."""

from __future__ import annotations

from pathlib import Path

from trainingsession_trainer.reporting import Reporter
from trainingsession_trainer.spec import FileSource

from . import cifar, digits, mnist
from .files import Disk, Stop
from .mirror import mirrored
from .splits import Dataset


def open_named(name: str, work: Path, reporter: Reporter, stop: Stop, disk: Disk) -> Dataset:
    """Open a data set by name, downloaded from its home or the mirror; raises DataError, Stopped."""
    if name == "digits":
        return digits.load()
    if name in ("cifar10", "cifar100"):
        which = cifar.CIFAR10 if name == "cifar10" else cifar.CIFAR100
        return cifar.load(which, mirrored(which.source, which.file), work, reporter, stop, disk)
    if name == "mnist":
        return mnist.load_mnist(mirrored(mnist.MNIST, "mnist.npz"), work, reporter, stop, disk)
    sources = {
        array: mirrored(FileSource(f"{mnist.HOME}/{file}", None, sha256), f"fashion-mnist/{file}")
        for array, (file, sha256) in mnist.FASHION.items()
    }
    return mnist.load_fashion(sources, work, reporter, stop, disk)
