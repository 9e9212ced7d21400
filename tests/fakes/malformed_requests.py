"""Requests that break HTTP, JSON or a route's rules in seeded, structure-aware ways, as raw bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Route(NamedTuple):
    """A method, a path with ``{}`` for what may vary, names of its query, and bodies that it takes."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    bodies: tuple[object, ...] = ()


_CHANGES = {"changes": {"contribution_bound": 4, "schedule.every_seconds": 86_400}, "reason": "fewer"}
_CHOOSE = {"candidates": ["v1", "v2"], "reason": "which", "epsilon": 0.5, "percent": 10, "domain": "default"}
OPERATOR_ROUTES = (
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/metrics"),
    Route("GET", "/v1/tenants"),
    Route("GET", "/v1/tenants/{}/policy"),
    Route("PUT", "/v1/tenants/{}/policy", (), (_CHANGES,)),
    Route("GET", "/v1/tenants/{}/policy/history"),
    Route("GET", "/v1/tenants/{}/erasures"),
    Route("GET", "/v1/tenants/{}/budget"),
    Route("GET", "/v1/tenants/{}/budget/plan", ("parameters", "releases", "per_period")),
    Route("GET", "/v1/tenants/{}/statement", ("release",)),
    Route("GET", "/v1/tenants/{}/adapters"),
    Route("GET", "/v1/tenants/{}/prompts/choices", ("domain", "limit")),
    Route("POST", "/v1/tenants/{}/prompts:choose", (), (_CHOOSE,)),
    Route("POST", "/v1/tenants/{}/tokens", (), ({"name": "bea", "role": "reader", "days": 3},)),
    Route("DELETE", "/v1/tenants/{}/tokens/{}"),
    Route("GET", "/v1/nothing/{}"),
)
SERVING_ROUTES = (
    Route("GET", "/healthz"),
    Route("GET", "/v1/adapters"),
    Route("POST", "/v1/answers", (), ({"prompt": "hi", "model": "a-1", "max_new_tokens": 8},)),
    Route("POST", "/v1/answers", (), ({"prompts": ["hi", "ho"], "model": None},)),
    Route("POST", "/v1/losses", (), ({"pairs": [["p", "c"]], "model": None},)),
    Route("GET", "/v1/nothing/{}"),
)
_CHAT = {
    "model": "discreet",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_tokens": 8,
    "user": "ann",
}
GATEWAY_ROUTES = (
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/metrics"),
    Route("GET", "/v1/models"),
    Route("GET", "/v1/models/{}"),
    Route("POST", "/v1/chat/completions", (), (_CHAT, {**_CHAT, "stream": True, "tools": [], "n": 1})),
    Route("POST", "/v1/completions", (), ({"model": "discreet/acme", "prompt": "hi", "stop": ["x"]},)),
    Route("POST", "/v1/feedback", (), ({"id": "c", "outcome": "edited", "final_text": "x", "user": "ann"},)),
    Route("GET", "/v1/nothing/{}"),
)
_PARTS = (
    b"acme",
    b"globex",
    b"%00",
    b"a%00b",
    b"%ff%fe",
    b"%ed%a0%80",
    b"%F0%9F%98%80",
    b"%2e%2e",
    b"..",
    b"%",
    b"%zz",
    b"acme%0d%0aX:1",
    b"acme%2F..%2Fglobex",
    b"a" * 300,
    b"a" * 9000,
    b"-1",
    b"0",
    b"1e3",
    b"99999999999999999999",
    b"%D9%A3",
    "é".encode(),
    b"'%20OR%201=1--",
)
_TOKENS = (
    b"Bearer \xff\xfe\xfd",
    b"Bearer",
    b"Bearer  ",
    b"Basic eDp5",
    b"Bearer " + b"A" * 43,
    b"Bearer " + b"x" * 5000,
    b"Bearer \xc3\xa9",
    b"bearer a b c",
    b"\x80",
)
_ODD_VALUES = (
    None,
    True,
    0,
    -1,
    10**30,
    10**400,
    1e308,
    -1e-320,
    "",
    "x" * 20_000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "\u2028",
    "2026-99-99T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
)
_ODD_FIELDS = (
    "changes",
    "reason",
    "name",
    "role",
    "days",
    "prompt",
    "prompts",
    "pairs",
    "model",
    "max_new_tokens",
    "declared_users",
    "period_epsilon",
    "schedule",
    "schedule.first_at",
    "schedule.every_seconds",
    "population",
    "retention_days",
    "",
    "__class__",
)
_RAW_BODIES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b'"x"',
    b"NaN",
    b"Infinity",
    b'{"changes": {"declared_users": NaN}, "reason": "r"}',
    b'{"changes": {"declared_users": 1e999}, "reason": "r"}',
    b'{"name": "\xff"}',
    b'{"name": "\\ud800"}',
    b'{"name": "\\u0000"}',
    b'{"changes": {"\\udfff": 1}, "reason": "\\u0000"}',
    b'{"prompt": "\\ud83d"}',
    b'{"pairs": [["\\u0000", "\\udc00"]]}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"[" * 60_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"name": ' + b"9" * 5_000 + b"}",
    b"x" * 70_000,
    b"x" * 1_100_000,
    b"\x1f\x8b\x08\x00",
)
_HEADERS = (
    b"Content-Length: -1",
    b"Content-Length: abc",
    b"Content-Length: 3\r\nContent-Length: 4",
    b"Content-Length: 99999999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3",
    b"Transfer-Encoding: gzip",
    b"Content-Encoding: gzip",
    b"Content-Encoding: \xff",
    b"Content-Type: application/json; charset=bogus",
    b"Content-Type: \xff\xff",
    b"Expect: 100-continue",
    b"Expect: something",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Cookie: a=\xff; b",
    b"If-Modified-Since: never",
    b"Range: bytes=9-1",
    b"X: " + b"y" * 9_000,
    b"\xff\xff: 1",
    b"No colon here",
    b"Host: other",
    b"Host: \xff[",
    b"Forwarded: for=\xff",
)


