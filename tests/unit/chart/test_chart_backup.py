"""The CronJobs of backup and restore: where they go, what they are given, and what their program understands."""

from __future__ import annotations

from typing import Any

import pytest

from network_policies import Outside, Pod, allowed
from trainingsession_operator.backup import read_arguments

DIGEST = "sha256:" + "0123456789abcdef" * 4
HOST = "trainingsession-mongodb-0.trainingsession-mongodb.ml-system.svc:27017"
BACKUP, RESTORE = "trainingsession-backup", "trainingsession-restore"
ON = {"backup": {"enabled": True}}
BUCKET = {
    "backup": {"enabled": True, "s3": {"url": "s3://backups/team", "secretName": "keys", "region": "eu-central-1"}}
}
EXTERNAL = {**ON, "mongodb": {"external": {"uriSecret": "atlas", "uriKey": "connection", "caKey": "ca.pem"}}}
CERTIFIED = {**ON, "mongodb": {"tls": {"secretName": "given"}}}
EVERY = pytest.mark.parametrize("values", [ON, BUCKET, EXTERNAL, CERTIFIED])


def told(rendered: Any, name: str) -> Any:
    """What the program makes of its command line."""
    (container,) = rendered.pods()[name]["spec"]["containers"]
    python, module, *rest = container["command"]
    assert (python, module, rest[0]) == ("python", "-m", "trainingsession_operator.backup")
    return read_arguments([*rest[1:], *container["args"]])


def volumes(rendered: Any, name: str) -> dict[str, Any]:
    return {volume["name"]: volume for volume in rendered.pods()[name]["spec"]["volumes"]}


def test_nothing_of_it_is_there_unless_it_is_switched_on(render):
    assert not render().kind("CronJob")
    assert "backup" not in " ".join(render().names())


def test_values_of_a_release_that_knew_no_backups_still_render(render):
    rendered = render({"backup": None, "monitoring": {"prometheusRule": {"enabled": True}}})
    assert not rendered.kind("CronJob")


