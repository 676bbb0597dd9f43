"""The chart over its life: an upgrade that changes nothing, an uninstall that loses nothing."""

RELEASE = "trainingsession"


def pods(stack):
    found = stack.get("pods", "-n", RELEASE)["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


def test_an_upgrade_over_itself_changes_nothing(stack):
    before = pods(stack)
    values = stack.helm("get", "values", RELEASE, "-n", RELEASE, "-o", "yaml")
    (stack.repo / ".cluster/values.yaml").write_text(values)
    stack.helm(
        "upgrade", RELEASE, "charts/trainingsession", "-n", RELEASE, "-f", ".cluster/values.yaml", "--wait",
        "--timeout=120s",
    )  # fmt: skip
    assert pods(stack) == before


def test_an_uninstall_leaves_data_definition_and_sessions(stack, digits):
    team = stack.namespace("e2e-kept")
    stack.apply(digits("kept", training={"epochs": 1}), namespace=team)
    before = stack.wait_finished(team, "kept")
    assert before["status"]["phase"] == "Succeeded"
    stack.helm("uninstall", RELEASE, "-n", RELEASE, "--wait")
    assert stack.get("pvc", "-n", RELEASE)["items"]
    assert stack.get("secret", "trainingsession-mongodb-server", "-n", RELEASE)
    assert stack.session(team, "kept")["status"] == before["status"]

    stack.ok("tests/cluster/install")
    assert stack.session(team, "kept")["status"] == before["status"]
    classes = stack.kubectl(
        "exec", "-n", RELEASE, "deploy/trainingsession-operator", "--",
        "python", "-m", "trainingsession_operator.download", team, "kept", "class_names.json",
    )  # fmt: skip
    assert '"9"' in classes
    stack.delete_namespace(team)
