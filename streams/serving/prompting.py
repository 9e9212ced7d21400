"""The prompt template of a line as its signed state says it: the operator's, else that of the style card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from personalization.errors import PersonalizationError
from personalization.prompts.rendering import card_rendering, rendering_of
from personalization.prompts.values import Origin, PromptTemplate, Variable, When

if TYPE_CHECKING:
    from personalization.prompts.rendering import Rendering
    from streams.client import AdapterStateV1, PromptTemplateV1

log = structlog.get_logger(__name__)


def rendering_of_state(state: AdapterStateV1) -> Rendering | None:
    """Return the template that a line uses, if any; what this version cannot use counts as none."""
    operators = None if state.prompts is None else state.prompts.current
    if operators is not None:
        return _operators(operators)
    style = state.adapter.manifest.style
    return None if style is None else card_rendering(style.prompt)


def _operators(told: PromptTemplateV1) -> Rendering | None:
    try:
        template = PromptTemplate(
            source=told.source,
            variables=tuple(
                Variable(name=one.name, default=one.default, choices=one.choices) for one in told.variables
            ),
            when=When(told.when),
            origin=Origin(told.origin),
        )
        if template.version_id == told.version_id:
            return rendering_of(template)
    except (PersonalizationError, ValueError):
        pass
    log.warning("prompt_template_refused")
    return None
