"""Where a module's session stands: its folders, and what its process was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import process

if TYPE_CHECKING:
    from trainingsession_trainer.datasets import Disk
    from trainingsession_trainer.reporting import Reporter
    from trainingsession_trainer.spec import Module, Session

Labels = npt.NDArray[np.int32]


@dataclass
class Handed:
    """What the module's process was given, as far as the trainer needs it afterwards."""

    class_names: tuple[str, ...]
    test_labels: Labels
    validation_labels: Labels
    samples: dict[str, int]
    shape: tuple[int, ...]
    commonest: int
    """The class that most training images have."""
    test_digests: Sequence[bytes]
    sets: Mapping[str, str]
    """Keys of the feature sets by split; none for images."""


@dataclass
class Running:
    """A module's run: where it stands, and the epochs that it has told."""

    session: Session
    module: Module
    folder: Path
    reporter: Reporter
    stop: Callable[[], bool]
    hidden: tuple[Path, ...]
    disk: Disk
    epochs: list[process.Epoch] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """Folder of what is handed over and back."""
        return self.folder / "handover"

    @property
    def workdir(self) -> Path:
        """Folder in which the module may write."""
        return self.folder / "workdir"

    @property
    def code(self) -> Path:
        """Folder of the module's own files."""
        return self.folder / "code"

    @property
    def packages(self) -> Path:
        """Folder of what its lock asks for."""
        return self.folder / "packages"
