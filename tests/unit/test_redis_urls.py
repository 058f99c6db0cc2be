"""What REDIS_URL may be."""

from pathlib import Path

import pytest

from carryover.errors import ConfigurationError
from carryover.store import Store
from carryover.store.redis.sentinel import master
from tests.support.proxy import Certificates

TIMEOUT = 1
"""Of Redis, in seconds."""


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost", "redis://, rediss://, unix://"),
        ("redis+sentinel://localhost:1", "the name of the service"),
        ("redis+cluster://", "host:port"),
    ],
)
def test_a_url_of_no_known_form_is_rejected(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Store(url, TIMEOUT, 60)


FORMS = ["rediss://localhost/0", "rediss+sentinel://localhost/service", "rediss+cluster://localhost"]


@pytest.mark.parametrize("url", FORMS)
@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs=/nowhere/ca.pem: cannot be read: No such file or directory"),
        ("ssl_certfile=/nowhere/client.pem", "ssl_certfile=/nowhere/client.pem: cannot be read"),
        ("ssl_keyfile=/nowhere/client.key", "ssl_keyfile=/nowhere/client.key: cannot be read"),
        (f"ssl_ca_certs={__file__}", "ssl_ca_certs=.*: holds no certificate in PEM format"),
        (f"ssl_certfile={__file__}&ssl_keyfile={__file__}", "ssl_certfile=.*: are no certificate and its key"),
        (f"ssl_keyfile={__file__}", "ssl_keyfile=.*: needs ssl_certfile"),
        ("ssl_ca_path=/nowhere", "ssl_ca_path=/nowhere: is not a folder"),
        ("ssl_ca_cert=ca.pem", "there is no option 'ssl_ca_cert'"),
        ("sockettimeout=1", "there is no option 'sockettimeout'"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_by_name(url: str, query: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^REDIS_URL: {reason}"):
        Store(f"{url}?{query}", TIMEOUT, 60)


def test_a_cluster_has_no_numbered_databases() -> None:
    with pytest.raises(ConfigurationError, match="'db'"):
        Store("redis+cluster://localhost?db=1", TIMEOUT, 60)


def test_certificates_that_are_right_are_accepted(tmp_path: Path) -> None:
    for url in FORMS:
        Store(f"{url}?{Certificates(tmp_path).query}", TIMEOUT, 60)


def test_sentinels_have_credentials_of_their_own() -> None:
    given = {"username": "app", "password": "secret", "sentinel_username": "watcher", "sentinel_password": "word"}
    pool = master([("localhost", 26379)], "/service", given, {}).connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for held, expected in ((sentinel.connection_pool, ("watcher", "word")), (pool, ("app", "secret"))):
        assert (held.connection_kwargs["username"], held.connection_kwargs["password"]) == expected
    Store("redis+sentinel://localhost/service?sentinel_username=watcher&sentinel_password=word", TIMEOUT, 60)
