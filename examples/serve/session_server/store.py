"""The artifacts of a session, read from MongoDB: the record names them, GridFS holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .errors import StartError

_WAIT_MILLISECONDS = 20_000
_PIECE_BYTES = 1 << 20


def fetch_artifacts(
    uri: str, database: str, session: str, forms: Sequence[Sequence[str]], folder: Path
) -> tuple[str, ...]:
    """Write the files of the first of `forms` that the session has into `folder`, and give their names.

    Of several sessions of that name the one counts that published last. Raises StartError.
    """
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=_WAIT_MILLISECONDS) as client:
            store = client[database]
            listed = _artifacts(store, session)
            for form in forms:
                if all(name in listed for name in form):
                    for name in form:
                        _fetch(store, f"{session}/{name}", listed[name], folder / name)
                    return tuple(form)
    except PyMongoError as error:
        # The driver's own words may hold the whole URI.
        raise StartError(f"MongoDB does not answer ({type(error).__name__}); the service starts again.") from error
    wanted = ", ".join(form[0] for form in forms)
    raise StartError(
        f"Session {session} has none of {wanted}, which this image can serve; it has {', '.join(sorted(listed))}. "
        "List onnx in spec.artifacts.exports, or build the image with requirements-keras.txt."
    )


def _artifacts(store: Database[dict[str, Any]], session: str) -> Mapping[str, Mapping[str, Any]]:
    finished = {"name": session, "result": {"$exists": True}}
    record = store["sessions"].find_one(finished, sort=[("result.publishedAt", -1)])
    if record is None:
        raise StartError(f"There is no finished session {session} in the database; look at `kubectl get ts`.")
    return {str(item["name"]): item for item in record["result"]["artifacts"]}


def _fetch(store: Database[dict[str, Any]], name: str, listed: Mapping[str, Any], target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with (
            GridFSBucket(store, "artifacts").open_download_stream(ObjectId(str(listed["id"]))) as stream,
            target.open("wb") as file,
        ):
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
    except (NoFile, InvalidId) as error:
        raise StartError(f"{name} is not in MongoDB any more; train again.") from error
    except CorruptGridFile as error:
        raise StartError(f"{name} is damaged in MongoDB ({error}); train again.") from error
    except OSError as error:
        raise StartError(f"{target} cannot be written ({error.strerror}); enlarge the emptyDir of /tmp.") from error
    if digest.hexdigest() != listed["sha256"]:
        raise StartError(f"{name} is damaged in MongoDB: its SHA-256 is not the published one; train again.")
