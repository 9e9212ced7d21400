"""Public texts written for this project: what an adapter must not forget, and what activation probes ask.

They are plain questions and answers in a neutral style, unlike any tenant's convention. Measuring on them reads nothing
private and costs nothing.
"""

from __future__ import annotations

from personalization.training.job import Example, UserExamples

PUBLIC_PAIRS: tuple[tuple[str, str], ...] = (
    (
        "Why does the moon have phases?",
        (
            "The moon shines by reflected sunlight. As it moves around the earth we see different parts of "
            "its lit half, from a thin crescent to the full disc and back again."
        ),
    ),
    (
        "What is a public library for?",
        (
            "A public library lends books and other media to everyone, offers a quiet place to read and "
            "study, and helps people find reliable information."
        ),
    ),
    (
        "How do I boil an egg?",
        (
            "Bring a pot of water to a boil, lower the egg in gently, and let it cook for seven minutes for a "
            "soft yolk or ten minutes for a firm one. Then cool it in cold water."
        ),
    ),
    (
        "Explain what a database index does.",
        (
            "An index is a sorted copy of some columns that lets the database find rows without reading the "
            "whole table. It makes queries faster and writes a little slower."
        ),
    ),
    (
        "Why is the sky blue?",
        (
            "Sunlight is scattered by the molecules of the air, and blue light is scattered more than red "
            "light. That is why we see blue light coming from every direction of the sky."
        ),
    ),
    (
        "What should I pack for a day of hiking?",
        (
            "Take water, some food, a rain jacket, a warm layer, a map and a small first aid kit. Wear shoes "
            "that fit well and tell someone where you are going."
        ),
    ),
    (
        "What does a thermostat do?",
        (
            "A thermostat measures the temperature of a room and turns the heating or cooling on and off so "
            "that the temperature stays close to the one you chose."
        ),
    ),
    (
        "How can I remember names better?",
        (
            "Repeat the name when you hear it, connect it with something you know, and use it once or twice "
            "during the conversation. Writing it down afterwards helps as well."
        ),
    ),
    (
        "What is the difference between weather and climate?",
        (
            "Weather is what the air does today or this week. Climate is the average of the weather over many "
            "years in one region."
        ),
    ),
    (
        "Why do leaves change colour in autumn?",
        (
            "In autumn trees stop making the green pigment that captures light. As it breaks down, the yellow "
            "and orange pigments that were there all along become visible."
        ),
    ),
    (
        "How does a bicycle stay upright?",
        (
            "A rider keeps a bicycle upright by steering slightly into the direction of a fall. Above walking "
            "speed the shape of the front fork makes much of this happen by itself."
        ),
    ),
    (
        "What is compound interest?",
        (
            "Compound interest is interest that is paid on the original amount and also on the interest that "
            "was added before, so the sum grows faster every year."
        ),
    ),
)


def public_users() -> tuple[UserExamples, ...]:
    """Return each public text as a user of its own, ready for encoding."""
    return tuple(
        UserExamples(examples=(Example(prompt=prompt, completion=answer),)) for prompt, answer in PUBLIC_PAIRS
    )
