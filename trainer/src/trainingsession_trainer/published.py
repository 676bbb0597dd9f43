"""What finished sessions have left: found by their records, and written to local files that are checked.

A file of GridFS that no record names was never published, whatever it is called: its attempt was killed, or replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import CorruptGridFile, NoFile
from pymongo.database import Database
from pymongo.errors import PyMongoError

from .errors import DataError, SpecError
from .mongodb import Document, patiently, storage_error
from .records import COLLECTION, Artifact

_FINISHED: Mapping[str, Any] = {"result": {"$exists": True}}
_PIECE_BYTES = 1 << 20
_MOST_NAMED = 50


def artifacts_of(database: Database[Document], name: str) -> Mapping[str, Artifact]:
    """Give the artifacts of the newest finished session called `name`, by their names; empty where there is none."""
    query, newest_first = {**_FINISHED, "name": name}, [("result.publishedAt", -1)]
    record = patiently(lambda: database[COLLECTION].find_one(query, sort=newest_first), "find the session")
    found = record["result"]["artifacts"] if record else ()
    return {one["name"]: Artifact(one["name"], one["id"], one["bytes"], one["sha256"]) for one in found}


def some_artifacts(database: Database[Document]) -> list[str]:
    """Name artifacts of finished sessions as `session/file`, for somebody who asked for one that is not there."""
    fields = {"name": 1, "result.artifacts.name": 1}
    records = patiently(
        lambda: list(database[COLLECTION].find(dict(_FINISHED), fields).limit(_MOST_NAMED)), "read the records"
    )
    names = {f"{record['name']}/{one['name']}" for record in records for one in record["result"]["artifacts"]}
    return sorted(names)[:_MOST_NAMED]


def fetch(database: Database[Document], artifact: Artifact, title: str, target: Path) -> None:
    """Write an artifact, which sentences call `title`, to `target`, if it has the digest of its record.

    Raises DataError, StorageError, SpecError.
    """
    partial, digest = target.with_name(target.name + ".part"), hashlib.sha256()
    try:
        with (
            GridFSBucket(database, "artifacts").open_download_stream(ObjectId(artifact.id)) as stream,
            partial.open("wb") as file,
        ):
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != artifact.sha256:
            raise DataError(f"{title} is damaged in the database: its SHA-256 is not the published one; train again.")
        partial.replace(target)
    except CorruptGridFile as error:
        raise DataError(f"{title} is damaged in the database ({error}); train again.") from error
    except NoFile as error:
        raise DataError(f"{title} is gone from the database; train again.") from error
    except PyMongoError as error:
        raise storage_error(error, f"read {title}") from error
    except OSError as error:
        raise SpecError(f"{partial} cannot be written ({error.strerror}); choose another --output.") from error
    finally:
        partial.unlink(missing_ok=True)
