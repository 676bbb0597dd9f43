"""Acts out what Kueue does with a Job in a queue: the test's own hands, on the real API server.

It writes the objects and fields that Kueue writes (kueue.x-k8s.io/v1beta1 Workload, its owner, label and conditions;
the Job's `suspend` and node selector). It decides nothing: no quota is counted, no queue is ordered, nothing is
preempted by itself. Its definition of Workload has no schema, so it cannot tell whether Kueue would have refused a
field.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from kubernetes import client

GROUP, VERSION, PLURAL = "kueue.x-k8s.io", "v1beta1", "workloads"

Json = dict[str, Any]

DEFINITION: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": f"{PLURAL}.{GROUP}",
        # Names below k8s.io are protected; Kueue's own definition carries its approval.
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue/pull/1"},
    },
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "Workload", "listKind": "WorkloadList", "plural": PLURAL, "singular": "workload"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


class KueueActor:
    """What Kueue's controller does, one step at a time, for Jobs of one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._custom, self._batch, self._namespace = client.CustomObjectsApi(api), client.BatchV1Api(api), namespace

    def queue(self, owner: Json, queue: str) -> str:
        """Make the Workload of a Job (or of another object that Kueue was told to look after); returns its name."""
        metadata = owner["metadata"]
        name = f"{owner['kind'].lower()}-{metadata['name']}-{uuid.uuid4().hex[:5]}"
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True}
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Workload",
            "metadata": {
                "name": name,
                "labels": {f"{GROUP}/job-uid": metadata["uid"]},
                "ownerReferences": [{**reference, "name": metadata["name"], "uid": metadata["uid"]}],
            },
            "spec": {"active": True, "queueName": queue, "podSets": [{"name": "main", "count": 1}]},
        }
        self._custom.create_namespaced_custom_object(GROUP, VERSION, self._namespace, PLURAL, body)
        return name

    def say(self, workload: str, *conditions: tuple[str, str, str, str]) -> None:
        """Write conditions as (type, status, reason, message)."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        written = [
            {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}
            for kind, status, reason, message in conditions
        ]
        where = (GROUP, VERSION, self._namespace, PLURAL, workload)
        found = self._custom.get_namespaced_custom_object(*where)
        found["status"] = {"conditions": written}
        self._custom.replace_namespaced_custom_object_status(*where, found)

    def admit(self, workload: str, job: str, node: str) -> None:
        """Give the quota and start the Job on nodes of a flavor."""
        self.say(
            workload,
            ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue gpus"),
            ("Admitted", "True", "Admitted", "The workload is admitted"),
        )
        pods = {"spec": {"nodeSelector": {"flavor": node}}}
        self._batch.patch_namespaced_job(job, self._namespace, {"spec": {"suspend": False, "template": pods}})

    def preempt(self, workload: str, job: str) -> None:
        """Take the quota back: the Job is suspended, and its controller ends the pods."""
        words = "Preempted to accommodate a workload (UID: 1) due to prioritization in the ClusterQueue"
        self.say(
            workload,
            ("Evicted", "True", "Preempted", words),
            ("QuotaReserved", "False", "Pending", words),
            ("Admitted", "False", "NoReservation", "The workload has no reservation"),
        )
        self._batch.patch_namespaced_job(job, self._namespace, {"spec": {"suspend": True}})
