"""Take personal data and secrets out of one text before it is stored. Pure, per record.

Patterns find candidates; a checksum or a parser (python-stdnum, ``ipaddress``) decides where one exists.
What was found is replaced by its type in brackets, such as ``[email]``, and counted by type; values are
never kept or logged. Redacting a text again changes nothing. The set of recognizers has a version, stored
with what was redacted by it.

The work grows with the length of a text and no faster, whatever somebody wrote to make it grow: every pattern looks a
bounded way ahead, what is longer is searched by hand, and a text is gone over a few times only. One in which something
is still found then (numbers strung together without a space) is not what people write, and is withheld as a whole.

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
    from collections.abc import Callable, Iterator, Mapping, Sequence

RECOGNIZERS_VERSION: Final = "2"
MOST_PASSES: Final = 8  # what people write needs two: one that finds, one that finds no more
WITHHELD: Final = "withheld"


class Redacted(NamedTuple):
    """A text without what was recognized, and how much that was."""

    text: str
    counts: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Recognizer:
    """One kind of personal data.

    Attributes:
        kind: the name that replaces a value.
        values: yields the start and the end of each value in a text, in their order.
        possible: a cheap test that a text could hold any, so that most texts cost next to nothing.
    """

    kind: str
    values: Callable[[str], Iterator[tuple[int, int]]]
    possible: Callable[[_Clues], bool]


def _matches(
    pattern: re.Pattern[str], accepts: Callable[[str], int] = len
) -> Callable[[str], Iterator[tuple[int, int]]]:
    """Return what yields the values of a pattern.

    Args:
        pattern: finds candidates of bounded length; a group ``value`` is the value, without one the whole match.
        accepts: the checksum or parser; says how many characters of a candidate are a value (0: it is none).
    """

    def values(text: str) -> Iterator[tuple[int, int]]:
        position = 0
        while (match := pattern.search(text, position)) is not None:
            group = "value" if match.groupdict().get("value") is not None else 0
            start = match.start(group)
            length = accepts(match[group])
            if length == 0:
                position = match.start() + 1
            else:
                position = start + length
                yield start, position

    return values


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
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox",
    "AIza", "_live_", "_test_", "sk-", "npm_", "hf_", "pypi-", "earer ",
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
    head = int(
        "".join(str(int(letter, 36)) for letter in candidate[:4])
    )  # two letters, two digits: six digits
    rest = 0
    checked = []
    # The checksum of ISO 7064 first, of every part up to a space at once: it turns 96 of 97 away for little.
    for place, letter in enumerate(candidate[4:], 4):
        if letter != " ":
            value = int(letter, 36)
            rest = (rest * (10 if value < 10 else 100) + value) % 97
        elif (rest * 1_000_000 + head) % 97 == 1:
            checked.append(place)
    if (rest * 1_000_000 + head) % 97 == 1:
        checked.append(len(candidate))
    return next((end for end in reversed(checked) if _is_iban(candidate[:end])), 0)


def _is_iban(candidate: str) -> bool:
    try:
        iban.validate(candidate.replace(" ", ""))
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


_KEY_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_KEY_ENDS: Final = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY-----")


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Yield keys in PEM, each up to its end or, without one, up to that of the text."""
    position = 0
    while (begin := _KEY_BEGINS.search(text, position)) is not None:
        end = _KEY_ENDS.search(text, begin.end())
        position = len(text) if end is None else end.end()
        yield begin.start(), position


_TOKEN_BEGINS: Final = re.compile(r"\beyJ")
_TOKEN_PART: Final = re.compile(r"[\w-]*")
_TOKEN_REST: Final = re.compile(r"\.[\w-]{8,8000}\.[\w-]{8,4000}")


def _web_tokens(text: str) -> Iterator[tuple[int, int]]:
    """Yield JSON Web Tokens. All that may begin in one run of letters end where it ends, so it is gone over once."""
    position, run_end, rest = 0, -1, None
    while (begin := _TOKEN_BEGINS.search(text, position)) is not None:
        position = begin.end()
        if position > run_end:
            part = _TOKEN_PART.match(text, position)
            run_end = position if part is None else part.end()
            rest = _TOKEN_REST.match(text, run_end)
        if rest is not None and 8 <= run_end - position <= 4000:
            position = rest.end()
            yield begin.start(), position


