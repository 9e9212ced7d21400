"""Small and at the edge: learn, export for llama.cpp, answer without a network, keep events on disk, hand them over."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from personalization.training.base.directory import BUNDLED
from streams.client import DiskQueue, KafkaBroker
from streams.demo.environment import free_port
from streams.demo.publishing import Published, publish_consents, publish_interactions
from streams.demo.recipes.edge.data import TENANT, crowd
from streams.demo.recipes.edge.offline import ADAPTER, OfflineEngine
from streams.demo.recipes.edge.offline import BASE as BASE_FILE
from streams.demo.recipes.edge.scoring import FORM, NUMBER, agreement
from streams.demo.recipes.measuring import ANSWER_TOKENS, answers_of, loss_measure, measures_of, side_by_side
from streams.demo.recipes.playing import card_of, learn, recipe_policy, spent_by, told_of
from streams.demo.recipes.values import BASE, RecipeReport, Table
from streams.demo.scenario import Outcome
from streams.errors import DemoError, ScenarioError, SettingsError
from streams.serving.engines.install import llamacpp_command

if TYPE_CHECKING:
    from pathlib import Path

    from streams.demo.recipes.people import Question
    from streams.demo.recipes.values import Trial
    from streams.demo.scenario import TenantScenario

TITLE = (
    "Small and at the edge: a version as GGUF answers offline, events wait on disk until there is a network"
)
EDGE_USERS, QUICK_EDGE_USERS = 6, 3  # technicians who work offline, of whom the cloud hears later
SERVER, SERVED, OFFLINE = "base on the server", "adapter on the server", "adapter offline"


def play(trial: Trial) -> RecipeReport:
    """Learn on the server, export, ask both, and synchronise what was done offline.

    Raises:
        ScenarioError: no llama.cpp is installed, or another base than the bundled one is asked for.
    """
    engine = trial.options.engine or os.environ.get("DISCREET_BRIDGE__ENGINE", "")
    command = _command(engine)
    if trial.options.base_model not in BUNDLED:
        raise ScenarioError("the recipe edge exports the bundled base model; leave --base-model out")
    users, heldout = trial.size(80, 60), trial.size(32, 8)
    names = learn(trial, {TENANT: recipe_policy(trial, users=users)}, [crowd(users=users, heldout=heldout)])
    here = trial.here
    if not names:
        raise DemoError("no version was released, so there is none to export")
    ((line, name),) = names.items()
    directory = here.state / "edge"
    with here.stages.stage("export", "Exporting the version as GGUF and proving it with llama.cpp"):
        said = here.command(
            "edge", "export", name, "--gguf", str(directory), "--engine", engine, signing=True
        )
    questions = crowd(users=users, heldout=heldout).questions()
    answers, rates = _asked(trial, command, directory, name, questions)
    with OfflineEngine(command, directory, here.state / "logs" / "edge.log") as offline:
        kept, sent = _synchronised(trial, offline)
    loss = loss_measure("field log", questions, here.serving, {BASE: None, SERVED: name})
    return RecipeReport(
        name="edge",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, [TENANT]),
        measures=(*measures_of("field log", (FORM, NUMBER), questions, answers), loss),
        examples=side_by_side("field log", questions, answers),
        findings=(
            told_of("field log", card_of(here.versions([line]).get(line))),
            said.strip(),
            _alike(answers),
            _synced(kept, sent),
        ),
        tables=(_table(trial, directory, answers, rates, questions),),
    )


def _alike(answers: dict[str, list[str]]) -> str:
    share = agreement(answers[SERVED], answers[OFFLINE])
    return (
        f"Offline and on the server, {100 * share:.0f} % of answers are the same to the letter; the base of the edge "
        "is quantized."
    )


def _synced(kept: int, sent: int) -> str:
    return (
        f"{kept} events waited on disk while no broker answered; with a network {sent} went, and the worker stored "
        "every interaction once."
    )


def _command(engine: str) -> tuple[str, ...]:
    try:
        return llamacpp_command(engine)
    except SettingsError:
        raise ScenarioError(
            "the recipe edge needs llama.cpp and none is there; install it with discreet bridge llamacpp "
            "--install-engine DIR and run the recipe with --engine DIR"
        ) from None


def _asked(
    trial: Trial, command: tuple[str, ...], directory: Path, name: str, questions: tuple[Question, ...]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the answers of each arm, and how fast they came."""
    here, prompts = trial.here, [asked.prompt for asked in questions]
    answers: dict[str, list[str]] = {}
    rates: dict[str, str] = {}
    with here.stages.stage("judge", "Asking server and edge about users never trained on") as stage:
        for arm, model in ((SERVER, None), (SERVED, name)):
            started = time.monotonic()
            answers[arm] = answers_of(here.serving, prompts, model)
            rates[arm] = f"{len(prompts) / (time.monotonic() - started):.1f} (16 at once)"
            stage.update(len(answers) * len(prompts), 3 * len(prompts), "answers")
        with OfflineEngine(command, directory, here.state / "logs" / "edge.log") as offline:
            answers[OFFLINE] = answers_of(offline, prompts, name)
            rates[OFFLINE] = (
                f"{len(prompts) / offline.seconds:.1f} (one by one, {offline.tokens / offline.seconds:.0f} tokens/s)"
            )
    return answers, rates


