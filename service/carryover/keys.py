"""API keys: who may call the service, and what for. A TOML file has their digests; docs/operations.md describes it.

A key is random and long, so that a plain SHA-256 hides it: there is no dictionary to try, as there is for passwords. It
is found by the digest of all of it, in a dict. How long that takes says nothing about a key that exists, so that a
comparison in constant time would protect nothing.
"""

import json
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from carryover.errors import ConfigurationError

RIGHTS = ("predict", "sessions", "admin")
_PREFIX = "carryover_"
"""What keys start with, so that one that was published by mistake can be recognized."""
_BYTES = 32
RATE = r"^[1-9][0-9]{0,5}/(second|minute|hour|day)$"
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_MOST = 999_999
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=NAME)]


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests in `seconds`, of which `burst` may come at once."""

    count: int
    seconds: int
    burst: int

    @property
    def interval(self) -> int:
        """Microseconds from one request to the next."""
        return self.seconds * 1_000_000 // self.count


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A caller: what it may do, with which models (None: all), until when, in seconds since 1970, and how often."""

    name: str
    rights: frozenset[str]
    models: frozenset[str] | None = None
    expires: float = inf
    rate: Rate | None = None

    @property
    def expired(self) -> bool:
        """Whether it is too late to use it."""
        return time.time() >= self.expires

    @property
    def owner(self) -> str:
        """What the names of its sessions start with in the store; no name of a model has an @.

        Without a name, it is nothing: those are the sessions that were created without keys.
        """
        return f"{self.name}@" if self.name else ""


class Keys:
    """The keys of a service by their digests, and the scopes of routes that are `exempt`: they need none.

    `seen` are keys by the headers that have named them, for whoever reads these: a digest takes longer.
    """

    def __init__(self, keys: Mapping[str, Key], exempt: frozenset[str]) -> None:
        self._keys = keys
        self.exempt = exempt
        self.seen: dict[tuple[str | None, str | None], Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rated(self) -> bool:
        """Whether any of them has a rate."""
        return any(key.rate is not None for key in self._keys.values())

    def find(self, secret: str) -> Key | None:
        """Return the key; None where it is unknown."""
        return self._keys.get(digest(secret))


def _listed(given: object) -> object:
    """Return a list of the only value; pydantic's errors of a union would name its parts."""
    return [given] if isinstance(given, str) else given


def _unless_all(given: object) -> object:
    return None if given == "all" else given


class _Entry(BaseModel):
    """A key in the file; it has several digests while one of them replaces another."""

    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[list[_Digest], BeforeValidator(_listed), Field(min_length=1)]
    rights: list[Literal["predict", "sessions", "admin"]]
    models: Annotated[list[str] | None, BeforeValidator(_unless_all)] = None
    expires: AwareDatetime | None = None
    rate: Annotated[str, StringConstraints(pattern=RATE)] | None = None
    burst: Annotated[int, Field(ge=1, le=_MOST)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[dict[_Name, _Entry], Field(min_length=1)]


def read(path: Path, exempt: frozenset[str]) -> Keys:
    """Read a file of keys.

    Raises:
        ConfigurationError: names the file, the entry and what was expected; never a value, which may be a key.

    """
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"API_KEYS={path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        place = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"
        raise ConfigurationError(f"API_KEYS={path}: expected TOML: {place}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"API_KEYS={path}: {where}: {first['msg']}") from None
    found: dict[str, Key] = {}
    for name, entry in parsed.keys.items():
        if entry.burst is not None and entry.rate is None:
            raise ConfigurationError(f"API_KEYS={path}: keys.{name}.burst: expected a rate as well")
        key = _key(name, entry)
        for one in entry.sha256:
            if one in found:
                raise ConfigurationError(f"API_KEYS={path}: keys.{name}.sha256: another entry has the same digest")
            found[one] = key
    return Keys(found, exempt)


def digest(secret: str) -> str:
    """Return what stands for a key in the file."""
    return sha256(secret.encode()).hexdigest()


def new(
    name: str, rights: list[str], models: list[str] | None, days: int | None, rate: str | None = None
) -> tuple[str, str]:
    """Return a new key, and the lines of TOML that stand for it.

    Raises:
        ConfigurationError: a name or the rate is invalid.

    """
    for what, value in (("the name", name), *(("the model", model) for model in models or ())):
        if re.fullmatch(NAME, value) is None:
            raise ConfigurationError(
                f"{what} {value!r} is invalid; expected 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
            )
    if rate is not None and re.fullmatch(RATE, rate) is None:
        raise ConfigurationError(
            f"the rate {rate!r} is invalid; expected a number up to 999999, and /second, /minute, /hour or /day"
        )
    secret = _PREFIX + secrets.token_urlsafe(_BYTES)
    lines = [f'[keys."{name}"]', f'sha256 = "{digest(secret)}"', f"rights = {json.dumps(rights)}"]
    if models:
        lines.append(f"models = {json.dumps(models)}")
    if days is not None:
        expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        lines.append(f"expires = {expires.isoformat().replace('+00:00', 'Z')}")
    if rate is not None:
        lines.append(f'rate = "{rate}"')
    return secret, "\n".join(lines)


def _key(name: str, entry: _Entry) -> Key:
    models = None if entry.models is None else frozenset(entry.models)
    expires = entry.expires.timestamp() if entry.expires else inf
    return Key(name, frozenset(entry.rights), models, expires, _rate(entry))


def _rate(entry: _Entry) -> Rate | None:
    if entry.rate is None:
        return None
    count, _, unit = entry.rate.partition("/")
    return Rate(int(count), _SECONDS[unit], entry.burst or int(count))
