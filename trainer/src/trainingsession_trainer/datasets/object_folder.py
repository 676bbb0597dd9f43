"""Class folders in a bucket: all objects below a prefix, listed first, then fetched several at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainingsession_trainer.errors import DataError
from trainingsession_trainer.reporting import Reporter

from .archives import MOST_BYTES, Stored, is_wanted
from .credentials import Credentials
from .download import NETWORK_SECONDS, REPORT_SECONDS, again, check_room
from .files import Disk, Stop, check_stop, free_bytes, sha256_of
from .object_store import Bucket, Listed

MOST_OBJECTS = 500_000
"""Each costs a request; what is more comes faster as an archive."""
AT_ONCE = 16
BATCH = 512
"""Objects that are tried again together when the network fails."""
_LISTED, _FETCHED = "the objects were listed", "the images were downloaded"


@dataclass(frozen=True)
class _Image:
    name: PurePosixPath
    path: str
    size: int


def download_folder(
    uri: str,
    field: str,
    folder: Path,
    suffixes: frozenset[str],
    reporter: Reporter,
    stop: Stop,
    disk: Disk,
    credentials: Credentials,
) -> list[Stored]:
    """Fetch the images below a prefix into `folder`, under names of our own; raises SpecError, DataError, Stopped."""
    reporter.info(f"Listing {uri}")
    folder.mkdir(parents=True, exist_ok=True)
    threads = ThreadPoolExecutor(AT_ONCE, "objects")
    try:
        prefix = _Prefix(uri, field, stop, threads, credentials)
        images = again(lambda: prefix.images(suffixes), uri, field, reporter, stop, disk)
        total, done, told = sum(image.size for image in images), 0, time.monotonic()
        check_room(total, disk.room(), uri, field, disk)
        reporter.info(f"Downloading {len(images):,} images of {total / 1e6:,.1f} MB")
        targets = {image.path: folder / f"{i:08}{image.name.suffix.lower()}" for i, image in enumerate(images)}
        stored: dict[str, Stored] = {}
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            size = sum(image.size for image in batch)
            check_room(size, free_bytes(folder), uri, field, disk)
            again(lambda batch=batch: prefix.fetch(batch, targets, stored), uri, field, reporter, stop, disk)  # type: ignore[misc]
            done += size
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                reporter.info(f"Downloaded {len(stored):,} of {len(images):,} images, {done / 1e6:,.0f} MB")
        return [stored[image.path] for image in images]
    finally:
        # A session that ends does not begin what is still waiting.
        threads.shutdown(cancel_futures=True)


class _Prefix:
    """What lies below an address, asked for by several threads; raises OSError besides what is said of an address."""

    def __init__(self, uri: str, field: str, stop: Stop, threads: ThreadPoolExecutor, credentials: Credentials) -> None:
        self._place = f"{field}.uri {uri}"
        self._stop = stop
        self._threads = threads
        self._bucket = Bucket(uri, credentials, NETWORK_SECONDS)

    def images(self, suffixes: frozenset[str]) -> list[_Image]:
        """List them, sorted by name, one level of folders after the other."""
        found: list[_Image] = []
        seen, level = 0, [self._bucket.root]
        while level:
            below: list[str] = []
            for listing in self._threads.map(self._names, level):
                seen += len(listing)
                if seen > MOST_OBJECTS:
                    raise DataError(
                        f"{self._place} holds more than {MOST_OBJECTS:,} objects; pack the images into an archive, "
                        "which also comes faster."
                    )
                for one in listing:
                    if "//" in one.path or one.path.endswith("/"):
                        raise DataError(f"{self._place} holds {one.path}, a name with an empty part; give it another.")
                    name = PurePosixPath(one.path[len(self._bucket.root) + 1 :])
                    if one.is_folder:
                        below.append(one.path)
                    elif is_wanted(name, suffixes):
                        found.append(self._image(name, one))
            level = below
        if not seen:
            raise DataError(f"{self._place} holds no object; check the bucket and the prefix.")
        return sorted(found, key=lambda image: image.path)

    def fetch(self, images: Sequence[_Image], targets: dict[str, Path], stored: dict[str, Stored]) -> None:
        """Fetch those that are not in `stored` yet, and put them there."""
        missing = [image for image in images if image.path not in stored]
        for done in self._threads.map(lambda image: self._fetch(image, targets[image.path]), missing):
            stored[done[0]] = done[1]

    def _names(self, folder: str) -> list[Listed]:
        check_stop(self._stop, _LISTED)
        return self._bucket.names(folder)

    def _image(self, name: PurePosixPath, one: Listed) -> _Image:
        if one.size > MOST_BYTES:
            raise DataError(f"{name} has {one.size:,} bytes, more than {MOST_BYTES:,}; make the image smaller.")
        return _Image(name, one.path, one.size)

    def _fetch(self, image: _Image, target: Path) -> tuple[str, Stored]:
        check_stop(self._stop, _FETCHED)
        changed = DataError(
            f"{self._place} changed while it was read ({image.name}); start a session when it is whole."
        )
        came = 0

        def more(size: int) -> None:
            nonlocal came
            check_stop(self._stop, _FETCHED)
            came += size
            if came > image.size:
                raise changed

        self._bucket.fetch(image.path, target, more)
        if came != image.size:
            raise changed
        return image.path, Stored(image.name, target, sha256_of(target, self._stop, _FETCHED))
