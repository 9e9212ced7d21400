"""Take personal data and secrets out of one text before it is stored. Pure, per record.

Patterns find candidates; a checksum or a parser (python-stdnum, ``ipaddress``) decides where one exists.
What was found is replaced by its type in brackets, such as ``[email]``, and counted by type; values are
never kept or logged. Redacting a text again changes nothing. The set of recognizers has a version, stored
with what was redacted by it.

*Limits*: this is minimization, not anonymization. Names, addresses and anything said in plain words stay,
and ε does not get smaller by it. Rules look at one record only, so they keep the privacy unit's data
independent of others'.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from stdnum import iban, luhn
from stdnum.exceptions import ValidationError
from stdnum.us import ssn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RECOGNIZERS_VERSION: Final = "1"


class Redacted(NamedTuple):
    """A text without what was recognized, and how much that was."""

    text: str
    counts: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Recognizer:
    """One kind of personal data.

    Attributes:
        kind: the name that replaces a value.
        pattern: finds candidates; a group ``value`` is what is replaced, without one the whole match.
        possible: a cheap test that a text could hold any, so that most texts cost next to nothing.
        accepts: the checksum or parser; says how many characters of a candidate are a value (0: it is none).
    """

    kind: str
    pattern: re.Pattern[str]
    possible: Callable[[_Clues], bool]
    accepts: Callable[[str], int] = len


@dataclass(slots=True)
class _Clues:
    """What one glance at a text shows; recognizers use it to decide whether to look closer."""

    text: str
    digits: int
    number: bool  # six characters of a written number in a row
    iban: bool  # two capitals and two digits in a row


_DIGITS: Final = "0123456789"
_NUMBER: Final = re.compile(r"\d[\d ()./-]{5}")

# One glance works on the UTF-8 bytes. A pattern's digit may be any script's, so bytes outside ASCII pass as digits.
_HINTS: Final = b"0123456789@:=-_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLAIN: Final = bytes(sorted(set(range(256)) - set(_HINTS)))
_CAPITALS_OR_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_DIGITS: Final = bytes(sorted(set(range(256)) - set(_DIGITS.encode())))
_WRITTEN_NUMBERS: Final = bytes(
    48 if chr(byte) in "0123456789 ()./-" or byte > 127 else 97 for byte in range(256)
)
_CAPITALS_AND_DIGITS: Final = bytes(
    48 if chr(byte) in _DIGITS or byte > 127 else 65 if chr(byte).isupper() else 97 for byte in range(256)
)
_SECRET_MARKS: Final = (
    "PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox",
    "AIza", "_live_", "_test_", "sk-", "npm_", "hf_", "pypi-", "eyJ", "earer ",
)  # fmt: skip
_BEARER: Final = "earer "
_WORD_MARKS: Final = (_BEARER, "AKIA", "ASIA", "AIza", "eyJ")  # those without a dash or an underscore
_ASSIGNED_MARKS: Final = ("pass", "secret", "key", "token", "credential")


def _glance(text: str) -> _Clues | None:
    """Return the clues of ``text``, or ``None`` when no recognizer can find anything in it.

    What holds for a text holds for its parts, so texts joined by a line feed can share one glance.
    """
    raw = text.encode("utf-8", "surrogatepass")
    hints = raw.translate(None, _PLAIN)
    if not hints:
        return _Clues(text, 0, number=False, iban=False) if _BEARER in text else None
    if hints.isdigit():
        digits, iban = len(hints), False
        marked = _BEARER in text
    else:
        digits = len(hints.translate(None, _NO_DIGITS))
        iban = digits >= 10 and b"AA00" in raw.translate(_CAPITALS_AND_DIGITS)
        marked = iban or bool(hints.translate(None, _CAPITALS_OR_DIGITS)) or _any_of(_WORD_MARKS, text)
    # What a pattern asks for, in a shape of few letters: a search of a fixed string instead of the pattern's.
    number = digits >= 7 and b"000000" in raw.translate(_WRITTEN_NUMBERS) and _NUMBER.search(text) is not None
    if not (marked or number or (digits >= 4 and text.count(".") >= 3)):
        return None
    return _Clues(text, digits, number=number, iban=iban)


def _any_of(marks: tuple[str, ...], text: str) -> bool:
    for mark in marks:  # noqa: SIM110  # a generator would take three times as long, for every other text
        if mark in text:
            return True
    return False


def _card(candidate: str) -> int:
    digits = re.sub(r"\D", "", candidate)
    return len(candidate) if len(set(digits)) > 1 and luhn.is_valid(digits) else 0


def _iban(candidate: str) -> int:
    return _longest(candidate, _is_iban)


def _is_iban(candidate: str) -> bool:
    compact = candidate.replace(" ", "")
    # The checksum of ISO 7064 first: it turns 96 of 97 candidates away for little.
    if int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 != 1:
        return False
    try:
        iban.validate(compact)
    except ValidationError:
        return False
    return True


def _longest(candidate: str, accepted: Callable[[str], bool]) -> int:
    """Return the length of ``candidate`` up to its last space where ``accepted`` holds, or 0.

    Words in capitals or further numbers may follow what was meant.
    """
    end = len(candidate)
    while end > 0 and not accepted(candidate[:end]):
        end = candidate.rfind(" ", 0, end)
    return max(end, 0)


def _ssn(candidate: str) -> int:
    return len(candidate) if ssn.is_valid(candidate) else 0


def _ip(candidate: str) -> int:
    # `a::b` is an address to a parser and a name to a C++ programmer: ask for a digit or many groups.
    if ":" in candidate and not any(letter.isdigit() for letter in candidate) and candidate.count(":") < 4:
        return 0
    try:
        ipaddress.ip_address(candidate)
    except ValueError:
        return 0
    return len(candidate)


def _phone(candidate: str) -> int:
    return _longest(candidate, _is_phone)


def _is_phone(candidate: str) -> bool:
    return 7 <= sum(map(candidate.count, _DIGITS)) <= 15 and candidate[-1] in _DIGITS  # E.164 allows 15


_SECRETS = r"""
    -----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----[\s\S]{0,8000}?(?:-----END[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----|\Z)
  | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
  | \bgh[pousr]_[A-Za-z0-9]{36,255}
  | \bgithub_pat_\w{22,255}
  | \bglpat-[\w-]{20,255}
  | \bxox[abeoprs]-[\w-]{10,255}
  | \bAIza[\w-]{35}
  | \b(?:sk|rk|pk)_(?:live|test)_\w{16,255}
  | \bsk-[\w-]{20,255}
  | \bnpm_[A-Za-z0-9]{36}
  | \bhf_[A-Za-z0-9]{30,255}
  | \bpypi-[\w-]{50,1000}
  | \beyJ[\w-]{8,4000}\.[\w-]{8,8000}\.[\w-]{8,4000}
  | \b[Bb]earer[ ]+(?P<value>[\w.~+/-]{16,4000}={0,2})
"""
_ASSIGNED = (
    r"(?i)\b(?:pass(?:word|wd|phrase)|secret|api[_-]?key|access[_-]?key|auth[_-]?token|token|credentials?)\b"
    r"[\"']?[ \t]{0,3}(?::=|[:=])[ \t]{0,3}[\"']?(?P<value>[^\s\"'\[\],;<>]{6,255})"
)

# In this order: what is surest and longest goes first, so that its digits are not taken for something else.
_RECOGNIZERS: Final = (
    _Recognizer("secret", re.compile(_SECRETS, re.VERBOSE), lambda clues: _any_of(_SECRET_MARKS, clues.text)),
    _Recognizer(
        "secret",
        re.compile(r"://[^\s/:@\[\]]{1,255}:(?P<value>[^\s/@\[\]]{1,255})@"),
        lambda clues: "://" in clues.text and "@" in clues.text,
    ),
    _Recognizer(
        "secret",
        re.compile(_ASSIGNED),
        lambda clues: (
            ("=" in clues.text or ":" in clues.text) and _any_of(_ASSIGNED_MARKS, clues.text.lower())
        ),
    ),
    _Recognizer(
        "email",
        re.compile(r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"),
        lambda clues: "@" in clues.text,
    ),
    _Recognizer(
        "iban",
        re.compile(r"[A-Z]{2}\d{2}(?<!\w[A-Z]{2}\d{2})(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b"),
        lambda clues: clues.iban,
        _iban,
    ),
    _Recognizer(
        "card",
        re.compile(
            r"(?<![\d.])(?:[2-6]\d{12,18}|[2-6]\d{3}(?:[ -]\d{4}){2}[ -]\d{1,7}"
            r"|3[47]\d{2}[ -]\d{6}[ -]\d{5})(?!\d)"
        ),
        lambda clues: clues.number and clues.digits >= 13,
        _card,
    ),
    _Recognizer(
        "national-id",
        re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"),
        lambda clues: clues.number and clues.digits >= 9,
        _ssn,
    ),
    _Recognizer(
        "ip",
        re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)"),
        lambda clues: clues.digits >= 4 and clues.text.count(".") >= 3,
        _ip,
    ),
    _Recognizer(
        "ip",
        re.compile(
            r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])"
        ),
        lambda clues: "::" in clues.text or clues.text.count(":") >= 6,
        _ip,
    ),
    _Recognizer(
        "phone",
        re.compile(
            r"(?<![\w+.])(?:(?:\+|00)[1-9][\d ()./-]{5,24}(?<=\d)"
            r"|\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,5}"
            r"|\d{3}[ .-]\d{3}[ .-]\d{4}"
            r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,5})(?!\w|[.-]\d)"
        ),
        lambda clues: clues.number,
        _phone,
    ),
)


def redact_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return ``texts`` redacted, each for itself; most often one glance at all of them is enough."""
    if _glance("\n".join(texts)) is None:
        return texts
    return [redact(text).text for text in texts]


def redact(text: str) -> Redacted:
    """Return ``text`` with every recognized value replaced by its type, and the counts by type."""
    if _glance(text) is None:
        return Redacted(text)
    counts: Counter[str] = Counter()
    # What stands beside a replaced value may be recognizable only now, so look until nothing is found.
    while (redacted := _pass(text, counts)) != text:
        text = redacted
    return Redacted(text, dict(counts))


def _pass(text: str, counts: Counter[str]) -> str:
    clues = _glance(text)
    if clues is None:
        return text
    for recognizer in _RECOGNIZERS:
        if recognizer.possible(clues):
            text = _without(text, recognizer, counts)
    return text


def _without(text: str, recognizer: _Recognizer, counts: Counter[str]) -> str:
    parts: list[str] = []
    done = position = 0
    while (match := recognizer.pattern.search(text, position)) is not None:
        group = "value" if match.groupdict().get("value") is not None else 0
        start = match.start(group)
        length = recognizer.accepts(match[group])
        if length == 0:
            position = match.start() + 1
            continue
        parts += (text[done:start], f"[{recognizer.kind}]")
        counts[recognizer.kind] += 1
        done = position = start + length
    return "".join((*parts, text[done:])) if parts else text