_SECRETS = r"""
    \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
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
  | \b[Bb]earer[ ]+(?P<value>[\w.~+/-]{16,4000}={0,2})
"""
_ASSIGNED = (
    r"(?i)\b(?:pass(?:word|wd|phrase)|secret|api[_-]?key|access[_-]?key|auth[_-]?token|token|credentials?)\b"
    r"[\"']?[ \t]{0,3}(?::=|[:=])[ \t]{0,3}[\"']?(?P<value>[^\s\"'\[\],;<>]{6,255})"
)

# In this order: what is surest and longest goes first, so that its digits are not taken for something else.
_RECOGNIZERS: Final = (
    _Recognizer("secret", _private_keys, lambda clues: "PRIVATE KEY" in clues.text),
    _Recognizer(
        "secret",
        _matches(re.compile(_SECRETS, re.VERBOSE)),
        lambda clues: _any_of(_SECRET_MARKS, clues.text),
    ),
    _Recognizer("secret", _web_tokens, lambda clues: "eyJ" in clues.text),
    _Recognizer(
        "secret",
        _matches(re.compile(r"://[^\s/:@\[\]]{1,255}:(?P<value>[^\s/@\[\]]{1,255})@")),
        lambda clues: "://" in clues.text and "@" in clues.text,
    ),
    _Recognizer(
        "secret",
        _matches(re.compile(_ASSIGNED)),
        lambda clues: (
            ("=" in clues.text or ":" in clues.text) and _any_of(_ASSIGNED_MARKS, clues.text.lower())
        ),
    ),
    _Recognizer(
        "email",
        _matches(re.compile(r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")),
        lambda clues: "@" in clues.text,
    ),
    _Recognizer(
        "iban",
        _matches(
            re.compile(r"[A-Z]{2}\d{2}(?<!\w[A-Z]{2}\d{2})(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b"),
            _iban,
        ),
        lambda clues: clues.iban,
    ),
    _Recognizer(
        "card",
        _matches(
            re.compile(
                r"(?<![\d.])(?:[2-6]\d{12,18}|[2-6]\d{3}(?:[ -]\d{4}){2}[ -]\d{1,7}"
                r"|3[47]\d{2}[ -]\d{6}[ -]\d{5})(?!\d)"
            ),
            _card,
        ),
        lambda clues: clues.number and clues.digits >= 13,
    ),
    _Recognizer(
        "national-id",
        _matches(re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), _ssn),
        lambda clues: clues.number and clues.digits >= 9,
    ),
    _Recognizer(
        "ip",
        _matches(re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)"), _ip),
        lambda clues: clues.digits >= 4 and clues.text.count(".") >= 3,
    ),
    _Recognizer(
        "ip",
        _matches(
            re.compile(
                r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])"
            ),
            _ip,
        ),
        lambda clues: "::" in clues.text or clues.text.count(":") >= 6,
    ),
    _Recognizer(
        "phone",
        _matches(
            re.compile(
                r"(?<![\w+.])(?:(?:\+|00)[1-9][\d ()./-]{5,24}(?<=\d)"
                r"|\(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,5}"
                r"|\d{3}[ .-]\d{3}[ .-]\d{4}"
                r"|0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,5})(?!\w|[.-]\d)"
            ),
            _phone,
        ),
        lambda clues: clues.number,
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
    for _ in range(MOST_PASSES):
        redacted = _pass(text, counts)
        if redacted == text:
            return Redacted(text, dict(counts))
        text = redacted
    return Redacted(f"[{WITHHELD}]", {WITHHELD: 1})


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
    done = 0
    for start, end in recognizer.values(text):
        parts += (text[done:start], f"[{recognizer.kind}]")
        counts[recognizer.kind] += 1
        done = end
    return "".join((*parts, text[done:])) if parts else text
