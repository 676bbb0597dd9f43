"""GPUs on a real node: pretended devices, and what the real kubelet and the real scheduler do with them."""

import contextlib
import re
import subprocess

import pytest
import yaml

from real_cluster import condition

RESOURCE = "nvidia.com/mig-1g.5gb"
DRIVER = "gpu.example.org"
BASE = {"name": "MobileNetV2", "inputSize": [32, 32]}
SMALL = {"gpuWhenCached": "always", "cpu": "500m", "memory": "2Gi"}
SLICE = {**SMALL, "gpus": 1, "gpuResourceName": RESOURCE}
CLAIM = {**SMALL, "gpus": 0, "claims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}
# It runs until it is deleted.
LONG = {"epochs": 10000}


@pytest.fixture(scope="module")
def node(stack):
    """The folder of the node that this checkout runs."""
    folder = stack.repo / ".cluster/node"
    if not folder.exists():
        pytest.skip("needs the sockets of the node's kubelet; only the node of `make cluster` has them on this machine")
    return folder.resolve()


@pytest.fixture(scope="module")
def team(stack, node):
    name = stack.namespace("e2e-gpus")
    yield name
    stack.delete_namespace(name)


@contextlib.contextmanager
def devices(stack, log, *arguments):
    """The program of pretended devices, as long as the block."""
    with log.open("w") as file, subprocess.Popen([stack.repo / ".cluster/devices", *arguments], stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def unhealthy(stack, node, tmp_path_factory):
    """One MIG slice on the node; the file takes the names of unhealthy ones."""
    folder = tmp_path_factory.mktemp("slices")
    arguments = ("--resource", RESOURCE, "--count", "1", "--unhealthy", folder / "unhealthy")
    with devices(stack, folder / "log", *arguments, "--kubelet-pid", node / "run/kubelet.pid"):
        offers(stack, 1)
        yield folder / "unhealthy"


@pytest.fixture(scope="module")
def claimable(stack, node, team, tmp_path_factory):
    """One device of a DRA driver, and the template of docs/gpus.md for it; the file is what the driver says."""
    log = tmp_path_factory.mktemp("driver") / "log"
    page = (stack.repo / "docs/gpus.md").read_text()
    (block,) = re.findall(r"^    apiVersion: resource.k8s.io/v1\n(?:    .*\n)+", page, re.MULTILINE)
    template = yaml.safe_load(block.replace("gpu.nvidia.com", DRIVER))
    version, name = {"apiVersion": "resource.k8s.io/v1"}, {"metadata": {"name": DRIVER}}
    selectors = [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]
    pool = {"name": "node", "generation": 1, "resourceSliceCount": 1}
    offered = {"driver": DRIVER, "nodeName": "node", "pool": pool, "devices": [{"name": "gpu-0"}]}
    with devices(stack, log, "--driver", DRIVER, "--kubelet-root", node / "kubelet"):
        stack.apply({**version, **name, "kind": "DeviceClass", "spec": {"selectors": selectors}})
        stack.apply({**version, **name, "kind": "ResourceSlice", "spec": offered})
        stack.apply(template, namespace=team)
        yield log
        # A claim is only gone when the driver has let it go.
        stack.kubectl("delete", "ts", "--all", "-n", team)
        stack.wait_for("no claims", lambda: not claims(stack, team))
    stack.kubectl("delete", f"resourceslice/{DRIVER}", f"deviceclass/{DRIVER}", "--ignore-not-found")


def offers(stack, count):
    """Wait until the node has so many slices to give; the kubelet tells it every ten seconds."""

    def told():
        return stack.get("node", "node")["status"]["allocatable"].get(RESOURCE) == str(count)

    stack.wait_for(f"{count} of {RESOURCE}", told, 60)


def claims(stack, team):
    return stack.get("resourceclaims", "-n", team)["items"]


def session_when(stack, team, name, what, check, seconds=180):
    """The session when `check` holds of it."""

    def there():
        session = stack.session(team, name)
        return session if "status" in session and check(session) else None

    return stack.wait_for(what, there, seconds)


def succeeds(stack, team, name):
    """Wait until the session has succeeded."""
    session = stack.wait_finished(team, name, 240)
    assert session["status"]["phase"] == "Succeeded", condition(session, "Failed")
    return session


def running(session):
    return condition(session, "Running").get("status") == "True"


def waits(words):
    """Check that a session waits for a node, with these words of the scheduler's."""

    def check(session):
        told = condition(session, "PodsReady")
        return told.get("reason") == "Unschedulable" and words in told["message"]

    return check


def logs_of(stack, team, pod, pattern):
    """Wait until the pod's log holds the pattern; gives the match."""
    command = ("logs", "-n", team, pod["metadata"]["name"])
    return stack.wait_for(pattern, lambda: re.search(pattern, stack.kubectl(*command)), 300)


def pods(stack, team, session):
    label = f"trainingsession.dev/session-uid={session['metadata']['uid']}"
    found = stack.get("pods", "-n", team, "-l", label)["items"]
    return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


@pytest.fixture(scope="module")
def holder(stack, team, digits, unhealthy):
    """A session that trains with the only slice."""
    stack.apply(digits("holder", training=LONG, resources=SLICE, baseModel=BASE), namespace=team)
    return session_when(stack, team, "holder", "running", running, 300)


def test_what_the_device_plugin_hands_out_reaches_the_trainer(stack, team, holder):
    (pod,) = pods(stack, team, holder)
    inside = ("exec", "-n", team, pod["metadata"]["name"], "--")
    assert stack.kubectl(*inside, "printenv", "NVIDIA_VISIBLE_DEVICES").strip() == "pretended-0"
    assert stack.kubectl(*inside, "ls", "/dev/pretended-0").strip() == "/dev/pretended-0"
    assert pod["spec"]["containers"][0]["resources"]["limits"][RESOURCE] == "1"
    assert {RESOURCE, "nvidia.com/gpu"} <= {toleration.get("key") for toleration in pod["spec"]["tolerations"]}


def test_a_session_that_is_drained_from_its_node_goes_on_where_it_was(stack, team, holder):
    (first,) = pods(stack, team, holder)
    logs_of(stack, team, first, r"Epoch +[1-9]")
    label = f"trainingsession.dev/session-uid={holder['metadata']['uid']}"
    try:
        stack.kubectl("drain", "node", f"--pod-selector={label}", "--delete-emptydir-data", "--ignore-daemonsets")
        drained = session_when(stack, team, "holder", "waiting for a node", waits("were unschedulable"))
    finally:
        stack.kubectl("uncordon", "node")
    assert drained["status"]["disruptions"] == 1
    assert drained["status"]["lastDisruption"]["message"]
    session_when(stack, team, "holder", "running again", running)
    assert int(logs_of(stack, team, pods(stack, team, holder)[-1], r"Going on after epoch (\d+)")[1]) > 0


def test_a_session_waits_while_every_device_is_taken_or_unhealthy_and_runs_when_one_recovers(
    stack, team, digits, holder, unhealthy
):
    stack.apply(digits("waiter", training={"epochs": 2}, resources=SLICE, baseModel=BASE), namespace=team)
    session_when(stack, team, "waiter", "waiting for a slice", waits(f"Insufficient {RESOURCE}"))

    unhealthy.write_text("pretended-0\n")
    offers(stack, 0)
    assert running(stack.session(team, "holder")), "what runs is left alone"
    stack.kubectl("delete", "ts", "holder", "-n", team)
    stack.wait_for("no pod holds the slice", lambda: not pods(stack, team, holder))
    assert waits(f"Insufficient {RESOURCE}")(stack.session(team, "waiter"))

    unhealthy.unlink()
    offers(stack, 1)
    succeeds(stack, team, "waiter")


def test_a_claim_is_allocated_prepared_and_given_back(stack, team, digits, claimable):
    stack.apply(digits("claimer", training=LONG, resources=CLAIM, baseModel=BASE), namespace=team)
    session = session_when(stack, team, "claimer", "running", running, 300)
    (pod,) = pods(stack, team, session)
    (claim,) = claims(stack, team)
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    assert (result["driver"], result["device"]) == (DRIVER, "gpu-0")
    assert [one["uid"] for one in claim["status"]["reservedFor"]] == [pod["metadata"]["uid"]]
    assert f"prepared {team}/{claim['metadata']['name']}" in claimable.read_text()

    stack.apply(digits("next", training={"epochs": 2}, resources=CLAIM, baseModel=BASE), namespace=team)
    session_when(stack, team, "next", "waiting for a device", waits("cannot allocate all claims"))
    stack.kubectl("delete", "ts", "claimer", "-n", team)
    succeeds(stack, team, "next")
    assert f"unprepared {team}/{claim['metadata']['name']}" in claimable.read_text()


def test_a_template_that_is_not_there_is_named(stack, team, digits, claimable):
    nowhere = [{"name": "gpu", "resourceClaimTemplateName": "nowhere"}]
    stack.apply(digits("lost", resources={**CLAIM, "claims": nowhere}, baseModel=BASE), namespace=team)
    named = 'resourceclaimtemplate.resource.k8s.io "nowhere" not found'
    session_when(
        stack, team, "lost", "the template named", lambda s: named in condition(s, "PodsReady").get("message", "")
    )
    stack.kubectl("delete", "ts", "lost", "-n", team)


def test_with_features_that_are_stored_nothing_is_claimed(stack, team, digits, claimable):
    resources = {**CLAIM, "gpuWhenCached": "never"}
    stack.apply(digits("stored", training={"epochs": 2}, resources=resources, baseModel=BASE), namespace=team)
    session = succeeds(stack, team, "stored")
    assert session["status"]["placement"]["device"] == "CPU"
    (pod,) = pods(stack, team, session)
    assert "resourceClaims" not in pod["spec"]
