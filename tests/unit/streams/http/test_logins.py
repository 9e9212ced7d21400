"""Wrong tokens: counted and logged without the token, limited by address, at no cost for whoever has a good one."""

import pytest
import structlog.testing

from streams.errors import TooManyRequestsError
from streams.http.logins import BURST, PER_SECOND, FailedLogins, address_of


@pytest.fixture
def world():
    now, told = [0.0], []
    return now, told, FailedLogins(told.append, monotonic=lambda: now[0])


def test_an_address_that_guesses_is_limited_alone_and_for_a_while(world):
    now, told, logins = world
    with structlog.testing.capture_logs() as logs:
        for _ in range(BURST):
            logins.check("10.0.0.1", b"guess")
            logins.failed("10.0.0.1", b"guess")
        with pytest.raises(TooManyRequestsError) as limited:
            logins.check("10.0.0.1", b"guess")
    assert limited.value.retry_after == 1 / PER_SECOND
    assert told == ["refused"] * BURST + ["limited"]
    assert [(one["event"], one["address"]) for one in logs] == [("login_failed", "10.0.0.1")] * BURST
    assert "guess" not in repr(logs)
    logins.check("10.0.0.2", b"guess")
    now[0] += 1 / PER_SECOND
    logins.check("10.0.0.1", b"guess")


def test_whoever_shares_an_address_with_a_guesser_goes_on_until_the_token_is_revoked(world):
    _, _, logins = world
    logins.succeeded(b"good")
    for _ in range(BURST):
        logins.failed("10.0.0.1", b"guess")
    logins.check("10.0.0.1", b"good")
    logins.failed("10.0.0.1", b"good")
    with pytest.raises(TooManyRequestsError):
        logins.check("10.0.0.1", b"good")


def test_one_customer_is_one_address():
    assert address_of("2001:db8::1") == address_of("2001:db8::2:3")
    assert address_of("2001:db8::1") != address_of("2001:db8:0:1::1")
    assert (address_of("10.0.0.1"), address_of(None), address_of("socket")) == (
        "10.0.0.1",
        "unknown",
        "unknown",
    )
