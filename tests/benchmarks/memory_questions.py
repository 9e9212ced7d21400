"""Questions for the benchmark of memory: some to choose its limits by, others to report.

The two sets were written apart: other topics, other sentences, other ways of asking, other names and other numbers of
parts. Nothing is chosen by ``HELD_OUT``. ``NEAR`` are questions that people of such a house ask and none of its
documents answers; they are the hardest to find nothing for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_TOPICS = {  # a sentence of a handbook, and three ways in which people ask for it
    "A refund is paid within {v} days after the parcel has come back.": (
        "how long until I get my money back", "When is a refund paid?", "we returned it, when do they pay"),
    "Holidays of more than {v} days in a row must be agreed on with the head of the team.": (
        "do I need permission for a long vacation", "Who agrees on holidays of several weeks?", "time off for weeks"),
    "The server room is cooled to {v} degrees, and alarms ring two degrees above.": (
        "how cold is it where the machines stand", "What temperature has the server room?", "when does the alarm ring"),
    "Travel by train is booked in second class for journeys below {v} hours.": (
        "may I book first class", "Which class for a short train ride?", "rail ticket comfort rules"),
    "Invoices are paid {v} days after they were approved by two people.": (
        "when do suppliers get paid", "How long after approval is an invoice paid?", "payment terms for bills"),
    "Passwords have at least {v} characters and are changed when somebody leaves the team.": (
        "how long must my login secret be", "What length does a password need?", "credentials policy"),
    "The canteen closes at {v} minutes past two and serves soup on Fridays.": (
        "until when can I have lunch", "When does the canteen close?", "is there soup at the end of the week"),
    "Laptops are replaced after {v} months, or when repair costs more than half.": (
        "when do I get a new computer", "After how many months is a laptop replaced?", "hardware renewal"),
    "Visitors wear a badge with the number {v} stripe and are met at the gate.": (
        "what do guests have to put on", "Which badge do visitors wear?", "who picks up people who come to see us"),
    "Overtime is paid from the hour number {v} of a week on, or taken as free time.": (
        "do I get money for extra work", "From which hour on is overtime paid?", "compensation for working late"),
    "The newsletter goes out {v} times a year and is written by the press office.": (
        "how often do subscribers get mail", "Who writes the newsletter?", "press mailing frequency"),
    "Contracts above {v} thousand euros need the signature of the board.": (
        "who must sign a big deal", "Which contracts need the board?", "approval of expensive agreements"),
    "Bicycles are parked in the yard, where {v} places have a charger.": (
        "where do I leave my bike", "How many chargers for e-bikes are there?", "cycle parking"),
    "A new colleague has a mentor for the first {v} weeks.": (
        "who helps people who have just joined", "How long does somebody new have a mentor?", "onboarding support"),
    "Samples are kept in the freezer for {v} weeks and then destroyed.": (
        "what happens to old probes", "How long are samples kept?", "when are specimens thrown away"),
    "Complaints are answered within {v} working hours by the support line.": (
        "how fast do we react to unhappy customers", "When is a complaint answered?", "response time to criticism"),
}  # fmt: skip
_OFF_TOPIC = (
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "How do I bake sourdough bread?",
    "Explain photosynthesis",
    "why is the sky blue",
    "What is the tallest mountain?",
    "Translate good morning into Spanish",
    "tell me a joke about cats",
    "How many planets are there?",
    "Write a poem about rain",
    "what is the speed of light",
    "Who painted the Mona Lisa?",
    "How do vaccines work?",
    "best exercises for a sore back",
    "What does a black hole do?",
    "When did the second world war end?",
    "How do I tune a guitar?",
    "Is coffee bad for the heart?",
    "Name three rivers in Africa",
    "what rhymes with orange",
    "Solve x squared equals nine",
    "How do bees make honey?",
    "Who discovered penicillin?",
    "Recommend a film for tonight",
)
_HELD_OUT = {
    "Gift vouchers lose their worth {v} months after they were bought.": (
        "is my present card still good", "How long is a gift voucher worth something?", "expiry of coupons"),
    "The lift takes {v} people, and children ride with an adult.": (
        "may kids use the elevator by themselves", "How many people does the lift take?", "elevator capacity"),
    "Library books are lent for {v} days and may be kept once as long again.": (
        "can I extend a loan", "For how many days is a library book lent?", "when must I bring novels back"),
    "A parking fine is {v} euros, and half of that when it is paid within a week.": (
        "what does it cost to leave the car in the wrong spot", "How high is a parking fine?",
        "discount on a ticket paid early"),
    "The pool is heated to {v} degrees from October to April.": (
        "is the water warm in winter", "To how many degrees is the pool heated?", "swimming temperature"),
    "Dogs under {v} kilograms travel free; larger ones need a child's fare.": (
        "do I have to pay for my pet on the bus", "Up to which weight do dogs travel free?", "price for a big animal"),
    "Exams can be taken again up to {v} times, each after a talk with the teacher.": (
        "I failed, may I try once more", "How often can an exam be taken again?", "resit rules"),
    "Backups are kept for {v} weeks on tapes in another town.": (
        "how far back can lost files be restored", "For how many weeks are backups kept?",
        "where do copies of our data lie"),
    "Choir rehearsals begin at {v} past seven, and latecomers wait for a pause.": (
        "what if I do not make it to singing on time", "When do choir rehearsals begin?",
        "start of practice in the evening"),
    "Every tenant sweeps the stairs in turn, and pays {v} euros for a week that was missed.": (
        "who cleans the staircase", "What is paid for a missed week of sweeping?",
        "penalty for not doing the cleaning"),
    "Blood donors rest for {v} minutes and get a sandwich.": (
        "is there food after giving plasma", "How long do blood donors rest?", "what happens once the needle is out"),
    "Trees thicker than {v} centimetres may not be felled without leave of the council.": (
        "can I cut down the oak in my garden", "Which trees need leave of the council?",
        "permission to remove a trunk"),
    "The ferry leaves every {v} minutes while there is daylight.": (
        "how often does the boat cross", "When does the ferry leave?", "crossings after dark"),
    "Meters are read in the cellar every {v} months by the supplier.": (
        "who notes how much power we used", "How often are meters read?", "electricity readings"),
    "A lost key costs {v} euros, because all locks of the floor are changed.": (
        "I cannot find what opens my door, what now", "What does a lost key cost?", "why is replacing it so dear"),
    "Milk is fetched from farms {v} times a week and tested for germs.": (
        "how is it made sure that dairy is safe", "How often is milk fetched?", "collection from the countryside"),
}  # fmt: skip
_HELD_OUT_OFF_TOPIC = (
    "Who was the first person on the moon?", "how do magnets work", "What is the largest ocean?",
    "give me a name for a kitten", "When was the printing press invented?", "Why do leaves turn red?",
    "what is the square root of 144", "Explain the rules of chess", "Who composed the Moonlight Sonata?",
    "how far away is the sun", "Which language is spoken in Brazil?", "write a limerick about a fox",
    "What causes earthquakes?", "how do I tie a bow tie", "Who is the author of Don Quixote?",
    "What do pandas eat?", "Tell me about the Roman Empire", "is a tomato a fruit", "How does a sail boat go upwind?",
    "what year did the Titanic sink", "Name the planets in order", "how do I get rid of hiccups",
    "What is inflation?", "Suggest a birthday toast",
)  # fmt: skip
_NEAR = (
    "Is there a discount for students?", "Who repairs the coffee machine?",
    "What is the password of the guest network?",
    "may I smoke on the balcony", "When is the annual meeting?", "do you take credit cards",
    "Where is the lost property office?",
    "Who may use the sauna?", "is there wheelchair access", "How do I complain about noise?", "can I bring my own food",
    "When are the windows cleaned?", "Which bus goes to the station?", "who waters the plants",
    "Is the museum open on Mondays?",
    "what do I do in case of fire",
)  # fmt: skip
_DEVELOPMENT_NEAR = (
    "Who orders new pens?", "where is the first aid kit", "May I work from home?", "When is the summer party?",
    "what is the dress code", "Which printer has colour?", "Is there a gym?", "who has the key to the archive",
    "How do I book a meeting room?", "can I bring my dog", "Where do I report a broken chair?",
    "When are salaries paid?",
    "how do I get a parking permit", "Who looks after the website?", "is tea free",
    "What is the number of the front desk?",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Questions:
    """One set.

    Attributes:
        topics: a sentence of a handbook, with a place for a value, and three ways in which people ask for it.
        off_topic: questions on anything else.
        near: questions of the same house that nothing answers.
        sites: names of look-alikes.
        nowhere: a name without documents.
        told: how a sentence names its site.
        asked: how a question does.
        part: how a part is told and asked for, and the seed of its numbers.
    """

    topics: dict[str, tuple[str, str, str]]
    off_topic: tuple[str, ...]
    near: tuple[str, ...]
    sites: tuple[str, ...]
    nowhere: str
    told: str
    asked: str
    part: tuple[str, str, int]

    def parts(self, count: int = 60) -> list[tuple[str, str]]:
        """Return sentences about parts whose numbers no meaning tells apart, each with a question for it."""
        told, asked, seed = self.part
        rng = random.Random(seed)
        found = []
        for _ in range(count):
            code = f"{rng.choice('bcdfg')}{rng.choice('klmn')}-{rng.randint(1000, 9999)}"
            told_of = told.format(
                code=code if seed == 5 else code.upper().replace("-", ""),
                thing=rng.choice(("pump", "valve", "relay")),
                line=rng.randint(1, 9),
                price=rng.randint(10, 99),
            )
            found.append((told_of, asked.format(code=code if seed == 5 else code.upper().replace("-", ""))))
        return found


DEVELOPMENT = Questions(
    topics=_TOPICS,
    off_topic=_OFF_TOPIC,
    near=_DEVELOPMENT_NEAR,
    sites=("Aldora", "Brixen", "Corvane", "Dalmere", "Eskil", "Fennorth"),
    nowhere="Quorvik",
    told="At the {site} site: {text}",
    asked="{question} at the {site} site?",
    part=(
        "Part {code} is the {thing} for line {line} and costs {price} euros.",
        "what does part {code} cost",
        5,
    ),
)
HELD_OUT = Questions(
    topics=_HELD_OUT,
    off_topic=_HELD_OUT_OFF_TOPIC,
    near=_NEAR,
    sites=("Tarnhollow", "Veltrin", "Osmundby", "Quillford", "Rastova", "Ymberg"),
    nowhere="Zaltana",
    told="{text} (rules of {site})",
    asked="I live in {site}. {question}?",
    part=("Spare {code}, a {thing}: shelf {line}, {price} euros.", "price of {code} please", 11),
)
