"""Stored responses: what a retry with the same idempotency key gets.

Under a session's idempotency key lies, first, a lock: the request is in flight. The script that commits the request's
step puts the response in its place, in the same atomic write. A lock whose worker died expires by itself. Two requests
that run at the same time all the same are distinguished by the script, which never writes a second response.

| offset | bytes | description |
|--------|-------|-------------|
| 0      | 1     | format: 0 a lock, 1 a response |
| 1      | 16    | digest of the request |
| 17     |       | the response, as the interface encodes it |
"""

from dataclasses import dataclass
from hashlib import blake2b

from carryover.errors import KeyInUseError, KeyReusedError

LOCK_MILLISECONDS = 5000
"""How long a lock lasts unless its request is answered before."""

_LOCK, _RESPONSE = b"\0", b"\1"
_REQUEST = slice(1, 17)
_STORED = 17


def is_response(found: bytes) -> bool:
    """Whether what was found under a key is a response, not a lock."""
    return found[:1] == _RESPONSE


@dataclass(slots=True, eq=False)
class IdempotencyKey:
    """A client's key, and the request that it stands for.

    `path` is the URL's path, `request` a digest of path and body (16 bytes). `name` is what the response is stored
    under, beside its session: of fixed length, whatever the client has chosen.
    """

    key: str
    path: str
    request: bytes
    name: str

    @classmethod
    def of(cls, key: str, path: str, body: bytes) -> "IdempotencyKey":
        """Return the key of the request to this path with this body."""
        request = blake2b(path.encode() + b"\0" + body, digest_size=16).digest()
        return cls(key, path, request, blake2b(key.encode(), digest_size=16).hexdigest())

    @property
    def session(self) -> str:
        """The name of the session that the request creates, if it gives none: a retry finds the same one."""
        return blake2b(f"{self.key}\0{self.path}".encode(), digest_size=16).hexdigest()

    def lock(self) -> bytes:
        """Return the bytes that say: in flight."""
        return _LOCK + self.request

    def stored(self, response: bytes) -> bytes:
        """Return the bytes that hold the response."""
        return _RESPONSE + self.request + response

    def replay_or_raise(self, found: bytes | None) -> bytes | None:
        """Return the response that was stored; None where the request is new.

        Raises:
            KeyReusedError: the key stands for another request.
            KeyInUseError: the request is in flight.

        """
        if found is None:
            return None
        if found[_REQUEST] != self.request:
            raise KeyReusedError(
                f"idempotency key {self.key!r:.80} was used with another request; a new request needs a new key"
            )
        if found[:1] == _LOCK:
            raise KeyInUseError(f"the request with idempotency key {self.key!r:.80} is in flight; retry in a second")
        return found[_STORED:]
