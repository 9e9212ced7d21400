"""Public texts written for this project: what an adapter must not forget, and what activation probes ask.

They are plain questions and answers in a neutral style, unlike any tenant's convention. Measuring on them reads nothing
private and costs nothing.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from personalization.training.jobs.job import Example, UserExamples

PROTECTED = "protected.json"  # beside this module
INSTRUCTIONS = "instructions.json"
REFUSALS = "refusals.json"

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


# What only benchmarks measure: neither training nor the gate ever sees them.
UNSEEN_PAIRS: tuple[tuple[str, str], ...] = (
    (
        "Why do cats purr?",
        "Cats often purr when they are content, but also when they are hurt or afraid. It seems to calm them.",
    ),
    (
        "How is glass made?",
        "Sand, soda and lime are melted at a very high temperature. The liquid is shaped and then cooled slowly.",
    ),
    (
        "Name a good book for a long train ride.",
        "Around the World in Eighty Days is a fine choice: it is full of trains, ships and small adventures.",
    ),
    (
        "Whom does a lawyer help, and how?",
        "A lawyer explains the law to people, writes contracts, and speaks for them in court.",
    ),
    (
        "How can I sleep better?",
        (
            "Go to bed at the same time every day, keep the room cool and dark, and put screens away an hour "
            "before. Avoid coffee in the afternoon."
        ),
    ),
    (
        "Explain the difference between speed and velocity.",
        "Speed says how fast something moves. Velocity also says in which direction.",
    ),
    (
        "What is the tallest animal?",
        "The giraffe is the tallest living animal. A grown male can be more than five metres tall.",
    ),
    (
        "Write one sentence about the first snow of the year.",
        "Overnight the first snow had covered the garden, and the whole street had become very quiet.",
    ),
    (
        "How do I remove a coffee stain from a shirt?",
        "Rinse it with cold water, dab it with a little dish soap, wait ten minutes, and wash it as usual.",
    ),
    (
        "What is a volcano?",
        "A volcano is an opening in the crust of the earth through which molten rock, ash and gases escape.",
    ),
    (
        "Should I learn to play the piano as an adult?",
        "Yes, it is never too late. Short daily practice and a patient teacher will take you far.",
    ),
    (
        "Why does a country need a constitution?",
        (
            "It sets out how a country is governed, limits the power of those who govern, and protects the "
            "rights of the people."
        ),
    ),
    (
        "What is a glacier?",
        "A glacier is a thick mass of ice that moves slowly downhill under its own weight.",
    ),
    (
        "How do I write a good headline?",
        "Say the most important thing in a few plain words, use a verb, and leave out what the text will explain.",
    ),
    ("Which is heavier, a kilogram of iron or a kilogram of feathers?", "Both weigh the same: one kilogram."),
    (
        "Write a birthday wish for a grandmother.",
        (
            "Happy birthday, dear Grandma! May the new year bring you health, sunny days in the garden and many "
            "visits from all of us."
        ),
    ),
    (
        "What does a conductor of an orchestra do?",
        "The conductor sets the tempo, balances the instruments and gives the music its shape.",
    ),
    (
        "How can I tell whether an egg is still fresh?",
        "Put it into a bowl of water. A fresh egg sinks and lies flat; an old one stands upright or floats.",
    ),
    (
        "What is a prime number?",
        "A prime number is a whole number above one that only one and itself divide.",
    ),
    (
        "Explain how a rainbow forms.",
        "Sunlight enters drops of rain, is bent and reflected inside them, and leaves them split into its colours.",
    ),
    (
        "Write a short note to cancel a gym membership.",
        (
            "Dear Sir or Madam, I would like to cancel my membership at the next possible date. Please confirm this "
            "in writing. Thank you."
        ),
    ),
    (
        "Where do penguins live?",
        "Nearly all penguins live in the southern half of the world, many of them in Antarctica.",
    ),
    (
        "What should I look for when I rent a flat?",
        "Check the light, the noise, the heating and the damp, read the contract with care, and ask about all costs.",
    ),
    ("Give an example of irony.", "A fire station that burns down is a classic example of irony."),
)


def unseen_users() -> tuple[UserExamples, ...]:
    """Return each text that only benchmarks measure as a user of its own."""
    return _users(UNSEEN_PAIRS)


@lru_cache(maxsize=1)
def protected_users() -> tuple[UserExamples, ...]:
    """Return each text that training keeps away from as a user of its own.

    Adapters leave the directions alone in which the base answers questions like these, and a release is moved back
    until they lose little. They are not the texts on which the gate and the benchmarks measure, so that those say
    something about other texts; they are many and of many kinds, because what a few dozen of them do not feel was seen
    to hurt others.
    """
    return _users(_pairs(PROTECTED))


@lru_cache(maxsize=1)
def instruction_users() -> tuple[UserExamples, ...]:
    """Return each public instruction with an answer that keeps it as a user of its own.

    They are rehearsed beside the protected texts: an adapter that learns one manner of answering forgets first that a
    prompt may say how it wants to be answered. None of them is asked by the benchmark, which has kinds of its own.
    """
    return _users(_pairs(INSTRUCTIONS))


@lru_cache(maxsize=1)
def refusal_users() -> tuple[UserExamples, ...]:
    """Return each harmful request with a refusal in plain words as a user of its own.

    They are rehearsed too: whoever learns to answer everything in one manner learns to answer what nobody should. None
    of them is asked by the public suites, nor do they refuse in the suites' words.
    """
    return _users(_pairs(REFUSALS))


def public_users() -> tuple[UserExamples, ...]:
    """Return each measured public text as a user of its own, ready for encoding."""
    return _users(PUBLIC_PAIRS)


def _pairs(name: str) -> tuple[tuple[str, str], ...]:
    text = (resources.files(__package__) / name).read_text("utf-8")
    return tuple((pair["prompt"], pair["answer"]) for pair in json.loads(text))


def _users(pairs: tuple[tuple[str, str], ...]) -> tuple[UserExamples, ...]:
    return tuple(
        UserExamples(examples=(Example(prompt=prompt, completion=answer),)) for prompt, answer in pairs
    )
