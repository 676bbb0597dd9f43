"""What the chart's values give every trainer's pod, and what is refused of it with a sentence."""

from __future__ import annotations

import json
import subprocess

import pytest

from builders import session, settings
from trainingsession_operator import plan
from trainingsession_operator.errors import SessionError, StartError
from trainingsession_operator.jobs import build_job, check
from trainingsession_operator.trainer_pod import CA_BUNDLE_ANNOTATION, SESSION_ANNOTATION, SESSION_FOLDER

GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
TEAM_TAINT = {"key": "team", "value": "vision", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """File with a certificate of an authority, and words around it as bundles have them."""
    folder = tmp_path_factory.mktemp("authority")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=Example Authority", "-keyout", folder / "key.pem", "-out", folder / "plain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "ca.crt").write_text(f"# Example Authority\n{(folder / 'plain.pem').read_text()}\n# end $(HOME)\n")
    return folder / "ca.crt"


def template(step=plan.WHOLE, given=None, **changed):
    return build_job(given or session(), settings(**changed), step)["spec"]["template"]


def environment(pod):
    return {item["name"]: item["value"] for item in pod["spec"]["containers"][0]["env"]}


def test_labels_and_annotations_are_added_and_never_replace_the_operator_s_own():
    pod = template(
        TRAINER_POD_ANNOTATIONS=json.dumps({"karpenter.sh/do-not-disrupt": "true", SESSION_ANNOTATION: "{}"}),
        TRAINER_POD_LABELS=json.dumps({"cost-center": "7", "app.kubernetes.io/name": "other"}),
    )["metadata"]
    assert pod["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert json.loads(pod["annotations"][SESSION_ANNOTATION])["kind"] == "TrainingSession"
    assert (pod["labels"]["cost-center"], pod["labels"]["app.kubernetes.io/name"]) == ("7", "trainingsession-trainer")


def test_nodes_of_all_sessions_and_those_of_one_are_joined_and_the_session_wins():
    given = session(scheduling={"nodeSelector": {"zone": "b", "gpu": "a10"}})
    pod = template(given=given, TRAINER_NODE_SELECTOR=json.dumps({"zone": "a", "pool": "ml"}))
    assert pod["spec"]["nodeSelector"] == {"zone": "b", "gpu": "a10", "pool": "ml"}


@pytest.mark.parametrize(
    ("step", "gpus", "tolerated"),
    [(plan.WHOLE, 1, [TEAM_TAINT, GPU_TAINT]), (plan.WHOLE, 0, [TEAM_TAINT]), (plan.HEAD, 1, [TEAM_TAINT])],
)
def test_only_a_pod_with_gpus_tolerates_what_keeps_others_off_their_nodes(step, gpus, tolerated):
    given = session(resources={"gpus": gpus}, scheduling={"tolerations": [TEAM_TAINT]})
    both = {"TRAINER_TOLERATIONS": json.dumps([TEAM_TAINT]), "TRAINER_GPU_TOLERATIONS": json.dumps([GPU_TAINT])}
    assert template(step, given, **both)["spec"]["tolerations"] == tolerated


def test_an_allowed_service_account_runs_the_pod_which_still_has_no_token_for_the_api_server():
    given = session(scheduling={"serviceAccountName": "flowers-reader"})
    allowed = settings(SERVICE_ACCOUNTS="other,flowers-reader")
    check(given, allowed)
    pod = build_job(given, allowed)["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("flowers-reader", False)
    assert "serviceAccountName" not in template()["spec"]


@pytest.mark.parametrize(("allowed", "named"), [("", "none"), ("flowers", "flowers")])
def test_another_service_account_is_refused_with_the_remedy(allowed, named):
    given = session(scheduling={"serviceAccountName": "flowers-reader"})
    with pytest.raises(SessionError, match=rf"sessions may use: {named}; .* trainer\.serviceAccounts") as caught:
        check(given, settings(SERVICE_ACCOUNTS=allowed))
    assert caught.value.reason == "ServiceAccountNotAllowed"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"dataset": {"secretName": "trainingsession-mongodb-server"}}, "spec.dataset.secretName"),
        ({"dataset": {"claimName": "trainingsession-backup"}}, "spec.dataset.claimName"),
        ({"baseModel": {"weightsFrom": {"secretName": "bucket"}}}, "spec.baseModel.weightsFrom.secretName"),
        ({"baseModel": {"weightsFrom": {"claimName": "data-0"}}}, "spec.baseModel.weightsFrom.claimName"),
        ({"module": {"git": {"secretName": "git"}}}, "spec.module.git.secretName"),
        ({"tracking": {"mlflow": {"secretName": "mlflow"}}}, "spec.tracking.mlflow.secretName"),
    ],
)
def test_a_session_beside_mongodb_names_no_secret_and_no_claim(spec, field):
    given = session(**spec)
    check(given, settings(POD_NAMESPACE="elsewhere"))
    with pytest.raises(SessionError, match=rf"^{field} is .* create the session in another namespace") as caught:
        check(given, settings(POD_NAMESPACE=given.namespace))
    assert caught.value.reason == "NamespaceNotAllowed"
    check(session(), settings(POD_NAMESPACE=given.namespace))


