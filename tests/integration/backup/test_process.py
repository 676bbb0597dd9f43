"""The program as the CronJobs run it, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gridfs import GridFSBucket
from pymongo import MongoClient

from real_mongod import RealMongod

MODULE = "trainingsession_operator.backup"


def command(what: str, guarded, folder: Path, *more: str) -> list[str]:
    server = [f"--hosts={guarded.mongod.address}", "--replica-set=rs0", f"--credentials={guarded.credentials}"]
    return [sys.executable, "-m", MODULE, what, *server, f"--folder={folder}", *more]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).splitlines()[-1]


def test_the_way_there_and_back(source, target, database, tmp_path):
    database["sessions"].insert_many([{"_id": "1"}, {"_id": "2"}])
    done = run(*command("make", source, tmp_path, "--keep=3"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 databases with the records of 2 sessions" in done.stdout
    (name,) = (path.name for path in tmp_path.glob("*.zip"))
    assert last_line(done).endswith(f"backups that are there: {name}")
    back = run(*command("restore", target, tmp_path), ARCHIVE=name, DATABASE=database.name)
    assert back.returncode == 0, back.stdout + back.stderr
    assert last_line(back).endswith(f"restored {name}: 1 databases, 2 documents, 0 were there already")
    assert target.client[database.name]["sessions"].count_documents({}) == 2


def test_a_name_that_is_not_there_ends_with_the_names_that_are(source, database, tmp_path):
    database["sessions"].insert_one({"_id": "1"})
    run(*command("make", source, tmp_path))
    done = run(*command("restore", source, tmp_path), ARCHIVE="yesterday.zip")
    assert done.returncode == 1
    assert re.search(r'the restore failed: there is no backup "yesterday.zip"; there are: train', last_line(done))


def test_a_wrong_password_is_one_sentence_that_does_not_show_it(source, tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server/username").write_text("trainingsession-operator")
    (tmp_path / "server/password").write_text("wrong-one")
    arguments = command("make", source, tmp_path, f"--credentials={tmp_path / 'server'}")
    done = run(*arguments)
    assert done.returncode == 1
    assert last_line(done).endswith("the backup failed: MongoDB could not be read for a backup: Authentication failed.")
    assert "wrong-one" not in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.zip*"))


@pytest.mark.parametrize("uri", ["nonsense", "mongodb://user:hid/den@host"])
def test_a_uri_that_cannot_be_used_is_one_sentence(tmp_path, uri):
    (tmp_path / "uri").write_text(uri)
    done = run(sys.executable, "-m", MODULE, "make", f"--uri-file={tmp_path / 'uri'}", f"--folder={tmp_path}")
    assert done.returncode == 1
    assert "The MongoDB URI is not valid; use one such as" in last_line(done)
    assert "hid" not in last_line(done)


def test_the_end_of_the_pod_leaves_nothing_half(source, database, tmp_path):
    GridFSBucket(database, "artifacts").upload_from_stream("large", os.urandom(60_000_000))
    with subprocess.Popen(command("make", source, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as made:
        while not list(tmp_path.glob("*.part")):
            assert made.poll() is None
        made.send_signal(signal.SIGTERM)
        told, _ = made.communicate(timeout=60)
    assert made.returncode == 1
    assert b"stopped by signal 15; the deadline is backup.deadlineMinutes" in told
    assert list(tmp_path.iterdir()) == []


MEASURED = f"import sys; from {MODULE} import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"


def test_memory_does_not_depend_on_how_much_there_is(source, target, database, tmp_path):
    GridFSBucket(database, "artifacts").upload_from_stream("large", os.urandom(1 << 20) * 100)
    for what, server in (("make", source), ("restore", target)):
        python, _, _, *arguments = command(what, server, tmp_path)
        done = run(python, "-c", MEASURED, *arguments)
        (most,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
        print(what, int(most) // 1024, "MiB")
        # The chart's limit is 512 MiB.
        assert int(most) < 200 * 1024, what


@pytest.fixture
def mongorestore() -> str:
    found = shutil.which("mongorestore")
    if found is None:
        pytest.skip("mongorestore is not on this machine, and comes in no package that could be installed for the test")
    return found


def test_mongodb_s_own_mongorestore_reads_an_archive(mongorestore, source, database, tmp_path):
    for content in (b"x" * 300_000, b"y"):
        GridFSBucket(database, "artifacts").upload_from_stream("file", content)
    database["a/b %2F"].create_index("field", unique=True)
    database["a/b %2F"].insert_one({"_id": 1, "field": 5})
    assert run(*command("make", source, tmp_path)).returncode == 0
    (archive,) = tmp_path.glob("*.zip")
    shutil.unpack_archive(archive, tmp_path / "backup")
    server = RealMongod(tmp_path / "plain")
    server.start()
    server.initiate()
    try:
        for part in sorted((tmp_path / "backup").glob("[0-9]*")):
            done = run(mongorestore, "--uri", server.uri, str(part))
            assert done.returncode == 0, done.stderr
        with MongoClient(server.uri) as client:
            back = client[database.name]
            for name in ("artifacts.files", "artifacts.chunks", "a/b %2F"):
                assert list(back[name].find().sort("_id")) == list(database[name].find().sort("_id"))
                assert back[name].index_information().keys() == database[name].index_information().keys()
    finally:
        server.kill()
