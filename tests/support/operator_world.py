"""One namespace on a real API server and a real mongod; the test's own hands are the controllers and the trainer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from kubernetes import client
from pymongo.database import Database

import builders
from builders import result
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.recipe import recipe_digest
from trainingsession_operator.reconcile import Reconciler
from trainingsession_operator.records import COLLECTION, FEATURE_SETS, FEATURE_SHARDS, Records
from trainingsession_operator.resource import GROUP, PLURAL, VERSION
from trainingsession_operator.tenants import Server

Json = dict[str, Any]
WRITES = ("patch_status", "create_job", "delete_job", "end_job", "end_helpers", "set_job_deadline",
          "delete_session", "write_secret", "post_event")  # fmt: skip
RECORD_WRITES = ("prepare", "count_lost_job", "note_end", "reuse_result")


class Killed(BaseException):
    """The operator's process ended here; nothing in the operator can catch it."""


@dataclass
class Killer:
    """Ends the operator after the `at`-th write: the one hook through which faults come in."""

    at: int = 0
    writes: list[str] = field(default_factory=list)

    def after(self, name: str) -> None:
        self.writes.append(name)
        if len(self.writes) == self.at:
            raise Killed(name)


def killable(cls: type[Any], names: tuple[str, ...]) -> type[Any]:
    """A subclass that does everything as `cls` and tells the killer after each write."""

    def method(name: str) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            done = getattr(cls, name)(self, *arguments, **options)
            self.killer.after(name)
            return done

        return call

    return type(f"Killable{cls.__name__}", (cls,), {name: method(name) for name in names})


KillableCluster = killable(Cluster, WRITES)
KillableRecords = killable(Records, RECORD_WRITES)


