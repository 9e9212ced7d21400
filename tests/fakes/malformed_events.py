"""Events that break the contract in seeded, structure-aware ways, and plain random bytes, for every topic read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tests.fakes.stream_records import FakeRecord, ack, consent, erasure, interaction

MAX_BYTES = 4096

Mutation = Callable[[FakeRecord, random.Random], FakeRecord]

_ODD_VALUES = (
    None,
    True,
    0,
    -1,
    2**70,
    1e308,
    "",
    "x" * 20_000,
    [],
    {},
    [[]],
    "\x00",
    "\x7f\x1b[2J",
    "2026-99-99T00:00:00Z",
)
# Moments that exist, but not in UTC: they must be refused, not raise.
_MOMENTS = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z")
# Fields that need not be there, and fields in which any short text is valid.
_OPTIONAL = {"domain", "served_name", "reason", "probe_effect"}
_FREE_TEXT = {"completion", "prompt", "server_id"}
_FREE_ASCII = {"notice_version", "request_id", "interaction_id"}
_HEADERS = ("ce_id", "ce_source", "ce_type", "ce_specversion")


def _random_bytes(record, choice):
    return replace(record, value=choice.randbytes(choice.randrange(1, 300)))


def _random_headers(record, choice):
    headers = tuple((f"ce_{choice.randrange(9)}", choice.randbytes(9)) for _ in range(choice.randrange(6)))
    return replace(record, headers=headers)


def _cut(record, choice):
    return replace(record, value=record.value[: choice.randrange(len(record.value))])


def _without_header(record, choice):
    name = choice.choice(_HEADERS)
    return replace(record, headers=tuple(pair for pair in record.headers if pair[0] != name))


def _broken_header(record, choice):
    name = choice.choice(_HEADERS)
    value = choice.choice((b"", b"\xff\xfe", b"x" * 1000, b"interaction.recorded.v9"))
    if name == "ce_specversion":
        value = b"0.3"
    if name in {"ce_id", "ce_source"} and value == b"interaction.recorded.v9":
        value = b""
    return replace(record, headers=tuple((n, value if n == name else v) for n, v in record.headers))


def _null_header(record, choice):
    name = choice.choice(_HEADERS)
    return replace(record, headers=tuple((n, None if n == name else v) for n, v in record.headers))


def _field(record, choice):
    document = json.loads(record.value)
    name = choice.choice([name for name in document if name not in _OPTIONAL])
    if choice.random() < 0.4:
        del document[name]
        return replace(record, value=json.dumps(document).encode())
    odd = choice.choice(_ODD_VALUES)
    if isinstance(odd, str) and odd != "x" * 20_000:
        odd = 7 if name in _FREE_TEXT or (name in _FREE_ASCII and odd.startswith("2026")) else odd
    if name == "epoch" and odd == 0 and odd is not False:
        odd = "0"
    document[name] = odd
    return replace(record, value=json.dumps(document).encode())


def _moment(record, choice):
    document = json.loads(record.value)
    document["occurred_at"] = choice.choice(_MOMENTS)
    return replace(record, value=json.dumps(document).encode())


def _outcome(record, choice):
    document = json.loads(record.value)
    if "outcome" not in document:
        return _field(record, choice)
    document["outcome"] = choice.choice(
        (
            {},
            {"kind": "??"},
            {"kind": "edited"},
            {"kind": "rating", "rating": 9},
            {"kind": ["accepted"]},
            "accepted",
        )
    )
    return replace(record, value=json.dumps(document).encode())


def _not_an_object(record, choice):
    texts = (
        b"null",
        b"[]",
        b'"x"',
        b"1e999",
        b"NaN",
        b"{",
        b'{"a":',
        b"[" * 3000,
        b'{"a":' * 600,
        b'"\\ud800"',
    )
    return replace(record, value=choice.choice(texts))


def _lone_surrogate(record, choice):
    document = json.loads(record.value)
    name = choice.choice([name for name, value in document.items() if isinstance(value, str)])
    document[name] = "\ud83d"
    return replace(record, value=json.dumps(document).encode())


def _other_key(record, choice):
    return replace(
        record, key=choice.choice((b"", b"acme", b"acme/", b"\xff", b"globex/ada", choice.randbytes(12)))
    )


def _oversized(record, choice):
    return replace(record, value=b" " * (MAX_BYTES + 1 + choice.randrange(3000)) + record.value)


def _empty(record, choice):
    # A consent without a value is a tombstone: compaction's business, not malformed.
    return replace(
        record, value=b"" if record.topic.startswith("discreet.consent") else choice.choice((None, b""))
    )


def _structured(record, choice):
    headers = (("content-type", b"application/cloudevents+json"),)
    bodies = (b"{}", b"[]", b'{"specversion":"1.0"}', b'{"specversion":"1.0","id":1,"source":"s","type":"t"}')
    bodies += (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"%%"}', b"[" * 3000)
    return replace(record, headers=headers, value=choice.choice(bodies))


def _structured_surrogate(record, choice):
    """A good event in structured mode, but for one attribute that no UTF-8 text can hold."""
    attributes = {name[3:]: value.decode() for name, value in record.headers if name.startswith("ce_")}
    document = {**attributes, "data": json.loads(record.value)}
    document[choice.choice(("id", "source", "type", "traceparent"))] = "\udc00"
    headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    return replace(record, headers=headers, value=json.dumps(document).encode())


def _unknown_tenant(record, choice):
    document = json.loads(record.value)
    if "tenant_id" not in document:
        return _cut(record, choice)
    document["tenant_id"] = "nobody"
    headers = tuple(
        (name, b"stranger-%d" % choice.getrandbits(64) if name == "ce_id" else value)
        for name, value in record.headers
    )
    return replace(
        record,
        value=json.dumps(document).encode(),
        key=record.key.replace(b"acme", b"nobody"),
        headers=headers,
    )


def _flipped(record, choice):
    """Bits flipped in the value's JSON, in a way that no longer parses or no longer fits."""
    value = bytearray(record.value)
    value[0] = choice.choice((0, 0x5B, 0x7D, 0xFF, 0x22))
    for _ in range(choice.randrange(8)):
        value[choice.randrange(1, len(value))] ^= 1 << choice.randrange(8)
    return replace(record, value=bytes(value))


MUTATIONS: tuple[Mutation, ...] = (
    _random_bytes,
    _random_headers,
    _cut,
    _without_header,
    _broken_header,
    _null_header,
    _field,
    _outcome,
    _not_an_object,
    _lone_surrogate,
    _other_key,
    _oversized,
    _empty,
    _structured,
    _structured_surrogate,
    _unknown_tenant,
    _moment,
    _flipped,
)

_MAKERS: Mapping[str, Callable[..., FakeRecord]] = {
    "interactions": lambda name, offset: interaction(event_id=name, offset=offset),
    "consent": lambda name, offset: consent(offset=offset),
    "erasures": lambda name, offset: erasure(request_id=name, offset=offset),
    "serving-acks": lambda name, offset: ack(event_id=name, offset=offset),
}
TOPICS = tuple(_MAKERS)


def malformed(seed: int, count: int, topic: str = "interactions") -> Iterator[FakeRecord]:
    """Yield ``count`` records of a topic; each breaks the contract in at least one way."""
    choice = random.Random(f"{topic} {seed}")
    for offset in range(count):
        yield choice.choice(MUTATIONS)(_MAKERS[topic](f"{seed}-{offset}", offset), choice)
