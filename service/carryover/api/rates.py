"""What a response says of the rate of its API key.

Source: draft-ietf-httpapi-ratelimit-headers-11.
"""

from http import HTTPStatus
from math import ceil

from carryover.api import problems
from carryover.api.inbound import Inbound
from carryover.api.response import Headers, Response
from carryover.api.route import Route
from carryover.engine import Charge
from carryover.errors import RateLimitedError

POLICY, LEFT = "RateLimit-Policy", "RateLimit"


def charged(route: Route, charge: Charge, inbound: Inbound, response: Response) -> Response:
    """Return the response to a request that has taken its share of the rate: now, if it failed before it did.

    A stream takes one for each of its lines, and none for itself.
    """
    if not route.streams or response.status >= HTTPStatus.BAD_REQUEST:
        try:
            charge.take()
        except RateLimitedError as error:
            response = problems.response(error, inbound.path, inbound.request_id)
    return response.with_headers(*_fields(charge))


def _fields(charge: Charge) -> Headers:
    rate, quota = charge.rate, charge.quota
    policy = (POLICY, f'"{charge.name}";q={rate.count};w={rate.seconds}')
    if quota is None:
        return (policy,)
    return policy, (LEFT, f'"{charge.name}";r={quota.remaining};t={ceil(quota.reset)}')
