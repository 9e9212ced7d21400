"""Public texts written for this project that training keeps away from.

Adapters leave the directions alone in which the base answers questions like these, and a release is moved back until
they lose little. They are not the texts on which the gate and the benchmarks measure, so that those say something about
other texts; they are many and of many kinds, because what a few dozen of them do not feel was seen to hurt others.
That is why this module is long.
"""

from __future__ import annotations

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
            "Multiply the radius by itself and then by pi, which is about 3.14. A circle with a radius of two"
            " metres has an area of about 12.6 square metres."
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
            "Regular movement makes the heart stronger, so it pumps more blood with each beat. It also lowers"
            " blood pressure and helps to keep a healthy weight."
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
    ("Translate into formal English: gonna be late, sorry.", "I apologize, but I am going to be late."),
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
            "Names such as Pepper, Shadow or Olive would suit a small black cat. Choose one that is short and"
            " easy to call."
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
            "Greet people warmly, keep the window interesting, and ask for reviews. A simple loyalty card and"
            " good opening hours bring many of them back."
        ),
    ),
    (
        "Why do onions make us cry?",
        "Cutting an onion sets free a sharp gas. It irritates the eyes, and tears wash it away.",
    ),
    ("Who wrote the play Hamlet?", "William Shakespeare wrote Hamlet around the year 1600."),
    ("Translate 'Good morning, how are you?' into Spanish.", "Buenos días, ¿cómo estás?"),
    ("What is 17 times 6?", "17 times 6 is 102."),
    (
        "Give me a recipe for pancakes.",
        (
            "Mix two cups of flour, two eggs, two cups of milk and a pinch of salt. Fry thin layers of the "
            "batter in butter until both sides are golden."
        ),
    ),
    (
        "Which planets have rings?",
        "Saturn has the best known rings, but Jupiter, Uranus and Neptune have rings too.",
    ),
    (
        "How do I reset my password?",
        (
            "Open the sign-in page, choose the link for a forgotten password, and follow the message that is "
            "sent to your address."
        ),
    ),
    (
        "Write a polite reply that declines an invitation to dinner.",
        (
            "Thank you very much for the invitation. I am sorry that I cannot come this time, and I hope we "
            "can find another evening soon."
        ),
    ),
    (
        "What is a haiku?",
        (
            "A haiku is a short Japanese poem of three lines. They traditionally have five, seven and five "
            "syllables."
        ),
    ),
    (
        "Write two lines about the sea in winter.",
        "Grey waves fold slowly on the empty shore,\nand the wind keeps asking at every door.",
    ),
    (
        "What does the word 'ephemeral' mean?",
        "Something ephemeral lasts only a very short time, like a morning mist.",
    ),
    ("How far away is the moon?", "On average the moon is about 384,000 kilometres from the earth."),
    (
        "Explain inflation in one sentence.",
        "Inflation is a general rise of prices, so the same money buys less than before.",
    ),
    (
        "What is the purpose of a firewall?",
        (
            "A firewall decides which network connections are allowed and blocks the others, so that a "
            "computer can only be reached in the ways its owner wants."
        ),
    ),
    (
        "List the primary colours.",
        "Red, yellow and blue are the primary colours of paint. Screens mix red, green and blue light.",
    ),
    (
        "How do I clean a cast-iron pan?",
        "Wipe it with hot water and a brush, without soap, dry it at once, and rub in a thin layer of oil.",
    ),
    (
        "Why is the ocean salty?",
        (
            "Rain washes minerals out of rocks, and rivers carry them to the sea. The water evaporates again,"
            " but the salt stays behind."
        ),
    ),
    (
        "Suggest a name for a small bakery.",
        "How about The Morning Crumb? It is short, warm and easy to remember.",
    ),
    (
        "What is the boiling point of water?",
        "At sea level water boils at 100 degrees Celsius, which is 212 degrees Fahrenheit.",
    ),
    (
        "How do birds find their way when they migrate?",
        (
            "They use the sun, the stars, landmarks and the magnetic field of the earth. Young birds of some "
            "species learn the route from older ones."
        ),
    ),
    (
        "What is a contract?",
        "A contract is an agreement that the law will enforce. Each side promises something to the other.",
    ),
    (
        "My friend is sad because her dog died. What can I say?",
        (
            "Tell her that you are sorry and that you know how much the dog meant to her. Then listen, and "
            "offer to spend some time with her."
        ),
    ),
    (
        "How does a computer store pictures?",
        (
            "A picture is divided into small squares called pixels. For each of them the computer stores "
            "numbers that say how red, green and blue it is."
        ),
    ),
    (
        "Write a Python function that returns the larger of two numbers.",
        "def larger(a, b):\n    return a if a > b else b",
    ),
    (
        "What is the difference between a list and a tuple in Python?",
        (
            "A list can be changed after it is made, a tuple cannot. Tuples can therefore be used as keys of "
            "a dictionary."
        ),
    ),
    (
        "Who was Marie Curie?",
        (
            "Marie Curie was a physicist and chemist who studied radioactivity. She was the first person to "
            "win Nobel Prizes in two different sciences."
        ),
    ),
    ("When did the Second World War end?", "It ended in 1945, in Europe in May and in Asia in September."),
    (
        "Describe the taste of a lemon.",
        "A lemon tastes very sour, with a fresh and slightly bitter note from its peel.",
    ),
    (
        "What should I do if I see a fire?",
        (
            "Leave the building, warn others on your way, close the doors behind you, and call the fire "
            "brigade from a safe place."
        ),
    ),
    (
        "How do I change a bicycle tyre?",
        (
            "Take off the wheel, let out the air, lever the tyre off the rim, replace the tube, press the "
            "tyre back on, and pump it up."
        ),
    ),
    (
        "What is democracy?",
        (
            "In a democracy the people choose their government in free elections and can replace it. Laws "
            "protect the rights of those who lose the vote."
        ),
    ),
    (
        "Is a tomato a fruit or a vegetable?",
        (
            "For a botanist a tomato is a fruit, because it grows from a flower and holds seeds. In the "
            "kitchen it is used as a vegetable."
        ),
    ),
    (
        "Write a short product description for a wooden chair.",
        (
            "A sturdy chair of solid oak with a gently curved back. Its simple lines suit a kitchen as well "
            "as a study, and it will last for decades."
        ),
    ),
    (
        "How many continents are there?",
        (
            "Most people count seven: Africa, Antarctica, Asia, Australia, Europe, North America and South "
            "America."
        ),
    ),
    (
        "What causes earthquakes?",
        (
            "The plates of the earth's crust move against each other. When they are stuck and then slip, the "
            "stored energy shakes the ground."
        ),
    ),
    ("Give three synonyms for 'happy'.", "Glad, cheerful and content."),
    ("Correct this sentence: 'She don't like apples.'", "She doesn't like apples."),
    ("What is the plural of 'mouse'?", "The plural is 'mice'."),
    (
        "How do magnets work?",
        (
            "In a magnet the tiny magnetic fields of many atoms point the same way and add up. Opposite poles"
            " attract each other, equal poles repel."
        ),
    ),
    ("Tell me a joke.", "Why did the bicycle fall over? Because it was two-tired."),
    (
        "Give me advice on saving money.",
        (
            "Write down what you spend for a month, put a fixed amount aside on payday, and wait a day before"
            " every larger purchase."
        ),
    ),
    (
        "What is a black hole?",
        (
            "A black hole is a region of space where gravity is so strong that not even light can leave. It "
            "can form when a very heavy star collapses."
        ),
    ),
    (
        "How often should I water a cactus?",
        "About every two weeks in summer and once a month in winter. Let the soil dry completely in between.",
    ),
    (
        "Who painted the Mona Lisa?",
        "Leonardo da Vinci painted it in the early sixteenth century. It hangs in the Louvre in Paris.",
    ),
    (
        "What does a neuron do?",
        (
            "A neuron receives signals from other cells, and when they are strong enough it sends an "
            "electrical pulse along its fibre to the next ones."
        ),
    ),
    (
        "Summarize why reading is useful.",
        "Reading widens what we know, trains concentration and lets us see the world through other eyes.",
    ),
    (
        "Write an email to ask a colleague for last week's sales figures.",
        (
            "Hello Maria,\n\ncould you please send me the sales figures of last week? I need them for the "
            "report on Thursday.\n\nMany thanks and best regards"
        ),
    ),
    (
        "What is an algorithm?",
        (
            "An algorithm is a list of clear steps that solves a problem, such as sorting names or finding "
            "the shortest way."
        ),
    ),
    ("What is the capital of Kenya?", "Nairobi."),
    (
        "How do I make a strong cup of tea?",
        (
            "Pour boiling water over two spoons of black tea, wait five minutes, and take the leaves out "
            "before it turns bitter."
        ),
    ),
    (
        "What are the symptoms of a cold?",
        (
            "A cold usually brings a runny nose, a sore throat, sneezing and a light cough. Most people feel "
            "better after a week."
        ),
    ),
    (
        "Why do we dream?",
        "Nobody knows for certain. Dreams may help the brain to sort memories and to deal with feelings.",
    ),
    (
        "If a train travels 60 miles in 1.5 hours, how fast is it on average?",
        "Divide the distance by the time: 60 miles divided by 1.5 hours is 40 miles per hour.",
    ),
    ("What is the largest ocean?", "The Pacific is the largest ocean. It covers about a third of the earth."),
    (
        "How is paper recycled?",
        (
            "Old paper is soaked and stirred into a pulp, ink and staples are removed, and the fibres are "
            "pressed and dried into new sheets."
        ),
    ),
    (
        "Describe your ideal weekend.",
        "I would sleep late, walk through a forest, cook with friends and read by the window while it rains.",
    ),
    (
        "What is the difference between a simile and a metaphor?",
        "A simile compares with words such as 'like' or 'as'. A metaphor says that one thing is another.",
    ),
    (
        "How can a shy person make friends?",
        "Join a group that shares an interest, come regularly, ask small questions and give it time.",
    ),
    ("What is a budget?", "A budget is a plan of how much money will come in and how it will be spent."),
    (
        "Name three animals that sleep through the winter.",
        "Hedgehogs, dormice and many bats sleep through the winter.",
    ),
)
