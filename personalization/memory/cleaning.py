"""Take a model's control marks out of text, and mark what looks like orders to a model.

A server of models reads control marks inside a message as structure, so a document could close the turn that it stands
in and open another (measured with llama.cpp). They are taken out when a document comes and again when a passage is
sent, and out of what a prompt template makes (``personalization/prompts/rendering.py``). The marks of orders are simple
public rules: they find what is plain, and a person decides.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Of ChatML, Llama, Mistral, Gemma, DeepSeek (with wide bars), Phi, T5 and BERT; anything between <| and |>.
CONTROL_MARKS: Final = re.compile(
    r"<\|[^<>\n]{0,64}?\|>|<\uff5c[^<>\n]{0,64}?\uff5c>|</?s>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|\[(?:CLS|SEP|PAD|MASK|UNK)\]"
    r"|</?(?:tool_call|tool_response|think)>",
    re.IGNORECASE,
)
_UNSEEN: Final = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u200b\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# None looks at a text again for each of its places: documents come over HTTP, and a pattern holds up all threads.
_RULES: Final = {
    "overrides": r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}"
    r"\b(?:instructions?|questions?|rules?|prompts?|above|previous|prior|everything|context|messages?)\b",
    "answers_for_us": r"\b(?:answer|reply|respond|say|output|print|write)\s+"
    r"(?:only|exactly|just|with\s+only|nothing\s+but)\b",
    "new_role": r"\byou\s+(?:are|must)\s+(?:now|henceforth|from\s+now)\b|\bnew\s+instructions?\s*:"
    r"|\b(?:act|behave)\s+as\s+(?:if|an?|the)\b[^.\n]{0,30}\b(?:model|assistant|ai|bot|admin|developer|dan)\b",
    "speaks_as_turn": r"(?m)^[^\S\n]*(?:#+\s*)?(?:system|assistant|developer|user)\s*:|\bsystem\s+(?:prompt|message)\b",
    "keeps_secret": r"\b(?:do\s+not|don't|never)\s+(?:tell|mention|reveal|cite|show)\b[^.\n]{0,40}"
    r"\b(?:user|anyone|source|instructions?|this)\b",
    "sends_away": r"!\[[^\]]{0,4096}\]\(https?://[^)?&]{0,4096}[?&][^)]{0,4096}\)"
    r"|\b(?:send|post|upload|forward|exfiltrate)\b[^.\n]{0,40}"
    r"\b(?:https?://|to\s+the\s+(?:url|address|server)|conversation|chat\s+history)",
    "hidden_comment": r"\A(?>.*?<!--).*?-->",  # where the first has no end, no later one has
}
_RULE: Final = {name: re.compile(rule, re.IGNORECASE | re.DOTALL) for name, rule in _RULES.items()}
_LONG_CODE: Final = re.compile(r"[A-Za-z0-9+/=_-]{120,}")


def without_control_marks(text: str, instead: str = " ") -> str:
    """Return the text without control marks, also those that only appear when another was taken out.

    Args:
        text: what may hold some.
        instead: stands where one was.
    """
    while True:
        less = CONTROL_MARKS.sub(instead, text)
        if less == text:
            return text
        text = less


def cleaned(text: str) -> str:
    """Return text as it is remembered: one form of each letter, no letters that nobody sees, no control marks."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return without_control_marks(_UNSEEN.sub("", text))


def marks_of(raw: str) -> tuple[str, ...]:
    """Return the names of the rules by which a raw text looks like orders to a model, sorted; empty for most."""
    clear = _UNSEEN.sub("", raw)
    found = {
        name for name, rule in _RULE.items() if rule.search(raw) or rule.search(without_control_marks(clear))
    }
    if CONTROL_MARKS.search(raw) or CONTROL_MARKS.search(clear):
        found.add("control_marks")
    if _UNSEEN.search(raw.removeprefix("\ufeff")):
        found.add("unseen_letters")
    if _LONG_CODE.search(raw):
        found.add("long_code")
    return tuple(sorted(found))