@EVERY
def test_the_pods_mount_what_they_have_and_hold_no_token_and_no_right(render, values):
    rendered = render(values)
    for name in (BACKUP, RESTORE):
        pod = rendered.pods()[name]["spec"]
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            mounted = {mount["name"] for mount in each["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            assert not any("valueFrom" in variable for variable in each.get("env", ()))
    assert not rendered.kind("Secret")
    (account,) = [a for a in rendered.kind("ServiceAccount") if a["metadata"]["name"] == BACKUP]
    assert account["automountServiceAccountToken"] is False
    bound = [subject["name"] for kind in ("RoleBinding", "ClusterRoleBinding") for b in rendered.kind(kind)
             for subject in b["subjects"]]  # fmt: skip
    assert BACKUP not in bound


def test_one_backup_at_a_time_is_made_by_the_clock_and_a_restore_never(render):
    values = {
        "backup": {"enabled": True, "schedule": "0 */6 * * 1-5", "keep": 28, "features": True, "deadlineMinutes": 60}
    }
    rendered = render(values)
    backup, restore = (rendered.one("CronJob", name)["spec"] for name in (BACKUP, RESTORE))
    assert (backup["schedule"], backup["timeZone"]) == ("0 */6 * * 1-5", "Etc/UTC")
    assert backup["concurrencyPolicy"] == "Forbid"
    assert not backup.get("suspend")
    assert restore["suspend"] is True
    for each in (backup, restore):
        assert each["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 3600
        assert each["failedJobsHistoryLimit"] >= 1
    found = told(rendered, BACKUP)
    assert (found.what, found.keep, found.features) == ("make", 28, True)
    assert (told(rendered, RESTORE).what, told(rendered, RESTORE).archive) == ("restore", "")
    assert told(render(ON), BACKUP).features is False


def test_of_the_server_s_secret_only_user_and_password_are_mounted(render):
    rendered = render(ON)
    secret = volumes(rendered, BACKUP)["server"]["secret"]
    assert secret["secretName"] == "trainingsession-mongodb-server"
    assert {item["key"] for item in secret["items"]} == {"username", "password"}
    found = told(rendered, BACKUP)
    assert (found.hosts, found.replica_set, str(found.folder)) == (HOST, "rs0", "/backups")


def test_an_external_mongodb_is_backed_up_by_its_uri(render):
    rendered = render(EXTERNAL)
    secrets = volumes(rendered, RESTORE)
    assert secrets["server"]["secret"]["items"] == [{"key": "connection", "path": "uri"}]
    assert secrets["authorities"]["secret"]["items"] == [{"key": "ca.pem", "path": "ca.crt"}]
    found = told(rendered, RESTORE)
    assert str(found.uri_file) == "/etc/trainingsession/mongodb-server/uri"
    assert found.ca_file == "/etc/trainingsession/mongodb/ca.crt"


def test_a_claim_of_ones_own_is_used_and_the_chart_s_outlives_the_release(render):
    (claim,) = render(ON).kind("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert volumes(render(ON), BACKUP)["backups"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    own = render({"backup": {"enabled": True, "persistence": {"existingClaim": "nfs"}}})
    assert not own.kind("PersistentVolumeClaim")
    assert volumes(own, RESTORE)["backups"]["persistentVolumeClaim"]["claimName"] == "nfs"
    mounts = own.pods()[RESTORE]["spec"]["containers"][0]["volumeMounts"]
    assert [mount["readOnly"] for mount in mounts if mount["name"] == "backups"] == [True]


def test_a_bucket_is_told_with_keys_from_a_secret_or_a_role(render):
    rendered = render(BUCKET)
    assert not rendered.kind("PersistentVolumeClaim")
    found = told(rendered, BACKUP)
    assert (found.bucket, found.bucket_region, found.folder) == ("s3://backups/team", "eu-central-1", None)
    assert volumes(rendered, BACKUP)["bucket"]["secret"]["secretName"] == "keys"
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/backup"}
    by_role = render({"backup": {"enabled": True, "s3": {"url": "s3://b-1"}, "serviceAccount": {"annotations": role}}})
    assert by_role.one("ServiceAccount", BACKUP)["metadata"]["annotations"] == role
    assert "bucket" not in volumes(by_role, BACKUP)
    assert told(by_role, BACKUP).bucket_secret is None


OUTSIDE = {"trainer": {"caBundle": {"configMap": "our-authorities", "key": "all.pem"},
                       "proxy": {"https": "http://proxy:3128", "noProxy": [".example.com"]}}}  # fmt: skip


def test_a_bucket_is_asked_for_through_the_proxy_and_with_the_authorities_of_ones_own(render):
    for name in (BACKUP, RESTORE):
        rendered = render({**BUCKET, **OUTSIDE})
        assert told(rendered, name).bucket_ca_file == "/etc/trainingsession/ca-bundle/ca-bundle.crt"
        source = volumes(rendered, name)["ca-bundle"]["configMap"]
        assert source == {"name": "our-authorities", "items": [{"key": "all.pem", "path": "ca-bundle.crt"}]}
        environment = {one["name"]: one["value"] for one in rendered.pods()[name]["spec"]["containers"][0]["env"]}
        assert environment["HTTPS_PROXY"] == "http://proxy:3128"
        assert environment["NO_PROXY"] == "localhost,127.0.0.1,.svc,.cluster.local,.example.com"
        assert "HTTP_PROXY" not in environment
    on_a_volume = render({**ON, **OUTSIDE})
    assert "ca-bundle" not in volumes(on_a_volume, BACKUP)
    assert "env" not in on_a_volume.pods()[BACKUP]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("backup", "sentence"),
    [
        ({"s3": {"url": "s3://b-1"}, "persistence": {"existingClaim": "c"}}, "are both set; backups go to one of them"),
        ({"s3": {"secretName": "keys"}}, "backup.s3.secretName is set without backup.s3.url"),
    ],
)
def test_values_that_contradict_each_other_are_a_sentence(template, backup, sentence):
    done = template({"backup": {"enabled": True, **backup}})
    assert done.returncode != 0
    assert sentence in done.stderr


def test_policies_let_them_reach_mongodb_and_a_bucket_and_let_nobody_in(render):
    for values, reaches_bucket in ((ON, False), (BUCKET, True), (EXTERNAL, True)):
        rendered = render(values)
        policies = rendered.kind("NetworkPolicy")
        for name in (BACKUP, RESTORE):
            pod = Pod("ml-system", rendered.pods()[name]["metadata"]["labels"])
            bucket, metadata = Outside("52.95.110.1"), Outside("169.254.169.254")
            assert allowed(policies, pod, bucket, 443) is reaches_bucket
            assert not allowed(policies, pod, metadata, 80)
            assert allowed(policies, pod, Pod("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP")
            assert not allowed(policies, Pod("team-a", {"app": "notebook"}), pod, 8080)
            if values is not EXTERNAL:
                template = rendered.pods()["trainingsession-mongodb"]
                mongodb = Pod("ml-system", template["metadata"]["labels"], ports={"mongodb": 27017})
                assert allowed(policies, pod, mongodb, 27017)
                assert not allowed(policies, Pod("ml-system", {"app": "notebook"}), mongodb, 27017)


def test_both_run_the_operator_s_image(render):
    rendered = render({**ON, "operator": {"image": {"digest": DIGEST}}})
    for name in (BACKUP, RESTORE):
        assert rendered.pods()[name]["spec"]["containers"][0]["image"].endswith(f"@{DIGEST}")
