"""Claims of devices, and the words about pods without a node, on a real API server; no scheduler and no kubelet run."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiException

from builders import condition
from operator_world import World
from trainingsession_operator.resource import GROUP, PLURAL, VERSION

KEY = "digits"
CLAIMS = {"gpus": 0, "claims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}
SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def look(world: World) -> float | None:
    return world.operator().look((world.namespace, KEY))


def finds_no_node(world: World) -> str:
    """The Job's pod, with what the scheduler says of it."""
    name = world.run_pod()
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}
    status = {"phase": "Pending", "containerStatuses": None, "conditions": [told]}
    world.core.patch_namespaced_pod_status(name, world.namespace, {"status": status})
    return name


def said(world: World, pod: str, component: str, reason: str, message: str, at: str) -> None:
    """Post an Event about a pod."""
    uid = world.core.read_namespaced_pod(pod, world.namespace).metadata.uid
    about = {"kind": "Pod", "apiVersion": "v1", "name": pod, "namespace": world.namespace, "uid": uid}
    world.core.create_namespaced_event(
        world.namespace,
        {
            "metadata": {"generateName": "event-"},
            "involvedObject": about,
            "source": {"component": component},
            "reason": reason,
            "message": message,
            "type": "Normal",
            "firstTimestamp": at,
            "lastTimestamp": at,
        },
    )


def test_what_an_autoscaler_says_of_a_pod_stands_beside_the_schedulers_words(world):
    world.create(KEY)
    look(world)
    pod = finds_no_node(world)
    soon = look(world)
    assert soon == 30.0, "nothing wakes the operator when an autoscaler speaks"
    assert condition(world.session(KEY)["status"], "PodsReady")["message"] == SCHEDULER

    said(world, pod, "default-scheduler", "FailedScheduling", "older words of its own", "2024-05-06T12:03:00Z")
    refused = "pod didn't trigger scale-up: 1 max node group size reached"
    said(world, pod, "cluster-autoscaler", "NotTriggerScaleUp", refused, "2024-05-06T12:01:00Z")
    look(world)
    told = condition(world.session(KEY)["status"], "PodsReady")
    assert (told["reason"], told["message"]) == ("Unschedulable", f"{SCHEDULER} cluster-autoscaler: {refused}.")

    coming = "pod triggered scale-up: [{gpu 0->1 (max: 4)}]"
    said(world, pod, "cluster-autoscaler", "TriggeredScaleUp", coming, "2024-05-06T12:02:00Z")
    look(world)
    told = condition(world.session(KEY)["status"], "PodsReady")
    assert told["message"] == f"{SCHEDULER} cluster-autoscaler: {coming}. A new node takes minutes to come."
    assert condition(world.session(KEY)["status"], "Running")["message"] == told["message"]


def test_a_session_with_claims_makes_a_job_that_claims_for_each_of_its_pods(world):
    world.create(KEY, resources=CLAIMS)
    look(world)
    pod = world.job()["spec"]["template"]["spec"]
    assert pod["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert world.session(KEY)["status"]["placement"]["device"] == "GPU"


def test_where_the_features_are_stored_nothing_is_claimed(world):
    world.create("first", resources=CLAIMS)
    world.operator().look((world.namespace, "first"))
    world.store_features("first")
    world.delete_job(world.job()["metadata"]["name"])
    world.create(KEY, resources=CLAIMS)
    look(world)
    pod = world.job(world.session(KEY)["metadata"]["uid"][:8])["spec"]["template"]["spec"]
    assert "resourceClaims" not in pod
    assert "claims" not in pod["containers"][0]["resources"]
    assert world.session(KEY)["status"]["placement"]["device"] == "CPU"


def test_claims_are_changed_only_while_a_session_is_suspended(world):
    world.create(KEY, resources=CLAIMS)

    def change(template: str, *, suspend: bool) -> None:
        where = (GROUP, VERSION, world.namespace, PLURAL, KEY)
        found = world.custom.get_namespaced_custom_object(*where)
        found["spec"]["resources"]["claims"] = [{"name": "gpu", "resourceClaimTemplateName": template}]
        found["spec"]["suspend"] = suspend
        world.custom.replace_namespaced_custom_object(*where, found)

    with pytest.raises(ApiException, match="resources can be changed only while the session is suspended"):
        change("large-gpu", suspend=False)
    change("one-gpu", suspend=True)
    change("large-gpu", suspend=True)
    assert world.session(KEY)["spec"]["resources"]["claims"][0]["resourceClaimTemplateName"] == "large-gpu"
