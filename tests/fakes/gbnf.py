"""The grammar notation of llama.cpp, as far as cards use it, read into a regular expression of Python's."""

from __future__ import annotations

import re

TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{\d+,\d+\}|[()|+]|[a-z][a-z-]*')


def as_pattern(grammar: str, rule: str = "root") -> str:
    """Return a regular expression of the same language; anything of the notation that is not known here is an error."""
    rules = {}
    for line in grammar.splitlines():
        name, _, told = line.partition(" ::= ")
        assert told, f"no rule: {line!r}"
        rules[name] = told
    return _read(rules, rules[rule], depth=0)


def _read(rules, told, depth):
    assert depth < 8, "a rule names itself"
    out, at = "", 0
    while at < len(told):
        match = TOKEN.match(told, at)
        assert match, f"not known: {told[at : at + 20]!r}"
        token, at = match.group(), match.end()
        if token.isspace():
            continue
        if token[0] == '"':
            out += "(?:" + re.escape(_plain(token[1:-1])) + ")"
        elif token in rules:
            out += "(?:" + _read(rules, rules[token], depth + 1) + ")"
        elif token[0] == "[":
            out += token
        elif token == "(":
            out += "(?:"
        else:
            assert token in {")", "|", "+"} or token[0] == "{", f"no such rule: {token}"
            out += token
    return out


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found.group(1) == "n" else found.group(1), text)


def groups_of(grammar):
    """Return the regular expressions of opening, body and closing."""
    names = grammar.splitlines()[0].removeprefix("root ::= ").split()
    return [as_pattern(grammar, name) if name in names else "" for name in ("open", "body", "close")]


def readings(grammar, text):
    """Return in how many ways a text is an opening, a body and a closing."""
    opening, body, closing = groups_of(grammar)
    return sum(
        bool(re.fullmatch(opening, text[:start]))
        and bool(re.fullmatch(body, text[start:end]))
        and bool(re.fullmatch(closing, text[end:]))
        for start in range(len(text) + 1)
        for end in range(start, len(text) + 1)
    )
