"""`GET /v1/models/{model}/sessions` and `GET /v1/accumulators`: what is stored, a page at a time."""

from carryover.api import paging
from carryover.api.inbound import Inbound
from carryover.api.json import reply, timestamp
from carryover.api.response import Response
from carryover.api.v1 import accumulators
from carryover.api.v1.models import find
from carryover.api.v1.schemas import AccumulatorPage, AccumulatorSummary, SessionPage, SessionSummary, Summary
from carryover.engine import Engine
from carryover.engine.lookup import Listed
from carryover.runtime.repository import Model


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
