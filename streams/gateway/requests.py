"""Read a request of OpenAI's API: what is asked, of which model, and which of its texts may be touched.

Only parameters of that API, and the sampling parameters that engines share, are let through. An engine has further ones
that name adapters, slots or caches (``lora``, ``id_slot``, ``cache_salt``, …); a client that could set them could ask
for another tenant's adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from streams.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE_SUFFIX: Final = "@base"
DEFAULT_DOMAIN: Final = "default"

_SHARED: Final = """
    model stream stream_options user max_tokens temperature top_p n stop seed frequency_penalty presence_penalty
    logit_bias logprobs store metadata service_tier safety_identifier
    top_k min_p typical_p repetition_penalty repeat_penalty min_tokens ignore_eos stop_token_ids
"""
_CHAT: Final = """
    messages max_completion_tokens tools tool_choice parallel_tool_calls response_format top_logprobs reasoning_effort
    modalities prediction verbosity
"""
_COMPLETIONS: Final = "prompt suffix echo best_of"
_KEPT_HERE: Final = (
    "user safety_identifier store metadata service_tier"  # persons' names, and OpenAI's own services
)


class Form(StrEnum):
    """Which of the two ways to ask."""

    CHAT = "chat"
    COMPLETIONS = "completions"


_ALLOWED: Final = {
    Form.CHAT: frozenset(_SHARED.split() + _CHAT.split()),
    Form.COMPLETIONS: frozenset(_SHARED.split() + _COMPLETIONS.split()),
}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
        form: chat or completions.
        document: the body, without what stays here.
        model: the name that the client used and is answered with.
        domain: which of the tenant's lines; ``None`` when the plain base model is asked for.
        user: the user that the body names; a claim, see ``Caller.user``.
        stream: whether the answer comes in pieces.
        include_usage: whether the stream is to end with the number of tokens.
        prompt: text of the one message that a template may be put around; ``None`` when there is none such, because the
            request has tools, images, a format of its own or several answers.
        bounded: whether it says how long the answer may be.
        metadata: what the body says under that name: values of variables that a template declares.
    """

    form: Form
    document: dict[str, Any]
    model: str
    domain: str | None
    user: object
    stream: bool
    include_usage: bool
    prompt: str | None
    bounded: bool
    metadata: Mapping[str, str] = field(default_factory=dict)

    def with_prompt(self, text: str) -> dict[str, Any]:
        """Return the body with another text in the place of the prompt's."""
        if self.form is Form.COMPLETIONS:
            return {**self.document, "prompt": text}
        *before, last = self.document["messages"]
        return {**self.document, "messages": [*before, {**last, "content": text}]}


def read_ask(form: Form, body: object, *, model: str) -> Ask:
    """Return what a body asks.

    Args:
        form: which of the two ways it came.
        body: the JSON document.
        model: the name under which the gateway is asked.

    Raises:
        GatewayError: the body is not what the API describes, or has a parameter that is not let through.
    """
    if not isinstance(body, dict):
        raise GatewayError("the body must be a JSON object")
    unknown = sorted(set(body) - _ALLOWED[form])
    if unknown:
        name = unknown[0][:64]
        raise GatewayError(
            f"the parameter {name!r} is not let through to the engine; leave it out",
            param=name,
            word="unknown_parameter",
        )
    asked = body.get("model")
    if not isinstance(asked, str):
        raise GatewayError("model must be a text; GET /v1/models lists what may be asked", param="model")
    if form is Form.CHAT:
        _check_messages(body.get("messages"))
    elif "prompt" not in body:
        raise GatewayError("prompt is missing", param="prompt")
    stream = _flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise GatewayError("stream_options must be an object", param="stream_options")
    return Ask(
        form=form,
        document={name: value for name, value in body.items() if name not in _KEPT_HERE.split()},
        model=asked,
        domain=domain_of(asked, model),
        user=body.get("user"),
        stream=stream,
        include_usage=options.get("include_usage") is True,
        prompt=_prompt(form, body),
        bounded=any(body.get(name) is not None for name in ("max_tokens", "max_completion_tokens")),
        metadata=_metadata(body),
    )


def domain_of(asked: str, model: str) -> str | None:
    """Return the domain that a model's name stands for; ``None`` for the plain base model.

    ``NAME`` is the tenant's default domain, ``NAME/DOMAIN`` another one, ``NAME@base`` the model without adapter.

    Raises:
        GatewayError: it is none of these.
    """
    if asked == model:
        return DEFAULT_DOMAIN
    if asked == model + BASE_SUFFIX:
        return None
    name, _, domain = asked.rpartition("/")
    if name == model and domain:
        return domain
    raise unknown_model()


def unknown_model() -> GatewayError:
    """Return the error that says so; it is the same whether the model does not exist or is another tenant's."""
    return GatewayError(
        "there is no such model for this token; GET /v1/models lists what may be asked",
        status=404,
        param="model",
        word="model_not_found",
    )


def _metadata(body: dict[str, Any]) -> dict[str, str]:
    """Return the texts under ``metadata``; what is of another kind is for OpenAI's own services and left out."""
    told = body.get("metadata")
    if not isinstance(told, dict):
        return {}
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise GatewayError(f"{name} must be true or false", param=name)
    return value is True


def _check_messages(messages: object) -> None:
    fine = (
        isinstance(messages, list)
        and messages
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages)
    )
    if not fine:
        raise GatewayError(
            "messages must be a list of at least one object, each with a role", param="messages"
        )


def _prompt(form: Form, body: dict[str, Any]) -> str | None:
    """Return the text that a template may be put around, if there is exactly one such and nothing of another kind."""
    if body.get("n") not in (None, 1) or body.get("best_of") not in (None, 1):
        return None
    if form is Form.COMPLETIONS:
        plain = not any(body.get(name) for name in ("suffix", "echo"))
        return body["prompt"] if plain and isinstance(body["prompt"], str) else None
    wanted = body.get("response_format") or {"type": "text"}
    if body.get("tools") or body.get("prediction") or wanted != {"type": "text"}:
        return None
    contents = [_text(message) for message in body["messages"]]
    if body["messages"][-1]["role"] != "user" or None in contents:
        return None
    return contents[-1]


def _text(message: dict[str, Any]) -> str | None:
    """Return a message's text; ``None`` when it holds anything else."""
    content = message.get("content")
    if message["role"] == "tool" or message.get("tool_calls") or message.get("function_call"):
        return None
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return None
