"""The error tree of the personalization package.

    PersonalizationError
    ├── RoundError
    │   ├── RoundNotFoundError        no such round
    │   ├── RoundConflictError        the line already has an open round
    │   ├── RoundTermsError           what the round was frozen to cannot be read, or is not what it is charged for
    │   ├── RoundSealError            the sealed snapshot is missing or does not open; nothing can be repeated
    │   └── LeaseLostError            another trainer holds the round (a higher lease epoch)
    ├── ArtifactError
    │   ├── ArtifactNotFoundError     no artifact with that digest
    │   ├── ArtifactCorruptError      bytes on disk do not match their digest
    │   ├── ArtifactFormatError       a file is not safetensors or JSON, or its name is not allowed
    │   └── ArtifactStoreAwayError    the store is full, refuses or does not answer (retryable)
    ├── DriftError                    a reading of drift is one that cannot be, or cannot be gone on with
    ├── StyleCardError                a style card or an edit of one is none that can be
    ├── StyleCardNotFoundError        no version of the line carries a style card
    ├── StyleEntryNotFoundError       the style card has no such entry
    ├── PromptTemplateError           a prompt template holds what it may not hold
    ├── PromptNotFoundError           the line has no such prompt template
    ├── PromptMoveError               the verb does not apply to the line's prompts as they stand
    ├── TermsError                    terms of a line that cannot be, or a decision that changes nothing
    ├── MemoryDocumentError           a document or a collection is none that can be remembered
    ├── MemoryNotFoundError           no such document is remembered
    ├── MemoryMoveError               a collection cannot go where it is asked to go
    ├── MemoryVectorsError            the database cannot compare vectors
    ├── EmbedderMissingError          the model that finds texts by meaning is not installed
    ├── MetaStartError                released adapters cannot be combined into a start
    ├── WarmStartError                a line cannot begin from public data
    ├── ManifestError                 a manifest cannot be read
    ├── RegistryError
    │   ├── LineNotFoundError         no such adapter line
    │   ├── VersionNotFoundError      no such adapter version
    │   └── VersionStateError         the verb does not apply to a version in that state
    └── TrainingFailedError           the training child failed; the round's budget is forfeited

Same contract as :mod:`privacy.errors`: a stable ``code``, a ``retryable`` flag, an ``exit_status``, one
sentence.
"""

from __future__ import annotations

from privacy.errors import DiscreetError


class PersonalizationError(DiscreetError):
    """Base of every error raised on purpose by this package."""

    code = "personalization.error"


class RoundError(PersonalizationError):
    """Base of the errors of training rounds."""

    code = "personalization.round.error"


class RoundNotFoundError(RoundError):
    """No round has that id."""

    code = "personalization.round.unknown"


class RoundConflictError(RoundError):
    """The adapter line already has a round that is due or leased."""

    code = "personalization.round.conflict"
    exit_status = 3


class RoundTermsError(RoundError):
    """The frozen terms of a round cannot be read, or differ from what its reservation pays for."""

    code = "personalization.round.terms"


class RoundSealError(RoundError):
    """The sealed training snapshot of a round is missing or does not open."""

    code = "personalization.round.seal"


class LeaseLostError(RoundError):
    """A higher lease epoch exists, or the lease ran out: this trainer may write nothing more."""

    code = "personalization.round.lease_lost"


class DriftError(PersonalizationError):
    """A reading of drift, or what was stored of one, that cannot be or cannot be gone on with."""

    code = "personalization.drift.invalid"
    exit_status = 4


class StyleCardError(PersonalizationError):
    """A style card, an entry of one, or an edit of one, that cannot be."""

    code = "personalization.style_card.invalid"


class StyleCardNotFoundError(PersonalizationError):
    """No version of the line carries a style card."""

    code = "personalization.style_card.unknown"


class StyleEntryNotFoundError(PersonalizationError):
    """The style card has no such entry, or nothing is decided about it."""

    code = "personalization.style_entry.unknown"


