"""Administration of `/v1/models/{model}/sessions` and `/v1/accumulators`: lists, counts, and the deletion of many."""

from carryover.api import paging
from carryover.api.inbound import Inbound
from carryover.api.json import reply, timestamp
from carryover.api.response import Response
from carryover.api.v1 import accumulators
from carryover.api.v1.models import find
from carryover.api.v1.schemas import (
    AccumulatorPage,
    AccumulatorSummary,
    Count,
    Deleted,
    SessionPage,
    SessionSummary,
    Summary,
)
from carryover.engine import Engine
from carryover.engine.lookup import Listed
from carryover.runtime.repository import Model

_SECONDS = 10.0
"""How long a request may count or delete."""


def sessions(engine: Engine, inbound: Inbound) -> Response:
    """List the sessions of a model, in no order.

    A session that exists from the first page to the last is on one of them, and may be on two. A page may have fewer
    entries than asked for, or none; the one without `next` is the last.
    """
    model, asked = find(engine, inbound), paging.read(inbound)
    found, following = engine.sessions(model, asked.prefix, asked.cursor, asked.limit)
    page = SessionPage(sessions=[SessionSummary(session=one.name, **_summary(model, one)) for one in found])
    if following:
        page["next"] = following
    return reply(page)


def totals(engine: Engine, inbound: Inbound) -> Response:
    """List the accumulators, as the sessions of a model are listed."""
    model, asked = engine.repository.model(accumulators.MODEL), paging.read(inbound)
    found, following = engine.sessions(model, asked.prefix, asked.cursor, asked.limit)
    page = AccumulatorPage(
        accumulators=[AccumulatorSummary(accumulator=one.name, **_summary(model, one)) for one in found]
    )
    if following:
        page["next"] = following
    return reply(page)


def count_sessions(engine: Engine, inbound: Inbound) -> Response:
    """Count the sessions of a model, and the bytes of their states.

    After some seconds the response is the count so far, with `next`: the rest is counted from there. While Redis grows
    or shrinks its table of keys, a session may be counted twice.
    """
    return _count(engine, find(engine, inbound), inbound)


def count_totals(engine: Engine, inbound: Inbound) -> Response:
    """Count the accumulators, as the sessions of a model are counted."""
    return _count(engine, engine.repository.model(accumulators.MODEL), inbound)


def delete_sessions(engine: Engine, inbound: Inbound) -> Response:
    """Delete the sessions of a model whose names start with `prefix`; with an empty one all.

    After some seconds the response says how many were deleted so far, with `next`: the rest is deleted from there.
    """
    return _delete(engine, find(engine, inbound), inbound)


def delete_totals(engine: Engine, inbound: Inbound) -> Response:
    """Delete accumulators, as the sessions of a model are deleted."""
    return _delete(engine, engine.repository.model(accumulators.MODEL), inbound)


def _count(engine: Engine, model: Model, inbound: Inbound) -> Response:
    asked = paging.read(inbound)
    found, following = engine.count(model, asked.prefix, asked.cursor, _SECONDS)
    body = Count(count=found.sessions, bytes=found.bytes)
    if following:
        body["next"] = following
    return reply(body)


def _delete(engine: Engine, model: Model, inbound: Inbound) -> Response:
    asked = paging.read(inbound, prefix_required=True)
    count, following = engine.delete(model, asked.prefix, asked.cursor, _SECONDS)
    body = Deleted(deleted=count)
    if following:
        body["next"] = following
    return reply(body)


def _summary(model: Model, one: Listed) -> Summary:
    version = model.of_fingerprint(one.record.fingerprint)
    return Summary(
        version=str(one.record.version) if version is None else version.version,
        step=one.record.step,
        created=timestamp(one.record.created),
        last_used=timestamp(one.expires - one.record.ttl * 1000),
        expires=timestamp(one.expires),
        ttl=one.record.ttl,
        bytes=one.size,
    )
