"""Personal data and secrets leave the text; what only looks like them stays."""

from __future__ import annotations

import pytest

from privacy.redaction import redact


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        ("write to jane.doe+work@mail.example.co.uk.", "write to [email].", {"email": 1}),
        ("call +49 (0)30 1234567 or 555-123-4567", "call [phone] or [phone]", {"phone": 2}),
        ("call (030) 1234 5678 now", "call [phone] now", {"phone": 1}),
        ("card 4111 1111 1111 1111, 378282246310005", "card [card], [card]", {"card": 2}),
        ("pay DE89 3704 0044 0532 0130 00 NOW", "pay [iban] NOW", {"iban": 1}),
        ("pay GB82WEST12345698765432", "pay [iban]", {"iban": 1}),
        ("from 192.168.1.10 and 2001:db8::8a2e:370:7334", "from [ip] and [ip]", {"ip": 2}),
        ("ssn 536-90-4399", "ssn [national-id]", {"national-id": 1}),
        ("key AKIAIOSFODNN7EXAMPLE", "key [secret]", {"secret": 1}),
        ("use ghp_" + "a1" * 18, "use [secret]", {"secret": 1}),
        ('password = "hunter2!"', 'password = "[secret]"', {"secret": 1}),
        ("api_key: zq81-zz90", "api_key: [secret]", {"secret": 1}),
        ("https://bob:s3cret@example.org/x", "https://bob:[secret]@example.org/x", {"secret": 1}),
        ("Authorization: Bearer abc.def-ghi_jkl~mno", "Authorization: Bearer [secret]", {"secret": 1}),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "[secret]", {"secret": 1}),
        (
            "a -----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY----- b",
            "a [secret] b",
            {"secret": 1},
        ),
        ("555-123-4567 4111 1111 1111 1111", "[phone] [card]", {"phone": 1, "card": 1}),
    ],
)
def test_what_is_recognized_is_replaced_and_counted(text, expected, kinds):
    redacted = redact(text)
    assert redacted.text == expected
    assert redacted.counts == kinds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KAFKA-12345: fix the loop (#678) in 3.8.1, see 2024-05-06 12:30:45",
        "card 4111 1111 1111 1112 fails the checksum",
        "GB82WEST12345698765433 fails the checksum",
        "std::vector<int> a::b and 999.1.2.3",
        "π is 3.14159265358979, one zettabyte 1000000000000000000000 bytes",
        "the key point is the token bucket: refill",
        "user@localhost",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert redact(text).text == text
    assert redact(text).counts == {}
