"""Image files and archives of them, made by the test that reads them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainingsession_trainer.reporting import Reporter


def go_on() -> bool:
    """Never stop."""
    return False


def stop_at(call: int) -> Any:
    """Ask to stop when asked for the `call`-th time."""
    asked = iter(range(1, 1_000_000))
    return lambda: next(asked) >= call


def quiet() -> Reporter:
    """A reporter that nobody listens to."""
    return Reporter(io.StringIO())


def png(number: int, size: tuple[int, int] = (2, 2)) -> bytes:
    """A PNG file; different numbers give different pixels."""
    out = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 7)).save(out, "PNG")
    return out.getvalue()


def pixels(height: int, width: int, seed: int = 0) -> Any:
    """Pixels without symmetry, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def layout(**counts: int) -> dict[str, bytes]:
    """Files for folders: `train__cat=3` stands for three images in train/cat."""
    files = {}
    for folder, count in counts.items():
        for _ in range(count):
            files[f"{folder.replace('__', '/')}/{len(files)}.png"] = png(len(files))
    return files


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w", **options: Any) -> Path:
    """Pack files into a tar; `mode` as for tarfile (w, w:gz, w:xz, w:bz2)."""
    with tarfile.open(path, mode, **options) as packed:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            packed.addfile(header, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pack files into a zip."""
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path
