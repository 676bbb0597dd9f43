"""An uninstall of the chart loses nothing."""

RELEASE = "trainingsession"


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
