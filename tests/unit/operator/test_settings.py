"""Settings are read once; what is wrong with them is one sentence that names the variable, its value and the remedy."""

from __future__ import annotations

import pytest

from builders import settings
from trainingsession_operator.errors import StartError
from trainingsession_operator.settings import read_settings


def test_defaults():
    found = settings()
    assert (found.trainer_image_pull_policy, found.workers, found.log_level) == ("IfNotPresent", 16, "info")
    assert (found.log_format, found.requests_per_second, found.requests_burst) == ("text", 100, 1_000)
    assert (found.health_port, found.metrics_port) == (8080, 8081)
    assert (found.namespaces, found.trainer_image_pull_secrets) == ((), ())
    assert (found.mongodb_users, found.mongodb_replica_set) == ("managed", "rs0")
    assert (found.features_quota, found.eviction_grace_seconds) == (None, 600)
    assert (found.orphan_grace_seconds, found.storage_interval_seconds) == (24 * 3600, 600)


@pytest.mark.parametrize(("text", "size"), [("1Mi", 2**20), ("200Gi", 200 * 2**30), ("3Ti", 3 * 2**40)])
def test_a_quota_is_a_size(text, size):
    assert settings(FEATURES_QUOTA_PER_NAMESPACE=text).features_quota == size


def test_mirrors_are_addresses_or_nothing():
    assert (settings().datasets_mirror, settings().weights_mirror) == ("", "")
    assert settings(DATASETS_MIRROR="https://mirror/data").datasets_mirror == "https://mirror/data"
    assert settings(WEIGHTS_MIRROR="http://mirror:8080").weights_mirror == "http://mirror:8080"


@pytest.mark.parametrize("value", ["mirror/data", "ftp://mirror", "https://me:secret@mirror/", "https://mirror/?a=b"])
def test_another_address_of_a_mirror_is_refused(value):
    with pytest.raises(
        StartError, match=r"the environment variable WEIGHTS_MIRROR is .*; set it to an address such as"
    ):
        settings(WEIGHTS_MIRROR=value)


def test_lists_are_separated_by_commas():
    found = settings(WATCH_NAMESPACES=" team-a, team-b ,", TRAINER_IMAGE_PULL_SECRETS="one,two")
    assert found.namespaces == ("team-a", "team-b")
    assert found.trainer_image_pull_secrets == ("one", "two")


def test_hosts_are_not_needed_for_a_mongodb_elsewhere():
    assert read_settings({"TRAINER_IMAGE": "x", "MONGODB_URI_FILE": "/uri"}).mongodb_hosts == ""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"TRAINER_IMAGE": ""},
         "the environment variable TRAINER_IMAGE is missing; set it to the image of the trainer"),
        ({"MONGODB_HOSTS": ""}, "the environment variable MONGODB_HOSTS is missing; set it to host:port of MongoDB"),
        ({"WORKERS": "0"}, 'the environment variable WORKERS is "0"; set it to a whole number from 1 to 64'),
        ({"WORKERS": "65"}, 'the environment variable WORKERS is "65"; set it to a whole number from 1 to 64'),
        ({"WORKERS": "many"}, 'the environment variable WORKERS is "many"; set it to a whole number from 1 to 64'),
        ({"WORKERS": "²"}, 'the environment variable WORKERS is "²"; set it to a whole number from 1 to 64'),
        ({"LOG_LEVEL": "loud"},
         'the environment variable LOG_LEVEL is "loud"; set it to one of info, debug, warning, error'),
        ({"LOG_FORMAT": "xml"}, 'the environment variable LOG_FORMAT is "xml"; set it to one of text, json'),
        ({"API_REQUESTS_PER_SECOND": "9"},
         'the environment variable API_REQUESTS_PER_SECOND is "9"; set it to a whole number from 10 to 10000'),
        ({"API_REQUESTS_BURST": "0"},
         'the environment variable API_REQUESTS_BURST is "0"; set it to a whole number from 10 to 100000'),
        ({"METRICS_PORT": "65536"},
         'the environment variable METRICS_PORT is "65536"; set it to a whole number from 1 to 65535'),
        ({"FEATURES_QUOTA_PER_NAMESPACE": "200"},
         'the environment variable FEATURES_QUOTA_PER_NAMESPACE is "200"; set it to a size such as 200Gi, '
         "or to nothing"),
        ({"FEATURES_QUOTA_PER_NAMESPACE": "0Gi"},
         'the environment variable FEATURES_QUOTA_PER_NAMESPACE is "0Gi"; set it to a size such as 200Gi, '
         "or to nothing"),
        ({"EVICTION_GRACE_MINUTES": "0"},
         'the environment variable EVICTION_GRACE_MINUTES is "0"; set it to a whole number from 1 to 10080'),
        ({"ORPHAN_GRACE_HOURS": "2"},
         'the environment variable ORPHAN_GRACE_HOURS is "2"; set it to a whole number from 3 to 8760'),
        ({"STORAGE_INTERVAL_MINUTES": "0"},
         'the environment variable STORAGE_INTERVAL_MINUTES is "0"; set it to a whole number from 1 to 1440'),
        ({"MONGODB_USERS": "none"},
         'the environment variable MONGODB_USERS is "none"; set it to one of managed, shared'),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_a_sentence(changed, sentence):
    with pytest.raises(StartError) as error:
        settings(**changed)
    assert str(error.value) == sentence
