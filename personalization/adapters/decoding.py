"""How answers are decoded where an adapter is applied: a token that was said already becomes less likely, once.

A small model that learned short and uniform answers says the same again and again when the likeliest token is taken
each time. A penalty on presence ends that, and unlike one on frequency it does not grow with an answer's length.
OpenAI's API has it from -2 to 2 (``presence_penalty``), and so have vLLM and llama.cpp's server; Qwen's model cards
advise 0 to 2 against endless repetitions. A request that sets a penalty of its own keeps it.
"""

from __future__ import annotations

from typing import Final

PRESENCE_PENALTY: Final = 1.5  # nats; measured with it alone, see tests/benchmarks/RESULTS.md, quality
PENALTIES: Final = ("presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty")
"""Names under which requests set a penalty of their own, in the APIs of the engines."""
FAVOURED_BIAS: Final = (
    2.0  # nats; measured beside a glossary in the prompt, see tests/benchmarks/RESULTS.md, terms
)
MOST_FAVOURED: Final = 12  # names in one request
