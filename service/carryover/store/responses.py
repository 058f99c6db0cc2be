"""Answers that are kept so that a repeated request gets them again.

Under a session's idempotency key lies, first, a claim: the request is running. In the same atomic script that commits
its step, the answer takes the claim's place. A claim that nobody redeems, because its worker died, lapses by itself;
two requests that run at the same time all the same are told apart by the script, which never writes a second answer.

| offset | bytes | what |
|--------|-------|------|
| 0      | 1     | format: 0 a claim, 1 an answer |
| 1      | 16    | digest of the request |
| 17     |       | the answer |
"""

from dataclasses import dataclass
from hashlib import blake2b

from carryover.errors import KeyInUseError, KeyReusedError

CLAIM_MILLISECONDS = 5000
"""How long a claim stands unless its request is answered before."""


@dataclass(frozen=True, slots=True)
class Once:
    """A request that is to be carried out once.

    `key` is its idempotency key, `address` where it goes, `request` a digest of all that it asks for (16 bytes).
    """

    key: str
    address: str
    request: bytes

    @classmethod
    def of(cls, key: str, address: str, body: bytes) -> "Once":
        """Return the request to this address with this body."""
        return cls(key, address, blake2b(address.encode() + b"\0" + body, digest_size=16).digest())

    @property
    def session(self) -> str:
        """A name for the session that the request makes, if it names none: a repeat finds the same."""
        return blake2b(f"{self.key}\0{self.address}".encode(), digest_size=16).hexdigest()

    @property
    def name(self) -> str:
        """What the answer is stored under, beside its session: of fixed length, whatever the client has chosen."""
        return blake2b(self.key.encode(), digest_size=16).hexdigest()

    def claim(self) -> bytes:
        """Return the bytes that say: running."""
        return b"\0" + self.request

    def answer(self, answer: bytes) -> bytes:
        """Return the bytes that hold the answer."""
        return b"\1" + self.request + answer

    def redeem(self, found: bytes | None) -> bytes | None:
        """Return the answer that was stored; None where the request is new.

        Raises:
            KeyReusedError: the key stands for another request.
            KeyInUseError: the request is running.

        """
        if found is None:
            return None
        if found[1:17] != self.request:
            raise KeyReusedError(
                f"the idempotency key {self.key!r:.80} was used with another request; a new request takes a new key"
            )
        if found[0] == 0:
            raise KeyInUseError(f"the request with the idempotency key {self.key!r:.80} is still running; ask again")
        return found[17:]
