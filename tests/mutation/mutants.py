"""The mutants: one change each by which a stated ε would be false, and the tests that must notice.

A mutant is data. Whoever changes a line named here changes the mutant with it; whoever adds a line that the guarantee
rests on adds one. The groups follow the guarantee: noise, rate, clip and sum, charge, order of the protocol, bound,
consent and retention, audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        name: short and unique.
        file: where.
        old: the exact text, which stands there once.
        new: what it becomes.
        why: how that breaks the guarantee.
        tests: pytest node ids, at least one of which must fail.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]


OPTIMIZER: Final = "personalization/training/mechanism/optimizer.py"
CLIPPING: Final = "personalization/training/mechanism/clipping.py"
DRAWING: Final = "personalization/training/mechanism/noise.py"
WITNESS: Final = "personalization/training/mechanism/witness.py"
FUSED: Final = "personalization/training/run/fused.py"
NORMAL: Final = "privacy/noise/normal.py"
KEYSTREAM: Final = "privacy/noise/keystream.py"
DISCRETE: Final = "privacy/noise/discrete.py"
LATTICE: Final = "privacy/noise/lattice.py"
SAMPLED: Final = "privacy/mechanisms/sampled_gaussian.py"
ROUNDING: Final = "privacy/mechanisms/rounding.py"
PARTITION: Final = "privacy/mechanisms/partition_selection.py"
SELECTION: Final = "privacy/mechanisms/selection.py"
VOTES: Final = "personalization/styles/votes.py"
DISCOVERY: Final = "personalization/styles/discovery.py"
COMPOSITION: Final = "privacy/accounting/composition.py"
FILTERS: Final = "privacy/accounting/filters.py"
ACCOUNTS: Final = "privacy/ledger/accounts.py"
SERVICE: Final = "privacy/ledger/service.py"
PROTOCOL: Final = "personalization/releases/protocol.py"
CHARGE: Final = "personalization/releases/charge.py"
TERMS: Final = "personalization/releases/terms.py"
OVERDUE: Final = "personalization/releases/overdue.py"
PARTS: Final = "personalization/drift/features.py"
READINGS: Final = "personalization/drift/protocol.py"
BALLOTS: Final = "personalization/choices/ballots.py"
CHOICES: Final = "personalization/choices/protocol.py"
CHOICE_NOISE: Final = "privacy/noise/choice.py"
CHOICE_PRICE: Final = "privacy/mechanisms/exponential_choice.py"
IDENTITY: Final = "streams/ingest/identity.py"
SNAPSHOT: Final = "personalization/signals/snapshot.py"
ROWS: Final = "personalization/signals/rows.py"
BOUND: Final = "personalization/signals/bound.py"
STATEMENTS: Final = "privacy/consent/statements.py"
ADMISSION: Final = "privacy/consent/admission.py"
KEY_STORE: Final = "privacy/keys/store.py"
ERASE: Final = "privacy/erasure/erase.py"
AUDIT: Final = "personalization/canaries/verdict.py"
ESTIMATORS: Final = "personalization/canaries/estimators.py"

_RUN = "tests/privacy_claims/personalization/training/run"
_MECHANISM = "tests/unit/personalization/training/mechanism"
SENSITIVITY: Final = f"{_RUN}/test_sensitivity.py"
RECEIPTS: Final = f"{_RUN}/test_receipts.py"
T_CHOICE: Final = "tests/privacy_claims/personalization/choices/test_choice.py"
T_CHOICE_LAW: Final = "tests/privacy_claims/privacy/mechanisms/test_exponential_choice.py"
T_READING: Final = "tests/privacy_claims/personalization/drift/test_reading.py"
T_OPTIMIZER: Final = f"{_MECHANISM}/test_optimizer.py"
T_DRAWING: Final = f"{_MECHANISM}/test_noise.py"
T_NORMAL: Final = "tests/unit/privacy/noise/test_normal.py"
T_DISCRETE: Final = "tests/unit/privacy/noise/test_discrete.py"
T_LATTICE: Final = "tests/unit/privacy/noise/test_lattice.py"
T_COMPOSITION: Final = "tests/unit/privacy/accounting/test_composition.py"
T_FILTERS: Final = "tests/unit/privacy/accounting/test_filters.py"
T_SELECTION_DELTA: Final = "tests/property/privacy/accounting/test_selection_delta.py"
T_PARTITION: Final = "tests/unit/privacy/mechanisms/test_partition_selection.py"
T_PARTITION_RUNS: Final = "tests/privacy_claims/privacy/mechanisms/test_partition_selection.py"
T_VOTES: Final = "tests/property/personalization/styles/test_votes.py"
T_VOTE_ON_STYLE: Final = "tests/privacy_claims/personalization/styles/test_vote_on_style.py"
T_SPENDING: Final = "tests/integration/privacy/ledger/test_spending.py"
T_SERVICE: Final = "tests/integration/privacy/ledger/test_service.py"
T_CRASHES: Final = "tests/integration/personalization/releases/test_crashes.py"
T_PROTOCOL: Final = "tests/integration/personalization/releases/test_protocol.py"
T_TERMS: Final = "tests/integration/personalization/releases/test_terms.py"
T_REPEATS: Final = "tests/integration/personalization/releases/test_repeats.py"
T_SLOTS: Final = "tests/integration/personalization/rounds/test_slots.py"
T_IDENTITY: Final = "tests/integration/streams/ingest/test_identity.py"
T_INTERACTIONS: Final = "tests/integration/streams/ingest/test_interactions.py"
T_BOUND: Final = "tests/property/personalization/signals/test_bound.py"
T_ADMISSION: Final = "tests/unit/privacy/consent/test_admission.py"
T_KEY_STORE: Final = "tests/integration/privacy/keys/test_store.py"
T_ERASE: Final = "tests/integration/privacy/erasure/test_erase.py"
T_ESTIMATORS: Final = "tests/unit/personalization/canaries/test_estimators.py"
T_PUBLISHED: Final = "tests/privacy_claims/personalization/releases/test_what_is_charged.py"


NOISE: Final = (
    Mutant(
        name="noise-halved",
        file=OPTIMIZER,
        old="return self.plan.noise_multiplier * lattice.REACH",
        new="return self.plan.noise_multiplier * lattice.REACH / 2",
        why="the noise is half of what is charged",
        tests=(f"{SENSITIVITY}::test_noise_has_the_planned_size_even_when_nobody_was_drawn",),
    ),
    Mutant(
        name="noise-left-out",
        file=OPTIMIZER,
        old="if self.mechanisms[number].deviation > 0",
        new="if self.mechanisms[number].deviation < 0",
        why="nothing is added to the sums",
        tests=(f"{SENSITIVITY}::test_noise_has_the_planned_size_even_when_nobody_was_drawn",),
    ),
    Mutant(
        name="noise-of-all-in-the-first-sum",
        file=DRAWING,
        old="torch.tensor(list(rows), dtype=torch.long, device=sums.device)",
        new="torch.zeros(len(rows), dtype=torch.long, device=sums.device)",
        why="the first tenant's sum gets everybody's noise, the others none",
        tests=(T_DRAWING,),
    ),
    Mutant(
        name="noise-instead-of-the-sum-s-sign",
        file=DRAWING,
        old="return noise.add_(sums)",
        new="return noise.abs_().add_(sums)",
        why="noise of one sign hides half as much",
        tests=(T_DRAWING, f"{SENSITIVITY}::test_noise_has_the_planned_size_even_when_nobody_was_drawn"),
    ),
    Mutant(
        name="noise-of-every-step-the-same",
        file=OPTIMIZER,
        old="add_noise(total, rows, PURPOSE_GRADIENT, self.current_step)",
        new="add_noise(total, rows, PURPOSE_GRADIENT, 0)",
        why="the difference of two steps has no noise",
        tests=(f"{SENSITIVITY}::test_noise_of_different_steps_is_independent_and_of_a_retry_is_equal",),
    ),
    Mutant(
        name="keystream-without-the-step",
        file=KEYSTREAM,
        old='purpose + step.to_bytes(8, "little")',
        new="purpose + bytes(8)",
        why="all steps share one keystream",
        tests=(f"{T_NORMAL}::test_same_name_same_numbers_other_name_other_numbers",),
    ),
    Mutant(
        name="keystream-without-the-purpose",
        file=KEYSTREAM,
        old='block.to_bytes(4, "little") + purpose +',
        new='block.to_bytes(4, "little") + bytes(4) +',
        why="coins and noise share one keystream",
        tests=(f"{T_NORMAL}::test_same_name_same_numbers_other_name_other_numbers",),
    ),
    Mutant(
        name="keystream-without-the-block",
        file=NORMAL,
        old="block = self.first * 8 // BLOCK_BYTES",
        new="block = 0",
        why="the numbers of a long row repeat",
        tests=(f"{T_NORMAL}::test_blocks_of_one_row_never_share_keystream",),
    ),
    Mutant(
        name="further-bits-from-the-same-keystream",
        file=NORMAL,
        old="self.step + _SECOND, block)",
        new="self.step, block)",
        why="the tail's further bits repeat the numbers' own keystream",
        tests=(T_NORMAL,),
    ),
    Mutant(
        name="one-key-for-every-use",
        file=KEYSTREAM,
        old='info=f"discreet {use}".encode()',
        new='info=b"discreet"',
        why="the count's noise and the training's come from one key",
        tests=(T_DISCRETE,),
    ),
    Mutant(
        name="radius-too-short",
        file=NORMAL,
        old="radius *= -2.0 * scales * scales",
        new="radius *= -1.0 * scales * scales",
        why="normal numbers have half their variance",
        tests=(T_NORMAL,),
    ),
    Mutant(
        name="count-with-half-the-deviation",
        file=DISCRETE,
        old="Fraction(standard_deviation) ** 2",
        new="(Fraction(standard_deviation) / 2) ** 2",
        why="the cohort's count has less noise than is charged",
        tests=(T_DISCRETE,),
    ),
    Mutant(
        name="count-without-noise",
        file=PROTOCOL,
        old="row.noisy_cohort = len(prepared.job.users) + noise",
        new="row.noisy_cohort = len(prepared.job.users)",
        why="the exact number of users is published",
        tests=(T_PUBLISHED,),
    ),
    Mutant(
        name="count-of-another-deviation",
        file=PROTOCOL,
        old="spread = terms.cohort_count.standard_deviation",
        new="spread = terms.cohort_count.standard_deviation / 10",
        why="the count's noise is a tenth of what is charged",
        tests=(T_PUBLISHED,),
    ),
)

RATE: Final = (
    Mutant(
        name="coins-the-other-way",
        file=DRAWING,
        old="stream.uniform(PURPOSE_DRAW, step, users) < sample_rate",
        new="stream.uniform(PURPOSE_DRAW, step, users) > sample_rate",
        why="users are drawn with 1 - q",
        tests=(T_DRAWING,),
    ),
    Mutant(
        name="coins-of-twice-the-rate",
        file=DRAWING,
        old="stream.uniform(PURPOSE_DRAW, step, users) < sample_rate",
        new="stream.uniform(PURPOSE_DRAW, step, users) < 2 * sample_rate",
        why="users are drawn twice as often as is charged",
        tests=(T_DRAWING,),
    ),
    Mutant(
        name="coins-of-the-first-step",
        file=DRAWING,
        old="stream.uniform(PURPOSE_DRAW, step, users)",
        new="stream.uniform(PURPOSE_DRAW, 0, users)",
        why="the same users are drawn in every step: no amplification",
        tests=(T_DRAWING, f"{RECEIPTS}::test_a_run_as_planned_has_a_receipt_without_departures"),
    ),
    Mutant(
        name="loop-draws-everyone",
        file=FUSED,
        old="self.tenants[number].plan.sample_rate,\n                )",
        new="1.0,\n                )",
        why="the loop draws everyone, whatever rate is charged",
        tests=(f"{RECEIPTS}::test_a_run_as_planned_has_a_receipt_without_departures",),
    ),
    Mutant(
        name="witness-sees-no-coins",
        file=WITNESS,
        old="self._coins_ok = self._coins_ok and sorted(self._seen) == drawn.tolist()",
        new="self._coins_ok = self._coins_ok and True",
        why="a receipt vouches for draws that nobody compared",
        tests=(f"{RECEIPTS}::test_a_planted_change_is_refused",),
    ),
    Mutant(
        name="witness-hears-no-noise",
        file=WITNESS,
        old='"noise_ok": noiseless or (self._noise_ok and fits),',
        new='"noise_ok": True,',
        why="a receipt vouches for noise that nobody measured",
        tests=(f"{RECEIPTS}::test_a_planted_change_is_refused",),
    ),
)

CLIP: Final = (
    Mutant(
        name="clip-lengthens",
        file=CLIPPING,
        old="factors = torch.minimum(scales,",
        new="factors = torch.maximum(scales,",
        why="rows are as long as they like",
        tests=(f"{SENSITIVITY}::test_one_user_moves_the_sum_by_at_most_the_clipping_norm", T_OPTIMIZER),
    ),
    Mutant(
        name="clip-to-twice-the-norm",
        file=LATTICE,
        old="reach = REACH * (1 - 2.0**-20) - math.sqrt(size) / 2",
        new="reach = 2 * REACH * (1 - 2.0**-20) - math.sqrt(size) / 2",
        why="rows are scaled to twice the bound",
        tests=(T_LATTICE, T_OPTIMIZER),
    ),
    Mutant(
        name="check-allows-twice-the-norm",
        file=CLIPPING,
        old="torch.linalg.vector_norm(whole, dim=1) <= lattice.REACH\n",
        new="torch.linalg.vector_norm(whole, dim=1) <= 2 * lattice.REACH\n",
        why="the exact check lets rows pass that are too long",
        tests=(f"{T_OPTIMIZER}::test_the_exact_check_knows_one_unit_too_many",),
    ),
    Mutant(
        name="too-long-rows-are-added",
        file=OPTIMIZER,
        old="whole = whole.masked_fill_(over[:, None], 0)",
        new="pass",
        why="what the exact check refuses is added nevertheless",
        tests=(T_PUBLISHED,),
    ),
    Mutant(
        name="infinite-rows-are-added",
        file=CLIPPING,
        old="        wide.masked_fill_(broken[:, None], 0)\n",
        new="",
        why="one user's infinite gradient decides the sum",
        tests=(f"{SENSITIVITY}::test_one_user_moves_the_sum_by_at_most_the_clipping_norm", T_OPTIMIZER),
    ),
    Mutant(
        name="tenant-sums-mixed",
        file=CLIPPING,
        old="total.index_add_(0, tenants, whole.to(torch.int64))",
        new="total.index_add_(0, torch.zeros_like(tenants), whole.to(torch.int64))",
        why="users enter another tenant's sum, uncharged",
        tests=(f"{SENSITIVITY}::test_tenants_with_own_clipping_norms_never_touch_each_other",),
    ),
    Mutant(
        name="lattice-check-left-out",
        file=LATTICE,
        old="if not float(flat @ flat) <= REACH**2:",
        new="if False:",
        why="a tenant's adapter in the meta sum may be longer than its bound",
        tests=(T_LATTICE, T_PUBLISHED),
    ),
    Mutant(
        name="normalizer-of-the-data",
        file=OPTIMIZER,
        old="self.parameter.grad /= self._normalizers",
        new="self.parameter.grad /= max(1, len(self.row_tenants))",
        why="the sum is divided by how many were drawn",
        tests=(
            f"{SENSITIVITY}::test_normalizer_is_the_plans_and_not_the_number_of_users",
            f"{SENSITIVITY}::test_noise_has_the_planned_size_even_when_nobody_was_drawn",
        ),
    ),
    Mutant(
        name="empty-draws-are-skipped",
        file=FUSED,
        old="        if not runs:\n",
        new="        if not runs and self.steps < 0:\n",
        why="an adapter that did not move tells that nobody was drawn",
        tests=(f"{SENSITIVITY}::test_tenant_without_any_drawn_user_still_takes_every_noisy_step",),
    ),
)

PRICE: Final = (
    Mutant(
        name="one-step-is-charged",
        file=SAMPLED,
        old="return [self.steps * value for value in self._of_one_step(orders)]",
        new="return [value for value in self._of_one_step(orders)]",
        why="many steps are charged as one",
        tests=(f"{T_COMPOSITION}::test_the_reference_values_of_three_settings",),
    ),
    Mutant(
        name="rate-counted-twice",
        file=SAMPLED,
        old="+ i * math.log(q) +",
        new="+ 2 * i * math.log(q) +",
        why="amplification by sampling is charged as if q were q²",
        tests=(f"{T_COMPOSITION}::test_the_reference_values_of_three_settings",),
    ),
    Mutant(
        name="everyone-is-charged-as-a-sample",
        file=SAMPLED,
        old="if q == 1:",
        new="if q == 2:",
        why="runs on everyone have no finite price, or a wrong one",
        tests=(f"{T_COMPOSITION}::test_no_mechanism_is_undercharged_and_nine_tenths_of_a_price_are_noticed",),
    ),
    Mutant(
        name="prices-rounded-down",
        file=ROUNDING,
        old="math.ceil(value * (1 + relative_error) * PICO) + 1",
        new="math.floor(value * PICO)",
        why="many small prices add up to less than they cost",
        tests=(f"{T_COMPOSITION}::test_a_curve_is_positive_and_grows_with_the_order", T_COMPOSITION),
    ),
    Mutant(
        name="selection-is-half-price",
        file=SELECTION,
        old="return [pure_divergence(self.epsilon, order) for order in orders]",
        new="return [pure_divergence(self.epsilon / 2, order) for order in orders]",
        why="a choice costs half",
        tests=(f"{T_COMPOSITION}::test_dp_accounting_agrees_at_whole_orders",),
    ),
    Mutant(
        name="conversion-forgets-delta",
        file=COMPOSITION,
        old="(math.log(delta) + math.log(order)) / (order - 1)",
        new="(math.log(delta) / 2 + math.log(order)) / (order - 1)",
        why="the stated ε is that of a far larger δ",
        tests=(f"{T_COMPOSITION}::test_conversion_equals_the_published_formula",),
    ),
    Mutant(
        name="filter-of-twice-the-budget",
        file=FILTERS,
        old="total.at(order) <= self.budget(order)",
        new="total.at(order) <= 2 * self.budget(order)",
        why="admission goes on past the cap",
        tests=(T_FILTERS,),
    ),
    Mutant(
        name="filter-forgets-what-is-spent",
        file=FILTERS,
        old="total = spent + asked",
        new="total = asked",
        why="every release is admitted as if it were the first",
        tests=(T_FILTERS,),
    ),
    Mutant(
        name="filter-without-the-union-bound",
        file=FILTERS,
        old="budget_at(self.epsilon, delta / len(self.orders), order)",
        new="budget_at(self.epsilon, delta, order)",
        why="the best of many orders is taken at the δ of one",
        tests=(f"{T_COMPOSITION}::test_how_many_releases_each_rule_admits", T_FILTERS),
    ),
    Mutant(
        name="filter-forgets-the-delta-of-selections",
        file=FILTERS,
        old="if total.delta > self.selection_budget:",
        new="if total.delta < 0:",
        why="votes on unknown keys go on past the δ that is kept for them",
        tests=(T_SELECTION_DELTA, T_SPENDING),
    ),
    Mutant(
        name="selections-and-conversion-share-a-delta",
        file=FILTERS,
        old="delta = conversion_delta(self.delta, self.selection_share)\n        return",
        new="delta = self.delta\n        return",
        why="δ is promised once and used for both",
        tests=(T_SELECTION_DELTA,),
    ),
    Mutant(
        name="vote-without-its-delta",
        file=COMPOSITION,
        old="delta_units(mechanism.selection_delta))",
        new="delta_units(0.0))",
        why="that a user's own key may come out is not charged",
        tests=(T_COMPOSITION, T_SPENDING),
    ),
    Mutant(
        name="epsilon-at-all-of-delta",
        file=COMPOSITION,
        old="left = delta_left(curve, delta)",
        new="left = delta",
        why="what selections took of δ is reported as if it were still there",
        tests=(T_SELECTION_DELTA,),
    ),
    Mutant(
        name="threshold-of-one-key",
        file=PARTITION,
        old="math.log1p(-self.delta) / self.unknown_keys)",
        new="math.log1p(-self.delta))",
        why="each of a user's own keys comes out with all of δ",
        tests=(T_PARTITION,),
    ),
    Mutant(
        name="threshold-without-the-weight",
        file=PARTITION,
        old="math.ceil(math.ldexp(weight, VOTE_BITS)) + math.ceil(reach) + 1",
        new="math.ceil(reach) + 1",
        why="a user's own vote carries its key over the threshold",
        tests=(T_PARTITION, T_PARTITION_RUNS),
    ),
    Mutant(
        name="answers-weigh-a-vote-each",
        file=VOTES,
        old="int(family.weight * VOTE_UNIT * count / len(texts))",
        new="int(family.weight * VOTE_UNIT * count)",
        why="a user of several answers moves the sum of votes by more than what is charged",
        tests=(T_VOTES,),
    ),
    Mutant(
        name="terms-weigh-the-whole-each",
        file=VOTES,
        old="share = family.weight * VOTE_UNIT / len(pairs) ** 0.5",
        new="share = family.weight * VOTE_UNIT",
        why="a user with several terms moves the sum of votes by more than what is charged",
        tests=(T_VOTES,),
    ),
    Mutant(
        name="listed-terms-that-nobody-holds-without-noise",
        file=DISCOVERY,
        old="found = family.alphabet() if family.public else _voted(family, total)",
        new="found = [one for one in family.alphabet() if one in total] if family.public else _voted(family, total)",
        why="that a public key comes out at all says that somebody holds it",
        tests=(f"{T_VOTE_ON_STYLE}::test_pairs_of_a_list_that_nobody_made_get_noise_too",),
    ),
    Mutant(
        name="vote-at-a-tenth-of-its-price",
        file=PARTITION,
        old="return gaussian_divergences(self.noise_multiplier, orders)",
        new="return gaussian_divergences(10 * self.noise_multiplier, orders)",
        why="the keys that users share are told too cheaply",
        tests=(T_PARTITION, T_COMPOSITION),
    ),
    Mutant(
        name="budget-rounded-up",
        file=FILTERS,
        old="math.floor((epsilon - conversion_term(order, delta)) * PICO) - 1",
        new="math.ceil((epsilon - conversion_term(order, delta)) * PICO) + 1000",
        why="a pico-nat more than the cap is admitted",
        tests=(T_FILTERS, T_PUBLISHED),
    ),
    Mutant(
        name="caps-can-rise",
        file=FILTERS,
        old="epsilon=min(self.epsilon, epsilon),",
        new="epsilon=max(self.epsilon, epsilon),",
        why="an open account's cap is raised by a new policy",
        tests=(T_FILTERS,),
    ),
)

LEDGER: Final = (
    Mutant(
        name="overspend-is-admitted",
        file=ACCOUNTS,
        old="if effective.admits(spent, asked):",
        new="if effective or asked:",
        why="no filter is asked",
        tests=(f"{T_SERVICE}::test_both_caps_hold_together",),
    ),
    Mutant(
        name="nothing-is-debited",
        file=SERVICE,
        old="set_curves(accounts, [curve_in(one) + asked for one in accounts], head)",
        new="set_curves(accounts, [curve_in(one) for one in accounts], head)",
        why="reservations cost nothing",
        tests=(f"{T_SERVICE}::test_both_caps_hold_together",),
    ),
    Mutant(
        name="spend-is-not-compared-with-the-chain",
        file=SERVICE,
        old="        check_against_chain(session, head, accounts, known)\n        for account, target in",
        new="        for account, target in",
        why="a changed row gives budget back",
        tests=(f"{T_SERVICE}::test_admission_stops_at_a_changed_row",),
    ),
    Mutant(
        name="started-budget-is-given-back",
        file=SERVICE,
        old='self._require(row, ReservationState.RESERVED, verb="release")',
        new='self._require(row, ReservationState.RESERVED, ReservationState.RUNNING, verb="release")',
        why="what was read is not charged",
        tests=(f"{T_SERVICE}::test_only_what_never_started_is_given_back",),
    ),
    Mutant(
        name="a-second-draw-is-free",
        file=SERVICE,
        old="if recorded != draw:",
        new="if recorded is None:",
        why="two samples of noise for one charge",
        tests=(f"{T_SERVICE}::test_the_deterministic_retry_is_free_and_any_other_is_refused",),
    ),
    Mutant(
        name="commit-without-a-draw",
        file=SERVICE,
        old='verb="commit")\n        if draw_in(row) is None:\n',
        new='verb="commit")\n        if draw_in(row) is row:\n',
        why="a release whose randomness nobody fixed",
        tests=(f"{T_SERVICE}::test_a_round_from_reservation_to_release", T_PUBLISHED),
    ),
    Mutant(
        name="a-crash-before-the-draw-is-free",
        file=SERVICE,
        old="        if reservation.draw is not None:\n            return Recovery(decision=RecoveryDecision.RETRY",
        new="        if reservation is not None:\n            return Recovery(decision=RecoveryDecision.RETRY",
        why="data that was read may be read again under other noise",
        tests=(f"{T_SERVICE}::test_recovery_decides_from_the_ledger_alone",),
    ),
    Mutant(
        name="the-dead-write-on",
        file=SERVICE,
        old="        if epoch < row.epoch:\n            raise FencedError(",
        new="        if epoch < 0:\n            raise FencedError(",
        why="two trainers use one charge",
        tests=(f"{T_SERVICE}::test_a_paused_trainer_that_wakes_up_is_fenced",),
    ),
    Mutant(
        name="another-request-under-the-same-key",
        file=SERVICE,
        old="if existing.request_digest != request_digest:",
        new="if existing is None:",
        why="a dearer request rides on a cheaper one's charge",
        tests=(f"{T_SERVICE}::test_a_repeated_request_is_charged_once",),
    ),
    Mutant(
        name="the-count-is-not-charged",
        file=TERMS,
        old="return (*self.beside, self.mechanism)",
        new="return (self.mechanism,)",
        why="the noisy count of users is published and not paid for",
        tests=(T_PUBLISHED,),
    ),
)

PROTOCOL_ORDER: Final = (
    Mutant(
        name="read-before-start",
        file=PROTOCOL,
        old="        self._start(lease)\n        prepared = self._read(lease)\n",
        new="        prepared = self._read(lease)\n        self._start(lease)\n",
        why="private data is read while the reservation could still be released",
        tests=(f"{T_CRASHES}::test_death_at_every_commit_charges_once_and_publishes_at_most_once",),
    ),
    Mutant(
        name="reading-is-not-reserved-for",
        file=PROTOCOL,
        old="            self._ledger.start(session, row.reservation_id, lease.epoch)\n",
        new="",
        why="the reservation stays releasable after the data was read",
        tests=(f"{T_PROTOCOL}::test_a_due_round_becomes_a_signed_version_an_event_and_a_committed_charge",),
    ),
    Mutant(
        name="started-rounds-are-released",
        file=OVERDUE,
        old=".state is ReservationState.RESERVED:",
        new=".state is not ReservationState.RESERVED:",
        why="what was read is given back, what was not is charged",
        tests=(
            f"{T_CRASHES}::test_a_base_model_that_changes_while_it_is_trained_on_is_never_named_as_what_it_was",
        ),
    ),
    Mutant(
        name="a-repeat-reads-the-data-again",
        file=PROTOCOL,
        old="        if reservation.draw is not None:\n            return unseal(",
        new="        if reservation is None:\n            return unseal(",
        why="whether a repeat succeeds tells who left meanwhile",
        tests=(T_CRASHES,),
    ),
    Mutant(
        name="told-when-it-was-done",
        file=PROTOCOL,
        old="            told_at = terms.slot.told_at\n",
        new="            told_at = self._clock.now()\n",
        why="how long training took is published, a function of private texts",
        tests=(T_SLOTS,),
    ),
    Mutant(
        name="published-without-a-receipt",
        file=PROTOCOL,
        old="if wrong is not None or receipt is None:",
        new="if wrong is not None and receipt is None:",
        why="what ran need not be what was charged",
        tests=(T_TERMS,),
    ),
    Mutant(
        name="another-plan-than-reserved",
        file=PROTOCOL,
        old="            wrong = departure(reservation, terms)\n",
        new="            wrong = None\n",
        why="a plan that was changed after the charge is run",
        tests=(T_TERMS,),
    ),
    Mutant(
        name="receipts-of-anybody",
        file=CHARGE,
        old="        signed.verify(bytes.fromhex(reservation.binding.receipt_key))\n",
        new="        pass\n",
        why="anybody's receipt vouches for the run",
        tests=(T_TERMS,),
    ),
    Mutant(
        name="receipts-of-another-mechanism",
        file=CHARGE,
        old="if receipt.mechanism != terms.mechanism:",
        new="if receipt.mechanism is None:",
        why="a run of another mechanism is published",
        tests=(T_TERMS,),
    ),
    Mutant(
        name="departures-are-overlooked",
        file=CHARGE,
        old="return receipt.departures[0] if receipt.departures else None",
        new="return None",
        why="a receipt that says itself that something was wrong is accepted",
        tests=(T_TERMS,),
    ),
    Mutant(
        name="the-minimum-of-users-is-overlooked",
        file=PROTOCOL,
        old="if row.noisy_cohort >= terms.minimum_cohort:",
        new="if row.noisy_cohort >= -1_000_000:",
        why="fewer users are trained on than the policy allows",
        tests=(f"{T_PROTOCOL}::test_too_few_users_by_the_noisy_count_are_not_trained_but_charged",),
    ),
)

USERS: Final = (
    Mutant(
        name="ids-of-all-users-are-one",
        file=IDENTITY,
        old="before = heads[tenant_id] + _after_its_length(first) + SENDER_LENGTH",
        new='before = heads[tenant_id] + _after_its_length("") + SENDER_LENGTH',
        why="one user's event makes another's of the same id a duplicate",
        tests=(T_IDENTITY,),
    ),
    Mutant(
        name="one-more-than-the-bound",
        file=ROWS,
        old="if counts[user] + len(places) > bounds[user[0]]]",
        new="if counts[user] + len(places) > bounds[user[0]] + 1]",
        why="a user keeps more signals than the bound",
        tests=(f"{T_INTERACTIONS}::test_one_event_more_than_the_bound_takes_the_place_of_another",),
    ),
    Mutant(
        name="bound-keeps-what-came-first",
        file=BOUND,
        old="kept = frozenset(heapq.nsmallest(bound, before | new))",
        new="kept = frozenset([*sorted(before), *sorted(new - before)][:bound])",
        why="which signals stay depends on the order of arrival",
        tests=(T_BOUND,),
    ),
    Mutant(
        name="bound-counts-one-more",
        file=BOUND,
        old="heapq.nsmallest(bound, before | new)",
        new="heapq.nsmallest(bound + 1, before | new)",
        why="a user keeps one signal more than the bound",
        tests=(T_BOUND,),
    ),
    Mutant(
        name="training-takes-all-signals",
        file=SNAPSHOT,
        old="for _ in range(min(len(waiting), bound - len(examples[pseudonym])))",
        new="for _ in range(len(waiting))",
        why="a user's gradient rests on more signals than the bound",
        tests=(f"{T_INTERACTIONS}::test_training_takes_at_most_the_bound_of_each_user_over_all_periods",),
    ),
    Mutant(
        name="consent-is-not-asked-for",
        file=SNAPSHOT,
        old="        if pseudonym in agreed:\n",
        new="        if pseudonym not in agreed or agreed:\n",
        why="users who withdrew are trained on",
        tests=(f"{T_INTERACTIONS}::test_a_withdrawal_takes_the_user_out_of_training_at_once",),
    ),
    Mutant(
        name="withdrawn-consent-counts",
        file=STATEMENTS,
        old="ConsentRow.purpose == purpose, col(ConsentRow.granted)\n",
        new="ConsentRow.purpose == purpose\n",
        why="a withdrawal is taken for a consent",
        tests=(f"{T_INTERACTIONS}::test_a_withdrawal_takes_the_user_out_of_training_at_once",),
    ),
    Mutant(
        name="retention-is-overlooked",
        file=SNAPSHOT,
        old="_TABLE.c.occurred_at >= now - retention,",
        new="_TABLE.c.occurred_at >= now - 1000 * retention,",
        why="signals are trained on after their time",
        tests=(T_PUBLISHED,),
    ),
    Mutant(
        name="erased-users-keep-their-key",
        file=KEY_STORE,
        old=".values(wrapped_key=None, wrapped_by=None, destroyed_at=now, destroyed_for=request)",
        new=".values(destroyed_at=now, destroyed_for=request)",
        why="an erased user's texts can still be read",
        tests=(T_ERASE, T_KEY_STORE),
    ),
    Mutant(
        name="texts-are-not-bound-to-their-row",
        file="privacy/keys/keyring.py",
        old="sealed.append(seal(value, head + row, next(nonces)))",
        new="sealed.append(seal(value, head, next(nonces)))",
        why="two texts of one user can be exchanged in the database",
        tests=(T_KEY_STORE,),
    ),
    Mutant(
        name="a-destroyed-key-is-made-again",
        file=KEY_STORE,
        old='                table.c.wrapped_key == bindparam("held"),\n',
        new="",
        why="a rotation brings back a key that an erasure destroyed meanwhile",
        tests=("tests/integration/privacy/keys/test_rotation.py",),
    ),
    Mutant(
        name="erased-users-keep-their-signals",
        file=ERASE,
        old="    delete_signals(session, tenant_id, pseudonym)\n",
        new="",
        why="an erased user is trained on",
        tests=(
            T_ERASE,
            f"{T_INTERACTIONS}::test_an_erased_user_leaves_no_signal_and_is_refused_from_then_on",
        ),
    ),
)

AUDITED: Final = (
    Mutant(
        name="audit-never-blocks",
        file=AUDIT,
        old="passed=facts.empirical_epsilon <= facts.claimed_epsilon,",
        new="passed=True,",
        why="a release whose canaries show more than is claimed is published",
        tests=(T_ESTIMATORS,),
    ),
    Mutant(
        name="audit-claims-more",
        file=ESTIMATORS,
        old="        empirical_epsilon=max(shown.values()),",
        new="        empirical_epsilon=min(shown.values()),",
        why="the audit reports its weakest bound",
        tests=(T_ESTIMATORS,),
    ),
)

DRIFT: Final = (
    Mutant(
        name="drift-counts-signals",
        file=PARTS,
        old="int(family.weight * UNIT * answers[number] / total) if total else 0",
        new="int(family.weight * UNIT * answers[number]) if total else 0",
        why="who sends more counts for more than a reading is charged for",
        tests=(f"{T_READING}::test_one_user_moves_the_sum_by_at_most_one",),
    ),
    Mutant(
        name="drift-half-noise",
        file=READINGS,
        old="mechanism.noise_multiplier * UNIT\n",
        new="mechanism.noise_multiplier * UNIT / 2\n",
        why="a reading has half the noise that is charged",
        tests=(
            f"{T_READING}::test_noise_is_as_large_as_charged_and_each_bin_has_its_own_whatever_the_data_are",
        ),
    ),
    Mutant(
        name="drift-one-noise",
        file=READINGS,
        old="PURPOSE_DRIFT, place, spread)",
        new="PURPOSE_DRIFT, 0, spread)",
        why="all bins of a reading have one noise, which their differences show",
        tests=(
            f"{T_READING}::test_noise_is_as_large_as_charged_and_each_bin_has_its_own_whatever_the_data_are",
        ),
    ),
    Mutant(
        name="drift-draws-again",
        file=READINGS,
        old="if decision is RecoveryDecision.RETRY and row.histogram_json is not None:\n                return True",
        new="if decision is RecoveryDecision.RETRY and row.histogram_json is not None:\n                return False",
        why="what was drawn is drawn anew after a crash",
        tests=(f"{T_READING}::test_whoever_dies_anywhere_pays_once_reads_once_and_draws_once",),
    ),
    Mutant(
        name="drift-reads-unpaid",
        file=READINGS,
        old="            self._start(lease)\n",
        new="",
        why="a reading reads before its charge is for good",
        tests=(
            f"{T_READING}::test_nothing_is_read_before_the_charge_is_running_and_anchored_nor_told_before_the_draw_is",
        ),
    ),
)

CHOSEN: Final = (
    Mutant(
        name="choice-counts-twice",
        file=BALLOTS,
        old="counts[vote] += 1",
        new="counts[vote] += 2",
        why="a user moves a count by two and is charged for one",
        tests=(f"{T_CHOICE}::test_one_user_moves_one_count_by_one_at_most_and_no_other",),
    ),
    Mutant(
        name="choice-takes-the-most",
        file=CHOICE_NOISE,
        old="if coins.bernoulli_exp(rate * (most - counts[place])):",
        new="if counts[place] == most:",
        why="the template with most votes is told without noise",
        tests=(f"{T_CHOICE_LAW}::test_what_is_drawn_follows_the_formula",),
    ),
    Mutant(
        name="choice-half-price",
        file=CHOICE_PRICE,
        old="self.epsilon**2 / 8",
        new="self.epsilon**2 / 16",
        why="a choice costs twice what is charged",
        tests=(
            f"{T_CHOICE_LAW}::test_the_price_bounds_every_divergence_between_neighbours_both_ways",
            f"{T_CHOICE_LAW}::test_dp_accounting_agrees",
        ),
    ),
    Mutant(
        name="choice-draws-again",
        file=CHOICES,
        old="if decision is RecoveryDecision.RETRY and row.drawn_json is not None:\n                return True",
        new="if decision is RecoveryDecision.RETRY and row.drawn_json is not None:\n                return False",
        why="what was drawn is drawn anew after a crash",
        tests=(f"{T_CHOICE}::test_whoever_dies_anywhere_pays_once_reads_once_and_draws_once",),
    ),
    Mutant(
        name="choice-reads-unpaid",
        file=CHOICES,
        old="            self._start(lease)\n",
        new="",
        why="a choice reads before its charge is for good",
        tests=(
            f"{T_CHOICE}::test_nothing_is_read_before_the_charge_is_running_and_anchored_nor_told_before_the_draw_is",
        ),
    ),
    Mutant(
        name="choice-without-consent",
        file=CHOICES,
        old="                also=DataPurpose.EVALUATION,\n",
        new="",
        why="users vote who did not agree to evaluation",
        tests=(f"{T_CHOICE}::test_who_did_not_agree_to_evaluation_or_was_erased_has_no_vote",),
    ),
)

MUTANTS: Final[tuple[Mutant, ...]] = (
    *NOISE, *RATE, *CLIP, *PRICE, *LEDGER, *PROTOCOL_ORDER, *USERS, *AUDITED, *DRIFT, *CHOSEN
)  # fmt: skip
