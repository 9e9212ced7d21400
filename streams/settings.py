"""Every setting of the processes, read from the environment: prefix ``DISCREET_``, sections joined by ``__``.

``DISCREET_DATABASE__URL=postgresql+psycopg://…`` sets ``settings.database.url``. The commands (``cli``)
read them once and hand them to what wires a process (``bootstrap``, ``trainer_process``, ``serving.process``); a part
receives its own section or plain values, never all of them. Defaults are those of one machine: SQLite in the state
directory and a broker on the loopback.

Longer than 400 lines, because every setting of every process stands here, once.
"""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from personalization.adapters.decoding import PRESENCE_PENALTY
from personalization.starts.recipe import MetaRecipe, Order, Weighting
from privacy.erasure.certificates import BackupRetention
from privacy.policy.ceilings import PolicyCeilings
from streams.errors import SettingsError

MASTER_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
RENAMED = {"DISCREET_TRAINER__HALF_HEAD": "DISCREET_TRAINER__HALF_PRODUCTS"}
"""Names that settings had, and those that they have now; whoever still sets an old one is told the new one."""
_RECIPE = MetaRecipe()  # holds the defaults of what it computes from
_CEILINGS = PolicyCeilings()  # the same


def _key_bytes(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    if len(key) != MASTER_KEY_BYTES:
        raise ValueError(f"it holds {len(key)} bytes; allowed are exactly {MASTER_KEY_BYTES}")
    return key


def _public_keys_in(text: str) -> list[bytes]:
    try:
        keys = [bytes.fromhex(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        keys = []
    if text and (not keys or any(len(key) != PUBLIC_KEY_BYTES for key in keys)):
        raise ValueError(
            f"allowed are {2 * PUBLIC_KEY_BYTES} hexadecimal digits per key, separated by commas, as "
            "`discreet adapters public-key` prints them"
        )
    return keys


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TrustingSettings(_Section):
    """What a process that takes adapters trusts."""

    public_keys: str = ""
    """Raw Ed25519 keys in hexadecimal, separated by commas, whose signatures on adapters count."""

    @field_validator("public_keys")
    @classmethod
    def _public_keys_have_32_bytes(cls, value: str) -> str:
        _public_keys_in(value)
        return value

    def trusted_keys(self) -> list[bytes]:
        """Return the raw public keys, 32 bytes each; none where none is set."""
        return _public_keys_in(self.public_keys)


class DatabaseSettings(_Section):
    """Where durable state lives."""

    url: str = ""
    """``sqlite:///path`` or ``postgresql+psycopg://user@host/name``; empty: a file in the state directory."""
    busy_timeout_seconds: Positive = 30.0
    """How long a SQLite writer waits for another one."""


class KeySettings(_Section):
    """Where users' keys lie, apart from their texts, and who holds the master key."""

    url: str = ""
    """Database of the key store, ``sqlite:///path`` or ``postgresql+psycopg://user@host/name``; another one than
    DISCREET_DATABASE__URL, with backups of its own. Empty: a file beside the SQLite file; with PostgreSQL it must be
    set."""
    older_master_keys: SecretStr | None = None
    """Master keys that were used before, in base64, separated by commas: what they wrapped stays readable until
    ``discreet keys rotate master`` has wrapped it with the newest."""
    transit_url: str = ""
    """HashiCorp Vault or OpenBao server whose transit engine holds the master key in place of DISCREET_MASTER_KEY."""
    transit_token: SecretStr | None = None
    transit_token_file: Path | None = None
    """File with the token, read for each request; an agent may renew it."""
    transit_mount: str = "transit"
    transit_key: str = "discreet"
    transit_namespace: str | None = None
    transit_ca_file: Path | None = None
    """Certificate authorities to trust instead of the system's."""

    @model_validator(mode="after")
    def _transit_is_complete(self) -> Self:
        tokens = (self.transit_token is not None) + (self.transit_token_file is not None)
        if self.transit_url and tokens != 1:
            raise ValueError("transit_url needs either transit_token or transit_token_file")
        if self.transit_url:
            address = urlsplit(self.transit_url)
            here = address.hostname in ("127.0.0.1", "::1", "localhost")
            if address.scheme != "https" and not (here and address.scheme == "http"):
                raise ValueError("transit_url must begin with https://, because keys are sent there")
        return self

    @field_validator("older_master_keys")
    @classmethod
    def _older_keys_have_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        for key in () if value is None else value.get_secret_value().split(","):
            _key_bytes(key.strip())
        return value

    def older_keys(self) -> list[bytes]:
        """Return the master keys that were used before."""
        given = "" if self.older_master_keys is None else self.older_master_keys.get_secret_value()
        return [_key_bytes(key.strip()) for key in given.split(",") if key.strip()]


class BackupSettings(_Section):
    """How long backups are kept at most; erasure certificates repeat it, so it must be true.

    Replicas that lag and archives of a database's log are backups too.
    """

    keys_days: float = Field(default=7.0, ge=0)
    """Of the key store. As long as one has an erased user's key, a backup of the database can be read with it; 0
    says that there are none."""
    database_days: float = Field(default=30.0, ge=0)

    def retention(self) -> BackupRetention:
        """Return them as certificates take them."""
        return BackupRetention(
            keys=timedelta(days=self.keys_days), database=timedelta(days=self.database_days)
        )


class SigningSettings(_Section):
    """The key that adapter versions are signed with; for trainers and the commands that publish, for nobody else."""

    adapter_key: SecretStr | None = None
    """32 bytes in base64. Every trainer of an installation needs the same one."""
    adapter_key_file: Path | None = None
    """File with the same, for who owns it alone. Empty: one in the state directory, made at first use."""

    @field_validator("adapter_key")
    @classmethod
    def _adapter_key_has_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _key_bytes(value.get_secret_value())
        return value

    @field_validator("adapter_key", "adapter_key_file", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value


class SecurityProtocol(StrEnum):
    """How a connection to the broker is protected (Kafka's names)."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class BrokerSettings(_Section):
    """How to reach Kafka and how the worker behaves as a member of its group."""

    bootstrap: str = "127.0.0.1:9092"
    """``host:port`` of one or more brokers, separated by commas."""
    embedded: bool = False
    """The broker is the embedded one: short time-outs, because it delays a group's first assignment."""
    group: str = "discreet-worker"
    """Consumer group of all workers."""
    instance_id: str | None = None
    """Static group membership: a name of this worker that survives a restart."""
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    oauth_token_file: Path | None = None
    """File with the access token of OAUTHBEARER, read again for each connection."""
    oauth_token_url: str | None = None
    """Token endpoint of an authorization server, asked with the client credentials grant."""
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_scope: str | None = None
    ca_file: Path | None = None
    """Certificate authorities to trust instead of the system's."""
    certificate_file: Path | None = None
    """Our own certificate, for brokers that ask for one."""
    key_file: Path | None = None
    """Key of that certificate, unless it stands in the same file."""
    session_timeout_seconds: Positive = 45.0
    heartbeat_seconds: Positive = 3.0
    rebalance_timeout_seconds: Positive = 60.0
    commit_interval_seconds: Positive = 0.5
    delivery_timeout_seconds: Positive = 30.0
    """How long a write may take to be confirmed before it counts as failed and is tried again."""

    @property
    def encrypted(self) -> bool:
        """Whether connections use TLS."""
        return self.security_protocol in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def logs_in(self) -> bool:
        """Whether we say who we are with a SASL mechanism."""
        return self.security_protocol in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)

    @model_validator(mode="after")
    def _login_is_complete(self) -> Self:
        with_password = self.sasl_username is not None and self.sasl_password is not None
        if not self.logs_in:
            if self.sasl_username is not None or self.oauth_token_file or self.oauth_token_url:
                raise ValueError(f"a login is set, which {self.security_protocol.value} would not use")
        elif self.sasl_mechanism == "OAUTHBEARER":
            credentials = (self.oauth_token_url, self.oauth_client_id, self.oauth_client_secret)
            if (self.oauth_token_file is None) == any(each is None for each in credentials):
                raise ValueError(
                    "OAUTHBEARER needs either oauth_token_file, or oauth_token_url with oauth_client_id and "
                    "oauth_client_secret"
                )
        elif not with_password:
            raise ValueError(f"{self.sasl_mechanism} needs sasl_username and sasl_password")
        if not self.encrypted and (self.ca_file or self.certificate_file):
            raise ValueError(f"certificates are set, which {self.security_protocol.value} would not use")
        return self

    @field_validator("oauth_token_url")
    @classmethod
    def _secrets_travel_encrypted(cls, value: str | None) -> str | None:
        if value is not None:
            address = urlsplit(value)
            if address.scheme != "https" and address.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise ValueError("it must begin with https://, because a secret is sent there")
            if address.scheme not in ("https", "http"):
                raise ValueError("it must be an address that begins with https://")
        return value


class IngestSettings(_Section):
    """How events become signals."""

    max_event_bytes: int = Field(default=65_536, ge=256, le=16 * 2**20)
    """Largest value of one event; anything larger is dead-lettered unread."""
    batch_events: int = Field(default=4_000, ge=1, le=100_000)
    """Most events in one transaction; a transaction takes what has gathered, so it is this large only in a backlog."""
    buffer_events: int = Field(default=8_000, ge=1)
    """Most events in memory waiting for a transaction, per topic; beyond it the worker stops pulling."""
    buffer_bytes: int = Field(default=128 * 2**20, ge=1)
    """The same in bytes of keys and values."""
    consent_wait_seconds: float = Field(default=30.0, ge=0)
    """How long an interaction may wait for its user's consent event before it is dead-lettered."""
    consent_wait_events: int = Field(default=10_000, ge=0)
    """Most interactions in memory waiting for consent; at that number no more are fetched until some have settled. 0:
    none ever waits."""
    consent_wait_events_per_user: int = Field(default=100, ge=1)
    """Most interactions of one user waiting for consent; beyond it that user's are dead-lettered at once."""
    consent_wait_bytes: int = Field(default=128 * 2**20, ge=1)
    """Most bytes of interactions waiting for consent; at that number no more are fetched until some have settled."""
    consent_wait_bytes_per_user: int = Field(default=2**20, ge=1)
    """Most bytes of one user's interactions waiting for consent; what does not fit is dead-lettered at once."""
    policy_staleness_seconds: Positive = 2.0
    """A change of policy is in force at every worker no later than this."""
    poison_window_events: int = Field(default=1_000, ge=10)
    """Number of recent events, of each tenant and of all, over which shares are watched."""
    poison_share: float = Field(default=0.9, gt=0)
    """Share of dead letters among a tenant's events from which on that tenant is served behind all others, and share of
    events that failed in the worker itself at which it stops; above 1 switches both off."""
    poison_tenants: int = Field(default=3, ge=1)
    """Fewest tenants whose events must have failed for the worker to stop; 1 where there is one tenant only."""
    poison_lane_events: int = Field(default=2_000, ge=1)
    """Most events of such tenants that wait in memory behind others'; beyond it the oldest are processed at once."""
    retry_initial_seconds: Positive = 0.2
    retry_max_seconds: Positive = 10.0
    drain_seconds: Positive = 10.0
    """How long shutdown and rebalancing wait for transactions in progress."""


class FlagSettings(_Section):
    """Who decides what a line may show."""

    provider: str = ""
    """Name of an entry point of the group ``discreet.flag_providers``: an OpenFeature provider that may lower the flag
    of a line. Empty: desired states alone decide."""


class OutboxSettings(_Section):
    """How events leave."""

    poll_seconds: Positive = 0.5
    batch_rows: int = Field(default=200, ge=1)
    keep_seconds: Positive = 7 * 86_400.0
    """How long a published row is kept for inspection."""
    longest_pause_seconds: Positive = 300.0
    """Most time between two attempts to send a row that cannot be sent; other rows do not wait for it."""
    topic_seconds: Positive = 3.0
    """How long to look for a topic that the broker does not know; its rows then wait apart."""


class AnchorSettings(_Section):
    """Where heads of ledgers and lines and consumed offsets are kept outside the database, against restored backups.

    Worker, trainers and the command line must agree on it.
    """

    where: Literal["auto", "topic", "file"] = "auto"
    """auto: in topics of the broker, but in files where the database is SQLite or the broker the embedded one."""
    file: Path | None = None
    """The file, if it is one; empty: beside the SQLite file, else in the state directory. Leave it out of backups."""
    offsets_seconds: Positive = 10.0
    """Time between two looks at the consumed offsets; so long may a database that was set back go unnoticed."""


class SchedulerSettings(_Section):
    """How often the public clock is looked at."""

    tick_seconds: Positive = 1.0
    retention_seconds: Positive = 300.0
    """Time between two sweeps of expired signals and old bookkeeping."""
    dedup_days: int = Field(default=30, ge=1)
    """How long the digest of a processed event is kept; at least the retention of the source topics."""


class HttpSettings(_Section):
    """The worker's health, metrics and operator endpoints."""

    host: str = "127.0.0.1"
    port: int = Field(default=6066, ge=0, le=65_535)
    """0 picks a free port."""
    enabled: bool = True
    token: SecretStr | None = None
    """Token of the platform operator; without it only ``/healthz`` and ``/readyz`` answer."""
    stall_seconds: Positive = 60.0
    """A partition with unread records and no progress for longer makes the worker unhealthy."""
    ready_lag_events: int = Field(default=10_000, ge=0)
    """The worker is ready when it lags no further behind."""


class TrainerSettings(_Section):
    """What a trainer needs besides the database."""

    base_model: str = ""
    """Directory of the frozen base model, or the name of one that the artifact store prepares."""
    lease_seconds: Positive = 60.0
    poll_seconds: Positive = 1.0
    threads: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    half_products: bool = True
    """Multiply by frozen weights in bfloat16 while training, where the processor has instructions for it: the output
    head, and on public text all layers. Below the adapter users' texts stay in float32."""
    max_public_text_change: float | None = Field(default=0.01, ge=0)
    """A candidate that raises the loss on public text by a larger share (0.01 is 1 %) is not published; empty: no
    limit, the change is only measured."""

    http_port: int | None = Field(default=None, ge=0, le=65_535)
    """Where liveness and metrics answer, on the address and with the token of DISCREET_HTTP__; 0 picks a free port;
    empty: nowhere."""
    stall_seconds: Positive = 900.0
    """A trainer of which nothing was heard for longer (no look for work, no progress of its child) is not alive."""

    audit_depth: Literal["off", "mechanism", "gradients"] = "mechanism"
    """How each release is audited with canaries in a shadow of its plan: its mechanism alone (coins, clipping, noise
    and their composition), or with the model's own gradients, which costs as much as many trainings; off publishes
    without an audit."""
    audit_canaries: int | None = Field(default=None, ge=16, le=10_000_000)
    """Trials of an audit; by default 4,096 to 32,768 by the number of steps (256 with gradients), under a tenth of a
    round's own time. More give a bound nearer to the truth."""

    suites: Literal["off", "quick", "full"] = "off"
    """How much of the public suites (refusals, look-alikes, injections, grounding, foreign prompts, planted secrets)
    every release and every start is asked at least; a tenant's policy may ask more, and holds the limits."""

    @field_validator("audit_canaries", "http_port", mode="before")
    @classmethod
    def _empty_is_the_default(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("max_public_text_change", mode="before")
    @classmethod
    def _empty_is_no_limit(cls, value: object) -> object:
        return None if value == "" else value


class MetaSettings(_Section):
    """How meta starts are made from the released adapters of tenants that opted in; public numbers of the fleet."""

    minimum_tenants: int = Field(default=_RECIPE.minimum_tenants, ge=2)
    """Fewest different tenants behind a meta start."""
    max_delta_norm: Positive = _RECIPE.max_delta_norm
    """L2 bound on one tenant's contribution to one step."""
    outer_rate: Share = _RECIPE.outer_rate
    """How far a new generation moves from the one before; 1 makes each one an average of its own."""
    passes: int = Field(default=_RECIPE.passes, ge=1, le=1000)
    weighting: Weighting = _RECIPE.weighting
    order: Order = _RECIPE.order
    smallest_signal: float = Field(default=_RECIPE.smallest_signal, ge=0)
    """Only releases with at least this public signal-to-noise S take part."""
    most_tenants: int | None = Field(default=_RECIPE.most_tenants, ge=2)
    """At most so many tenants, those with the clearest releases first."""
    refresh_seconds: Positive = 10.0
    """Least time between two looks at what changed."""
    tenant_epsilon: float | None = Field(default=None, ge=0.01, le=64)
    """With a value, meta starts protect each tenant as a whole: most ε one tenant may lose over all of them."""
    tenant_delta: float = Field(default=1e-4, gt=0, lt=0.1)
    declared_tenants: int = Field(default=50, ge=2)
    """Public lower bound on the tenants that take part; the normalizer of the noisy sum."""
    planned_generations: int = Field(default=12, ge=1)
    """Meta starts over the lifetime, for which the noise is calibrated."""
    generation_seconds: int = Field(default=30 * 86_400, ge=1)
    """One meta start falls into each such slot of the public clock."""


class ServingSettings(TrustingSettings):
    """What the small serving process needs besides the broker and the base model."""

    port: int = Field(default=6070, ge=0, le=65_535)
    """Where it answers on the loopback; 0 picks a free port."""
    token: SecretStr | None = None
    """Bearer token that reaches every adapter line; without it and scoped_tokens the process refuses to start."""
    scoped_tokens: SecretStr | None = None
    """Tokens that reach the adapter lines named behind them and no other: ``TOKEN=LINE,LINE;TOKEN=LINE``. The
    lines of a tenant stand in ``discreet adapters list --json``."""
    server_id: str = "discreet-serve"
    """Name of this server in its reports; stable over restarts."""


class GatewaySettings(TrustingSettings):
    """The OpenAI-compatible front door of one engine."""

    host: str = "127.0.0.1"
    port: int = Field(default=6080, ge=0, le=65_535)
    """0 picks a free port."""
    model: str = Field(default="discreet", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """The name under which products ask; ``NAME/DOMAIN`` asks another of the tenant's domains, ``NAME@base`` the plain
    base model."""
    engine: Literal["vllm", "llamacpp", "discreet", "openai"] = "discreet"
    """What answers: vLLM, llama.cpp's server, ``discreet serve``, or any server with OpenAI's API, which is asked with
    prompt templates alone."""
    url: str = "http://127.0.0.1:6070"
    """Address of the engine, without ``/v1``."""
    engine_token: SecretStr | None = None
    """Bearer token for the engine; for ``discreet serve`` by default DISCREET_SERVING__TOKEN."""
    engine_model: str = ""
    """Name of the base model at the engine; empty: the same as ``model``."""
    server_id: str = "discreet-serve"
    """Server whose word counts on which versions are verified: the bridge beside the engine."""
    bridge_url: str = ""
    """Address of the bridge beside the engine; it is told what is asked for, so that the engine's places go to who uses
    them. Empty: nobody is."""
    bridge_token: SecretStr | None = None
    """Bearer token of that bridge: its DISCREET_BRIDGE__TOKEN."""
    fallback_url: str = ""
    """Asked when the engine does not answer, with templates alone; empty: nobody is."""
    fallback_token: SecretStr | None = None
    fallback_model: str = ""
    """Name of the model there; empty: the same as ``engine_model``."""
    template: Literal["instead", "always", "never"] = "instead"
    """When the prompt template of a style card is used: where no adapter is applied, always, or never."""
    presence_penalty: float = Field(default=PRESENCE_PENALTY, ge=0.0, le=2.0)
    """Of answers with an adapter, where the request sets none; without it a small model repeats itself. 0: none."""
    constrained: bool = True
    """Hold answers to a style card's frames where the engine can and the request bounds its tokens."""
    public_keys: str = ""
    """Keys whose signatures on adapters count; empty: those of DISCREET_SERVING__PUBLIC_KEYS."""
    most_requests: int = Field(default=256, ge=1)
    """Requests in progress; beyond it 503."""
    most_requests_per_tenant: int = Field(default=64, ge=1)
    """Of one tenant; beyond it 429."""
    most_body_bytes: int = Field(default=1_000_000, ge=1_024, le=64 * 2**20)
    connect_seconds: Positive = 2.0
    first_seconds: Positive = 60.0
    """Until the first piece of a stream."""
    between_seconds: Positive = 30.0
    """Between two pieces of a stream."""
    whole_seconds: Positive = 300.0
    """For an answer in one piece."""
    ping_seconds: Positive = 12.0
    """After which silence a stream says that it is still there; proxies cut what is silent, often at 60 s."""
    drain_seconds: Positive = 30.0
    """How long requests in progress may take when the gateway is told to stop."""
    look_seconds: Positive = 1.0
    """Between two looks at what the engine holds and at the database; a revoked token is refused no later."""
    trust_seconds: Positive = 300.0
    """How long the gateway answers by what it read last while the database is away."""
    feedback_seconds: Positive = 3_600.0
    """How long an answer is kept, encrypted and in memory alone, for its user's feedback."""
    feedback_answers: int = Field(default=20_000, ge=1)
    """Most answers kept; the oldest go first."""
    feedback_bytes: int = Field(default=64 * 2**20, ge=4_096)
    routes: Path | None = None
    """A file with prompts that say what domains are about, one JSON object a line: ``tenant`` (``*`` is every one),
    ``domain``, ``prompt``. With it, a request to ``NAME`` of a tenant with several lines goes to the domain that its
    prompt fits; a domain without such prompts is known by its style card's prompt forms."""
    route_by: Literal["words", "meaning"] = "words"
    """How domains are told apart: by words alone, in microseconds; or, where words are not sure, by what a prompt means
    too, in some ten milliseconds of one core. Meaning needs discreet[memory], English, and prompts in ``routes`` for
    each of a tenant's domains."""
    route_floor: Positive = 0.2
    """Smallest score, mean log-odds of a prompt's features in nats, at which a domain's line answers."""
    route_margin: Positive = 0.05
    """Smallest lead over the second; below it the tenant's default line, or the base, answers."""
    latency_budgets: dict[str, Positive] = Field(default_factory=dict)
    """Milliseconds by tenant, as JSON: what is dropped first to stay within them is the memory, then the constraint,
    then terms in the prompt, then the template, then the adapter."""
    memory: bool = False
    """Look questions up in the tenant's approved documents (``discreet memory``, DISCREET_MEMORY__KEY)."""
    memory_passages: int = Field(default=1, ge=1, le=8)
    """Most passages before a question; small models copy from one, adapters that rehearsed notes from the first."""
    memory_floor: float = Field(default=0.3, ge=-1, le=1)
    """Smallest similarity of meanings at which a passage is sent; below it nothing was found."""
    memory_seconds: Positive = 2.0
    """How long a request waits for the memory before it is answered without."""
    memory_chunks: int = Field(default=500_000, ge=1_000)
    """Passages of all tenants that a gateway holds at once (about 2.5 KiB each)."""


class MemorySettings(_Section):
    """What tenants' approved documents are kept with; for the gateway and for ``discreet memory``, which must agree."""

    key: SecretStr | None = None
    """32 bytes in base64, belonging to nothing else. A gateway has this key and no other, so it can open no user's
    texts."""
    key_file: Path | None = None
    """File with the same, for who owns it alone. Empty: one in the state directory, made at first use."""
    older_keys: SecretStr | None = None
    """Keys that were used before, in base64, separated by commas; a document that is added again is sealed with the
    newest."""
    embedder: Literal["auto", "bundled", "none"] = "auto"
    """Whether documents are found by meaning too: the bundled model (``discreet[memory]``) if it is installed, the
    bundled model or an error, or by words alone."""
    vectors: Literal["here", "pgvector"] = "here"
    """Where meanings are compared: in the process that asks, or in PostgreSQL with the extension ``vector``."""

    @field_validator("key", "older_keys")
    @classmethod
    def _keys_have_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        for key in () if value is None else value.get_secret_value().split(","):
            _key_bytes(key.strip())
        return value

    @field_validator("key", "key_file", "older_keys", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    def older(self) -> list[bytes]:
        """Return the keys that were used before."""
        given = "" if self.older_keys is None else self.older_keys.get_secret_value()
        return [_key_bytes(key.strip()) for key in given.split(",") if key.strip()]


class BridgeSettings(_Section):
    """What a bridge needs besides the broker and the keys of ``DISCREET_SERVING__``; one bridge beside one engine."""

    port: int = Field(default=6071, ge=0, le=65_535)
    """Where it answers on the loopback; 0 picks a free port."""
    token: SecretStr | None = None
    """Bearer token of every request but ``/healthz``; without it the process refuses to start."""
    base_model: str = ""
    """Directory of the base that the engine serves, or the name of a bundled one: its digests must be the manifests'.
    For llama.cpp too: the GGUF file was made of it."""
    engine_url: str = "http://127.0.0.1:8000"
    """Address of vLLM; keep it private."""
    engine_key: SecretStr | None = None
    """Key of the engine."""
    engine_model: str = ""
    """Name of the base in vLLM (``--served-model-name``)."""
    precision: Literal["float32", "float16", "bfloat16", "quantized"] = "bfloat16"
    """Of vLLM's base; llama.cpp's is read from the file."""
    capacity: int = Field(default=4, ge=1, le=10_000)
    """Most adapters in the engine at once: vLLM's ``--max-cpu-loras``."""
    most_rank: int = Field(default=16, ge=1, le=512)
    """Largest rank that the engine reserves: vLLM's ``--max-lora-rank``."""
    directory: str = ""
    """Where ``discreet bridge directory`` puts adapters."""
    gguf: str = ""
    """Base model of llama.cpp, a GGUF file; empty: the bundled one."""
    engine: str = ""
    """Where llama.cpp was installed by ``--install-engine``, or the path of a ``llama-server``."""
    engine_port: int = Field(default=8080, ge=1, le=65_535)
    """Where llama.cpp listens on the loopback."""
    context: int = Field(default=4096, ge=64)
    """Tokens of all of llama.cpp's slots together."""
    slots: int = Field(default=2, ge=1, le=64)
    """Requests that llama.cpp answers at once."""
    threads: int = Field(default=1, ge=1, le=512)
    """Of llama.cpp."""
    linger_seconds: float = Field(default=30.0, ge=0)
    """How long a version stays after its line left it, for requests that are on their way."""


class CeilingSettings(_Section):
    """What the platform allows any tenant's policy at most.

    Worker, trainers and the command line must agree on it: a policy above is refused when it is set, and its rounds are
    declined.
    """

    period_epsilon: float = Field(default=_CEILINGS.period_epsilon, ge=0.01, le=64)
    lifetime_epsilon: float = Field(default=_CEILINGS.lifetime_epsilon, ge=0.01, le=64)
    delta: float = Field(default=_CEILINGS.delta, ge=1e-15, le=1e-3)
    """Of a period and of a lifetime."""
    contribution_bound: int = Field(default=_CEILINGS.contribution_bound, ge=1, le=1000)
    minimum_cohort: int = Field(default=_CEILINGS.minimum_cohort, ge=1)
    """The smallest that a policy may name."""
    drift_share: float = Field(default=_CEILINGS.drift_share, ge=0, le=0.5)
    """Most of a budget that readings of drift may take."""

    def ceilings(self) -> PolicyCeilings:
        """Return them as what policies are checked against."""
        return PolicyCeilings(**self.model_dump())


class LogSettings(_Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="DISCREET_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    state: Path = Path("discreet-state")
    """Directory of everything this machine keeps: SQLite file, artifacts, converted models."""
    master_key: SecretStr | None = None
    """32 bytes in base64; wraps every tenant's keys. Processes that need keys refuse to start without it, unless
    DISCREET_KEYS__TRANSIT_URL names a server that has one."""
    artifacts: str = ""
    """Directory of the content-addressed artifact store, or ``s3://bucket/prefix`` (``discreet[s3]``; endpoint and
    credentials are the environment's ``AWS_…``); empty means one in the state directory. It belongs to this database
    alone: versions that the registry does not know are deleted a day after they were written."""
    database: DatabaseSettings = DatabaseSettings()
    keys: KeySettings = KeySettings()
    backups: BackupSettings = BackupSettings()
    signing: SigningSettings = SigningSettings()
    broker: BrokerSettings = BrokerSettings()
    ingest: IngestSettings = IngestSettings()
    outbox: OutboxSettings = OutboxSettings()
    anchor: AnchorSettings = AnchorSettings()
    flags: FlagSettings = FlagSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    http: HttpSettings = HttpSettings()
    trainer: TrainerSettings = TrainerSettings()
    meta: MetaSettings = MetaSettings()
    serving: ServingSettings = ServingSettings()
    gateway: GatewaySettings = GatewaySettings()
    memory: MemorySettings = MemorySettings()
    bridge: BridgeSettings = BridgeSettings()
    ceilings: CeilingSettings = CeilingSettings()
    log: LogSettings = LogSettings()

    @field_validator("master_key")
    @classmethod
    def _master_key_has_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _key_bytes(value.get_secret_value())
        return value

    @property
    def database_url(self) -> str:
        """URL of the database, with the default filled in."""
        return self.database.url or f"sqlite:///{self.state / 'discreet.sqlite3'}"

    @property
    def artifact_address(self) -> str:
        """Where the artifact store is, with the default filled in."""
        return self.artifacts or str(self.state / "artifacts")

    @property
    def artifact_copies(self) -> Path:
        """Directory of this machine's copies of what an artifact store elsewhere holds."""
        return self.state / "artifact-copies"

    @property
    def key_store_url(self) -> str:
        """URL of the key store, with the default filled in.

        Raises:
            SettingsError: it must be set, or names the database of the texts.
        """
        if self.keys.url:
            if self.keys.url == self.database_url:
                raise SettingsError(
                    "DISCREET_KEYS__URL names the database of the texts; name another one, with backups of its own"
                )
            return self.keys.url
        scheme, _, path = self.database_url.partition(":///")
        if scheme != "sqlite" or not path:
            raise SettingsError(
                "no key store is set; put a database other than DISCREET_DATABASE__URL into DISCREET_KEYS__URL, "
                "one whose "
                "backups are kept for as short as DISCREET_BACKUPS__KEYS_DAYS says"
            )
        file = Path(path.partition("?")[0])
        return f"sqlite:///{file.with_name(f'{file.stem}-keys{file.suffix}')}"

    @property
    def adapter_key_file(self) -> Path:
        """File of the key that adapter versions are signed with, with the default filled in."""
        return self.signing.adapter_key_file or self.state / "adapter-signing.key"

    @property
    def memory_key_file(self) -> Path:
        """File of the key that documents are sealed with, with the default filled in."""
        return self.memory.key_file or self.state / "memory.key"

    def master_keys(self) -> list[bytes]:
        """Return every master key that is set, the newest first; none where a server has it."""
        newest = [] if self.master_key is None else [self.master_key_bytes()]
        return newest + self.keys.older_keys()

    def master_key_bytes(self) -> bytes:
        """Return the master key.

        Raises:
            SettingsError: no master key is set.
        """
        if self.master_key is None:
            raise SettingsError(
                "no master key is set; put 32 random bytes in base64 into DISCREET_MASTER_KEY"
            )
        return base64.b64decode(self.master_key.get_secret_value())


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a value is outside its range; the text names the variable and the rule, never the
            value of a secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        variable = "DISCREET_" + "__".join(str(part).upper() for part in first["loc"])
        now = RENAMED.get(variable) if first["type"] == "extra_forbidden" else None
        why = first["msg"] if now is None else f"it is now {now}"
        raise SettingsError(f"the setting {variable} is not allowed: {why}") from None