class World:
    """One namespace, and the test's own hands in it."""

    def __init__(self, api: client.ApiClient, mongodb: str, namespace: str) -> None:
        self.api, self.mongodb, self.namespace = api, mongodb, namespace
        self.custom, self.batch = client.CustomObjectsApi(api), client.BatchV1Api(api)
        self.core = client.CoreV1Api(api)
        self.opened: list[Records] = []

    def operator(self, killer: Killer | None = None) -> Reconciler:
        """A new operator process, which knows nothing yet."""
        cluster = KillableCluster(self.api)
        records = KillableRecords(Server(self.mongodb, managed_users=False), cluster)
        cluster.killer = records.killer = killer or Killer()
        self.opened.append(records)
        return Reconciler(builders.settings(), cluster, records)

    def look_whatever_dies(self, operator: Callable[[], Reconciler], name: str) -> None:
        """Have the operator look at a session; where it is killed, a new one looks."""
        try:
            operator().look((self.namespace, name))
        except Killed:
            self.operator().look((self.namespace, name))

    def create(self, name: str, **spec: Any) -> Json:
        body = builders.resource(name=name, **spec)
        body["metadata"] = {"name": name, "namespace": self.namespace}
        found: Json = self.custom.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, body)
        return found

    def session(self, name: str) -> Json:
        found: Json = self.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
        return found

    def delete(self, name: str) -> None:
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)

    def jobs(self) -> list[client.V1Job]:
        return list(self.batch.list_namespaced_job(self.namespace).items)

    def delete_job(self, name: str) -> None:
        self.batch.delete_namespaced_job(name, self.namespace, propagation_policy="Background")

    def job(self, name: str = "") -> Json:
        """The one Job that is there, or the one whose name ends so."""
        found = self.batch.list_namespaced_job(self.namespace, _preload_content=False).json()["items"]
        (job,) = (job for job in found if job["metadata"]["name"].endswith(name))
        return dict(job)

    def run_pod(self, job_name: str = "") -> str:
        """Make the Job's pod and write its status, as the Job controller and the kubelet do; returns its name."""
        job = self.job(job_name)
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        named = {key: job["metadata"][key] for key in ("name", "uid")}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True, **named}
        metadata = {"name": name, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
        self.core.create_namespaced_pod(self.namespace, {"metadata": metadata, "spec": template["spec"]})
        self.start_pod(name)
        started = {"status": {"startTime": "2024-05-06T12:00:00Z", "active": 1}}
        self.batch.patch_namespaced_job_status(job["metadata"]["name"], self.namespace, started)
        return name

    def start_pod(self, name: str) -> None:
        """Write a pod's status as the kubelet does when the trainer runs."""
        self._pod_status(name, "Running", {"running": {"startedAt": "2024-05-06T12:01:00Z"}})

    def end_pod(self, name: str, code: int) -> None:
        """Write a pod's status as the kubelet does when the trainer has ended."""
        times = {"startedAt": "2024-05-06T12:01:00Z", "finishedAt": "2024-05-06T12:02:00Z"}
        terminated = {"exitCode": code, "reason": "Error" if code else "Completed", **times}
        self._pod_status(name, "Failed" if code else "Succeeded", {"terminated": terminated})

    def _pod_status(self, name: str, phase: str, state: Json) -> None:
        container = {"name": "trainer", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
        body = {"status": {"phase": phase, "containerStatuses": [container]}}
        self.core.patch_namespaced_pod_status(name, self.namespace, body)

    def collect(self, job_name: str) -> None:
        """Let a Job that is being deleted go, as the garbage collector does when its pods are gone."""
        job = self.job(job_name)
        assert job["metadata"]["deletionTimestamp"]
        assert job["metadata"]["finalizers"] == ["foregroundDeletion"], "the pods go first"
        self.delete_pods()
        self.batch.patch_namespaced_job(job["metadata"]["name"], self.namespace, {"metadata": {"finalizers": None}})

    def delete_pods(self) -> None:
        """End the pods, as the garbage collector does."""
        self.core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)

    def end_job(self, kind: str, reason: str = "BackoffLimitExceeded", job_name: str = "", failed: int = 3) -> None:
        """Write the Job's status as its controller does: the target before the end."""
        name = self.job(job_name)["metadata"]["name"]
        target = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[kind]
        now = "2024-05-06T12:00:00Z"
        end = [
            {"type": one, "status": "True", "reason": reason, "message": "said the controller", "lastProbeTime": now,
             "lastTransitionTime": now}
            for one in (target, kind)
        ]  # fmt: skip
        status: Json = {"startTime": now, "conditions": end, "active": 0, "uncountedTerminatedPods": {}}
        if kind == "Complete":
            status |= {"completionTime": now, "succeeded": 1}
        else:
            status |= {"failed": failed}
        self.batch.patch_namespaced_job_status(name, self.namespace, {"status": status})

    def database(self) -> Database[Json]:
        """The namespace's database."""
        uid = self.core.read_namespace(self.namespace).metadata.uid
        return self.opened[-1].namespace_database(self.namespace, uid)

    def write_record(self, name: str, **fields: Any) -> None:
        """Write fields of the record as a trainer does."""
        done = self.database()[COLLECTION].update_one({"_id": self.session(name)["metadata"]["uid"]}, {"$set": fields})
        assert done.matched_count == 1

    def publish(self, name: str) -> None:
        """Write the record's result as a trainer does."""
        self.write_record(name, result=result())

    def store_features(self, name: str, images: int = 100, shard_images: int = 16) -> None:
        """Store the features of both splits as trainers do, without their files."""
        recipe, database = recipe_digest(self.session(name)["spec"]), self.database()
        for split in ("train", "test"):
            key = f"{split}-{uuid.uuid4().hex}"
            described = {"split": split, "images": images, "shardImages": shard_images, "recipes": [recipe]}
            database[FEATURE_SETS].insert_one({"_id": key, **described})
            shards = range(-(-images // shard_images))
            database[FEATURE_SHARDS].insert_many(
                [{"_id": f"{key}/{index}", "set": key, "index": index, "file": ObjectId()} for index in shards]
            )

    def lose_features(self) -> None:
        """Take away one shard of every set."""
        self.database()[FEATURE_SHARDS].delete_many({"index": 0})
