"""Stopping, waiting and ending on a real cluster, with the commands of docs/lifecycle.md."""

import json
import re
import shlex

import pytest

from real_cluster import condition

# So many that it is stopped in the middle, and so few that a tenth, which the status tells, is soon there.
LONG = {"epochs": 1000}
SMALL = {"inputSize": [32, 32]}
# Two pods at once, beside the system's, on two cores.
CPU = {"gpus": 0, "cpu": "500m", "memory": "2Gi"}


@pytest.fixture(scope="module")
def team(stack):
    name = stack.namespace("e2e-lifecycle")
    yield name
    stack.delete_namespace(name)


def command(stack, team, containing, **names):
    """The command of docs/lifecycle.md with that in it, for a session of this test."""
    page = (stack.repo / "docs/lifecycle.md").read_text()
    (found,) = (line.strip() for line in page.splitlines() if line.startswith("    kubectl") and containing in line)
    for name, value in names.items():
        found = found.replace(name, value)
    return found.replace("kubectl ", f"kubectl -n {team} ")


def pods(stack, team, session):
    label = f"trainingsession.dev/session-uid={session['metadata']['uid']}"
    return stack.get("pods", "-n", team, "-l", label)["items"]


def wait_for(stack, team, name, what, check, seconds=180):
    """The session when `check` holds of it."""

    def there():
        session = stack.session(team, name)
        return session if "status" in session and check(session) else None

    return stack.wait_for(what, there, seconds)


def test_a_running_session_is_suspended_changed_and_goes_on_where_it_was(stack, team, digits):
    stack.apply(digits("long", training=LONG, resources=CPU, baseModel=SMALL), namespace=team)
    wait_for(stack, team, "long", "training", lambda s: s["status"].get("progress", {}).get("epoch", 0) > 0, 300)
    stack.ok(*shlex.split(command(stack, team, '"suspend":true', NAME="long")))
    session = wait_for(stack, team, "long", "suspended", lambda s: condition(s, "Suspended").get("status") == "True")
    assert session["status"]["phase"] == "Suspended"
    assert pods(stack, team, session) == []
    assert stack.get("jobs", "-n", team)["items"] == []
    assert session["status"]["progress"]["epoch"] > 0

    bigger = json.dumps({"spec": {"resources": {"memory": "3Gi"}}})
    stack.kubectl("patch", "ts", "long", "-n", team, "--type=merge", "-p", bigger)
    stack.ok(*shlex.split(command(stack, team, '"suspend":false', NAME="long")))
    session = wait_for(stack, team, "long", "training again", lambda s: s["status"]["phase"] == "Training")
    (pod,) = pods(stack, team, session)
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "3Gi"
    log = stack.wait_for(
        "an epoch", lambda: re.search(r"Going on after epoch (\d+).*\n.*Epoch", _log(stack, team, pod), re.DOTALL)
    )
    assert int(log[1]) > 0
    assert session["status"]["attempts"] == 2
    assert "disruptions" not in session["status"], "it was asked for"
    refused = stack.run(
        "kubectl", "patch", "ts", "long", "-n", team, "--type=merge", "-p", bigger.replace("3Gi", "4Gi")
    )
    assert "only while the session is suspended" in refused.stderr
    stack.kubectl("delete", "ts", "long", "-n", team, "--wait=false")


def _log(stack, team, pod):
    return stack.kubectl("logs", "-n", team, pod["metadata"]["name"])


def test_a_session_that_finds_no_node_in_time_fails_with_the_schedulers_words(stack, team, digits):
    asked = digits(
        "homeless", scheduling={"nodeSelector": {"nowhere": "true"}}, runPolicy={"pendingDeadlineSeconds": 10}
    )
    stack.apply(asked, namespace=team)
    session = stack.wait_finished(team, "homeless", 120)
    failed = condition(session, "Failed")
    assert failed["reason"] == "PendingDeadlineExceeded"
    assert "10 s. It waited for this: 0/1 nodes are available" in failed["message"]
    assert pods(stack, team, session) == []


