"""Everything that leaves a tenant's data, with its mark and why it may leave; ``discreet budget statement`` lists it.

What is not named here does not leave: the gate refuses it where it would be written, and
``tests/privacy_claims/privacy/boundary/`` looks for every field, metric and log key that the code knows.

Longer than 400 lines, because an auditor reads everything that leaves in one list.
"""

from __future__ import annotations

from typing import Final

from privacy.boundary.marks import Boundary, Group, Kind, Mark


def _fields(mark: Mark, why: str, names: str) -> Group:
    return Group(mark, why, tuple(names.split()))


def _under(prefix: str, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    return tuple(
        Group(group.mark, group.why, tuple(f"{prefix}.{name}" for name in group.fields)) for group in groups
    )


CHARGED, PUBLIC, SLOT_TIMED, OPERATOR = Mark.CHARGED, Mark.PUBLIC, Mark.SLOT_TIMED, Mark.OPERATOR

_MANIFEST = (
    _fields(
        CHARGED,
        "Size, digest and shape of weights that a charged mechanism released, and figures made from them and from "
        "public text alone.",
        "files.path files.media_type files.size files.sha256 lora.tensor_digest "
        "evaluation.verdict evaluation.checks evaluation.checks.name evaluation.checks.passed "
        "evaluation.checks.value evaluation.checks.threshold evaluation.checks.detail "
        "evaluation.checks.privacy_epsilon evaluation.probes evaluation.probes.* "
        "evaluation.activation evaluation.activation.precision "
        "evaluation.activation.effect evaluation.activation.tolerances evaluation.activation.tolerances.* "
        "evaluation.activation.probes evaluation.activation.probes.prompt evaluation.activation.probes.completion "
        "evaluation.activation.probes.tokens evaluation.activation.probes.points "
        "evaluation.activation.probes.points.after evaluation.activation.probes.points.tokens "
        "evaluation.activation.probes.points.base evaluation.activation.probes.points.adapter "
        "evaluation.suites evaluation.suites.digest evaluation.suites.depth evaluation.suites.axes "
        "evaluation.suites.axes.axis evaluation.suites.axes.templates evaluation.suites.axes.base "
        "evaluation.suites.axes.adapted evaluation.suites.axes.measurable",
    ),
    _fields(CHARGED, "A count with noise, paid for beside the training.", "privacy.noisy_cohort"),
    _fields(
        CHARGED,
        "What a vote of the users, paid for beside the training, found out about how answers look, prompts and "
        "constraints made of that alone, and facts of the weights that were made of it, whose strength one of the "
        "charged steps of training may have decided; words that many users share are in it, so it is for the tenant's "
        "own servers, like the weights.",
        "style style.card style.card.* style.card_digest style.prompt style.pattern style.grammar style.public_part "
        "style.public_part.*",
    ),
    _fields(
        CHARGED,
        "Measurements of the noise that was applied, and checks whose answer is the same for every data set.",
        "privacy.receipt privacy.receipt.*",
    ),
    _fields(
        PUBLIC,
        "What canaries in a shadow of the plan showed: public users, public numbers and noise of their own.",
        "privacy.audit privacy.audit.*",
    ),
    _fields(
        PUBLIC,
        "What the planner chose from the policy and the base model's shape.",
        "lora.family lora.rank lora.alpha lora.target_modules lora.layers lora.trainable_parameters lora.dtype "
        "lora.profile privacy.mechanism privacy.noise_multiplier privacy.sample_rate privacy.steps "
        "privacy.clipping_norm privacy.contribution_bound privacy.minimum_cohort privacy.plan_digest",
    ),
    _fields(
        PUBLIC,
        "The promise and what the ledger charged: functions of public parameters and of earlier releases.",
        "privacy.unit privacy.relation privacy.accountant privacy.release_epsilon privacy.cumulative_epsilon "
        "privacy.target_epsilon privacy.delta privacy.reservation_id",
    ),
    _fields(
        SLOT_TIMED,
        "Digest of the commit entry, which the ledger stamps with the instant of the slot.",
        "privacy.ledger_entry_hash",
    ),
    _fields(
        PUBLIC,
        "Names and numbers that the registry gives, and the base model and code that everyone may know.",
        "format line_ref scope version served_name base.model_id base.revision base.config_digest "
        "base.weights_digest base.tokenizer_digest base.architecture base.dtype base.chat_template_digest "
        "lineage.round_id lineage.period_index lineage.start lineage.start_version_id lineage.supersedes "
        "lineage.code_digest",
    ),
    _fields(
        PUBLIC,
        "Digest of what was read under a key that is destroyed with the round; without the key it is random.",
        "lineage.data_digest",
    ),
    _fields(
        SLOT_TIMED,
        "The public instant of the round's slot, never when training ended; of a meta start or its copy, which is made "
        "from released versions between jobs, when it was made.",
        "created_at",
    ),
)
_VERSION = (
    *_under("manifest", _MANIFEST),
    _fields(
        PUBLIC,
        "A digest of the manifest, where its files lie and who signed it.",
        "version_id uri signature.key_id signature.signature signature.algorithm",
    ),
)

_ROLLOUT = _fields(
    OPERATOR,
    "Where a rollout stands, for the operator's own servers: decided from the policy, the clock, public checks, what "
    "servers acknowledge and people. Where a policy names guards, a rollout also stops for errors and slow answers, "
    "which are counted over all requests and which epsilon does not cover. Users' reactions decide where a policy says "
    "so, and then by charged reads alone: a comparison of two versions by reactions, and readings of drift, after "
    "which a line falls back.",
    "rollout.stage rollout.candidate_percent rollout.salt rollout.state rollout.mode rollout.flag "
    "rollout.candidate_version_id rollout.steps rollout.bake_seconds",
)

_PROMPTS = _fields(
    OPERATOR,
    "Prompt templates that a person of the operator wrote or approved, and whom they go to; one that was made of a "
    "style card holds words that its vote paid for, and of one of origin selection a charged vote of users said that "
    "it be this one of several.",
    "prompts prompts.candidate_percent prompts.current prompts.candidate",
)
_TEMPLATES = _fields(
    OPERATOR,
    "The same, for the operator's own servers: the templates themselves.",
    "prompts.salt prompts.current.* prompts.candidate.*",
)

REGISTER: Final[dict[Kind, tuple[Group, ...]]] = {
    Kind.MANIFEST: _MANIFEST,
    Kind.ADAPTER_CONFIG: (
        _fields(
            PUBLIC,
            "The adapter's shape as planned, and the base model's public name; no path of any machine.",
            "peft_type task_type base_model_name_or_path revision inference_mode r lora_alpha lora_dropout "
            "target_modules layers_to_transform layers_pattern bias fan_in_fan_out init_lora_weights modules_to_save "
            "rank_pattern alpha_pattern use_dora use_rslora",
        ),
    ),
    Kind.ARTIFACT_STORE: (
        _fields(CHARGED, "Weights that a charged mechanism released.", "adapter_model.safetensors"),
        _fields(
            OPERATOR,
            "When a file was written: it is there once training has ended, before its slot's instant; whoever may "
            "list the store sees that.",
            "file_times",
        ),
    ),
    Kind.ADAPTER_EVENT: (
        *_under("adapter", _VERSION),
        _fields(
            PUBLIC,
            "Names, the order of the line's events, and who asked.",
            "adapter kind line_ref epoch rollout left_version_id revoked_version_ids actor round_id drift",
        ),
        _fields(
            CHARGED,
            "What drifted: a statistic of noisy histograms of all users together, each paid for by itself, its "
            "threshold, and what the policy had done about it.",
            "drift.family drift.since drift.statistic drift.threshold drift.degrees drift.level drift.followed",
        ),
        _ROLLOUT,
        _PROMPTS,
        _fields(
            PUBLIC,
            "Which version of a collection of approved documents holds, what made it and how many documents stand in "
            "it, by numbers and a digest with random salts; no user wrote any of them, and none is named. Of what is "
            "tried, the share of the users that a person chose.",
            "memory memory.collection memory.number memory.version_id memory.decision memory.restores memory.documents "
            "memory.candidate_percent",
        ),
        _fields(
            CHARGED,
            "How a round ended (see outcome), in one public sentence; the only number in it is the noisy count. Where "
            "a rollout moved, why: a guard may be named, which says of uncharged counts what rollouts' fields say. "
            "Where a line drifted, what changed, by charged readings.",
            "reason_code reason",
        ),
        _fields(
            SLOT_TIMED,
            "The public instant of the round's slot, or when a person acted or a rollout moved.",
            "occurred_at",
        ),
    ),
    Kind.ADAPTER_STATE: (
        *_under("adapter", _VERSION),
        *_under("candidate", _VERSION),
        _fields(
            PUBLIC,
            "Names and order, as in adapter events.",
            "line_ref epoch candidate revoked_version_ids",
        ),
        _ROLLOUT,
        _PROMPTS,
        _TEMPLATES,
        _fields(
            SLOT_TIMED,
            "The public instant of the round's slot, or when a person acted or a rollout moved.",
            "updated_at",
        ),
    ),
    Kind.ENVELOPE: (
        _fields(
            PUBLIC,
            "Random or derived names, the kind of event and its order on the line.",
            "ce_specversion ce_id ce_source ce_type ce_subject ce_dataschema ce_sequence content-type "
            "traceparent tracestate discreet_key_id discreet_signature",
        ),
        _fields(SLOT_TIMED, "The same instant as in the event.", "ce_time"),
        _fields(
            SLOT_TIMED,
            "When the record appears: not before the instant in it, if the policy's release_padding_seconds is not 0 "
            "(at 0 it appears when training has ended), or at once when a person acts on the line.",
            "record_time",
        ),
    ),
    Kind.OUTCOME: (
        _fields(
            PUBLIC,
            "Decided from the policy, the platform's ceilings, the ledger and the base model's shape, before anything "
            "is read.",
            "no_policy above_ceiling purpose_not_allowed budget_exhausted signal_too_small calibration_impossible",
        ),
        _fields(CHARGED, "Decided by the noisy count that was paid for.", "cohort_too_small"),
        _fields(CHARGED, "Decided by the released weights and public text alone.", "published gate_rejected"),
        _fields(
            PUBLIC,
            "A crash, a failing machine or a run longer than its slot; that these do not depend on any one user's "
            "data is an assumption (bounded texts, a public time limit), and the reason is not published.",
            "forfeited training_failed",
        ),
    ),
    Kind.CERTIFICATE: (
        _fields(
            OPERATOR,
            "Whether a key existed: said to the product that sent the user's events, about that user alone.",
            "certificate.keys_destroyed",
        ),
        _fields(
            PUBLIC,
            "The request's own names, fixed sentences, names of released versions (one whose slot has not come yet "
            "is named too, since the user may be in it), and proof.",
            "tenant_id request_id certificate.live_adapters certificate.statement certificate.audit_digest "
            "certificate.key_id certificate.signature",
        ),
        _fields(
            PUBLIC,
            "Deprecated and always empty: how much a user had stored is personal.",
            "certificate.signals_erased",
        ),
        _fields(
            OPERATOR,
            "When the request was carried out; said to the product that sent it.",
            "completed_at certificate.issued_at certificate.backups_until certificate.database_backups_until",
        ),
    ),
    Kind.CONSENT_TOMBSTONE: (
        _fields(
            OPERATOR,
            "The key of the user who asked to be erased, on the topic that held that key before.",
            "key",
        ),
    ),
    Kind.DEAD_LETTER: (
        _fields(
            OPERATOR,
            "The refused record as the product sent it, texts and user id in plain, for the topic's retention, of "
            "users who never consented too; an erasure does not reach it.",
            "key value headers",
        ),
        _fields(
            OPERATOR,
            "Why and where it was refused: a rule and a field, never a value.",
            "reason detail topic partition offset timestamp group attempts at",
        ),
    ),
    Kind.LEDGER_ENTRY: (
        _fields(
            PUBLIC,
            "What was charged, under which public parameters, and how the reservation ended.",
            "tenant_id sequence kind reservation_id document.* previous_digest digest",
        ),
        _fields(
            SLOT_TIMED, "Of a commit or a forfeit at its slot: the public instant.", "recorded_at.committed"
        ),
        _fields(
            OPERATOR,
            "Of what happens inside a round: when it began and was read; the export is for the operator and whom the "
            "operator names as auditor.",
            "recorded_at",
        ),
    ),
    Kind.ANCHOR: (
        _fields(
            PUBLIC,
            "Names, and what was charged to each account: a function of public parameters and of which releases there "
            "were.",
            "owner timeline group policy_version ledger ledger.sequence ledger.digest ledger.accounts "
            "ledger.accounts.* lines lines.*",
        ),
        _fields(
            OPERATOR,
            "How many users of a tenant were erased, and how many events were read; on a topic that the installation's "
            "own processes and the operator read alone.",
            "erasures offsets offsets.*",
        ),
    ),
    Kind.ERASURE_REGISTER: (
        _fields(
            OPERATOR,
            "Whose data must not come back with a backup, by keyed pseudonym and for good; on a topic that the "
            "installation's own processes and the operator read alone.",
            "group tenant_id pseudonym erased_at",
        ),
    ),
    Kind.STORY: (
        _fields(
            CHARGED,
            "A signed manifest, whose fields have their own marks, and figures out of it; the count of users has noise "
            "and was paid for.",
            "manifest signature.* drift drift.* consents.noisy_users consents.digest",
        ),
        _fields(
            PUBLIC,
            "Names, what people and the policy decided, and how the round ended, as its event says.",
            "format version_id served_name tenant domain line_ref heirs round round.round_id round.opened_by "
            "round.scheduled_for round.outcome_code round.outcome round.terms round.terms.* consents "
            "consents.purpose consents.policy_version proofs.*",
        ),
        _fields(SLOT_TIMED, "The public instant of the version's slot.", "published_at"),
        _fields(
            OPERATOR,
            "Entries of the ledger and records of the trail with the digests that chain them: when a round was read, "
            "and who decided what and why.",
            "ledger ledger.* trail trail.* round.read_at consents.at left left.*",
        ),
        _fields(
            PUBLIC,
            "Which versions of collections of approved documents held while it was served, and who made them; no "
            "document is named.",
            "memory memory.*",
        ),
        _fields(
            OPERATOR,
            "How many events of all tenants were read when the round read its data.",
            "inputs inputs.*",
        ),
        _fields(
            CHARGED,
            "Sums of users' reactions to the version and to the one before it, with noise and paid for before they "
            "were read, and what they say.",
            "comparison comparison.*",
        ),
        _fields(
            CHARGED,
            "What released readings of drift said while the version was served, and what followed.",
            "alarms alarms.*",
        ),
        _fields(
            CHARGED,
            "Which prompt template a charged vote of users drew while the version was served, among which, who asked "
            "and why; no count of votes.",
            "choices choices.*",
        ),
        _fields(
            OPERATOR,
            "How the version stands now, what servers and whoever watches them said of it.",
            "state served_now served_by served_by.* rollout rollout.* guards guards.*",
        ),
        _fields(
            OPERATOR,
            "Exact serving quality of the last day at one gateway, asked for with a token of the tenant's own; epsilon "
            "does not cover it, and whoever has the file has it.",
            "kpis kpis.*",
        ),
    ),
    Kind.LINEAGE_EXPORT: (
        _fields(
            PUBLIC,
            "Names, the slot's instant and what was planned, to a lineage system or model registry of the operator's.",
            "eventType eventTime producer schemaURL run.* job.* outputs outputs.namespace outputs.name "
            "outputs.outputFacets outputs.facets.version.* outputs.facets.lifecycleStateChange.* mlflow.params.* "
            "mlflow.tags.discreet.version_id mlflow.tags.discreet.served_name mlflow.tags.discreet.line_ref "
            "mlflow.tags.discreet.version mlflow.tags.discreet.ledger_entry mlflow.tags.discreet.reservation "
            "mlflow.tags.discreet.receipt mlflow.tags.discreet.producer",
        ),
        _fields(
            CHARGED,
            "What the version cost and the figures of its gate, as its manifest says.",
            "outputs.facets.discreet_receipt.* outputs.facets.discreet_gate.* mlflow.metrics.*",
        ),
        _fields(
            OPERATOR,
            "How the version stands now, and how many events of all tenants were read before it.",
            "outputs.facets.discreet_rollout.* inputs inputs.* mlflow.tags.discreet.state mlflow.tags.discreet.rollout "
            "mlflow.tags.discreet.servers_verified mlflow.tags.discreet.offsets",
        ),
    ),
    Kind.HTTP_ANSWER: (
        _fields(
            PUBLIC,
            "How the gateway made an answer: names of a line, a released version and a template; to the tenant whose "
            "they are.",
            "x-discreet-request x-discreet-line x-discreet-version x-discreet-template x-discreet-constraint "
            "x-discreet-reason",
        ),
        _fields(
            OPERATOR,
            "Which of a tenant's lines a prompt was sent to, how well it fits it, and what was left out for the "
            "tenant's latency budget; to who asked, of the own request.",
            "x-discreet-route x-discreet-route-reason x-discreet-route-score x-discreet-route-margin "
            "x-discreet-route-version x-discreet-dropped",
        ),
        _fields(
            PUBLIC,
            "Names, versions and places of the documents that an answer was made with, which the tenant approved; "
            "never what they say; and which candidate of them who asks was drawn for, by the user's own name.",
            "x-discreet-memory",
        ),
        _fields(PUBLIC, "A constant of the gateway's settings.", "x-discreet-presence-penalty"),
        _fields(
            OPERATOR,
            "Which levers a request was answered with and why, of how many of the tenant's own terms its prompt was "
            "told, and how many were put right in its answer; to who asked, of the own request.",
            "x-discreet-levers x-discreet-terms",
        ),
        _fields(
            OPERATOR,
            "Exact serving quality of the last day at one gateway, to the tenant's own back end, which sent every "
            "request and every piece of feedback itself; epsilon does not cover it, it is stored nowhere, and it "
            "decides nothing.",
            "hours kpis kpis.domain kpis.version kpis.answers kpis.completion kpis.latency_p50 kpis.latency_p95 "
            "kpis.tokens kpis.feedback kpis.acceptance kpis.edit_distance kpis.ratings kpis.rating",
        ),
        _fields(
            PUBLIC,
            "Documents that the tenant approved, and what of them fits a question, to the tenant's own tokens and the "
            "platform operator's; no user wrote them.",
            "collection documents documents.* removed.* found.*",
        ),
        _fields(
            CHARGED,
            "Answers of the base model and of released versions, to who asked; what models say about their training "
            "is what the versions' statements bound.",
            "choices choices.* usage usage.*",
        ),
        _fields(
            CHARGED,
            "Choices among a tenant's prompt templates: which template a charged draw took, told at its public "
            "instant, and how the others ended; who asked for them, why, and what public numbers say.",
            "prompt_choices prompt_choices.* prompt_choice.*",
        ),
        _fields(
            PUBLIC,
            "Who is asked for, what people decided and when, and proof of it.",
            "tenant tenants.tenant tenants.registered_at tenants.policy_version tenants version digest set_at "
            "set_by reason policy policy.* policy_version versions versions.tenant versions.version versions.digest "
            "versions.set_at versions.set_by versions.reason versions.policy.* name token revoked status "
            "id role created_at created_by expires_at revoked_at tokens tokens.id tokens.tenant tokens.name "
            "tokens.role tokens.created_at tokens.created_by tokens.expires_at tokens.revoked_at error.code error.text",
        ),
        _fields(
            PUBLIC,
            "Budgets: functions of public parameters and of which releases there were.",
            "period_index period_epsilon period_cap period_used lifetime_epsilon lifetime_cap lifetime_used delta "
            "population_epsilon population_cap selection_delta selection_cap "
            "outlooks outlooks.*",
        ),
        _fields(
            OPERATOR,
            "How the tenant's reservations stand now, which changes when training ends; for the platform operator and "
            "the tenant's administrator.",
            "releases releases.* releases_committed release release.* reservations reservations.*",
        ),
        _fields(
            CHARGED,
            "Released versions, as their manifests say; those whose slot has not come are shown to the platform "
            "operator only.",
            "adapters adapters.domain adapters.version adapters.served_name adapters.version_id adapters.state "
            "adapters.scope adapters.start adapters.mechanism adapters.release_epsilon adapters.cumulative_epsilon "
            "adapters.public_text_change adapters.drift adapters.drift.*",
        ),
        _fields(SLOT_TIMED, "The public instant of the version's slot.", "adapters.published_at"),
        _fields(
            OPERATOR,
            "How rollouts stand now, which changes when training ends, before the version's slot; for the platform "
            "operator and the tenant's own.",
            "rollouts rollouts.tenant rollouts.domain rollouts.line_ref rollouts.stage rollouts.step rollouts.percent "
            "rollouts.mode rollouts.flag rollouts.candidate rollouts.entered_at",
        ),
        _fields(
            CHARGED,
            "Sums of users' reactions to a candidate and to the version, with noise and paid for before they were "
            "read, and what they say; whether a comparison was begun and when its looks were taken is public.",
            "rollouts.verdict rollouts.comparison rollouts.comparison.*",
        ),
        _fields(
            OPERATOR,
            "Certificates of erasure, for the platform operator and the tenant's administrator.",
            "certificates certificates.tenant_id certificates.erasure_id certificates.requested_at "
            "certificates.issued_at certificates.keys_destroyed certificates.live_adapters "
            "certificates.audit_digest certificates.statement certificates.backups_until "
            "certificates.database_backups_until",
        ),
        _fields(
            PUBLIC,
            "The statement itself, made from the ledger and this register.",
            "statement generated_at unit relation guarantee.* spent.* filter.* accountant.* assumptions not_covered "
            "boundary boundary.* ledger.* text",
        ),
    ),
    Kind.METRIC: (
        _fields(
            OPERATOR,
            "Exact counts and times of a gateway's requests over all tenants; for the platform operator, who runs the "
            "engine behind it and could count there too.",
            "discreet_gateway_answers discreet_gateway_refusals discreet_gateway_seconds discreet_gateway_feedback "
            "discreet_gateway_failed_logins discreet_gateway_requests_now discreet_gateway_remembered "
            "discreet_gateway_remembered_bytes discreet_gateway_lines discreet_gateway_engine_up "
            "discreet_gateway_ready discreet_gateway_shadows discreet_gateway_shadow_seconds "
            "discreet_gateway_flag_failures "
            "discreet_gateway_routes discreet_gateway_levers_dropped discreet_gateway_memory "
            "discreet_gateway_memory_away discreet_gateway_memory_not_signed discreet_gateway_lever_seconds",
        ),
        _fields(
            OPERATOR,
            "Exact counts of rounds over all tenants, how long jobs took, and whether files can be stored; for the "
            "platform operator, who sees the rounds in the database.",
            "discreet_rounds_leased discreet_rounds_closed discreet_budget_refusals discreet_leases_lost "
            "discreet_job_seconds discreet_trainer_silent_seconds discreet_artifact_store_away",
        ),
        _fields(
            CHARGED,
            "How many lines drifted and how readings ended, over all tenants: made of what charged readings released.",
            "discreet_drift_alarms discreet_drift_readings",
        ),
        _fields(
            OPERATOR,
            "How many choices among prompt templates ended in which way, over all tenants; for the platform operator, "
            "who sees the choices in the database.",
            "discreet_prompt_choices",
        ),
        _fields(
            OPERATOR,
            "Exact counts and times of the worker's own work over all tenants; for the platform operator, who runs "
            "the broker and could count there too.",
            "discreet_events discreet_dead_letters discreet_batch_events discreet_batch_seconds "
            "discreet_ingest_latency_seconds discreet_retries discreet_lag_events "
            "discreet_oldest_unprocessed_seconds discreet_stalled_seconds discreet_buffered_events "
            "discreet_rebalances discreet_outbox_waiting discreet_outbox_parked discreet_outbox_failures "
            "discreet_slowed_tenants discreet_failed_logins discreet_chore_failures",
        ),
        _fields(
            OPERATOR,
            "How many released versions an engine holds, and how near its answers are to their manifests.",
            "discreet_bridge_engine_away discreet_bridge_engine_unsafe "
            "discreet_bridge_places discreet_bridge_adapters discreet_bridge_swaps "
            "discreet_bridge_refusals discreet_bridge_probe_error",
        ),
        _fields(
            OPERATOR,
            "How many events wait for a consent, rounded up to a power of ten.",
            "discreet_held_events",
        ),
        _fields(
            OPERATOR,
            "The process itself, as the system measures it.",
            "process_virtual_memory_bytes process_resident_memory_bytes process_start_time_seconds "
            "process_cpu_seconds process_open_fds process_max_fds",
        ),
    ),
    Kind.TRACE: (
        _fields(
            PUBLIC,
            "Names of topics and of rounds' parts.",
            "messaging.system messaging.operation.name messaging.operation.type messaging.destination.name",
        ),
        _fields(
            OPERATOR,
            "Links to the producers' own spans, and when each part began and ended; for whoever the operator exports "
            "traces to.",
            "links times",
        ),
    ),
    Kind.LOG: (
        _fields(
            OPERATOR,
            "When something happened, and what failed and where, in the machine's own words; logs are the operator's.",
            "timestamp reason error place problem exc_info exception",
        ),
        _fields(
            PUBLIC,
            "Names of events, rounds, lines, topics and versions, and public states.",
            "event level round round_id rounds tenant tenants line_ref served_name version_id sequence adapter served "
            "withdrawn published chore code outcome stage what topic partition epoch port accepted share action",
        ),
        _fields(
            PUBLIC,
            "Which collection of approved documents, as its administrators named it, and which of its numbered "
            "versions or candidates; no word of a document.",
            "collection collection_version",
        ),
        _fields(
            OPERATOR,
            "From which address a wrong token came.",
            "address",
        ),
        _fields(
            OPERATOR,
            "How far a job is, in public steps or whole percents, and how much work waits or is tried again.",
            "done total attempts events buffered orphans",
        ),
        _fields(
            PUBLIC,
            "What canaries in a shadow of a plan showed, as in the manifest.",
            "audit depth canaries confidence delta claimed_epsilon empirical_epsilon one_run_epsilon trials_epsilon "
            "noise_ratio_epsilon noise_ratio",
        ),
        _fields(
            CHARGED,
            "Figures of released or refused candidates, made from noisy weights and public text.",
            "ratio cosine drifted retained drift bounded has_effect public_text noise_norm blend suite_refusal "
            "suite_helpfulness suite_direct_injection suite_retrieved_injection suite_grounding suite_divergence "
            "suite_overconfidence suite_memorisation suite_refusal_before suite_helpfulness_before "
            "suite_direct_injection_before suite_retrieved_injection_before suite_grounding_before "
            "suite_divergence_before suite_overconfidence_before",
        ),
    ),
}

BOUNDARY: Final = Boundary(REGISTER)
