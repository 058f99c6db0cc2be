"""The interface: every route, in one table."""

from carryover import errors
from carryover.api import metrics, openapi
from carryover.api.inbound import Inbound
from carryover.api.pages import CSS, HTML, PNG, SCRIPT, SVG, docs, playground
from carryover.api.response import JSON, NDJSON, OCTETS, Response
from carryover.api.route import Route, Scope
from carryover.api.v1 import accumulators, listing, models, schemas, sessions, streams
from carryover.api.v2 import health, infer, metadata, repository, statistics
from carryover.api.v2 import schemas as v2
from carryover.engine import Engine
from carryover.telemetry.prometheus import MEDIA_TYPE

_MODEL = "/v1/models/{model}[/versions/{version}]"
_SESSION = f"{_MODEL}/sessions/{{session}}"
_ACCUMULATOR = "/v1/accumulators/{name}"
_V2_MODEL = "/v2/models/{model}[/versions/{version}]"

_LISTING = (errors.InvalidInputError, errors.NotFoundError)
_READ = (
    errors.InvalidInputError,
    errors.NotFoundError,
    errors.GoneError,
    errors.ForeignStateError,
    errors.PreconditionFailedError,
)
_CHANGE = (
    *_READ,
    errors.KeyInUseError,
    errors.KeyReusedError,
    errors.StateTooLargeError,
    errors.UnavailableError,
)
_FORWARD = (errors.ModelFailedError, errors.ForwardTimeoutError, errors.LimitExceededError)
_STEP = (*_CHANGE, errors.NonFiniteStateError, *_FORWARD)

V1 = (
    Route(
        method="GET",
        path="/v1/models",
        handler=models.index,
        responses={200: schemas.ModelList},
    ),
    Route(
        method="GET",
        path=_MODEL,
        handler=models.show,
        responses={200: schemas.ModelResource},
        errors=(errors.NotFoundError,),
    ),
    Route(
        method="POST",
        path=f"{_MODEL}:predict",
        handler=models.predict,
        body=schemas.Predict,
        responses={200: schemas.Predictions},
        errors=(errors.InvalidInputError, errors.NotFoundError, errors.OverloadedError, *_FORWARD),
        hot=True,
    ),
    Route(
        method="POST",
        path=f"{_MODEL}/sessions",
        handler=sessions.create,
        body=schemas.CreateSession,
        body_optional=True,
        responses={201: schemas.SessionResource},
        errors=(*_CHANGE, errors.NameTakenError),
        scope=Scope.SESSIONS,
        changes=True,
    ),
    Route(
        method="GET",
        path="/v1/models/{model}/sessions",
        handler=listing.sessions,
        responses={200: schemas.SessionPage},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix", "limit", "cursor"),
    ),
    Route(
        method="GET",
        path="/v1/models/{model}/sessions:count",
        handler=listing.count_sessions,
        responses={200: schemas.Count},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix", "cursor"),
    ),
    Route(
        method="DELETE",
        path="/v1/models/{model}/sessions",
        handler=listing.delete_sessions,
        responses={200: schemas.Deleted},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix-to-delete", "cursor"),
    ),
    Route(
        method="GET",
        path="/v1/accumulators:count",
        handler=listing.count_totals,
        model=accumulators.MODEL,
        responses={200: schemas.Count},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix", "cursor"),
    ),
    Route(
        method="DELETE",
        path="/v1/accumulators",
        handler=listing.delete_totals,
        model=accumulators.MODEL,
        responses={200: schemas.Deleted},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix-to-delete", "cursor"),
    ),
    Route(
        method="GET",
        path="/v1/accumulators",
        handler=listing.totals,
        model=accumulators.MODEL,
        responses={200: schemas.AccumulatorPage},
        errors=_LISTING,
        scope=Scope.ADMIN,
        query=("prefix", "limit", "cursor"),
    ),
    Route(
        method="GET",
        path=_SESSION,
        handler=sessions.show,
        responses={200: schemas.SessionResource},
        errors=_READ,
        scope=Scope.SESSIONS,
    ),
    Route(
        method="DELETE",
        path=_SESSION,
        handler=sessions.delete,
        responses={204: None},
        errors=_CHANGE,
        scope=Scope.SESSIONS,
        changes=True,
    ),
    Route(
        method="POST",
        path=f"{_SESSION}:predict",
        handler=sessions.predict,
        creates=True,
        body=schemas.Predict,
        responses={200: schemas.StepPredictions},
        errors=_STEP,
        scope=Scope.SESSIONS,
        changes=True,
        hot=True,
    ),
    Route(
        method="POST",
        path=f"{_SESSION}:stream",
        handler=streams.stream,
        creates=True,
        body=schemas.Line,
        accepts=(NDJSON,),
        returns=(NDJSON,),
        responses={200: schemas.StepPredictions},
        errors=_STEP,
        scope=Scope.SESSIONS,
        changes=True,
        streams=True,
    ),
    Route(
        method="POST",
        path=f"{_MODEL}/sessions:predict",
        handler=sessions.predict_many,
        body=schemas.PredictMany,
        responses={200: schemas.ManySteps},
        errors=_STEP,
        scope=Scope.SESSIONS,
        changes=True,
        hot=True,
    ),
    Route(
        method="POST",
        path=f"{_SESSION}:fork",
        handler=sessions.fork,
        body=schemas.CreateSession,
        body_optional=True,
        responses={201: schemas.SessionResource},
        errors=(*_CHANGE, errors.NameTakenError),
        scope=Scope.SESSIONS,
        changes=True,
    ),
    Route(
        method="POST",
        path=f"{_SESSION}:reset",
        handler=sessions.reset,
        body=schemas.Nothing,
        body_optional=True,
        responses={200: schemas.SessionResource},
        errors=_CHANGE,
        scope=Scope.SESSIONS,
        changes=True,
    ),
    Route(
        method="GET",
        path=f"{_SESSION}/state",
        handler=sessions.get_state,
        returns=(OCTETS,),
        responses={200: bytes},
        errors=_READ,
        scope=Scope.SESSIONS,
    ),
    Route(
        method="PUT",
        path=f"{_SESSION}/state",
        handler=sessions.put_state,
        body=bytes,
        accepts=sessions.SNAPSHOTS,
        responses={200: schemas.SessionResource},
        errors=(*_CHANGE, errors.NonFiniteStateError),
        scope=Scope.SESSIONS,
        changes=True,
    ),
    Route(
        method="POST",
        path=_ACCUMULATOR,
        model=accumulators.MODEL,
        handler=accumulators.add,
        body=schemas.Accumulate,
        responses={200: schemas.Totals},
        errors=_STEP,
        scope=Scope.SESSIONS,
        changes=True,
        hot=True,
    ),
    Route(
        method="GET",
        path=_ACCUMULATOR,
        model=accumulators.MODEL,
        handler=accumulators.show,
        responses={200: schemas.Totals},
        errors=_READ,
        scope=Scope.SESSIONS,
    ),
    Route(
        method="DELETE",
        path=_ACCUMULATOR,
        model=accumulators.MODEL,
        handler=accumulators.delete,
        responses={204: None},
        errors=_CHANGE,
        scope=Scope.SESSIONS,
        changes=True,
    ),
)

