"""Events that break the contract in seeded, structure-aware ways, and plain random bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fakes.stream_records import FakeRecord, interaction

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
    "2026-99-99T00:00:00Z",
)
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


def _field(record, choice):
    document = json.loads(record.value)
    required = [name for name in document if name not in {"domain", "served_name"}]
    name = choice.choice(required)
    if choice.random() < 0.4:
        del document[name]
    else:
        odd = choice.choice(_ODD_VALUES)
        free_text = {"completion", "prompt", "interaction_id", "notice_version"}
        if name in free_text and isinstance(odd, str) and odd != "x" * 20_000:
            odd = 7  # any short text is valid there
        document[name] = odd
    return replace(record, value=json.dumps(document).encode())


def _outcome(record, choice):
    document = json.loads(record.value)
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
    return replace(record, value=record.value.replace(b'"say hi"', b'"\\ud83d"'))


def _other_key(record, choice):
    return replace(
        record, key=choice.choice((b"", b"acme", b"acme/", b"\xff", b"globex/ada", choice.randbytes(12)))
    )


def _oversized(record, choice):
    return replace(record, value=b" " * (MAX_BYTES + 1 + choice.randrange(3000)) + record.value)


def _empty(record, choice):
    return replace(record, value=choice.choice((None, b"")))


def _structured(record, choice):
    headers = (("content-type", b"application/cloudevents+json"),)
    bodies = (b"{}", b"[]", b'{"specversion":"1.0"}', b'{"specversion":"1.0","id":1,"source":"s","type":"t"}')
    bodies += (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"%%"}', b"[" * 3000)
    return replace(record, headers=headers, value=choice.choice(bodies))


def _unknown_tenant(record, choice):
    return interaction(tenant="nobody", event_id=f"stranger-{choice.getrandbits(64)}", offset=record.offset)


MUTATIONS: tuple[Mutation, ...] = (
    _random_bytes,
    _random_headers,
    _cut,
    _without_header,
    _broken_header,
    _field,
    _outcome,
    _not_an_object,
    _lone_surrogate,
    _other_key,
    _oversized,
    _empty,
    _structured,
    _unknown_tenant,
)


def malformed(seed: int, count: int) -> Iterator[FakeRecord]:
    """Yield ``count`` records; each breaks the contract in at least one way."""
    choice = random.Random(seed)
    for offset in range(count):
        record = interaction(event_id=f"{seed}-{offset}", offset=offset)
        yield choice.choice(MUTATIONS)(record, choice)