class PromptTemplateError(PersonalizationError):
    """A prompt template that holds what it may not hold, or cannot be read."""

    code = "personalization.prompt.invalid"
    exit_status = 2


class PromptNotFoundError(PersonalizationError):
    """The line has no such prompt template."""

    code = "personalization.prompt.unknown"


class PromptMoveError(PersonalizationError):
    """The verb does not apply to the prompts of a line as they stand."""

    code = "personalization.prompt.state"
    exit_status = 3


class PromptChoiceError(PersonalizationError):
    """A choice among prompt templates, or what was stored of one, that cannot be or cannot be gone on with."""

    code = "personalization.prompt.choice"
    exit_status = 3


class MemoryDocumentError(PersonalizationError):
    """A document that cannot be remembered: its name, size, time or words are not what is allowed."""

    code = "personalization.memory.invalid"


class MemoryNotFoundError(PersonalizationError):
    """The tenant's memory holds no such document."""

    code = "personalization.memory.unknown"


class MemoryMoveError(PersonalizationError):
    """The verb does not apply to the versions of a collection as they stand."""

    code = "personalization.memory.state"
    exit_status = 3


class MemoryVectorsError(PersonalizationError):
    """The database cannot compare vectors: it is no PostgreSQL, or the extension is missing."""

    code = "personalization.memory.no_vectors"


class EmbedderMissingError(PersonalizationError):
    """The model that finds texts by meaning is not installed."""

    code = "personalization.memory.no_embedder"


class TermsError(PersonalizationError):
    """Terms of a line that cannot be, or a decision about them that changes nothing."""

    code = "personalization.terms.invalid"
    exit_status = 2


class MetaStartError(PersonalizationError):
    """Released adapters cannot be combined: too few tenants, or they share no frozen subspace."""

    code = "personalization.meta.refused"
    exit_status = 3


class WarmStartError(PersonalizationError):
    """A line cannot begin from public data: it was trained on users already, or no shape is allowed."""

    code = "personalization.warm_start.refused"
    exit_status = 3


class ArtifactError(PersonalizationError):
    """Base of the errors of the artifact store."""

    code = "personalization.artifact.error"


class ArtifactNotFoundError(ArtifactError):
    """The store holds no artifact with that digest."""

    code = "personalization.artifact.unknown"


class ArtifactCorruptError(ArtifactError):
    """The bytes on disk do not match the digest they are stored under; nothing is loaded."""

    code = "personalization.artifact.corrupt"
    exit_status = 4


class ArtifactFormatError(ArtifactError):
    """A file is neither safetensors nor JSON, or its name could leave the artifact's directory."""

    code = "personalization.artifact.format"


class ArtifactStoreAwayError(ArtifactError):
    """The artifact store is full, refuses or does not answer; nothing is lost, and trying again may succeed."""

    code = "personalization.artifact.store_away"
    retryable = True
    exit_status = 5


class ManifestError(PersonalizationError):
    """A manifest cannot be read."""

    code = "personalization.manifest.invalid"
    exit_status = 4


class RegistryError(PersonalizationError):
    """Base of the errors of the adapter registry."""

    code = "personalization.registry.error"


class LineNotFoundError(RegistryError):
    """No adapter line exists for that tenant and domain."""

    code = "personalization.line.unknown"


class VersionNotFoundError(RegistryError):
    """No adapter version of that name or number exists on the line."""

    code = "personalization.version.unknown"


class VersionStateError(RegistryError):
    """The verb does not apply to an adapter version in its present state."""

    code = "personalization.version.state"
    exit_status = 3


class RolloutError(PersonalizationError):
    """The verb does not apply to the rollout of a line as it stands, or a reading cannot be."""

    code = "personalization.rollout.state"
    exit_status = 3


class StoryError(PersonalizationError):
    """A file is not the story of a version."""

    code = "personalization.story.unreadable"
    exit_status = 2


class TrainingFailedError(PersonalizationError):
    """The training child ended without a result; whatever it was charged stays charged."""

    code = "personalization.training.failed"