def test_a_proxy_is_never_asked_for_mongodb_or_what_is_in_the_cluster():
    found = environment(
        template(
            TRAINER_HTTPS_PROXY="http://proxy:3128", TRAINER_NO_PROXY=".example.com, 10.0.0.9",
            MONGODB_HOSTS="trainingsession-mongodb-0.trainingsession-mongodb.ml:27017",
        )
    )  # fmt: skip
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://proxy:3128"
    assert found["NO_PROXY"] == found["no_proxy"]
    assert "HTTP_PROXY" not in found
    inside = {".svc", ".cluster.local", "127.0.0.1", "localhost"}
    own = {".example.com", "10.0.0.9", "trainingsession-mongodb-0.trainingsession-mongodb.ml"}
    assert inside | own <= set(found["NO_PROXY"].split(","))
    assert not any("proxy" in name.lower() for name in environment(template(TRAINER_NO_PROXY=".example.com")))


def test_authorities_travel_with_the_pod_without_what_stands_around_them(authority):
    pod = template(CA_BUNDLE_FILE=str(authority))
    assert pod["metadata"]["annotations"][CA_BUNDLE_ANNOTATION] == (authority.parent / "plain.pem").read_text()
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "session")
    assert volume["downwardAPI"]["items"][-1] == {
        "path": "ca-bundle.crt",
        "fieldRef": {"fieldPath": f"metadata.annotations['{CA_BUNDLE_ANNOTATION}']"},
    }
    (mount,) = (mount for mount in pod["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "session")
    assert mount["mountPath"] == SESSION_FOLDER


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda file: None, "cannot be read"),
        (lambda file: "nothing", r"has to hold certificates of authorities in PEM \(it holds none\)"),
        (lambda file: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "mend the ConfigMap"),
        (lambda file: file.read_text() * 150, r"at most 64 KiB reach them, so leave only your own authorities"),
        (lambda file: (file.parent / "key.pem").read_text() + file.read_text(), "holds a private key"),
    ],
)  # fmt: skip
def test_a_bundle_that_is_none_is_refused_at_the_start(authority, tmp_path, make, sentence):
    file = tmp_path / "ca.crt"
    if (text := make(authority)) is not None:
        file.write_text(text)
    with pytest.raises(StartError, match=sentence) as caught:
        settings(CA_BUNDLE_FILE=str(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRAINER_POD_LABELS", '["a"]', r"set it to a JSON object of texts, or to nothing"),
        ("TRAINER_POD_ANNOTATIONS", '{"a": 1}', r"set it to a JSON object of texts"),
        ("TRAINER_TOLERATIONS", "{", r"set it to a JSON list of objects"),
        ("TRAINER_HTTP_PROXY", "proxy:3128", r'is "proxy:3128"; set it to an address such as http://proxy:3128'),
        ("PACKAGE_INDEX", "https://me:secret@index/simple", r"without a password"),
    ],
)
def test_a_setting_of_the_wrong_form_is_named_with_its_remedy(variable, value, sentence):
    with pytest.raises(StartError, match=sentence) as caught:
        settings(**{variable: value})
    assert variable in str(caught.value)


def test_a_password_of_a_proxy_is_refused_and_not_repeated():
    with pytest.raises(StartError, match="TRAINER_HTTPS_PROXY holds a user or a password") as caught:
        settings(TRAINER_HTTPS_PROXY="http://me:hunter2@proxy:3128")
    assert "hunter2" not in str(caught.value)
