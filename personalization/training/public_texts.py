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


# What training keeps away from: adapters leave the directions alone in which the base answers questions like these.
# They are not the pairs that are measured above, so that the measurement says something about other texts.
PROTECTED_PAIRS: tuple[tuple[str, str], ...] = (
    (
        "How does a refrigerator keep food cold?",
        (
            "It pumps heat from the inside to the outside: a liquid evaporates in the inner pipes, which "
            "takes up heat, and is compressed outside, where it gives the heat to the room."
        ),
    ),
    (
        "Write a short note to thank a neighbour for watering the plants.",
        (
            "Thank you so much for looking after the plants while we were away. They look better than before "
            "we left, and it was good to know they were in kind hands."
        ),
    ),
    (
        "What is the capital of Portugal and what is it known for?",
        (
            "The capital is Lisbon. It is known for its hills, its yellow trams, the river Tagus and a long "
            "history of seafaring."
        ),
    ),
    (
        "Give me three tips for a job interview.",
        (
            "First, read about the company beforehand. Second, prepare two or three stories that show what "
            "you can do. Third, ask questions of your own at the end."
        ),
    ),
    (
        "Why do we have leap years?",
        (
            "The earth needs a little more than 365 days for its way around the sun. An extra day every four "
            "years keeps the calendar in step with the seasons."
        ),
    ),
    (
        "Explain recursion to a beginner.",
        (
            "A function is recursive when it calls itself on a smaller version of the problem. It needs a "
            "simplest case that it answers directly, otherwise it would never stop."
        ),
    ),
    (
        "How do vaccines work?",
        (
            "They show the body a harmless part or form of a germ. The immune system learns to recognize it, "
            "so that it can react quickly when the real germ arrives."
        ),
    ),
    (
        "What can I cook with rice, eggs and spinach?",
        (
            "Fry the cooked rice in a little oil, push it to the side, scramble the eggs beside it, and stir "
            "in the spinach until it wilts. Season with soy sauce or salt."
        ),
    ),
    (
        "Summarize the story of the tortoise and the hare.",
        (
            "A hare mocks a slow tortoise and agrees to a race. Sure of winning, the hare takes a nap, and "
            "the tortoise, walking steadily, reaches the goal first."
        ),
    ),
    (
        "How do I calculate the area of a circle?",
        (
            "Multiply the radius by itself and then by pi, which is about 3.14. A circle with a radius of two "
            "metres has an area of about 12.6 square metres."
        ),
    ),
    (
        "What is the difference between a virus and a bacterium?",
        (
            "A bacterium is a living cell that can multiply on its own. A virus is much smaller and can only "
            "multiply inside the cells of a host."
        ),
    ),
    (
        "Recommend a way to learn a new language.",
        (
            "Practise a little every day, listen to simple stories, and speak with others as early as you "
            "can. Mistakes are part of it and help you remember."
        ),
    ),
    (
        "Why is exercise good for the heart?",
        (
            "Regular movement makes the heart stronger, so it pumps more blood with each beat. It also lowers "
            "blood pressure and helps to keep a healthy weight."
        ),
    ),
    (
        "Describe a thunderstorm in two sentences.",
        (
            "Dark clouds gather over the fields and the air grows still. Then lightning splits the sky, "
            "thunder rolls after it, and heavy rain washes the dust from the road."
        ),
    ),
    (
        "What does inflation mean?",
        (
            "Inflation means that prices rise in general, so the same amount of money buys less than before. "
            "It is usually given as a percentage for one year."
        ),
    ),
    (
        "How should I store fresh bread?",
        (
            "Keep it at room temperature in a paper bag or a bread box. In the fridge it turns stale faster; "
            "for longer storage, slice and freeze it."
        ),
    ),
    (
        "Translate into formal English: gonna be late, sorry.",
        "I apologize, but I am going to be late.",
    ),
    (
        "What is photosynthesis?",
        (
            "Plants use the energy of sunlight to turn water and carbon dioxide into sugar and oxygen. It "
            "happens in the green parts of the plant."
        ),
    ),
    (
        "List the planets that are smaller than the earth.",
        (
            "Mercury, Venus and Mars are smaller than the earth. The other planets, Jupiter, Saturn, Uranus "
            "and Neptune, are larger."
        ),
    ),
    (
        "How do noise cancelling headphones work?",
        (
            "Small microphones pick up the sound around you. The headphones play the opposite wave, so that "
            "both cancel each other before they reach your ear."
        ),
    ),
    (
        "Is it better to shower in the morning or in the evening?",
        (
            "Both are fine. A morning shower helps some people to wake up, and an evening shower can help "
            "others to relax before bed."
        ),
    ),
    (
        "What is a good name for a small black cat?",
        (
            "Names such as Pepper, Shadow or Olive would suit a small black cat. Choose one that is short and "
            "easy to call."
        ),
    ),
    (
        "Explain why the sea is salty.",
        (
            "Rain slowly dissolves minerals from rocks, and rivers carry them to the sea. Water evaporates "
            "from the sea but the salt stays, so it has built up over a very long time."
        ),
    ),
    (
        "How can a small shop attract more customers?",
        (
            "Greet people warmly, keep the window interesting, and ask for reviews. A simple loyalty card and "
            "good opening hours bring many of them back."
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
        "What is the purpose of a constitution?",
        (
            "It sets out how a country is governed, limits the power of those who govern, and protects the "
            "rights of the people."
        ),
    ),
)


def unseen_users() -> tuple[UserExamples, ...]:
    """Return each text that only benchmarks measure as a user of its own."""
    return _users(UNSEEN_PAIRS)


def protected_users() -> tuple[UserExamples, ...]:
    """Return each protected text as a user of its own."""
    return _users(PROTECTED_PAIRS)


def public_users() -> tuple[UserExamples, ...]:
    """Return each measured public text as a user of its own, ready for encoding."""
    return _users(PUBLIC_PAIRS)


def _users(pairs: tuple[tuple[str, str], ...]) -> tuple[UserExamples, ...]:
    return tuple(
        UserExamples(examples=(Example(prompt=prompt, completion=answer),)) for prompt, answer in pairs
    )
