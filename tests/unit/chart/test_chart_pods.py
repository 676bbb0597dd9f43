"""The workloads: what their pods may do, which images they run, and what they are told."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from pod_security import restricted_violations
from trainingsession_operator.mongodb_init import read_arguments
from trainingsession_operator.settings import read_settings
from trainingsession_operator.trainer_pod import MONGODB_FOLDER

DIGEST = "sha256:" + "0123456789abcdef" * 4
EXTERNAL = {"mongodb": {"external": {"uriSecret": "atlas"}}}
BACKED_UP = {"backup": {"enabled": True}}
OPERATOR = "trainingsession-operator"
MONGODB = "trainingsession-mongodb"
HOST = "trainingsession-mongodb-0.trainingsession-mongodb.ml-system.svc:27017"


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in containers(pod) if found["name"] == name)


def sidecar_arguments(pod: dict[str, Any], number: int = 0) -> list[str]:
    """What MongoDB's sidecar is told in the pod of that number, as the kubelet expands it."""
    told = container(pod, "init")
    assert "POD_NAME" in {variable["name"] for variable in told["env"]}
    return [argument.replace("$(POD_NAME)", f"{MONGODB}-{number}") for argument in told["args"]]


def environment(rendered: Any) -> dict[str, str]:
    found = container(rendered.pods()[OPERATOR], "operator")
    return {variable["name"]: variable.get("value", "") for variable in found["env"]}


def test_the_check_for_the_restricted_standard_finds_what_it_should():
    bare = {"containers": [{"name": "c"}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}], "hostPID": True}
    rules = {"allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"}
    assert set(restricted_violations(bare)) == {"hostPID is set", "volume v is a hostPath"} | {f"c: {r}" for r in rules}


@pytest.mark.parametrize("values", [{}, EXTERNAL, BACKED_UP], ids=["own MongoDB", "external MongoDB", "backups"])
def test_pods_meet_the_restricted_standard_and_have_a_read_only_root(render, values):
    pods = render(values).pods()
    assert pods
    for name, pod in pods.items():
        assert restricted_violations(pod["spec"]) == [], name
        for each in containers(pod):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True, f"{name}/{each['name']}"
            assert each["resources"]["limits"]["memory"], f"{name}/{each['name']}"
            assert each["resources"]["requests"]["cpu"], f"{name}/{each['name']}"


def test_only_the_operator_has_an_account_token(render):
    pods = render(BACKED_UP).pods()
    with_token = [name for name, pod in pods.items() if pod["spec"]["automountServiceAccountToken"] is not False]
    assert with_token == [OPERATOR]
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods.values())


def test_no_secret_is_in_an_environment_or_an_argument(render):
    for values in ({}, EXTERNAL, BACKED_UP):
        rendered = render(values)
        assert not rendered.kind("Secret")
        for pod in rendered.pods().values():
            for each in containers(pod):
                assert "envFrom" not in each
                assert not any("secretKeyRef" in variable.get("valueFrom", {}) for variable in each.get("env", []))


def test_one_operator_replaces_the_other(render):
    deployment = render().one("Deployment", OPERATOR)
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    probes = container(deployment["spec"]["template"], "operator")
    ports = {port["name"]: port["containerPort"] for port in probes["ports"]}
    assert (ports[probes["livenessProbe"]["httpGet"]["port"]], probes["livenessProbe"]["httpGet"]["path"]) == (
        8080,
        "/healthz",
    )
    assert (ports[probes["readinessProbe"]["httpGet"]["port"]], probes["readinessProbe"]["httpGet"]["path"]) == (
        8081,
        "/readyz",
    )


def test_the_operator_is_told_of_the_chart_s_own_mongodb(render):
    told = environment(render())
    assert told["MONGODB_SERVER_SECRET"] == "trainingsession-mongodb-server"
    assert told["MONGODB_HOSTS"] == HOST
    assert told["MONGODB_REPLICA_SET"] == "rs0"
    assert told["MONGODB_USERS"] == "managed"
    assert "MONGODB_URI_FILE" not in told


