"""Access tokens of OAUTHBEARER for the worker's two Kafka clients, from a file or from an authorization server.

A file (a projected service-account token, say) is read again for every new connection, since the platform renews it.
From an authorization server a token is fetched with the client credentials grant (RFC 6749 §4.4) and kept until
shortly before it runs out. A token that cannot be had looks like a broker that cannot be reached: it is tried again.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING, Protocol

import aiokafka.errors
import kafka.errors
from aiokafka.abc import AbstractTokenProvider as AioTokenProvider
from kafka.net.sasl.oauth import AbstractTokenProvider

from streams.errors import AccessTokenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streams.settings import BrokerSettings

ANSWER_SECONDS = 10.0
LARGEST_ANSWER_BYTES = 65_536
RENEW_SHARE = 0.8  # of a token's life, after which the next connection gets a new one
SHORTEST_LIFE_SECONDS = 60.0  # assumed when the server does not say how long a token lives


class AccessTokens(Protocol):
    """Where tokens come from; safe to use from several threads."""

    def token(self) -> str:
        """Return a token that is valid now.

        Raises:
            AccessTokenError: there is none.
        """


class TokenFile:
    """A token in a file that somebody else renews."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        """Read the file; see ``AccessTokens``."""
        try:
            found = self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AccessTokenError(
                f"the access token in {self._path} cannot be read ({type(error).__name__}); "
                "check DISCREET_BROKER__OAUTH_TOKEN_FILE"
            ) from error
        if not found:
            raise AccessTokenError(f"the file {self._path} holds no access token; it should hold one")
        return found


class ClientCredentials:
    """Tokens from an authorization server.

    Args:
        url: its token endpoint.
        client_id: who we are.
        client_secret: how we show it.
        scope: what the token should allow; ``None`` leaves that to the server.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        scope: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        pair = ":".join(map(urllib.parse.quote_plus, (client_id, client_secret)))  # RFC 6749 §2.3.1
        self._authorization = f"Basic {b64encode(pair.encode()).decode()}"
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = float("-inf")

    def token(self) -> str:
        """Return the token at hand, or a new one when its life is nearly over; see ``AccessTokens``."""
        with self._lock:
            if self._monotonic() >= self._renew_at:
                asked_at = self._monotonic()
                self._token, life = self._fetch()
                self._renew_at = asked_at + RENEW_SHARE * life
            return self._token

    def _fetch(self) -> tuple[str, float]:
        request = urllib.request.Request(  # noqa: S310  # the settings allow https and the loopback only
            self._url,
            data=urllib.parse.urlencode(self._form).encode(),
            headers={"Authorization": self._authorization, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                document = json.loads(answer.read(LARGEST_ANSWER_BYTES))
            token, life = document["access_token"], float(document.get("expires_in", SHORTEST_LIFE_SECONDS))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            status = ""
            if isinstance(error, urllib.error.HTTPError):
                status = f" {error.code}"
                error.close()
            raise AccessTokenError(
                f"{urllib.parse.urlsplit(self._url).netloc} gave no access token ({type(error).__name__}{status}); "
                "check DISCREET_BROKER__OAUTH_TOKEN_URL, …CLIENT_ID and …CLIENT_SECRET"
            ) from error
        if not isinstance(token, str) or not token:
            raise AccessTokenError(
                f"{urllib.parse.urlsplit(self._url).netloc} answered without an access token; check its settings"
            )
        return token, life


class KafkaPythonTokens(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python is untyped here
    """The tokens as kafka-python asks for them."""

    def __init__(self, tokens: AccessTokens) -> None:
        super().__init__()
        self._tokens = tokens

    def token(self) -> str:
        """Return a token; without one the connection fails as if nobody listened, and is tried again."""
        try:
            return self._tokens.token()
        except AccessTokenError as error:
            raise kafka.errors.KafkaConnectionError(str(error)) from error


class AiokafkaTokens(AioTokenProvider):  # type: ignore[misc]  # aiokafka is untyped here
    """The tokens as Faust's client asks for them."""

    def __init__(self, tokens: AccessTokens) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        """Return a token; without one the connection fails as if nobody listened, and is tried again."""
        try:
            return await asyncio.to_thread(self._tokens.token)
        except AccessTokenError as error:
            raise aiokafka.errors.KafkaConnectionError(str(error)) from error


def access_tokens(settings: BrokerSettings) -> AccessTokens:
    """Return the source of tokens that the settings name."""
    if settings.oauth_token_file is not None:
        return TokenFile(settings.oauth_token_file)
    # The settings were checked: without a file, all three are there.
    assert settings.oauth_token_url is not None
    assert settings.oauth_client_id is not None
    assert settings.oauth_client_secret is not None
    return ClientCredentials(
        settings.oauth_token_url,
        settings.oauth_client_id,
        settings.oauth_client_secret.get_secret_value(),
        settings.oauth_scope,
    )
