"""Namespaces with sessions on a real API server and what they store on a real mongod; the test ends sessions itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bson import ObjectId
from kubernetes import client
from pymongo.database import Database

import builders
from stored import store_file
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.decide import decide
from trainingsession_operator.keeper import StorageKeeper
from trainingsession_operator.observed import Observed
from trainingsession_operator.records import Records
from trainingsession_operator.resource import GROUP, PLURAL, VERSION, parse_session
from trainingsession_operator.tenants import Server

Json = dict[str, Any]
LONG_AGO = timedelta(days=3)
SIZE = 300_000


class World:
    """Namespaces with sessions and features, and the operator that looks after them."""

    def __init__(self, api: client.ApiClient, mongodb: str, *, managed_users: bool = False) -> None:
        self.api = api
        self.custom, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.cluster = Cluster(api)
        self.records = Records(Server(mongodb, managed_users=managed_users), self.cluster)
        self.databases: list[Database[Json]] = []

    def keeper(self, cluster: Cluster | None = None, *, told: Any = None, **settings: str) -> StorageKeeper:
        """A keeper with the smallest quota, 1 MiB; `settings` are environment variables, `told` hears its callbacks."""
        given = builders.settings(**{"FEATURES_QUOTA_PER_NAMESPACE": "1Mi", **settings})
        made = StorageKeeper(given, cluster or self.cluster, self.records, after_end_seconds=0.0)
        if told is None:
            return made
        hears = (told.measured, told.swept, told.halted)
        return StorageKeeper(given, cluster or self.cluster, self.records, 0.0, *hears)

    def create(self, namespace: str, name: str, **spec: Any) -> Json:
        body = builders.resource(name=name, **spec)
        body["metadata"] = {"name": name, "namespace": namespace}
        found: Json = self.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body)
        return found

    def session(self, session: Json) -> Json:
        """The session as it is now."""
        found: Json = self.custom.get_namespaced_custom_object(*self._where(session))
        return found

    def delete(self, session: Json) -> None:
        self.custom.delete_namespaced_custom_object(*self._where(session))

    def finish(self, session: Json) -> None:
        end = {"type": "Finished", "status": "True", "reason": "ResultPublished", "message": "",
               "lastTransitionTime": "2024-05-06T12:00:00Z"}  # fmt: skip
        self.edit(session, {"conditions": [end]})

    def edit(self, session: Json, status: Json) -> None:
        """Merge into the status, as a user may by hand."""
        self.custom.patch_namespaced_custom_object_status(*self._where(session), {"status": status})

    def database(self, session: Json) -> Database[Json]:
        """The namespace's database, made as for the first session in it, with the session's record."""
        self.records.prepare(parse_session(session))
        namespace = session["metadata"]["namespace"]
        self.databases.append(self.records.namespace_database(namespace, str(self.cluster.namespace_uid(namespace))))
        return self.databases[-1]

    def succeed(self, session: Json, *names: str) -> list[ObjectId]:
        """Publish artifacts with these names as a trainer does, and write the status as the operator does."""
        database = self.database(session)
        files = [store_file(database, "artifacts", SIZE, LONG_AGO) for _ in names]
        items = [
            {"name": name, "id": str(file), "bytes": SIZE, "sha256": "b" * 64}
            for name, file in zip(names, files, strict=True)
        ]
        fields = {"result": builders.result(artifacts=items), "createdAt": database_time(database) - LONG_AGO}
        database["sessions"].update_one({"_id": session["metadata"]["uid"]}, {"$set": fields})
        record = builders.record(result=fields["result"])
        job = builders.job(("Complete", "CompletionsReached", ""))
        status = decide(parse_session(session), Observed(job=job, record=record), builders.NOW).status
        self.edit(session, status)
        return files

    def close(self) -> None:
        for database in self.databases:
            database.client.drop_database(database.name)
        self.records.close()

    def _where(self, session: Json) -> tuple[str, str, str, str, str]:
        return GROUP, VERSION, session["metadata"]["namespace"], PLURAL, session["metadata"]["name"]


def database_time(database: Database[Json]) -> Any:
    """What MongoDB's clock says."""
    return database.command("hello")["localTime"]