def test_an_external_mongodb_is_a_file_and_nothing_of_the_own_one_is_left(render):
    rendered = render({"mongodb": {"external": {"uriSecret": "atlas", "uriKey": "connection"}, "users": "shared"}})
    assert not rendered.kind("StatefulSet")
    assert [service["metadata"]["name"] for service in rendered.kind("Service")] == [f"{OPERATOR}-metrics"]
    assert not rendered.kind("Role")
    told = environment(rendered)
    assert told["MONGODB_URI_FILE"] == "/etc/trainingsession/mongodb/uri"
    assert told["MONGODB_USERS"] == "shared"
    assert not {"MONGODB_SERVER_SECRET", "MONGODB_HOSTS", "MONGODB_REPLICA_SET"} & set(told)
    pod = rendered.pods()[OPERATOR]["spec"]
    volume = next(found for found in pod["volumes"] if found["name"] == "mongodb")
    assert volume["secret"]["secretName"] == "atlas"
    assert volume["secret"]["items"] == [{"key": "connection", "path": "uri"}]
    mount = next(found for found in pod["containers"][0]["volumeMounts"] if found["name"] == "mongodb")
    assert mount == {"name": "mongodb", "mountPath": "/etc/trainingsession/mongodb", "readOnly": True}


def test_settings_of_the_values_reach_the_operator(render):
    told = environment(
        render(
            {
                "watchNamespaces": ["team-a", "team-b"],
                "operator": {
                    "logLevel": "debug",
                    "logFormat": "json",
                    "workers": 4,
                    "apiRequestsPerSecond": 50,
                    "apiRequestsBurst": 200,
                },
                "trainer": {"image": {"pullPolicy": "Never"}, "imagePullSecrets": ["one", "two"]},
                "features": {"quotaPerNamespace": "200Gi", "evictionGraceMinutes": 5},
                "storage": {"intervalMinutes": 3, "orphanGraceHours": 48},
            }
        )
    )
    assert told["WATCH_NAMESPACES"] == "team-a,team-b"
    assert told["LOG_LEVEL"] == "debug"
    assert told["LOG_FORMAT"] == "json"
    assert told["API_REQUESTS_PER_SECOND"] == "50"
    assert told["API_REQUESTS_BURST"] == "200"
    assert told["WORKERS"] == "4"
    assert told["TRAINER_IMAGE_PULL_POLICY"] == "Never"
    assert told["TRAINER_IMAGE_PULL_SECRETS"] == "one,two"
    assert told["FEATURES_QUOTA_PER_NAMESPACE"] == "200Gi"
    assert told["EVICTION_GRACE_MINUTES"] == "5"
    assert told["STORAGE_INTERVAL_MINUTES"] == "3"
    assert told["ORPHAN_GRACE_HOURS"] == "48"


@pytest.mark.parametrize("values", [{}, EXTERNAL], ids=["own MongoDB", "external MongoDB"])
def test_the_operator_reads_every_setting_that_the_chart_gives(render, values):
    class Recorded(dict[str, str]):
        asked: ClassVar[set[str]] = set()

        def get(self, key: str, default: str | None = None) -> Any:
            self.asked.add(key)
            return super().get(key, default)

    told = environment(render(values))
    settings = read_settings(Recorded(told))
    assert set(told) <= Recorded.asked
    assert settings.trainer_image == told["TRAINER_IMAGE"]
    assert settings.workers == 16


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "trainingsession/{part}:{version}"),
        ({"tag": "dev"}, "trainingsession/{part}:dev"),
        ({"registry": "registry.example.com/mirror"}, "registry.example.com/mirror/trainingsession/{part}:{version}"),
        ({"repository": "ml/it", "tag": "1"}, "ml/it:1"),
        ({"tag": "ignored", "digest": DIGEST}, "trainingsession/{part}@" + DIGEST),
    ],
)
def test_images_are_named_by_registry_repository_tag_and_digest(render, repo, image, reference):
    version = (repo / "VERSION").read_text().strip()
    rendered = render({"operator": {"image": image}, "trainer": {"image": image}})
    assert container(rendered.pods()[OPERATOR], "operator")["image"] == reference.format(
        part="operator", version=version
    )
    assert container(rendered.pods()[MONGODB], "init")["image"] == reference.format(part="operator", version=version)
    assert environment(rendered)["TRAINER_IMAGE"] == reference.format(part="trainer", version=version)


def test_mongodb_s_image_is_pinned_and_can_be_another(render):
    tag = container(render().pods()[MONGODB], "mongod")["image"]
    assert tag.startswith("mongo:7.0.")
    other = render({"mongodb": {"image": {"repository": "mirror/mongo", "tag": "8.0.4"}}}).pods()[MONGODB]
    assert {container(other, name)["image"] for name in ("mongod", "keyfile")} == {"mirror/mongo:8.0.4"}


