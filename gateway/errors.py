"""Every error that a caller can get, in one tree. Knows no HTTP library and no sockets.

    GatewayError
     +- BadRequest            the caller's input is wrong; except for PartlyRefused, nothing was stored
     |   +- InvalidName       a queue, child or lease id outside the contract's alphabet
     |   +- InvalidParameter  a query parameter or header
     |   +- InvalidBody       a body that is not what the contract asks for
     |   +- InvalidEvent      a CloudEvent with a wrong or missing attribute
     |   +- DelayBeyondExpiry the job would expire before it is due
     |   +- PartlyRefused     some jobs of the request are stored, the others are invalid
     |   +- BadFraming        HTTP that cannot be read: request line, lengths, chunks
     +- Unauthenticated       no key, or an unknown one
     +- ForbiddenHost, ForbiddenOrigin, ForbiddenPrefetch
     +- ForbiddenScope        the key may not do this
     +- ForbiddenQueue        the key may not use this queue
     +- TooManyQueues         the tenant's limit of queues is reached
     +- TooManySubscriptions  the queue's limit of subscriptions is reached
     +- NotFound              no such path
     |   +- QueueNotFound, LeaseNotFound, QueueEmpty, ServerNotFound, DeadLetterNotFound
     +- MethodNotAllowed
     +- RequestTimeout        the header block or the body did not arrive in time
     +- LeaseConflict         the lease is already settled in another way
     +- QueueHasChildren      the operation would deliver jobs to subscriptions again
     +- DeadLetterHeld        the dead letter may be one of those that could not be searched
     +- LeaseGone             the lease has ended and the job is back on its queue
     |   +- LeaseExpired, LeaseLost
     +- QueueDeleted          the lease's queue was deleted, with its jobs
     +- LeaseForgotten        the lease has ended; its outcome is no longer known
     +- HeadersTooLarge
     +- JobTooLarge           the job is too large for Kestrel or for the gateway's limit
     |   +- BodyTooLarge      a body above its limit, of whatever kind
     +- UnsupportedEncoding   the body is compressed
     +- UnsupportedType       the body holds events or jobs in an unsupported format
     +- RateLimited           the key sends requests too often
     +- IdempotencyInFlight   the first request with this key has no outcome yet
     +- IdempotencyKeyReused  the key was used for a different request
     +- Internal              a defect of the gateway
     +- NotSupported          the Kestrel server does not support the operation
     +- OutcomeUnknown        sent, but no answer came: it may or may not have taken effect
     +- Unavailable           not done, try again
         +- BackendUnavailable   a Kestrel server does not answer
         |   +- BackendRefused   the server refuses (read-only, quiescent, out of disk)
         |   +- ServerUnavailable   the named server does not answer
         +- QueueFull
         +- OwnerUnavailable    the lease's owner did not execute the command, and will not
         +- TooManyWaiters, TooManyLeases, TooManyConnections, TooManyBytes
         +- PartlyStored      some jobs of the request are stored, a retry may store the others
         +- Draining

`code` is stable and appears in answers, logs and metrics. `status` is the HTTP status (RFC 9110). `retryable`
says whether the same call may succeed later without a change. A test compares this table with openapi.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SERVER = re.compile(r"server <([^>]*)>")

REALM = 'Bearer realm="kestrel-gateway"'


class GatewayError(Exception):
    """An error that the caller gets. `detail` is a sentence for people; it holds no payload and no secret.

    `detail` writes the address of a Kestrel server as `server <ADDRESS>`. Only operators see it: `detail_for`.
    """

    code: str = "internal"
    status: int = 500
    title: str = "Internal error"
    retryable: bool = False
    retry_after_s: int | None = None
    coverage: str = ""  # the Queue-Coverage header of the answer
    challenge: str = ""  # the WWW-Authenticate header of the answer (RFC 6750)

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.failures: Sequence[Mapping[str, object]] = ()  # of jobs, if the request has many
        self.counts: Mapping[str, int] = {}  # of the jobs of such a request, by the member that shows each

    def detail_for(self, *, operator: bool) -> str:
        """The detail for a caller. Only operators see the addresses of servers."""
        return _SERVER.sub(r"\1" if operator else "a Kestrel server", self.detail)


class BadRequest(GatewayError):
    code = "bad-request"
    status = 400
    title = "Bad request"


class InvalidName(BadRequest):
    code = "invalid-name"
    title = "Invalid name"


class InvalidParameter(BadRequest):
    code = "invalid-parameter"
    title = "Invalid parameter"


class InvalidBody(BadRequest):
    code = "invalid-body"
    title = "Invalid body"


class InvalidEvent(BadRequest):
    code = "invalid-event"
    title = "Invalid CloudEvent"


class DelayBeyondExpiry(BadRequest):
    code = "delay-beyond-expiry"
    title = "The job would expire before it is due"


class PartlyRefused(BadRequest):
    """Some jobs of the request are stored and the others are invalid. The client must not send the request again."""

    code = "partly-stored"
    title = "Only some of the jobs are stored"


class BadFraming(BadRequest):
    code = "bad-framing"
    title = "Malformed HTTP request"


class ForbiddenHost(GatewayError):
    code = "forbidden-host"
    status = 403
    title = "Host not allowed"


class ForbiddenOrigin(GatewayError):
    code = "forbidden-origin"
    status = 403
    title = "Origin not allowed"


class ForbiddenPrefetch(GatewayError):
    code = "forbidden-prefetch"
    status = 403
    title = "Prefetch not allowed"


class Unauthenticated(GatewayError):
    """invalid: the request has a key, and it is malformed or unknown."""

    code = "unauthenticated"
    status = 401
    title = "A valid key is required"

    def __init__(self, detail: str, *, invalid: bool = False) -> None:
        super().__init__(detail)
        self.challenge = REALM + (', error="invalid_token"' if invalid else "")


class ForbiddenScope(GatewayError):
    """scope: the missing scope."""

    code = "forbidden-scope"
    status = 403
    title = "The key lacks the required scope"

    def __init__(self, detail: str, scope: str = "") -> None:
        super().__init__(detail)
        self.challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'


class ForbiddenQueue(GatewayError):
    """Does not tell whether the queue exists."""

    code = "forbidden-queue"
    status = 403
    title = "The key does not allow this queue"


class TooManyQueues(GatewayError):
    """Not 429: waiting does not help, but deleting a queue does."""

    code = "too-many-queues"
    status = 403
    title = "Too many queues"


class TooManySubscriptions(GatewayError):
    """Not 429: waiting does not help, but deleting a subscription does."""

    code = "too-many-subscriptions"
    status = 403
    title = "Too many subscriptions"


class NotFound(GatewayError):
    code = "not-found"
    status = 404
    title = "Not found"


class QueueNotFound(NotFound):
    code = "queue-not-found"
    title = "No such queue"


class QueueEmpty(NotFound):
    code = "queue-empty"
    title = "The queue is empty"


class LeaseNotFound(NotFound):
    code = "lease-not-found"
    title = "No such lease"


class ServerNotFound(NotFound):
    code = "server-not-found"
    title = "No such server"


class DeadLetterNotFound(NotFound):
    code = "dead-letter-not-found"
    title = "No such dead letter"


class MethodNotAllowed(GatewayError):
    """allow: the allowed methods, in the format of the Allow header."""

    code = "method-not-allowed"
    status = 405
    title = "Method not allowed"

    def __init__(self, detail: str, allow: str = "") -> None:
        super().__init__(detail)
        self.allow = allow


class RequestTimeout(GatewayError):
    code = "request-timeout"
    status = 408
    title = "The request did not arrive in time"
    retryable = True


class LeaseConflict(GatewayError):
    code = "lease-settled"
    status = 409
    title = "The lease was settled in another way"


class QueueHasChildren(GatewayError):
    code = "queue-has-children"
    status = 409
    title = "The queue has subscriptions"


class DeadLetterHeld(GatewayError):
    code = "dead-letter-held"
    status = 409
    title = "Not all dead letters could be searched"
    retryable = True


class LeaseGone(GatewayError):
    code = "lease-gone"
    status = 410
    title = "The lease has ended"


class LeaseExpired(LeaseGone):
    code = "lease-expired"
    title = "The lease has expired"


class LeaseLost(LeaseGone):
    code = "lease-lost"
    title = "The lease was lost with its Kestrel connection"


class QueueDeleted(GatewayError):
    code = "queue-deleted"
    status = 410
    title = "The lease's queue was deleted"

    def __init__(self, detail: str = "the queue was deleted, and the job with it") -> None:
        super().__init__(detail)


class LeaseForgotten(GatewayError):
    code = "outcome-unknown"
    status = 410
    title = "The outcome of the lease is unknown"


class JobTooLarge(GatewayError):
    code = "job-too-large"
    status = 413
    title = "Job too large"


class BodyTooLarge(JobTooLarge):
    title = "The body is too large"


class UnsupportedEncoding(GatewayError):
    code = "unsupported-encoding"
    status = 415
    title = "The body is compressed"


class UnsupportedType(GatewayError):
    code = "unsupported-media-type"
    status = 415
    title = "The body's type is not supported"


class RateLimited(GatewayError):
    """retry_after_s: seconds until the next request is allowed, rounded up."""

    code = "rate-limited"
    status = 429
    title = "Too many requests"
    retryable = True
    retry_after_s = 1

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class HeadersTooLarge(GatewayError):
    code = "headers-too-large"
    status = 431
    title = "Request header block too large"


class Internal(GatewayError):
    """A defect of the gateway. The log has the traceback under the same request id."""


class IdempotencyInFlight(GatewayError):
    code = "idempotency-in-flight"
    status = 409
    title = "The first request with this key is in progress"
    retryable = True
    retry_after_s = 1


class IdempotencyKeyReused(GatewayError):
    code = "idempotency-key-reused"
    status = 422
    title = "The key belongs to another request"


class NotSupported(GatewayError):
    code = "not-supported"
    status = 501
    title = "The server does not support this operation"


class OutcomeUnknown(GatewayError):
    code = "outcome-unknown"
    status = 502
    title = "The outcome of the request is unknown"
    retryable = True


class Unavailable(GatewayError):
    code = "unavailable"
    status = 503
    title = "Service unavailable"
    retryable = True
    retry_after_s = 1


class BackendUnavailable(Unavailable):
    code = "backend-unavailable"
    title = "A Kestrel server does not answer"


class BackendRefused(BackendUnavailable):
    code = "backend-refused"
    title = "Kestrel refuses requests at the moment"


class ServerUnavailable(BackendUnavailable):
    code = "server-unavailable"
    title = "The named Kestrel server does not answer"


class QueueFull(Unavailable):
    code = "queue-full"
    title = "The queue is full"


class OwnerUnavailable(Unavailable):
    """The worker or replica that holds the lease did not carry the command out, and will not do so later."""

    code = "lease-owner-unavailable"
    title = "The gateway that holds the lease cannot be reached"


class TooManyWaiters(Unavailable):
    code = "too-many-waiters"
    title = "Too many waiting polls"


class TooManyLeases(Unavailable):
    """retry_after_s: seconds until the first of these leases ends, rounded up."""

    code = "too-many-leases"
    title = "Too many open leases"
    retry_after_s = 1

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class PartlyStored(Unavailable):
    code = "partly-stored"
    title = "Only some of the jobs are stored"


class TooManyConnections(Unavailable):
    code = "too-many-connections"
    title = "The tenant has too many requests in progress"


class TooManyBytes(Unavailable):
    code = "too-many-bytes"
    title = "Requests in progress hold too much memory"


class Draining(Unavailable):
    code = "draining"
    title = "The gateway is shutting down"


def error_classes() -> dict[str, type[GatewayError]]:
    """Every error class by its name, the root included."""
    found: dict[str, type[GatewayError]] = {}
    waiting = [GatewayError]
    while waiting:
        each = waiting.pop()
        found[each.__name__] = each
        waiting += each.__subclasses__()
    return found
