"""Jobs, progress, results and failures as JSON bytes between parent and child; no torch here."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from personalization.adapters.activation import Activation
from personalization.canaries.values import AuditDepth, AuditRequest, CanaryScores
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.styles.card import StyleCard
from personalization.suites.values import SuiteDepth, SuiteScores
from personalization.training import errors
from personalization.training.errors import ChildFailedError, TrainingError
from personalization.training.jobs.job import (
    Ballot,
    Example,
    ExampleKind,
    Progress,
    PublicJob,
    PublicLosses,
    PublicPartFacts,
    SuiteJob,
    TenantJob,
    TenantResult,
    TrainingJob,
    UserExamples,
    VoteJob,
    Votes,
)
from personalization.training.jobs.receipt import SignedReceipt
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide


def encode_job(job: TrainingJob | PublicJob | SuiteJob | VoteJob) -> bytes:
    """Encode a job; secret keys travel as base64 inside the pipe and nowhere else."""
    if isinstance(job, VoteJob):
        return json.dumps(asdict(job)).encode()
    if isinstance(job, SuiteJob):
        adapters = {name: str(path) for name, path in job.adapters.items()}
        return json.dumps({**asdict(job), "adapters": adapters}).encode()
    if isinstance(job, PublicJob):
        return _encode_public(job)
    tenants = [
        {
            "job_key": tenant.job_key,
            "plan": tenant.plan.to_document(),
            "users": [[asdict(example) for example in user.examples] for user in tenant.users],
            "noise_key": base64.b64encode(tenant.noise_key).decode(),
            "receipt_key": None
            if tenant.receipt_key is None
            else base64.b64encode(tenant.receipt_key).decode(),
            "start_adapter": _text(tenant.start_adapter),
            "blend_with": _text(tenant.blend_with),
            "blend_share": tenant.blend_share,
            "card": None if tenant.card is None else tenant.card.to_document(),
            "suites": tenant.suites.value,
            "notes": tenant.notes,
            "remembers": None if tenant.remembers is None else tenant.remembers.to_document(),
        }
        for tenant in job.tenants
    ]
    return json.dumps(
        {
            "base_model": job.base_model,
            "tenants": tenants,
            "output": str(job.output),
            "flags": asdict(job.flags),
            "audit": None if job.audit is None else asdict(job.audit),
        }
    ).encode()


def _encode_public(job: PublicJob) -> bytes:
    work: dict[str, Any] | None = None
    if isinstance(job.work, StyleGuide):
        work = {"style_guide": job.work.to_document()}
    elif job.work is not None:
        work = {"maml": job.work.to_document()}
    return json.dumps(
        {
            "base_model": job.base_model,
            "plan": job.plan.to_document(),
            "output": str(job.output),
            "work": work,
            "flags": asdict(job.flags),
            "suites": job.suites.value,
        }
    ).encode()


def _decode_public(document: dict[str, Any]) -> PublicJob:
    work: StyleGuide | MamlRecipe | None = None
    if document["work"] is not None:
        guide = document["work"].get("style_guide")
        work = (
            StyleGuide.from_document(guide) if guide else MamlRecipe.from_document(document["work"]["maml"])
        )
    return PublicJob(
        base_model=document["base_model"],
        plan=TrainingPlan.from_document(document["plan"]),
        output=Path(document["output"]),
        work=work,
        flags=PerformanceFlags(**document["flags"]),
        suites=SuiteDepth(document["suites"]),
    )


def decode_job(data: bytes) -> TrainingJob | PublicJob | SuiteJob | VoteJob:
    """Read ``encode_job``'s bytes back to an equal job."""
    document = json.loads(data)
    if "ballots" in document:
        return VoteJob(
            base_model=document["base_model"],
            ballots=tuple(
                Ballot(candidates=tuple(_user(one["examples"]) for one in ballot["candidates"]))
                for ballot in document["ballots"]
            ),
            max_tokens=document["max_tokens"],
            flags=PerformanceFlags(**document["flags"]),
        )
    if "adapters" in document:
        return SuiteJob(
            base_model=document["base_model"],
            adapters={name: Path(path) for name, path in document["adapters"].items()},
            depth=SuiteDepth(document["depth"]),
            flags=PerformanceFlags(**document["flags"]),
        )
    if "tenants" not in document:
        return _decode_public(document)
    tenants = tuple(
        TenantJob(
            job_key=tenant["job_key"],
            plan=TrainingPlan.from_document(tenant["plan"]),
            users=tuple(_user(user) for user in tenant["users"]),
            noise_key=base64.b64decode(tenant["noise_key"]),
            receipt_key=None if tenant["receipt_key"] is None else base64.b64decode(tenant["receipt_key"]),
            start_adapter=_path(tenant["start_adapter"]),
            blend_with=_path(tenant["blend_with"]),
            blend_share=tenant["blend_share"],
            card=None if tenant["card"] is None else StyleCard.from_document(tenant["card"]),
            suites=SuiteDepth(tenant["suites"]),
            notes=tenant["notes"],
            remembers=None if tenant["remembers"] is None else PublicPartFacts(**tenant["remembers"]),
        )
        for tenant in document["tenants"]
    )
    return TrainingJob(
        base_model=document["base_model"],
        tenants=tenants,
        output=Path(document["output"]),
        flags=PerformanceFlags(**document["flags"]),
        audit=_request(document["audit"]),
    )