def test_pull_secrets_are_on_every_pod(render):
    for pod in render({"imagePullSecrets": ["mirror"], "backup": {"enabled": True}}).pods().values():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "mirror"}]
    assert all("imagePullSecrets" not in pod["spec"] for pod in render().pods().values())


def test_the_keyfile_is_for_mongod_alone_and_never_on_a_disk(render):
    pod = render().pods()[MONGODB]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["keyfile"]["emptyDir"]["medium"] == "Memory"
    assert volumes["server"]["secret"]["secretName"] == "trainingsession-mongodb-server"
    assert not volumes["server"]["secret"].get("optional")
    copying = pod["initContainers"][0]["command"]
    assert copying[:3] == ["install", "-m", "0400"]
    mongod = next(found for found in pod["containers"] if found["name"] == "mongod")
    assert "server" not in {mount["name"] for mount in mongod["volumeMounts"]}
    assert f"--keyFile={copying[-1]}" in mongod["args"]


def test_mongod_and_its_sidecar_agree_on_the_replica_set(render):
    rendered = render({"mongodb": {"replicaSet": "training", "oplogMinRetentionHours": 6}})
    pod = rendered.pods()[MONGODB]
    mongod, sidecar = container(pod, "mongod"), container(pod, "init")
    assert {"--replSet=training", "--auth", "--oplogMinRetentionHours=6"} <= set(mongod["args"])
    assert sidecar["command"] == ["python", "-m", "trainingsession_operator.mongodb_init"]
    assert {"--replica-set=training", f"--host={HOST}"} <= set(sidecar_arguments(pod))
    assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert environment(rendered)["MONGODB_REPLICA_SET"] == "training"


def test_the_sidecar_understands_its_arguments(render):
    told = dataclasses.asdict(read_arguments(sidecar_arguments(render().pods()[MONGODB])))
    assert told["mongod"] == "127.0.0.1:27017"
    assert told["host"] == HOST
    assert told["health_port"] == 8082


@pytest.mark.parametrize(
    ("memory", "given", "cache"),
    [
        ("2Gi", None, "0.5"),
        ("512Mi", None, "0.25"),
        ("1536Mi", None, "0.25"),
        ("9Gi", None, "4"),
        ("2Gi", 1, "1"),
        ("2Gi", 0.3, "0.3"),
    ],
)
def test_mongodb_s_cache_follows_its_memory(render, memory, given, cache):
    values = {"mongodb": {"resources": {"limits": {"memory": memory}}, "cacheSizeGB": given}}
    assert f"--wiredTigerCacheSizeGB={cache}" in container(render(values).pods()[MONGODB], "mongod")["args"]


def test_a_large_user_id_is_not_written_as_a_float(render):
    pod = render({"mongodb": {"runAsUser": 1000650000}}).pods()[MONGODB]["spec"]["securityContext"]
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (1000650000,) * 3


def test_the_pod_of_mongodb_is_found_by_name_before_it_is_ready(render):
    rendered = render()
    service = rendered.one("Service", MONGODB)["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    statefulset = rendered.one("StatefulSet", MONGODB)["spec"]
    assert statefulset["serviceName"] == MONGODB
    alias = {"ip": "127.0.0.1", "hostnames": [HOST.removesuffix(":27017")]}
    assert statefulset["template"]["spec"]["hostAliases"] == [alias]
    assert service["selector"].items() <= statefulset["template"]["metadata"]["labels"].items()


def test_the_volume_outlives_the_release(render):
    values = {"mongodb": {"persistence": {"size": "7Gi", "storageClassName": "fast"}}}
    spec = render(values).one("StatefulSet", MONGODB)["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    claim = spec["volumeClaimTemplates"][0]["spec"]
    assert claim["resources"]["requests"]["storage"] == "7Gi"
    assert claim["storageClassName"] == "fast"
    assert "storageClassName" not in render().one("StatefulSet", MONGODB)["spec"]["volumeClaimTemplates"][0]["spec"]


def test_nothing_immutable_or_restarting_carries_the_chart_s_version(render):
    for workload in [*render().kind("Deployment"), *render().kind("StatefulSet")]:
        spec = workload["spec"]
        parts = [spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]]
        parts += [claim["metadata"]["labels"] for claim in spec.get("volumeClaimTemplates", [])]
        for labels in parts:
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)


