"""Bodies that are JSON in name only are refused, whichever way they go wrong."""

import pytest

from streams.errors import MalformedRequestError
from streams.http.bodies import DEEPEST, parsed

DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'"\xff"',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b'{"a": -1e999}',
        b"1" * 5_000,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'["\\u0000"]',
        "\ufeff{}".encode(),
    ],
)
def test_what_is_no_sane_json_is_refused(body):
    with pytest.raises(MalformedRequestError):
        parsed(body)


def test_what_is_sane_passes_as_it_is():
    deep = b"[" * DEEPEST + b"]" * DEEPEST
    assert parsed(deep) is not None
    assert parsed('{"a": [1, 2.5, null, "\u00e9\U0001f600", {"b": true}]}'.encode()) == {
        "a": [1, 2.5, None, "é😀", {"b": True}]
    }
    assert parsed(b'"\\ud83d\\ude00"') == "😀"
