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
