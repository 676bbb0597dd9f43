"""A namespace with an operator process of its own behind proxies, on a real API server and a real mongod."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from bson import ObjectId
from gridfs import GridFSBucket
from kubernetes import client
from pymongo import MongoClient
from pymongo.database import Database

import builders
from attempt import Attempt
from builders import condition
from fault_proxy import ApiProxy
from killer import Killer, Write
from mongo_proxy import MongoProxy
from namespace_watch import NamespaceWatch, owners
from operator_process import OperatorProcess
from real_apiserver import RealApiServer
from real_mongod import RealMongod
from trainingsession_operator.records import COLLECTION
from trainingsession_operator.resource import GROUP, PLURAL, VERSION
from trainingsession_operator.status import is_finished
from trainingsession_operator.tenants import database_name

Json = dict[str, Any]
ORDER = ("Pending", "Extracting", "Training", "Succeeded", "Failed")
WATCHES = 3
"""Sessions, Jobs and pods."""


class Lane:
    """Its operator serves this namespace only, so that several lanes run side by side."""

    def __init__(self, server: RealApiServer, mongod: RealMongod, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.api = server.client()
        self.custom, self.core = client.CustomObjectsApi(self.api), client.CoreV1Api(self.api)
        patching = client.ApiClient(self.api.configuration)
        patching.rest_client = self.api.rest_client
        patching.set_default_header("Content-Type", "application/merge-patch+json")
        self._patching = client.CustomObjectsApi(patching)
        self.watch = NamespaceWatch(self.api, namespace)
        self.killer = Killer()
        self.proxy = ApiProxy(server.port, str(server.folder / "certificates" / "apiserver.crt"), self.killer)
        self.mongo = MongoProxy(mongod.port, self.killer)
        self.mongod = mongod
        self._folder, self._token, self._numbers = folder, server.token, itertools.count(1)
        self.operator = self.killer.victim = self.another_operator()
        self.admin: MongoClient[Json] = MongoClient(mongod.uri)
        self._taken: set[str] = set()

    def another_operator(self) -> OperatorProcess:
        """One that is not started yet; all go through the same proxies."""
        folder = self._folder / f"operator-{next(self._numbers)}"
        return OperatorProcess(
            folder, self.proxy.port, self.mongo.uri, self._token, WATCH_NAMESPACES=self.namespace, POD_NAMESPACE="none"
        )

    def start(self) -> None:
        """Start the operator; returns when it follows everything."""
        self.operator.start()
        self.followed()

    def followed(self, operators: int = 1) -> None:
        self.proxy.wait_for("the operator's watches", lambda: self.proxy.open_watches() >= WATCHES * operators)

    def kill(self) -> None:
        """End the operator as a lost node would."""
        self.operator.kill()
        # Of a node that is gone the other end hears nothing; here its connections end with it.
        self.proxy.disconnect()
        self.mongo.disconnect()
        self.proxy.wait_for("the end of its watches", lambda: not self.proxy.open_watches())

    def close(self) -> None:
        self.operator.close()
        self.proxy.close()
        self.mongo.close()
        self.admin.close()

    @property
    def database(self) -> Database[Json]:
        uid = self.core.read_namespace(self.namespace).metadata.uid
        return self.admin[database_name(self.namespace, uid)]

    def forget_credentials(self) -> None:
        """Take away the namespace's Secret and user, so that the next session has them made again."""
        if self.watch.history["sessions"]:
            self.core.delete_namespaced_secret("trainingsession-mongodb", self.namespace)
            self.database.command("dropUser", self.database.name)

    def create(self, name: str, **spec: Any) -> str:
        """Create a session; returns its UID."""
        body = builders.resource(name=name, **spec)
        body["metadata"] = {"name": name, "namespace": self.namespace}
        made = self.custom.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, body)
        return str(made["metadata"]["uid"])

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)

    def patch_status(self, name: str, **fields: Any) -> None:
        """Edit a status by hand."""
        self._patching.patch_namespaced_custom_object_status(
            GROUP, VERSION, self.namespace, PLURAL, name, {"status": fields}
        )

    def suspend(self, name: str, *, suspend: bool) -> None:
        """Change what the spec says of it."""
        body = {"spec": {"suspend": suspend}}
        self._patching.patch_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name, body)

    def delete_job(self, job: Json, propagation: str = "Background") -> None:
        """Delete a Job by hand, with its pods or (Orphan) without them."""
        name = job["metadata"]["name"]
        client.BatchV1Api(self.api).delete_namespaced_job(name, self.namespace, propagation_policy=propagation)

    def touch(self, name: str) -> None:
        """Have the session looked at: a label changes."""
        label = {"metadata": {"labels": {"touched": str(next(self._numbers))}}}
        self._patching.patch_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name, label)

    def attempt(self, uid: str) -> Attempt:
        """The next pod of the session, when Kubernetes has made it."""

        def new() -> Json | None:
            found = (pod for pod in self.watch.pods(uid) if pod["metadata"]["uid"] not in self._taken)
            return next(found, None)

        pod = self.watch.wait_for(f"a pod of session {uid}", new)
        self._taken.add(pod["metadata"]["uid"])
        return Attempt(self.api, self.mongod.address, uid, pod)

    def phase(self, uid: str, phase: str) -> Json:
        """The status when it says so."""
        return self._wait(uid, phase, lambda status: status.get("phase") == phase)

    def finished(self, uid: str) -> Json:
        """The status when it is at either end."""
        return self._wait(uid, "an end", is_finished)

    def _wait(self, uid: str, what: str, holds: Any) -> Json:
        try:
            return dict(
                self.watch.wait_for(f"{what} of session {uid}", lambda: holds(s := self.watch.status(uid)) and s)
            )
        except AssertionError as error:
            now = json.dumps(self.watch.status(uid), indent=1)
            raise AssertionError(f"{error}\n{now}\n{self.operator.said()}") from None

    def writes_of(self, uid: str, name: str) -> list[Write]:
        """What the operator wrote about a session and the API server took."""
        return [w for w in self.proxy.written if w.name == name and uid.encode() in w.text and w.code < 300]

    # What holds always; each is checked when the session is at its end.

    def check_trained_once(self, uid: str) -> None:
        assert len(self.watch.jobs_ever(uid)) == 1, "one Job"
        assert len(self.watch.pods_ever(uid)) == 1, "one pod"
        made = [w.answer["metadata"]["name"] for w in self.writes_of(uid, "POST jobs")]
        assert len(made) == len(set(made)) == 1, "made once"

    def check_never_claimed_what_was_not_so(self, uid: str) -> None:
        end, phases = None, []
        for status in self.watch.statuses(uid):
            phases.append(status["phase"])
            assert (status["phase"] == "Succeeded") == (condition(status, "Complete")["status"] == "True")
            assert (status["phase"] == "Failed") == (condition(status, "Failed")["status"] == "True")
            assert status["phase"] != "Succeeded" or (status["accuracy"] and status["artifacts"])
            assert end is None or end == status, "an end is an end"
            end = status if is_finished(status) else None
        assert phases == sorted(phases, key=ORDER.index), "no phase comes back"

    def check_succeeded(self, uid: str, published: Json) -> None:
        """All five sentences, of a session whose trainer has published this."""
        status = self.finished(uid)
        assert (status["phase"], status["accuracy"]) == ("Succeeded", f"{published['accuracy']:.4f}")
        assert status["artifacts"] == published["artifacts"]
        bucket = GridFSBucket(self.database, "artifacts")
        for artifact in status["artifacts"]:
            content = bucket.open_download_stream(ObjectId(artifact["id"])).read()
            assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        record = self.database[COLLECTION].find_one({"_id": uid}) or {}
        assert {key: record["result"][key] for key in published} == published
        assert status["attempts"] == 1
        self.check_trained_once(uid)
        self.check_never_claimed_what_was_not_so(uid)

    def check_failed(self, uid: str, reason: str, words: str) -> None:
        status = self.finished(uid)
        failed = condition(status, "Failed")
        assert (status["phase"], failed["reason"]) == ("Failed", reason)
        assert words in failed["message"]
        assert "accuracy" not in status
        self.check_trained_once(uid)
        self.check_never_claimed_what_was_not_so(uid)

    def jobs_of_nobody(self) -> list[str]:
        """Jobs whose session is not there any more."""
        there = self.watch.now["sessions"]
        return [job["metadata"]["name"] for job in self.watch.now["jobs"].values() if not set(owners(job)) & set(there)]
