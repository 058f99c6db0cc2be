"""The names of keys in Redis, all under one prefix, so that the server can be shared.

The braces are Redis Cluster's hash tag: everything that belongs to one session lies in one slot.
"""


def session(prefix: str, key: str) -> str:
    """Return where a session's record is stored; `key` is `<model>/<name>`."""
    return f"{prefix}:{{{key}}}"


def response(prefix: str, key: str, name: str) -> str:
    """Return where the response to an idempotency key is stored, or the lock of the request that is in progress.

    `key` is the session it belongs to, `name` the digest of the idempotency key.
    """
    return f"{session(prefix, key)}:{name}"


def office(prefix: str, name: str) -> str:
    """Return where it is stored that some process holds an office, such as the sweeper's."""
    return f"{prefix}:{name}"


def rate(prefix: str, name: str) -> str:
    """Return where it is stored what was taken of a rate."""
    return f"{prefix}:rate:{name}"


def probe(prefix: str, tag: int, token: str) -> str:
    """Return a key that is no session's, to try out what a step does; it shares the slot of its `tag`."""
    return f"{prefix}:{{server{tag}}}:probe:{token}"


def marker(probe: str) -> str:
    """Return the key, in the slot of a probe, whose loss shows that its server was emptied."""
    return f"{probe.partition(':probe:')[0]}:marker"


def sessions_from(prefix: str, start: str) -> str:
    """Return the pattern that matches the keys of the sessions whose `<model>/<name>` start like this, and no others.

    The keys of responses go on after the brace.
    """
    return f"{prefix}:{{{start}*}}"


def of_session(prefix: str, place: bytes) -> str:
    """Return the `<model>/<name>` of a session whose record is stored there."""
    return place.decode()[len(prefix) + 2 : -1]


def model_of(prefix: str, place: bytes) -> str:
    """Return the model of a session whose record is stored there; what is before an @ is whose it is."""
    return of_session(prefix, place).partition("/")[0].rpartition("@")[2]


def sessions_pattern(prefix: str) -> str:
    """Return the pattern that matches the keys of all sessions and responses, and no others."""
    return f"{prefix}:{{*"