def malformed_requests(
    seed: int, count: int, routes: Sequence[Route], token: bytes
) -> Iterator[tuple[str, bytes]]:
    """Yield what was asked for, in words, and the raw request; many are broken in more than one way."""
    choice = random.Random(seed)
    for _ in range(count):
        route = choice.choice(routes)
        target = route.path.encode()
        while b"{}" in target:
            target = target.replace(b"{}", _part(choice), 1)
        if route.query or choice.random() < 0.1:
            names = [name.encode() for name in route.query] or [b"a", b"%ff", b"%00"]
            target += b"?" + b"&".join(name + b"=" + _part(choice) for name in names if choice.random() < 0.7)
        method = (
            route.method if choice.random() < 0.9 else choice.choice(("PATCH", "HEAD", "G\x00T", "POST", ""))
        )
        authorization = b"Bearer " + token if choice.random() < 0.8 else choice.choice(_TOKENS)
        body = _body(choice, route) if route.bodies or choice.random() < 0.1 else b""
        lines = [b"Host: x", b"Authorization: " + authorization, b"Connection: close"]
        length: bytes | None = b"Content-Length: %d" % len(body) if body or route.bodies else None
        if choice.random() < 0.2:
            odd = choice.choice(_HEADERS)
            lines.append(odd)
            if odd.startswith((b"Content-Length", b"Transfer")):
                length = None
        if length is not None:
            lines.append(length)
        version = b"HTTP/1.1" if choice.random() < 0.97 else choice.choice((b"HTTP/9.9", b"HTTP/1.0", b""))
        head = b"%b %b %b\r\n%b\r\n\r\n" % (method.encode(), target, version, b"\r\n".join(lines))
        yield f"{route.method} {route.path}", head + body


def _part(choice: random.Random) -> bytes:
    return b"acme" if choice.random() < 0.4 else choice.choice(_PARTS)


def _body(choice: random.Random, route: Route) -> bytes:
    kind = choice.random()
    if kind < 0.3:
        return choice.choice(_RAW_BODIES)
    if kind < 0.4:
        return choice.randbytes(choice.randrange(1, 300))
    body: object = json.loads(json.dumps(choice.choice(route.bodies))) if route.bodies else {}
    assert isinstance(body, dict)
    place = body
    while (inner := [value for value in place.values() if isinstance(value, dict)]) and choice.random() < 0.5:
        place = choice.choice(inner)
    field = choice.choice((*_ODD_FIELDS, *place))
    if choice.random() < 0.3:
        place.pop(field, None)
    else:
        place[field] = choice.choice(_ODD_VALUES)
    text = json.dumps(body).encode()
    return text if choice.random() < 0.8 else text[: choice.randrange(len(text))]
