"""A studio's style moves in three steps; a release after each follows it, and the old style stays on its own line.

The steps lie weeks apart. They are played in minutes: each step's people wrote so many days ago, and before each later
release the studio shortens how long interactions are kept, so that the release reads the newest step alone. A quick run
trains one release of each line, both at once: the second style on the studio's line, the old one on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.adapters.manifest import AdapterManifest
from personalization.gates.drift import drift_document
from personalization.styles.frames import openings
from privacy.policy.values import amended
from streams.demo.recipes.creative.data import CLASSIC, RETENTION_DAYS, STUDIO, TENANT, crowd
from streams.demo.recipes.creative.scoring import STYLES, SUBJECT, in_style, shares
from streams.demo.recipes.measuring import answers_of, loss_measure, measures_of, side_by_side
from streams.demo.recipes.playing import card_of, publish, recipe_policy, register_all, spent_by, told_of
from streams.demo.recipes.values import BASE, RecipeReport, Table
from streams.demo.tenancy import set_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalization.registry.tables import AdapterVersionRow
    from personalization.styles.card import StyleCard
    from streams.demo.recipes.values import Measure, SideBySide, Trial

TITLE = "Creative prompts: a studio's style moves in three steps, the old one stays on its own line"
STEPS, QUICK_STEPS = (0, 1, 2), (1,)
PLAYED = (
    "The clock is played: steps lie days apart in the interactions, and the policy's retention is shortened before "
    "each release, so that a release reads the newest step alone."
)
QUICK = (
    "In a quick run the style does not move: two looks are learned at once, each on its line. Without --quick the "
    "studio's line follows three steps."
)


def play(trial: Trial) -> RecipeReport:
    """Publish step after step, train a release after each, and ask held-out users' prompts of every release."""
    users, heldout = trial.size(110, 64), trial.size(22, 9)
    steps = QUICK_STEPS if trial.options.quick else STEPS
    lines = (STUDIO, CLASSIC)
    policy = recipe_policy(trial, users=users, releases=len(steps) + 1, domains=lines)
    here = trial.here
    here.start(lambda engine: register_all(engine, {TENANT: policy}, trial))
    measures: list[Measure] = []
    examples: list[SideBySide] = []
    findings: list[str] = []
    rows: list[tuple[str, ...]] = []
    before: AdapterVersionRow | None = None
    for number, step in enumerate(steps):
        kept_days = RETENTION_DAYS[step if number else 0]  # the old style's people are read with the first
        set_policy(here.engine, TENANT, amended(policy, {"retention_days": kept_days}), now=trial.now)
        crowds = [crowd(step, users=users, heldout=heldout)]
        if number == 0:
            crowds.append(crowd(0, users=users, heldout=heldout, line=CLASSIC))
        publish(trial, [one.published(trial.now) for one in crowds])
        trained = [(TENANT, one.domain) for one in crowds]
        here.train(trained, f" ({number + 1} of {len(steps)})")
        names = here.wait_for_serving([(TENANT, line) for line in lines])
        version = here.versions([(TENANT, STUDIO)]).get((TENANT, STUDIO))
        release = f"release {number + 1}"
        if version is None or (before is not None and version.served_name == before.served_name):
            findings.append(f"step {step + 1}: no new version was released.")
            continue
        found, shown, row = _judged(trial, step, version.served_name, users, heldout)
        measures += found
        examples += shown
        rows.append((release, *row))
        findings += _told(release, card_of(before), version)
        if step == steps[-1] and (TENANT, CLASSIC) in names:
            found, shown, row = _judged(trial, 0, names[TENANT, CLASSIC], users, heldout, line=CLASSIC)
            measures += found
            rows.append((f"{CLASSIC}, after {release}", *row))
        before = version
    findings.append(QUICK if trial.options.quick else PLAYED)
    return RecipeReport(
        name="creative",
        title=TITLE,
        quick=trial.options.quick,
        spent=spent_by(trial, [TENANT]),
        measures=tuple(measures),
        examples=tuple(examples),
        findings=tuple(findings),
        tables=(
            Table(
                title="Share of answers in each style",
                headings=("line and release", *STYLES, "another"),
                rows=tuple(rows),
            ),
        ),
    )


def _judged(
    trial: Trial, step: int, name: str, users: int, heldout: int, *, line: str = STUDIO
) -> tuple[Sequence[Measure], Sequence[SideBySide], tuple[str, ...]]:
    """Return what held-out users of a step get: measures, answers side by side, and the share of each style."""
    questions = crowd(step, users=users, heldout=heldout, line=line).questions()
    prompts = [asked.prompt for asked in questions]
    arm = "adapter" if line == STUDIO else "old style's line"
    models = {BASE: None, arm: name}
    with trial.here.stages.stage("judge", f"Asking about users that were never trained on: {line}") as stage:
        answers = {}
        for number, (each, model) in enumerate(models.items()):
            answers[each] = answers_of(trial.here.serving, prompts, model)
            stage.update((number + 1) * len(prompts), 2 * len(prompts), "answers")
        loss = loss_measure(f"{line}, step {step + 1}", questions, trial.here.serving, models)
    label = f"{line}, step {step + 1}"
    found = measures_of(label, (in_style(step), SUBJECT), questions, answers)
    row = tuple(f"{100 * share:.0f} %" for share in shares(answers[arm]).values())
    return (*found, loss), side_by_side(label, questions, answers, shown=1), row


def _told(release: str, before: StyleCard | None, version: AdapterVersionRow) -> list[str]:
    """Return what the card says, and whether drift was seen: in the card, and in how far the weights moved."""
    card = card_of(version)
    told = [told_of(release, card)]
    drift = drift_document(AdapterManifest.from_bytes(version.manifest_json.encode()))
    if before is not None and card is not None:
        gone = {one.text for one in openings(before) if one.text} - {one.text for one in openings(card)}
        told.append(
            f"{release}: drift seen in the style card, gone is {', '.join(f'`{one.strip()}`' for one in sorted(gone))}."
            if gone
            else f"{release}: the style card shows no drift."
        )
    if drift is not None:
        ratio = drift["ratio_to_noise"]
        told.append(
            f"{release}: the private part {drift['detail']}"
            + (f" ({ratio:.2f} times, limit {drift['limit']})." if isinstance(ratio, float) else ".")
        )
    return told