def test_two_releases_share_no_name(render):
    def names(release: str) -> set[str]:
        return {name for name in render(release=release).names() if not name.startswith("CustomResourceDefinition/")}

    assert not names("blue") & names("green")
    assert all("trainingsession" in name for name in names("blue"))


@pytest.mark.parametrize("release", ["r" * 53, "trainingsession-" + "r" * 37])
def test_names_stay_legal_with_the_longest_release_name(render, release):
    rendered = render(release=release)
    assert all(len(name.partition("/")[2]) <= 63 for name in rendered.names())
    # The label with the revision of a StatefulSet's pod is its name and a hash of ten characters.
    assert all(len(found["metadata"]["name"]) <= 52 for found in rendered.kind("StatefulSet"))


def test_two_renderings_are_the_same(template):
    values = {"watchNamespaces": ["team-a"], "mongodb": {"users": "shared", "external": {"uriSecret": "atlas"}}}
    first, second = template(values), template(values)
    assert first.returncode == 0
    assert first.stdout == second.stdout


CERTIFIED = {"mongodb": {"tls": {"certManager": {"issuerName": "authority", "issuerKind": "ClusterIssuer"}}}}
GIVEN = {"mongodb": {"tls": {"secretName": "given"}}}


@pytest.mark.parametrize(("values", "name"), [(CERTIFIED, f"{MONGODB}-tls"), (GIVEN, "given")])
def test_with_tls_mongod_takes_nothing_else_and_everybody_is_given_the_authority(render, values, name):
    rendered = render(values)
    pods = rendered.pods()
    mongod = container(pods[MONGODB], "mongod")["args"]
    assert {"--tlsMode=requireTLS", "--tlsCertificateKeyFile=/run/mongodb/tls.pem"} <= set(mongod)
    mounted = {mount["mountPath"] for mount in container(pods[MONGODB], "mongod")["volumeMounts"]}
    (authority,) = [argument.partition("=")[2] for argument in mongod if argument.startswith("--tlsCAFile=")]
    assert authority.rpartition("/")[0] in mounted
    settings = read_arguments(sidecar_arguments(pods[MONGODB]))
    assert str(settings.ca_file) == authority
    assert authority.rpartition("/")[0] in {m["mountPath"] for m in container(pods[MONGODB], "init")["volumeMounts"]}
    for pod in (pods[MONGODB], pods[OPERATOR]):
        assert restricted_violations(pod["spec"]) == []
        assert name in {volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume}
    told = read_settings(environment(rendered))
    # One URI serves operator and trainers, so the file has one path.
    assert told.mongodb_ca_file == f"{MONGODB_FOLDER}/ca.crt"
    assert {m["mountPath"] for m in container(pods[OPERATOR], "operator")["volumeMounts"]} >= {MONGODB_FOLDER}


def test_cert_manager_is_asked_for_the_member_s_name_only_where_an_issuer_is_named(render):
    (certificate,) = render(CERTIFIED).kind("Certificate")
    assert HOST.removesuffix(":27017") in certificate["spec"]["dnsNames"]
    assert certificate["spec"]["secretName"] == f"{MONGODB}-tls"
    assert set(certificate["spec"]["usages"]) == {"server auth", "client auth"}
    assert certificate["spec"]["issuerRef"]["kind"] == "ClusterIssuer"
    for values in ({}, GIVEN, EXTERNAL):
        assert not render(values).kind("Certificate")
        assert ("requireTLS" in str(render(values).all)) == (values is GIVEN)


def test_the_authority_of_an_external_mongodb_is_a_key_of_its_secret(render):
    rendered = render({"mongodb": {"external": {"uriSecret": "atlas", "caKey": "authority.pem"}}})
    volume = next(one for one in rendered.pods()[OPERATOR]["spec"]["volumes"] if one["name"] == "mongodb")
    assert {"key": "authority.pem", "path": "ca.crt"} in volume["secret"]["items"]
    assert environment(rendered)["MONGODB_CA_FILE"] == f"{MONGODB_FOLDER}/ca.crt"
    assert "MONGODB_CA_FILE" not in environment(render(EXTERNAL))
