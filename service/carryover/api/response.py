"""A response as handlers make it: plain values, whoever sends them. It can be stored for a retry."""

import struct
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache

import orjson

from carryover.errors import StoreUnavailableError

JSON = "application/json"
NDJSON = "application/x-ndjson"
OCTETS = "application/octet-stream"
EVENTS = "text/event-stream"

Headers = tuple[tuple[str, str], ...]

NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
"""A header of every response: no browser takes the body for something that it is not called."""

_WITHOUT_BODY = (204, 304)
_HEAD = struct.Struct("<BHqI")
_FORMAT = 1
_REPLAYED: Headers = (("Idempotency-Replayed", "true"),)


@dataclass(slots=True)
class Response:
    """A response; a generator as its body is sent piece by piece.

    `step` is the session's, which becomes the ETag. Without `media_type` there is no body.
    """

    body: bytes | Generator[bytes] = b""
    status: int = 200
    step: int | None = None
    media_type: str | None = JSON
    headers: Headers = ()

    def with_headers(self, *headers: tuple[str, str]) -> "Response":
        """Return it with these headers as well."""
        return Response(self.body, self.status, self.step, self.media_type, (*self.headers, *headers))

    def dump(self) -> bytes:
        """Return it as bytes: a head, the length of which `load` knows, media type and headers as JSON, the body."""
        body = self.content()
        named = _named(self.media_type, self.headers)
        step = -1 if self.step is None else self.step
        return _HEAD.pack(_FORMAT, self.status, step, len(named)) + named + body

    @classmethod
    def replay(cls, data: bytes) -> "Response":
        """Return a response that was stored, for a retry of its request.

        Raises:
            StoreUnavailableError: it was stored in another format, by another version of the service.

        """
        if data[:1] != bytes((_FORMAT,)):
            raise StoreUnavailableError("the stored response is of a format that this version cannot read")
        _, status, step, length = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        media_type, headers = orjson.loads(data[_HEAD.size : end])
        named = tuple((name, value) for name, value in headers)
        return cls(data[end:], status, None if step < 0 else step, media_type, named + _REPLAYED)

    def fields(self) -> list[tuple[str, str]]:
        """Return its headers, with those that say what the body is."""
        fields = [*self.headers]
        if self.media_type is not None:
            fields.append(("Content-Type", self.media_type))
        if self.step is not None:
            fields.append(("ETag", f'"{self.step}"'))
        if isinstance(self.body, bytes) and self.status not in _WITHOUT_BODY:
            fields.append(("Content-Length", str(len(self.body))))
        return fields

    def content(self) -> bytes:
        """Return the body, which must be whole.

        Raises:
            TypeError: it is sent piece by piece.

        """
        if not isinstance(self.body, bytes):
            raise TypeError("the body is sent piece by piece")
        return self.body


@lru_cache(maxsize=64)  # steps have all the same
def _named(media_type: str | None, headers: Headers) -> bytes:
    return orjson.dumps([media_type, headers])
