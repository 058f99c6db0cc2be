"""What REDIS_URL may be."""

import pytest

from carryover.errors import ConfigurationError
from carryover.store import Store

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