V2 = (
    Route(method="GET", path="/v2/health/live", handler=health.live, responses={200: v2.Live}, scope=Scope.HEALTH),
    Route(
        method="GET",
        path="/v2/health/ready",
        handler=health.ready,
        responses={200: v2.Ready, 503: v2.NotReady},
        scope=Scope.HEALTH,
    ),
    Route(method="GET", path="/v2[/]", handler=metadata.server, responses={200: v2.ServerMetadata}),
    Route(
        method="GET",
        path=_V2_MODEL,
        handler=metadata.model,
        responses={200: v2.ModelMetadata},
        errors=(errors.NotFoundError,),
    ),
    Route(
        method="GET",
        path=f"{_V2_MODEL}/ready",
        handler=metadata.ready,
        responses={200: v2.ModelReady},
        errors=(errors.NotFoundError,),
    ),
    Route(
        method="GET",
        path=f"{_V2_MODEL}/config",
        handler=metadata.config,
        responses={200: v2.ModelConfig},
        errors=(errors.NotFoundError,),
    ),
    Route(
        method="POST",
        path=f"{_V2_MODEL}/infer",
        handler=infer.infer,
        body=v2.Infer,
        accepts=(JSON, OCTETS),
        returns=(JSON, OCTETS),
        responses={200: v2.InferResponse},
        errors=(*_STEP, errors.UnsupportedError),
        changes=True,
        hot=True,
    ),
    Route(method="GET", path="/v2/models/stats", handler=statistics.of_all, responses={200: v2.Statistics}),
    Route(
        method="GET",
        path=f"{_V2_MODEL}/stats",
        handler=statistics.of_one,
        responses={200: v2.Statistics},
        errors=(errors.NotFoundError,),
    ),
    Route(
        method="POST",
        path="/v2/repository/index",
        handler=repository.index,
        body=v2.Index,
        body_optional=True,
        responses={200: list[v2.IndexEntry]},
        errors=(errors.InvalidInputError,),
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/load",
        handler=repository.load,
        body=v2.Load,
        body_optional=True,
        responses={200: None},
        errors=(errors.InvalidInputError, errors.UnsupportedError, errors.UnavailableError),
        scope=Scope.ADMIN,
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/unload",
        handler=repository.unload,
        body=v2.Load,
        body_optional=True,
        responses={200: None},
        errors=(errors.InvalidInputError, errors.UnsupportedError, errors.UnavailableError),
        scope=Scope.ADMIN,
    ),
)


def show_openapi(engine: Engine, _: Inbound) -> Response:
    """Return this interface as an OpenAPI document."""
    return Response(openapi.document(ROUTES, engine.repository, keyed=engine.keys is not None))


SERVICE = (
    Route(
        method="GET",
        path="/metrics",
        handler=metrics.show,
        responses={200: str},
        returns=(MEDIA_TYPE,),
        scope=Scope.METRICS,
    ),
    Route(method="GET", path="/openapi.json", handler=show_openapi, responses={200: dict}, scope=Scope.OPEN),
    Route(
        method="GET",
        path="/",
        handler=playground.root,
        responses={200: v2.Alive},
        returns=(JSON, HTML),
        scope=Scope.OPEN,
    ),
    Route(
        method="GET",
        path="/playground/{asset}",
        handler=playground.asset,
        responses={200: bytes},
        returns=(CSS, SCRIPT, SVG),
        errors=(errors.NotFoundError,),
        scope=Scope.OPEN,
    ),
    Route(method="GET", path="/docs", handler=docs.show, responses={200: str}, returns=(HTML,), scope=Scope.OPEN),
    Route(
        method="GET",
        path="/docs/{file}",
        handler=docs.file,
        responses={200: bytes},
        returns=(CSS, SCRIPT, PNG),
        errors=(errors.NotFoundError,),
        scope=Scope.OPEN,
    ),
)

ROUTES: tuple[Route, ...] = (*V1, *V2, *SERVICE)