def test_a_session_that_is_evicted_too_often_fails_and_its_logs_stay(stack, team, digits):
    stack.apply(digits("evicted", training=LONG, resources=CPU, runPolicy={"maxDisruptions": 0}), namespace=team)
    session = wait_for(stack, team, "evicted", "running", lambda s: condition(s, "Running").get("status") == "True")
    (pod,) = pods(stack, team, session)
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": team}}
    path = f"/api/v1/namespaces/{team}/pods/{name}/eviction"
    stack.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    session = stack.wait_finished(team, "evicted", 180)
    failed = condition(session, "Failed")
    assert failed["reason"] == "DisruptedTooOften", failed
    assert session["status"]["disruptions"] == 1
    assert session["status"]["lastDisruption"]["pod"] == name
    reasons = {event["reason"] for event in stack.get("events", "-n", team)["items"]}
    assert "Disrupted" in reasons


@pytest.fixture(scope="module")
def done(stack, team, digits):
    """A session that was trained."""
    stack.apply(digits("done", training={"epochs": 2}, resources=CPU), namespace=team)
    return stack.wait_finished(team, "done")


def test_it_is_run_again_by_the_command_of_the_page(stack, team, done):
    stack.ok("bash", "-c", command(stack, team, "create -f -", NAME="done"))
    again = stack.wait_finished(team, "done-again")
    assert again["metadata"]["uid"] != done["metadata"]["uid"]
    assert again["status"]["phase"] == "Succeeded"
    assert again["status"]["accuracy"] == done["status"]["accuracy"]
    assert again["status"]["features"]["computed"] == 0


def test_an_identical_session_is_answered_without_a_job(stack, team, digits, done):
    asked = digits("answered", training={"epochs": 2}, resources={"gpus": 1, "memory": "3Gi"})
    asked["spec"]["reuseResult"] = "IfIdentical"
    stack.apply(asked, namespace=team)
    session = stack.wait_finished(team, "answered", 30)
    assert session["status"]["accuracy"] == done["status"]["accuracy"]
    assert session["status"]["reusedFrom"]["uid"] == done["metadata"]["uid"]
    assert pods(stack, team, session) == []
    model = stack.run(
        "kubectl", "exec", "-n", "trainingsession", "deploy/trainingsession-operator", "--", "sh", "-c",
        f"python -m trainingsession_operator.download {team} answered model.keras | wc -c",
    )  # fmt: skip
    (artifact,) = (one for one in session["status"]["artifacts"] if one["name"] == "model.keras")
    assert int(model.stdout) == artifact["bytes"]


def test_a_finished_session_is_deleted_when_its_time_is_over(stack, team, done):
    kept = json.dumps({"spec": {"runPolicy": {"ttlSecondsAfterFinished": 1}}})
    stack.kubectl("patch", "ts", "done", "-n", team, "--type=merge", "-p", kept)
    stack.kubectl("wait", "-n", team, "ts/done", "--for=delete", "--timeout=60s")
    gone = ("kubectl", "get", "job", done["status"]["jobName"], "-n", team)
    stack.wait_for("the Job is gone", lambda: "NotFound" in stack.run(*gone).stderr)


def test_the_operators_account_cannot_delete_a_session_that_did_not_ask_for_it(stack, team, digits):
    stack.apply(digits("mine", training=LONG, scheduling={"nodeSelector": {"nowhere": "true"}}), namespace=team)
    account = "system:serviceaccount:trainingsession:trainingsession-operator"
    refused = stack.run("kubectl", f"--as={account}", "delete", "ts", "mine", "-n", team)
    assert "may delete only finished sessions" in refused.stderr
    assert stack.session(team, "mine")
    stack.kubectl("delete", "ts", "mine", "-n", team)
