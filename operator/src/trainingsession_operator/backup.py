"""`python -m trainingsession_operator.backup make|restore`: a backup of MongoDB, and the way back.

The chart runs it in CronJobs (docs/backup.md). Passwords come from mounted Secrets, never from the command line.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from .archive import Archive, ArchiveWriter, Json
from .archives import Archives, new_name
from .bucket import Bucket
from .dump import Client, Dump
from .errors import OperatorError, StartError
from .load import load
from .mongodb import check_uri, connect, server_uri, with_authorities
from .places import Folder

log = logging.getLogger("backup")


def make(client: Client, archives: Archives, keep: int, *, features: bool, now: datetime) -> str:
    """Make a backup, check it, delete the oldest beyond `keep`; gives its name."""
    name = new_name(now)

    def write(out: IO[bytes]) -> Json:
        return Dump(client, ArchiveWriter(out), features).run()

    manifest, size = archives.store(name, write)
    sessions = sum(found.get("sessions", 0) for found in manifest["databases"].values())
    log.info(
        "backup %s: %d databases with the records of %d sessions as of %s, %d bytes, read back and found whole",
        name, len(manifest["databases"]), sessions, manifest["at"], size,
    )  # fmt: skip
    for old in archives.thin_out(keep, now):
        log.info("deleted the old backup %s", old)
    log.info("backups that are there: %s", ", ".join(archives.names()))
    return name


def restore(client: Client, archives: Archives, name: str = "", database: str = "") -> str:
    """Restore the newest backup or the one of this name, all databases or only one; gives its name."""
    chosen = archives.chosen(name)
    log.info("backups that are there: %s", ", ".join(archives.names()))
    log.info("restoring %s; it is read once at first, to see that it is whole", chosen)
    with archives.open(chosen) as file:
        archive = Archive(file)
        log.info("it holds what MongoDB held at %s", archive.manifest["at"])
        done = load(client, archive, database)
    log.info(
        "restored %s: %d databases, %d documents, %d were there already",
        chosen, len(done), sum(one.written for one in done.values()), sum(one.present for one in done.values()),
    )  # fmt: skip
    return chosen


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; argparse exits with a sentence on a wrong one."""
    parser = argparse.ArgumentParser(
        prog="python -m trainingsession_operator.backup",
        description="Back MongoDB up, or restore a backup. The chart's CronJobs run this; see docs/backup.md.",
    )
    common = argparse.ArgumentParser(add_help=False)
    server = common.add_mutually_exclusive_group(required=True)
    server.add_argument("--uri-file", type=Path, help="file with the administrator's URI of MongoDB")
    server.add_argument("--hosts", help="host:port of the chart's MongoDB, with --replica-set and --credentials")
    common.add_argument("--replica-set", default="rs0", help="name of its replica set")
    common.add_argument("--credentials", type=Path, help="folder with the files username and password")
    common.add_argument("--ca-file", default="", help="authorities of MongoDB's certificate, where it speaks TLS")
    place = common.add_mutually_exclusive_group(required=True)
    place.add_argument("--folder", type=Path, help="folder that keeps the backups")
    place.add_argument("--bucket", help="s3://NAME or s3://NAME/FOLDER that keeps the backups")
    common.add_argument("--bucket-secret", type=Path, help="folder with the files accessKeyId and secretAccessKey")
    common.add_argument("--bucket-endpoint", default="", help="address of a server that is not Amazon's")
    common.add_argument("--bucket-region", default="", help="region of the bucket")
    common.add_argument("--bucket-ca-file", default="", help="authorities that are trusted besides, for the bucket")
    what = parser.add_subparsers(dest="what", required=True, metavar="make|restore")
    making = what.add_parser("make", parents=[common], help="make a backup, and delete the oldest ones")
    making.add_argument("--keep", type=int, default=7, help="how many backups are kept, default %(default)s")
    making.add_argument("--features", action="store_true", help="with features, which can be computed again")
    restoring = what.add_parser("restore", parents=[common], help="restore a backup")
    restoring.add_argument(
        "--archive", default=os.environ.get("ARCHIVE", ""), help="name of the backup; default $ARCHIVE, or the newest"
    )
    restoring.add_argument(
        "--database", default=os.environ.get("DATABASE", ""), help="only this database; default $DATABASE, or all"
    )
    return parser.parse_args(arguments)


def _uri(arguments: argparse.Namespace) -> str:
    try:
        if arguments.uri_file:
            uri = arguments.uri_file.read_text(encoding="utf-8").strip()
            wrong = check_uri(uri)
            if wrong:
                raise StartError(f"{arguments.uri_file}: {wrong}")
        else:
            if arguments.credentials is None:
                raise StartError("--hosts needs --credentials, a folder with username and password")
            user, password = ((arguments.credentials / key).read_text().strip() for key in ("username", "password"))
            uri = server_uri(arguments.hosts, arguments.replica_set, user, password)
    except OSError as error:
        raise StartError(f"MongoDB's address or password cannot be read: {error}") from error
    return with_authorities(uri, arguments.ca_file)


def _archives(arguments: argparse.Namespace) -> Archives:
    if arguments.folder:
        return Archives(Folder(arguments.folder))
    endpoint, region, secret = arguments.bucket_endpoint, arguments.bucket_region, arguments.bucket_secret
    authorities = arguments.bucket_ca_file
    return Archives(Bucket(arguments.bucket, endpoint=endpoint, region=region, secret=secret, authorities=authorities))


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; 0, or 1 with a sentence."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    told = read_arguments(arguments)
    try:
        client, archives = connect(_uri(told)), _archives(told)
        work = (
            partial(make, keep=told.keep, features=told.features, now=datetime.now(UTC))
            if told.what == "make"
            else partial(restore, name=told.archive, database=told.database)
        )
        work(client, archives)
    except OperatorError as error:
        log.error("%s failed: %s", "the backup" if told.what == "make" else "the restore", error)  # noqa: TRY400
        return 1
    return 0


def _stop(signum: int, frame: FrameType | None) -> None:
    """End in order, so that a file that is being written is removed."""
    sys.exit(f"stopped by signal {signum}; the deadline is backup.deadlineMinutes")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