def _synchronised(trial: Trial, offline: OfflineEngine) -> tuple[int, int]:
    """Work offline with events on disk, then hand them over; return how many waited and how many went.

    Raises:
        DemoError: an event went while there was no network, or none did with one.
    """
    here = trial.here
    people = _at_the_edge(trial, offline)
    path = here.state / "edge-state" / "queue.db"
    with here.stages.stage("sync", "Offline: events wait on disk; then there is a network"):
        nowhere = KafkaBroker(bootstrap=f"127.0.0.1:{free_port()}", connect_seconds=1.0)
        queue = DiskQueue(path, nowhere)
        try:
            publish_consents(queue, [people], now=trial.now, on_progress=lambda _: None)
            found = publish_interactions(
                queue, [people], now=trial.now, on_progress=lambda _: None, refusable=False
            )
            waiting = queue.hand_over()
        finally:
            queue.close()
        queue = DiskQueue(path, KafkaBroker(bootstrap=here.broker))
        try:
            done = queue.hand_over()
        finally:
            queue.close()
    if waiting.sent or done.waiting:
        raise DemoError("events on disk did not wait for the network, or did not go with it")
    here.wait_for_ingestion(Published(interactions=found.interactions))
    return waiting.waiting, done.sent


def _at_the_edge(trial: Trial, offline: OfflineEngine) -> TenantScenario:
    """Return people whose answers came from the edge: one turn each, edited where the answer was not theirs."""
    made = crowd(users=trial.size(EDGE_USERS, QUICK_EDGE_USERS), heldout=0, label="edge").published(trial.now)
    people = []
    for person in made.people:
        turn = next((one for one in person.turns if one.final is not None), None)
        if turn is None:
            continue
        (shown,) = offline.answers([turn.prompt], "adapter", max_new_tokens=ANSWER_TOKENS)
        same = shown.strip() == turn.final
        outcome = Outcome.ACCEPTED if same else Outcome.EDITED
        people.append(replace(person, turns=(replace(turn, shown=shown.strip() or "-", outcome=outcome),)))
    return replace(made, people=tuple(people))


def _table(
    trial: Trial,
    directory: Path,
    answers: dict[str, list[str]],
    rates: dict[str, str],
    questions: tuple[Question, ...],
) -> Table:
    base = sum(path.stat().st_size for path in trial.here.base.glob("*.safetensors"))
    sizes = {
        SERVER: base,
        SERVED: base,
        OFFLINE: (directory / BASE_FILE).stat().st_size + (directory / ADAPTER).stat().st_size,
    }
    rows = []
    for arm, given in answers.items():
        share = sum(FORM.holds(text, asked) for text, asked in zip(given, questions, strict=True)) / len(
            given
        )
        rows.append((arm, f"{sizes[arm] / 1e6:.0f}", rates[arm], f"{100 * share:.0f} %"))
    adapter = (directory / ADAPTER).stat().st_size / 1e6
    return Table(
        title=f"Size, speed and quality (the adapter alone has {adapter:.1f} MB on the edge)",
        headings=("where", "MB of weights", "answers/s", "in form"),
        rows=tuple(rows),
    )
