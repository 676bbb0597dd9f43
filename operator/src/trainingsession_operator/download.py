"""`python -m trainingsession_operator.download NAMESPACE SESSION ARTIFACT`: an artifact's bytes on standard output.

Run inside the operator's pod by `kubectl exec`. What is written is checked against the digest in the session's status.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from typing import BinaryIO

from bson import ObjectId
from bson.errors import InvalidId
from gridfs import GridFSBucket
from gridfs.errors import NoFile
from pymongo.errors import PyMongoError

from .api_calls import connect
from .cluster import Cluster
from .errors import OperatorError, StartError, driver_words
from .main import mongodb_uri
from .records import Records
from .settings import read_settings
from .tenants import Server

CHUNK = 1 << 20
LINGER_SECONDS = 3.0
"""`kubectl exec` may end with the process and drop what is on its way: 1.7 of 125 MB, once in 40 times, when busy."""


def download(cluster: Cluster, store: Records, namespace: str, name: str, artifact: str, out: BinaryIO) -> str:
    """Write the artifact to `out`, and give its size and SHA-256 in words; raises OperatorError with a sentence."""
    session = cluster.session(namespace, name)
    if session is None:
        raise StartError(f"there is no session {namespace}/{name}")
    listed = {item["name"]: item for item in (session.get("status") or {}).get("artifacts", [])}
    if artifact not in listed:
        names = ", ".join(sorted(listed)) or "none yet"
        raise StartError(f'session {namespace}/{name} has no artifact "{artifact}"; it has: {names}')
    wanted = listed[artifact]
    uid = cluster.namespace_uid(namespace)
    bucket = GridFSBucket(store.namespace_database(namespace, uid or ""), "artifacts")
    digest = hashlib.sha256()
    try:
        with bucket.open_download_stream(ObjectId(wanted["id"])) as stream:
            while part := stream.read(CHUNK):
                digest.update(part)
                out.write(part)
    except (NoFile, InvalidId) as error:
        raise StartError(f"artifact {artifact} of session {namespace}/{name} is not in MongoDB any more") from error
    except PyMongoError as error:
        words = driver_words(error)
        raise StartError(f"artifact {artifact} of session {namespace}/{name} cannot be read: {words}") from error
    if digest.hexdigest() != wanted["sha256"]:
        raise StartError(
            f"artifact {artifact} of session {namespace}/{name} is damaged: its SHA-256 is not the one in the status; "
            "do not use the file, and train again in a new session"
        )
    return f"{artifact}: {wanted['bytes']} bytes, sha256 {wanted['sha256']}; see that as many arrived"


def main() -> int:
    """Parse the command line, download, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.download",
        description="Write an artifact of a finished session to standard output, checked against its SHA-256.",
        epilog="Example: kubectl exec -n trainingsession deploy/trainingsession-operator -- "
        "python -m trainingsession_operator.download default digits model.keras > model.keras",
    )
    parser.add_argument("namespace", help="namespace of the session")
    parser.add_argument("session", help="name of the session")
    parser.add_argument("artifact", help="name of the artifact, as in status.artifacts")
    arguments = parser.parse_args()
    try:
        settings = read_settings(os.environ)
        cluster = Cluster(connect(threads=2))
        store = Records(Server(mongodb_uri(cluster, settings), settings.mongodb_users == "managed"), cluster)
        words = download(cluster, store, arguments.namespace, arguments.session, arguments.artifact, sys.stdout.buffer)
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.flush()
    sys.stderr.write(f"{words}\n")
    time.sleep(LINGER_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
