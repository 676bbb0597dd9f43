"""Checkpoints of a head's training in MongoDB: from the last one, the next attempt goes on.

A file in the GridFS bucket `checkpoints` counts once the session's record names it, with its SHA-256. The record is
only written by the attempt that holds it, so a replaced one changes nothing. A checkpoint that cannot be used costs
the epochs that are in it and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import IO, Any, cast

import numpy.typing as npt
import pymongo
from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from gridfs.synchronous.grid_file import GridIn
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .errors import StorageError
from .mongodb import PATIENCE_SECONDS, Document, patiently
from .records import Replaced, SessionRecord
from .reporting import Reporter
from .snapshot import Binding, Snapshot, SnapshotError, most_bytes, read_snapshot, write_snapshot

BUCKET = "checkpoints"
SAVE_SECONDS = 10.0
# Of the 60 s that a pod has from SIGTERM to SIGKILL; noticing it and leaving the last sentence take their time too.
LAST_SAVE_SECONDS = 35.0
_DELETE_SECONDS = 10.0


class Checkpoints:
    """The checkpoints of one session, as one attempt writes them: in the background, one at a time.

    At most three snapshots are in memory: the latest, the one being stored and, for a moment, one being taken.
    """

    def __init__(
        self,
        database: Database[Document],
        record: SessionRecord,
        binding: Binding,
        reporter: Reporter,
        stop: Callable[[], bool],
        every_seconds: float = SAVE_SECONDS,
        last_seconds: float = LAST_SAVE_SECONDS,
    ) -> None:
        self._bucket = GridFSBucket(database, BUCKET)
        self._record = record
        self._binding = binding
        self._head_epochs: int | None = None
        self._reporter = reporter
        self._stop = stop
        self._every_seconds = every_seconds
        self._last_seconds = last_seconds
        self._latest: Snapshot | None = None
        self._stored = 0  # epochs in the checkpoint that the record names
        self._saving: _Saving | None = None
        self._due = 0.0
        self._failing = False

    def load(self, like: Sequence[npt.NDArray[Any]], weights: int, epochs: int) -> Snapshot | None:
        """Give what an earlier attempt has left, and drop what it left in vain; raises StorageError, Stopped.

        `like`, `weights` as in read_snapshot; `epochs` is the most that it can hold.
        """
        self._due = time.monotonic() + self._every_seconds
        named = self._record.checkpoint()
        found = None
        if named is not None:
            try:
                data = self._read(named, most_bytes(like, epochs))
                found = self._latest = read_snapshot(data, like, weights, self._bound)
                self._stored = found.epoch
            except SnapshotError as error:
                self._reporter.info(f"The checkpoint of an earlier attempt is not used: it {error}; starting anew")
        # Only the attempt that holds the record names files, so what it does not name now is named by nobody.
        self._delete_all(keep=named.get("file") if named is not None and found is not None else None)
        return found

    def fine_tuned_after(self) -> int | None:
        """Give the head's epochs where the checkpoint that the record names is one of fine-tuning."""
        found = (self._record.checkpoint() or {}).get("headEpochs")
        return found if isinstance(found, int) else None

    def enter_fine_tuning(self, head_epochs: int) -> None:
        """Make what is loaded and stored from now on one of the phase that follows so many epochs of the head."""
        self._end_saving(self._last_seconds)
        self._head_epochs, self._due = head_epochs, 0.0

    def leave_fine_tuning(self) -> None:
        """Be as at first: the head is trained anew."""
        self._head_epochs = None

    @property
    def _bound(self) -> Binding:
        if self._head_epochs is None:
            return self._binding
        return {**self._binding, "phase": f"fine-tuning after {self._head_epochs}"}

    def offer(self, snapshot: Snapshot) -> None:
        """Take the state after an epoch, and begin to store it when the last time is long enough ago.

        Raises Replaced when a newer attempt has claimed the record.
        """
        self._latest = snapshot
        self._end_saving(0.0)
        if self._saving is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every_seconds
            bound, after = self._bound, self._head_epochs
            self._saving = _Saving(snapshot.epoch, lambda: self._save(snapshot, bound, after, PATIENCE_SECONDS, 0.0))

    def save_latest(self) -> str:
        """Store the latest state before the attempt ends, and say what the next one goes on with.

        Never raises StorageError: it gives up after `last_seconds`.
        """
        try:
            self._save_last(time.monotonic() + self._last_seconds)
        except StorageError as error:
            trouble = f"the last epochs are lost ({str(error).rstrip('.')}); "
        else:
            trouble = ""
        if self._stored:
            return f"{trouble}the next attempt goes on with epoch {self._stored + 1}"
        return f"{trouble}the next attempt finds the features and trains from the start"

    def settle(self) -> None:
        """Wait for what is being stored, so that no checkpoint is named any more after this."""
        if self._saving is not None:
            self._saving.wait(self._last_seconds)

    def remove(self) -> None:
        """Delete what nobody needs any more; raises nothing, what stays is an orphan for the sweeper."""
        self.settle()
        self._delete_all()

    def _end_saving(self, seconds: float) -> bool:
        """Take the outcome of the store that was begun, if one was; False when it does not end in time."""
        saving = self._saving
        if saving is None:
            return True
        if not saving.wait(seconds):
            return False
        self._saving = None
        try:
            saving.result()
        except StorageError as error:
            if not self._failing:
                self._reporter.info(f"{error} Training goes on without.")
            self._failing = True
        else:
            self._stored, self._failing = saving.epoch, False
        return True

    def _save_last(self, deadline: float) -> None:
        if not self._end_saving(deadline - time.monotonic()):
            raise StorageError(f"Could not store the checkpoint within {self._last_seconds:.0f} s.")
        if self._latest is None or self._latest.epoch == self._stored:
            return
        seconds = max(1.0, deadline - time.monotonic())  # 0 would be no limit at all
        self._save(self._latest, self._bound, self._head_epochs, seconds, seconds)
        self._stored = self._latest.epoch

    def _save(self, snapshot: Snapshot, bound: Binding, after: int | None, seconds: float, patience: float) -> None:
        """Store and name a snapshot within `seconds`; `patience` is for a MongoDB that is away."""
        with pymongo.timeout(seconds):
            named = patiently(lambda: self._upload(snapshot, bound), "store the checkpoint", patience)
            named |= {"headEpochs": after} if after is not None else {}
            try:
                before = self._record.name_checkpoint(named, patience)
            except Replaced:
                self._delete(named["file"])
                raise
            # Any other error leaves open whether the record names the file, so it stays.
            if before is not None and before.get("file") != named["file"]:
                self._delete(before.get("file"))

    def _upload(self, snapshot: Snapshot, bound: Binding) -> Document:
        stream = self._bucket.open_upload_stream(self._binding["session"], metadata={"epoch": snapshot.epoch})
        try:
            file = _Digesting(stream)
            write_snapshot(cast("IO[bytes]", file), snapshot, bound)
            stream.close()
        except BaseException:
            with contextlib.suppress(PyMongoError):
                stream.abort()
            raise
        sha256 = file.digest.hexdigest()
        return {"file": ObjectId(stream._id), "sha256": sha256, "bytes": file.bytes, "epoch": snapshot.epoch}

    def _read(self, named: Document, most: int) -> bytes:
        """Read the file that the record names; raises SnapshotError when it is not whole, StorageError."""
        file, size = named.get("file"), named.get("bytes")
        if not isinstance(size, int) or not 0 < size <= most:
            raise SnapshotError("does not fit the head")

        def attempt() -> bytes | None:
            try:
                with self._bucket.open_download_stream(file) as stream:
                    return bytes(stream.read(size))
            except (NoFile, CorruptGridFile):
                return None

        data = patiently(attempt, "read the checkpoint", stop=self._stop)
        if data is None:
            raise SnapshotError("is missing or damaged")
        if hashlib.sha256(data).hexdigest() != named.get("sha256"):
            raise SnapshotError("is damaged: its SHA-256 is not the one in the record")
        return data

    def _delete_all(self, keep: object = None) -> None:
        # What cannot be deleted now is an orphan for the sweeper.
        with contextlib.suppress(PyMongoError), pymongo.timeout(_DELETE_SECONDS):
            for file in self._bucket.find({"filename": self._binding["session"], "_id": {"$ne": keep}}):
                self._delete(file._id)

    def _delete(self, file: object) -> None:
        with contextlib.suppress(NoFile, PyMongoError):
            self._bucket.delete(file)


class _Digesting:
    """A file that is only written: what goes into it is counted and digested on its way to GridFS."""

    def __init__(self, stream: GridIn) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Pass data on."""
        piece = bytes(data)
        self._stream.write(piece)
        self.digest.update(piece)
        self.bytes += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing: GridFS has its own pieces."""


class _Saving:
    """One snapshot on its way to the storage, in a thread that does not outlive the process."""

    def __init__(self, epoch: int, save: Callable[[], None]) -> None:
        self.epoch = epoch
        self._save = save
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None) -> bool:
        """Wait for its end, at most so long; True when it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> None:
        """Raise what it ended with, if with an error."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._save()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error
