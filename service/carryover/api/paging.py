"""What a list is to show: the query of a request for one page of it."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from carryover.api import names
from carryover.api.inbound import Inbound
from carryover.errors import InvalidInputError

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
CURSOR = "[0-9]{1,6}[.][0-9]{1,20}"
PREFIX = rf"[A-Za-z0-9._~-]{{0,{names.MAX_LENGTH}}}"


@dataclass(frozen=True, slots=True)
class Page:
    """About `limit` entries whose names start with `prefix`, from where the `cursor` of the page before says."""

    prefix: str
    cursor: str
    limit: int


def read(inbound: Inbound, *, prefix_required: bool = False) -> Page:
    """Return which page a request is for.

    Raises:
        InvalidInputError: there is no such page.

    """
    given = parse_qs(inbound.query, keep_blank_values=True, max_num_fields=None)
    query = {name: values[0] for name, values in given.items()}
    if prefix_required and "prefix" not in query:
        raise InvalidInputError("prefix is missing; expected the start of the names to delete, or prefix= for all")
    prefix, cursor, limit = query.get("prefix", ""), query.get("cursor"), query.get("limit", str(DEFAULT_LIMIT))
    if re.fullmatch(PREFIX, prefix) is None:
        raise InvalidInputError(f"prefix={prefix!r:.140} is invalid; expected the start of a name")
    if cursor is not None and (re.fullmatch(CURSOR, cursor) is None or int(cursor.partition(".")[2]) >= 1 << 64):
        raise InvalidInputError(f"cursor={cursor!r:.80} is invalid; expected the 'next' of a page")
    if re.fullmatch("[0-9]{1,4}", limit) is None or not 1 <= int(limit) <= MAX_LIMIT:
        raise InvalidInputError(f"limit={limit!r:.80} is invalid; expected 1 to {MAX_LIMIT}")
    return Page(prefix, cursor or "", int(limit))