def _request(document: dict[str, Any] | None) -> AuditRequest | None:
    if document is None:
        return None
    return AuditRequest(**{**document, "depth": AuditDepth(document["depth"])})


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _user(examples: list[dict[str, Any]]) -> UserExamples:
    return UserExamples(examples=tuple(_example(one) for one in examples))


def _example(document: dict[str, Any]) -> Example:
    return Example(**{**document, "kind": ExampleKind(document["kind"])})


def encode_progress(progress: Progress) -> bytes:
    """Encode one progress report."""
    return json.dumps({"progress": asdict(progress)}).encode()


def encode_results(results: tuple[TenantResult, ...]) -> bytes:
    """Encode the results of a finished job."""
    return json.dumps({"results": [_result_document(result) for result in results]}).encode()


def encode_votes(votes: Votes) -> bytes:
    """Encode what the users of a finished job vote for."""
    return json.dumps({"votes": list(votes.of_users)}).encode()


def _result_document(result: TenantResult) -> dict[str, Any]:
    return {
        **asdict(result),
        "adapter": str(result.adapter),
        "receipt": None if result.receipt is None else result.receipt.to_document(),
        "audit": None if result.audit is None else result.audit.to_document(),
        "suites": None if result.suites is None else result.suites.to_document(),
    }


def encode_failure(error: BaseException) -> bytes:
    """Encode a failure: its code, and its text only where this package wrote it (another's may quote a person)."""
    if isinstance(error, TrainingError):
        return json.dumps({"failure": {"name": type(error).__name__, "text": str(error)}}).encode()
    text = f"training failed with {type(error).__name__}; run the round again or with --debug on the trainer"
    return json.dumps({"failure": {"name": ChildFailedError.__name__, "text": text}}).encode()


def decode_reply(data: bytes) -> Progress | Votes | tuple[TenantResult, ...]:
    """Read what the child sent.

    Raises:
        TrainingError: the child reported a failure; the class is the one it raised.
    """
    document = json.loads(data)
    if "progress" in document:
        return Progress(**document["progress"])
    if "votes" in document:
        return Votes(of_users=tuple(document["votes"]))
    if "results" in document:
        return tuple(_result(one) for one in document["results"])
    failure = document["failure"]
    kind = getattr(errors, failure["name"], ChildFailedError)
    raise kind(failure["text"])


def _result(document: dict[str, Any]) -> TenantResult:
    losses = document["public_losses"]
    if losses is not None:
        losses = PublicLosses(base=tuple(losses["base"]), adapted=tuple(losses["adapted"]))
    activation = document.get("activation")
    receipt, audit, part = document["receipt"], document["audit"], document.get("public_part")
    suites = document.get("suites")
    return TenantResult(
        **{
            **document,
            "adapter": Path(document["adapter"]),
            "public_losses": losses,
            "activation": None if activation is None else Activation.from_document(activation),
            "receipt": None if receipt is None else SignedReceipt.from_document(receipt),
            "audit": None if audit is None else CanaryScores.from_document(audit),
            "public_part": None if part is None else PublicPartFacts(**part),
            "suites": None if suites is None else SuiteScores.from_document(suites),
        }
    )
