"""The namespaces' databases on a real mongod that asks for passwords, and the records' changes."""

from __future__ import annotations

import base64
import logging
import queue
import secrets
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient, ReadPreference
from pymongo.errors import OperationFailure

import builders
from real_mongod import RealMongod, free_port
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.errors import ApiError, ConflictError, StorageUnavailableError
from trainingsession_operator.mongodb import check_uri, server_uri
from trainingsession_operator.records import COLLECTION, Records
from trainingsession_operator.resource import Session, parse_session
from trainingsession_operator.tenants import Server, database_name

Json = dict[str, Any]
SOON = 30.0
SECRET = "trainingsession-mongodb"


class Secrets:
    """Namespaces and Secrets in memory: the part of Cluster that Records uses.

    It has no rights, no admission and no resourceVersions; a write of a Secret that is there, or not, as expected
    succeeds, else it is a ConflictError as the API server gives.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, str] = {}
        self.secrets: dict[tuple[str, str], dict[str, str]] = {}
        self.writes = 0
        self.before_write: Callable[[], None] = lambda: None

    def namespace(self) -> str:
        name = f"team-{uuid.uuid4().hex[:8]}"
        self.namespaces[name] = str(uuid.uuid4())
        return name

    def namespace_uid(self, namespace: str) -> str | None:
        return self.namespaces.get(namespace)

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        found = self.secrets.get((namespace, name))
        return dict(found) if found is not None else None

    def write_secret(self, namespace: str, name: str, values: Mapping[str, str], *, exists: bool) -> None:
        self.before_write()
        if ((namespace, name) in self.secrets) != exists:
            raise ConflictError("cannot write the Secret: it is there already", 409)
        self.secrets[namespace, name] = dict(values)
        self.writes += 1


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealMongod, str]]:
    """A mongod that asks for passwords, and its administrator's URI."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    keyfile = folder / "keyfile"
    keyfile.write_bytes(base64.b64encode(secrets.token_bytes(96)))
    keyfile.chmod(0o600)
    server = RealMongod(folder, ("--auth", "--keyFile", str(keyfile)))
    server.start()
    server.initiate()
    # The localhost exception: the first user may be made without one.
    with MongoClient(server.uri) as alone:
        alone.admin.command("createUser", "admin", pwd="p/ss:w@rd", roles=["root"])
    yield server, server_uri(server.address, "rs0", "admin", "p/ss:w@rd")
    server.stop()


@pytest.fixture
def cluster() -> Secrets:
    return Secrets()


@pytest.fixture
def records(guarded: tuple[RealMongod, str], cluster: Secrets) -> Iterator[Records]:
    made = new_operator(guarded[1], cluster)
    yield made
    made.close()


def new_operator(uri: str, cluster: Secrets, *, managed: bool = True) -> Records:
    return Records(Server(uri, managed), cast("Cluster", cluster))


def session_in(namespace: str) -> Session:
    found = builders.resource(uid=str(uuid.uuid4()))
    found["metadata"]["namespace"] = namespace
    return parse_session(found)


def as_tenant(cluster: Secrets, namespace: str) -> MongoClient[Json]:
    return MongoClient(cluster.secrets[namespace, SECRET]["uri"], serverSelectionTimeoutMS=10_000)


