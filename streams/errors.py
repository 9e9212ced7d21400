"""The error tree of the streams package.

    StreamsError
    ├── SettingsError            a setting is missing or outside its range (setting, value, allowed range)
    ├── BrokerUnavailableError   the broker cannot be reached or did not confirm a write (retryable)
    ├── AccessTokenError         no access token for the broker could be had (retryable)
    ├── ServingUnavailableError  the server did not answer, or does not hold an adapter (retryable)
    ├── EngineUnreachableError   a serving engine does not answer, or not in time (retryable)
    ├── EngineLoadError          a serving engine does not take an adapter (retryable)
    ├── EngineMixesError         a serving engine answers with another model when it gets several questions at once
    ├── AdapterMisfitError       an adapter does not fit the base model that an engine serves
    ├── ClockError               this machine's clock and the database's disagree (retryable)
    ├── PoisonedTopicError       nearly all recent events of several tenants failed in it; the worker stops
    ├── DeadLetterError          a dead-letter record cannot be read or replayed
    ├── DemoError                a part of the demonstration stopped or did not get done in time
    ├── ScenarioError            the demonstration cannot use the interactions it was given
    ├── AccessDeniedError        an operator's token does not allow what was asked
    ├── MalformedRequestError    a request over HTTP is not what it must be: no JSON, no text
    ├── TooManyRequestsError     somebody asks over HTTP for more than is allowed (retryable)
    └── GatewayError             the gateway refuses a request, in the form that clients of OpenAI's API read
        ├── EngineAwayError      the engine did not answer, or not in time (retryable)
        ├── EngineRefusedError   the engine does not take the request as it is
        ├── AdapterGoneError     the engine does not hold the adapter that was asked for
        └── WrongAnswererError   another model answered than was asked

Every class has a stable ``code``, a ``retryable`` flag and an ``exit_status`` for the command line. A text is
one sentence: what was asked, what is allowed, what to do. It never holds an id or text of a person.
"""

from __future__ import annotations

from privacy.errors import DiscreetError


class StreamsError(DiscreetError):
    """Base of every error raised on purpose by this package."""

    code = "streams.error"


class SettingsError(StreamsError):
    """A setting is missing or outside its allowed range."""

    code = "streams.settings.invalid"
    exit_status = 2


class BrokerUnavailableError(StreamsError):
    """The broker could not be reached or did not confirm a write; trying again may help."""

    code = "streams.broker.unavailable"
    retryable = True
    exit_status = 5


class AccessTokenError(StreamsError):
    """No access token for the broker could be had; trying again may help."""

    code = "streams.access_token.unavailable"
    retryable = True
    exit_status = 5


class ServingUnavailableError(StreamsError):
    """The server did not answer, or does not hold the adapter that was asked for; trying again may help."""

    code = "streams.serving.unavailable"
    retryable = True
    exit_status = 5


class EngineUnreachableError(StreamsError):
    """A serving engine does not answer, or not in time; trying again may help."""

    code = "serving.engine.unreachable"
    retryable = True
    exit_status = 5


class EngineLoadError(StreamsError):
    """A serving engine does not take an adapter, whatever the reason it gives; it is tried again, ever more rarely."""

    code = "serving.engine.load_refused"
    retryable = True
    exit_status = 5


class EngineMixesError(StreamsError):
    """A serving engine mixes requests that it computes together; nothing is served on it until it began anew."""

    code = "serving.engine.mixes"
    exit_status = 6


class AdapterMisfitError(StreamsError):
    """An adapter does not fit the base model that an engine serves; engines would not say so."""

    code = "serving.adapter.misfit"


class ClockError(StreamsError):
    """This machine's clock and the database's disagree by more than is safe for what goes by the clock."""

    code = "streams.clock.disagrees"
    retryable = True
    exit_status = 5


class PoisonedTopicError(StreamsError):
    """So many of the recent events failed, of several tenants, that going on would drain the topic."""

    code = "streams.topic.poisoned"
    exit_status = 6


class DeadLetterError(StreamsError):
    """A dead-letter record could not be read or replayed."""

    code = "streams.dead_letter.unreadable"
    exit_status = 2


class ExportError(StreamsError):
    """Another system could not be told of a version."""

    code = "streams.export.failed"
    exit_status = 1


class DemoError(StreamsError):
    """A part of the demonstration stopped, or did not get done in time."""

    code = "streams.demo.failed"


class ScenarioError(StreamsError):
    """The demonstration cannot use the recorded interactions or the bounds it was given."""

    code = "streams.demo.scenario"
    exit_status = 2


class AccessDeniedError(StreamsError):
    """The token of an operator does not allow what was asked."""

    code = "streams.access.denied"
    exit_status = 4


class MalformedRequestError(StreamsError):
    """A request over HTTP cannot be read."""

    code = "http.json_invalid"
    exit_status = 2


class TooManyRequestsError(StreamsError):
    """Somebody asks over HTTP for more than is allowed; later it may be."""

    code = "http.too_many_requests"
    retryable = True
    exit_status = 5

    def __init__(self, text: str, *, retry_after: int = 1) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class GatewayError(StreamsError):
    """The gateway refuses a request; the client is told in the form of OpenAI's API.

    Attributes:
        status: of the answer.
        kind: OpenAI's ``type``.
        param: the parameter that is at fault.
        word: OpenAI's ``code``.
        retry_after: seconds after which to come again.
        headers: that say what was tried.
    """

    code = "gateway.refused"

    def __init__(
        self,
        text: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        word: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.param = param
        self.word = word
        self.retry_after = retry_after
        self.headers: dict[str, str] = {}


class EngineAwayError(GatewayError):
    """The engine did not answer, or not in time; trying again may help."""

    code = "gateway.engine.away"
    retryable = True
    exit_status = 5

    def __init__(self, text: str, *, retry_after: int = 1) -> None:
        super().__init__(text, status=503, kind="server_error", word="engine_away", retry_after=retry_after)


class EngineRefusedError(GatewayError):
    """The engine does not take the request as it is."""

    code = "gateway.engine.refused"


class AdapterGoneError(GatewayError):
    """The engine does not hold the adapter that was asked for."""

    code = "gateway.adapter.gone"
    retryable = True


class WrongAnswererError(GatewayError):
    """Another model answered than was asked; what it said is thrown away."""

    code = "gateway.answerer.wrong"
    retryable = True
