"""What a client reads when Redis fails, for each way in which it says so."""

from typing import Any

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from carryover.store.health import reason


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", "rejects the service's credentials"),
        ("NOAUTH Authentication required.", "rejects the service's credentials"),
        ("NOPERM User app has no permissions to run the 'mget' command", "does not allow the service's credentials"),
        ("ERR ACL failure in script: User app has no permissions", "does not allow the service's credentials"),
        ("ERR The user executing the script can't run this command", "does not allow the service's credentials"),
        ("READONLY You can't write against a read only replica.", "is a read-only replica"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "is full"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "cannot write to its disk"),
        ("NOREPLICAS Not enough good replicas to write.", "fewer replicas"),
        ("LOADING Redis is loading the dataset in memory", "is loading its data"),
        ("MASTERDOWN Link with MASTER is down", "has lost its master"),
        ("CLUSTERDOWN The cluster is down", "Redis Cluster does not answer"),
        ("ERR unknown", "returned an error"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "returned an error"),
    ],
)
def test_the_reason_is_what_the_server_says(said: str, expected: str) -> None:
    parser: Any = BaseParser  # redis-py has no types for it
    error = parser.parse_error(said)
    assert isinstance(error, exceptions.RedisError)
    assert expected in reason(error)