def test_a_namespace_gets_a_database_a_user_and_a_secret_that_work(records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    name = database_name(session.namespace, cluster.namespaces[session.namespace])
    assert cluster.secrets[session.namespace, SECRET]["database"] == name
    with as_tenant(cluster, session.namespace) as tenant:
        own = tenant[name]
        assert own[COLLECTION].find_one({"_id": session.uid})["name"] == session.name
        own["artifacts.files"].insert_one({"_id": 1})
        own["feature_shards"].create_index("key")


def test_a_namespaces_user_reads_and_writes_no_other_database(records, cluster):
    mine, other = session_in(cluster.namespace()), session_in(cluster.namespace())
    for session in (mine, other):
        records.prepare(session)
    with as_tenant(cluster, mine.namespace) as tenant:
        foreign = tenant[cluster.secrets[other.namespace, SECRET]["database"]]
        for forbidden in (
            foreign[COLLECTION].find_one,
            lambda: foreign[COLLECTION].insert_one({}),
            lambda: tenant.admin.command("listDatabases", nameOnly=True, authorizedDatabases=False),
            lambda: tenant[cluster.secrets[mine.namespace, SECRET]["database"]].command("usersInfo"),
        ):
            with pytest.raises(OperationFailure, match=r"not authorized|Insufficient permissions"):
                forbidden()


def test_the_secret_is_there_before_the_user(guarded, records, cluster):
    session = session_in(cluster.namespace())
    name = database_name(session.namespace, cluster.namespaces[session.namespace])
    users: list[Any] = []
    with MongoClient(guarded[1]) as admin:
        cluster.before_write = lambda: users.append(admin[name].command("usersInfo")["users"])
        records.prepare(session)
        assert users == [[]]
        (user,) = admin[name].command("usersInfo")["users"]
    assert user["roles"] == [{"role": "readWrite", "db": name}]


def test_a_crash_between_secret_and_user_is_made_good(guarded, records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    before = cluster.secret(session.namespace, SECRET)
    with MongoClient(guarded[1]) as admin:
        admin[before["database"]].command("dropUser", before["database"])
    again = new_operator(guarded[1], cluster)
    again.prepare(session)
    again.close()
    assert cluster.secret(session.namespace, SECRET) == before
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant[before["database"]][COLLECTION].count_documents({}) == 1


def test_a_secret_that_was_written_without_an_answer_gets_its_user_from_the_same_operator(guarded, records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    del cluster.secrets[session.namespace, SECRET]
    write = cluster.write_secret

    def write_and_lose_the_answer(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise ApiError("cannot create Secret: the API server does not answer")

    cluster.write_secret = write_and_lose_the_answer
    another = session_in(session.namespace)
    with pytest.raises(ApiError):
        records.prepare(another)
    cluster.write_secret = write
    records.prepare(another)
    made = cluster.secret(session.namespace, SECRET)
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant[made["database"]][COLLECTION].count_documents({}) == 2


def test_the_password_is_kept_by_the_next_operator_and_nothing_is_written(guarded, records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    before, writes = cluster.secret(session.namespace, SECRET), cluster.writes
    again = new_operator(guarded[1], cluster)
    again.prepare(session)
    again.close()
    assert (cluster.secret(session.namespace, SECRET), cluster.writes) == (before, writes)


@pytest.mark.parametrize(
    "edit",
    [
        lambda uri: uri.replace("mongodb://", "mongodb://x"),
        lambda uri: "mongodb://evil.example/?authSource=admin",
        lambda uri: "",
        lambda uri: "http://[",
        lambda uri: uri + "&tls=true",
    ],
    ids=["another user", "another server", "empty", "no address", "another option"],
)
def test_a_secret_edited_by_hand_is_repaired(guarded, records, cluster, edit):
    session = session_in(cluster.namespace())
    records.prepare(session)
    stored = cluster.secrets[session.namespace, SECRET]
    name = stored["database"]
    stored |= {"uri": edit(stored["uri"]), "database": "another"}
    again = new_operator(guarded[1], cluster)
    again.prepare(session)
    again.close()
    assert cluster.secrets[session.namespace, SECRET]["database"] == name
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant[name][COLLECTION].count_documents({}) == 1


def test_a_secret_written_by_somebody_else_just_now_is_waited_for(records, cluster):
    session = session_in(cluster.namespace())
    cluster.before_write = lambda: cluster.secrets.update({(session.namespace, SECRET): {}})
    with pytest.raises(StorageUnavailableError, match="written by somebody else just now"):
        records.prepare(session)
    cluster.before_write = lambda: None
    assert records.prepare(session)["_id"] == session.uid


def test_a_namespace_made_again_gets_another_database_from_the_same_operator(records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    old = cluster.secrets.pop((session.namespace, SECRET))
    cluster.namespaces[session.namespace] = str(uuid.uuid4())
    records.prepare(session_in(session.namespace))
    new = cluster.secrets[session.namespace, SECRET]
    assert new["database"] != old["database"]
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant[new["database"]][COLLECTION].count_documents({}) == 1


def test_a_secret_deleted_by_hand_is_there_again_for_the_next_session(records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    del cluster.secrets[session.namespace, SECRET]
    records.prepare(session_in(session.namespace))
    with as_tenant(cluster, session.namespace) as tenant:
        name = cluster.secrets[session.namespace, SECRET]["database"]
        assert tenant[name][COLLECTION].count_documents({}) == 2


def test_sessions_that_came_before_a_look_at_the_secret_share_it(records, cluster):
    namespace = cluster.namespace()
    before = time.monotonic()
    records.prepare(session_in(namespace), told=before)
    del cluster.secrets[namespace, SECRET]
    records.prepare(session_in(namespace), told=before)
    assert (namespace, SECRET) not in cluster.secrets
    records.prepare(session_in(namespace), told=time.monotonic())
    assert (namespace, SECRET) in cluster.secrets


def test_a_record_that_is_there_already_keeps_what_it_holds(records, cluster):
    """The session was told of, and an operator that died then had made its record."""
    session = session_in(cluster.namespace())
    first = records.prepare(session)
    assert records.prepare(session, told=time.monotonic())["createdAt"] == first["createdAt"]


def test_a_namespace_that_is_gone_is_a_sentence(records):
    with pytest.raises(StorageUnavailableError, match=r"^Namespace nowhere is gone\.$"):
        records.prepare(session_in("nowhere"))


@pytest.mark.parametrize("namespace", ["a", "a" * 63])
def test_the_name_of_a_database_is_one_that_mongodb_takes(namespace):
    assert len(database_name(namespace, str(uuid.uuid4())).encode()) <= 63


def test_preparing_again_keeps_what_a_trainer_wrote(records, cluster):
    session = session_in(cluster.namespace())
    first = records.prepare(session)
    assert {"recordVersion": 2, "namespace": session.namespace, "name": session.name}.items() <= first.items()
    assert first["createdAt"] is not None
    with as_tenant(cluster, session.namespace) as tenant:
        own = tenant[cluster.secrets[session.namespace, SECRET]["database"]][COLLECTION]
        own.update_one({"_id": session.uid}, {"$set": {"attempt": "pod-1", "result": {"accuracy": 0.5}}})
    again = records.prepare(session)
    assert again == {**first, "attempt": "pod-1", "result": {"accuracy": 0.5}}


def test_a_lost_job_is_counted(records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    for _ in range(3):
        records.count_lost_job(session)
    assert records.prepare(session)["jobsLost"] == 3
    with as_tenant(cluster, session.namespace) as tenant:
        own = tenant[cluster.secrets[session.namespace, SECRET]["database"]][COLLECTION]
        own.update_one({"_id": session.uid}, {"$set": {"jobsLost": "many"}})
    records.count_lost_job(session)
    assert records.prepare(session)["jobsLost"] == 1


UNREADABLE = DatetimeMS(2**60)


def test_a_time_that_python_cannot_hold_ends_neither_a_look_nor_the_following_of_changes(records, cluster):
    session = session_in(cluster.namespace())
    records.prepare(session)
    changed: queue.Queue[tuple[str, bool]] = queue.Queue()
    told = lambda uid, progress_alone: changed.put((uid, progress_alone))  # noqa: E731
    begun, stop = threading.Event(), threading.Event()
    follower = threading.Thread(target=records.follow, args=(told, begun.set, stop), daemon=True)
    follower.start()
    assert begun.wait(SOON)
    with as_tenant(cluster, session.namespace) as tenant:
        own = tenant[cluster.secrets[session.namespace, SECRET]["database"]][COLLECTION]
        own.insert_one({"_id": UNREADABLE})
        own.update_one({"_id": UNREADABLE}, {"$set": {"phase": "Training"}})
        own.update_one({"_id": session.uid}, {"$set": {"progress": {"at": UNREADABLE}}})
    while (change := changed.get(timeout=SOON))[0] != session.uid:
        pass
    assert change == (session.uid, True), "nothing but progress"
    assert records.prepare(session)["progress"]
    stop.set()
    follower.join(SOON)


def test_reads_are_of_the_primary_and_durable_whatever_the_address_says(guarded, cluster):
    operator = new_operator(f"{guarded[1]}&readPreference=secondaryPreferred&readConcernLevel=local", cluster)
    database = operator.namespace_database("team", "uid")
    assert database.read_preference == ReadPreference.PRIMARY
    assert database.read_concern.level == "majority"
    operator.close()


def test_with_shared_users_the_secret_has_the_servers_own_user_and_the_namespaces_database(guarded, cluster):
    shared = new_operator(guarded[1], cluster, managed=False)
    session = session_in(cluster.namespace())
    shared.prepare(session)
    stored = cluster.secrets[session.namespace, SECRET]
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant.get_default_database().name == stored["database"]
        assert tenant[stored["database"]][COLLECTION].count_documents({}) == 1
    with MongoClient(guarded[1]) as admin:
        assert admin[stored["database"]].command("usersInfo")["users"] == []
    shared.close()


def test_ping_says_why_mongodb_cannot_be_used(guarded, cluster, impatient):
    usable = new_operator(guarded[1], cluster)
    assert usable.ping() == ""
    usable.close()
    away = new_operator(f"mongodb://127.0.0.1:{free_port()}", cluster)
    sentence = away.ping()
    assert sentence.startswith("MongoDB cannot be used: 127.0.0.1:")
    assert "\n" not in sentence
    assert len(sentence) < 330
    away.close()
    wrong = new_operator(guarded[1].replace("p%2Fss", "wrong"), cluster)
    assert wrong.ping().startswith("MongoDB cannot be used: it refuses the user or the password; correct them")
    wrong.close()


def test_when_another_mongod_answers_the_namespaces_users_are_made_again(guarded, cluster):
    told: list[None] = []
    records = Records(Server(guarded[1], True), cast("Cluster", cluster), replaced=lambda: told.append(None))
    session = session_in(cluster.namespace())
    records.ping()
    records.prepare(session)
    with MongoClient(guarded[1]) as admin:
        database = admin[cluster.secrets[session.namespace, SECRET]["database"]]
        database.command("dropAllUsersFromDatabase")
        records.ping()
        records.prepare(session)
        assert database.command("usersInfo")["users"] == [], "what was seen is believed for a time"
        assert told == [], "it is the same process as at the start"
        # As if it had been another process that answered before.
        records._process = "another"
        records.ping()
        records.prepare(session)
        assert len(database.command("usersInfo")["users"]) == 1
        assert told == [None], "the keeper is told, which takes inventory"
    with as_tenant(cluster, session.namespace) as tenant:
        assert tenant.get_default_database()[COLLECTION].count_documents({}) == 1
    records.close()


def test_a_replica_set_that_is_made_anew_on_an_empty_volume_is_taken(cluster, tmp_path):
    mongod = RealMongod(tmp_path)
    mongod.start()
    mongod.initiate()
    for _ in range(2):
        # Each election counts, and the driver has seen the last one.
        mongod.stop()
        mongod.start()
        mongod.wait_for_primary()
    told: list[None] = []
    records = Records(Server(mongod.uri, False), cast("Cluster", cluster), replaced=lambda: told.append(None))
    session = session_in(cluster.namespace())
    try:
        assert records.ping() == ""
        records.prepare(session)
        mongod.kill()
        shutil.rmtree(mongod.folder / "data")
        assert "nothing listens there" in records.ping()
        mongod.start()
        mongod.initiate()
        mongod.wait_for_primary()
        assert records.ping() == ""
        assert told == [None]
        assert records.prepare(session)["_id"] == session.uid
        assert len(records.databases()) == 1
    finally:
        records.close()
        mongod.kill()


def test_a_uri_that_is_wrong_is_a_sentence_without_the_password():
    assert check_uri("mongodb://admin:secret@host:27017/?replicaSet=rs0") == ""
    assert check_uri("mongodb+srv://admin:secret@cluster.example.org/") == ""
    for wrong in ("mongodb://admin:se/cret@host", "mongodb://", "mongodb://h:99999", "", "host:27017",
                  "http://admin:secret@host", "mongodb+srv://"):  # fmt: skip
        sentence = check_uri(wrong)
        assert sentence.startswith("The MongoDB URI is not valid; use one such as mongodb://")
        assert "cret" not in sentence


class Lost(logging.Handler):
    """Waits for the operator to say that it lost the records' changes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("lost the records' changes, trying again in "):
            self.said.set()


@pytest.fixture
def lost_words() -> Iterator[Lost]:
    handler, logger = Lost(), logging.getLogger("trainingsession_operator.records")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_changes_wake_and_after_an_outage_of_mongod_everything_is_looked_at(tmp_path, cluster, lost_words):
    server = RealMongod(tmp_path)
    server.start()
    server.initiate()
    records = new_operator(server.uri, cluster, managed=False)
    changes, losses = threading.Semaphore(0), threading.Semaphore(0)
    seen: list[str] = []
    stop = threading.Event()

    def changed(uid: str, progress_alone: bool) -> None:
        seen.append(uid)
        assert not progress_alone
        changes.release()

    follower = threading.Thread(target=records.follow, args=(changed, losses.release, stop), daemon=True)
    follower.start()
    try:
        assert losses.acquire(timeout=SOON), "at the start everything is looked at"
        session = session_in(cluster.namespace())
        # Its own insert is no news to the operator.
        records.prepare(session)
        with MongoClient(server.uri) as other:
            other["elsewhere"]["not_sessions"].insert_one({"_id": "nobody"})
        records.count_lost_job(session)
        assert changes.acquire(timeout=SOON)
        server.kill()
        assert lost_words.said.wait(SOON)
        server.start()
        server.wait_for_primary()
        assert losses.acquire(timeout=SOON), "changes may have been missed"
        records.count_lost_job(session)
        assert changes.acquire(timeout=SOON)
        assert set(seen) == {session.uid}
    finally:
        stop.set()
        follower.join(SOON)
        records.close()
        server.stop()
    assert not follower.is_alive()


RECIPE = "a" * 64


def store(
    records: Records,
    cluster: Secrets,
    session: Session,
    split: str,
    *,
    shards: Any = (),
    images: Any = 100,
    **fields: Any,
) -> str:
    """Store a feature set of 16 images per shard with these shards, as a trainer does; returns its key."""
    database = records.namespace_database(session.namespace, cluster.namespaces[session.namespace])
    key = f"{split}-{uuid.uuid4().hex}"
    described = {"split": split, "images": images, "shardImages": 16, "recipes": ["b" * 64, RECIPE]}
    database["feature_sets"].insert_one({"_id": key, **described, **fields})
    done = [{"_id": f"{key}/{i}", "set": key, "index": i, "file": ObjectId()} for i in shards]
    if done:
        database["feature_shards"].insert_many(done)
    return key


def with_subset(namespace: str, **dataset: Any) -> Session:
    found = builders.resource(uid=str(uuid.uuid4()), dataset=dataset)
    found["metadata"]["namespace"] = namespace
    return parse_session(found)


@pytest.mark.parametrize(
    ("dataset", "train", "test", "holds"),
    [
        ({}, range(7), range(7), True),
        ({}, range(6), range(7), False),
        ({}, range(7), range(6), False),
        ({}, [0, 1, 2, 4, 5, 6], range(7), False),
        ({"subset": 0.5}, range(4), range(4), True),
        ({"subset": 0.5}, [0, 1, 2, 4, 5, 6], range(7), False),
        ({"subset": 0.5, "testSubset": 1}, range(4), range(7), True),
        ({"subset": 0.5, "testSubset": 1}, range(4), range(4), False),
        # Exactly three shards, in decimals; a binary product would be a little more and ask for a fourth.
        ({"subset": 0.48, "testSubset": 0.01}, range(3), range(1), True),
        ({"subset": 0.4801}, range(3), range(7), False),
    ],
)
def test_every_shard_that_the_subset_needs_must_be_stored(records, cluster, dataset, train, test, holds):
    session = with_subset(cluster.namespace(), **dataset)
    records.prepare(session)
    for split, shards in (("train", train), ("test", test)):
        store(records, cluster, session, split, shards=shards)
    assert records.holds_features(session, RECIPE) is holds
    assert not records.holds_features(session, "c" * 64), "of another recipe"


def test_a_shard_that_is_being_computed_is_not_stored_yet(records, cluster):
    session = with_subset(cluster.namespace())
    records.prepare(session)
    store(records, cluster, session, "test", shards=range(7))
    key = store(records, cluster, session, "train", shards=range(6))
    database = records.namespace_database(session.namespace, cluster.namespaces[session.namespace])
    database["feature_shards"].insert_one({"_id": f"{key}/6", "set": key, "index": 6, "token": "t"})
    assert not records.holds_features(session, RECIPE)
    database["feature_shards"].update_one({"_id": f"{key}/6"}, {"$set": {"file": ObjectId()}})
    assert records.holds_features(session, RECIPE)


def test_a_set_that_is_being_evicted_does_not_count_and_one_whole_set_of_several_does(records, cluster):
    session = with_subset(cluster.namespace())
    records.prepare(session)
    store(records, cluster, session, "test", shards=range(7))
    store(records, cluster, session, "train", shards=range(7), evicting=ObjectId())
    assert not records.holds_features(session, RECIPE)
    store(records, cluster, session, "train", shards=[])
    assert not records.holds_features(session, RECIPE)
    store(records, cluster, session, "train", shards=range(7))
    assert records.holds_features(session, RECIPE)


@pytest.mark.parametrize(
    "odd",
    [
        {"images": "many"}, {"images": None}, {"images": 2.5}, {"shardImages": 0}, {"shardImages": -1},
        {"shardImages": None}, {"images": -5},
    ],
)  # fmt: skip
def test_a_set_that_is_none_does_not_count(records, cluster, odd):
    session = with_subset(cluster.namespace())
    records.prepare(session)
    store(records, cluster, session, "test", shards=range(7))
    store(records, cluster, session, "train", **odd)
    assert not records.holds_features(session, RECIPE)


def test_another_namespaces_features_do_not_count(records, cluster):
    session, other = with_subset(cluster.namespace()), with_subset(cluster.namespace())
    for one in (session, other):
        records.prepare(one)
    for split in ("train", "test"):
        store(records, cluster, session, split, shards=range(7))
    assert records.holds_features(session, RECIPE)
    assert not records.holds_features(other, RECIPE)


def test_without_mongod_nobody_says_that_features_are_missing(cluster, impatient):
    away = new_operator(f"mongodb://127.0.0.1:{free_port()}", cluster)
    with pytest.raises(StorageUnavailableError):
        away.holds_features(with_subset(cluster.namespace()), RECIPE)
    away.close()
