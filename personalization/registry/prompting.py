"""What people decide about a line's prompts: add a version, use it, try it on a share, roll back, stop.

Each decision is one transaction: a row that is never changed, an audit record, and an event of the line. Where the line
serves an adapter its desired state goes with the event, so template and adapter move together and in one order.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from personalization.errors import PromptMoveError, PromptTemplateError
from personalization.prompts import rows
from personalization.prompts.rendering import rendering_of
from personalization.prompts.rows import Decision, Move, Standing
from personalization.prompts.values import SignedTemplate, name_of, signed_bytes
from personalization.registry import queries as registry
from personalization.registry.announcements import AdapterEventKind, DesiredChange, announce
from privacy.audit import trail as audit_trail

if TYPE_CHECKING:
    from sqlmodel import Session

    from personalization.adapters.signing import ManifestSigner
    from personalization.prompts.tables import PromptTemplateRow
    from personalization.prompts.values import PromptTemplate
    from personalization.registry.announcements import Act, AdapterEvents
    from personalization.registry.tables import AdapterLineRow

MOST_VERSIONS: Final = 1_000  # of one line
LONGEST_REASON: Final = 500


def add(
    session: Session, signer: ManifestSigner, tenant_id: str, domain: str, template: PromptTemplate, act: Act
) -> PromptTemplateRow:
    """Register a version; nobody gets it yet. A version that is there already is returned as it is.

    Raises:
        PromptTemplateError: it holds something that a template may not hold, or the line has too many.
    """
    rendering_of(template)
    require_reason(act)
    found = registry.ensure_line(session, tenant_id, domain, now=act.now)
    line = registry.lock_line(session, found.line_ref)
    versions = rows.versions_of(session, line.line_ref)
    known = next((one for one in versions if one.version_id == template.version_id), None)
    if known is not None:
        return known
    if len(versions) >= MOST_VERSIONS:
        raise PromptTemplateError(f"a line has at most {MOST_VERSIONS:,} templates; use one that it has")
    signature = signer.sign_bytes(signed_bytes(line.line_ref, template))
    signed = SignedTemplate(
        template=template,
        number=len(versions) + 1,
        key_id=signature.key_id,
        signature=signature.signature,
    )
    row = rows.keep(session, line.line_ref, signed, actor=act.actor, reason=act.reason, now=act.now)
    _note(session, line, "prompt.added", act, version_id=row.version_id, number=row.number)
    return row


def use(
    session: Session,
    events: AdapterEvents,
    tenant_id: str,
    domain: str,
    name: str,
    act: Act,
    *,
    percent: float = 100.0,
) -> Move:
    """Give a version to everybody, or to a share of the subjects while the others keep what they have.

    Who gets it at one percentage gets it at every higher one.

    Raises:
        LineNotFoundError: the tenant's domain has no line.
        PromptNotFoundError: the line has no such version.
        PromptMoveError: everybody has it already, or the share is none.
    """
    line = registry.require_line(session, tenant_id, domain)
    version_id = rows.find(session, line.line_ref, name).version_id
    newest = _newest(session, line, act)
    if not 0 < percent <= 100:
        raise PromptMoveError(
            f"a share of {percent:g} % is asked for; allowed are more than 0 and at most 100"
        )
    if newest.current == version_id:
        raise PromptMoveError(
            f"everybody has the template {name_of(version_id)} already; nothing was changed"
        )
    if percent == 100:
        return _moved(session, events, line, Decision.USE, act, current=version_id)
    same = newest.candidate == version_id
    return _moved(
        session,
        events,
        line,
        Decision.TRY,
        act,
        current=newest.current,
        candidate=version_id,
        percent=percent,
        salt=newest.salt if same else secrets.token_hex(16),
    )


def roll_back(session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act) -> Move:
    """Leave the newest thing: the candidate if one is tried, else go back to what was used before.

    Raises:
        LineNotFoundError: the tenant's domain has no line.
        PromptMoveError: there is nothing to go back to.
    """
    line = registry.require_line(session, tenant_id, domain)
    newest = _newest(session, line, act)
    if newest.candidate is not None:
        return _moved(session, events, line, Decision.LEAVE, act, current=newest.current)
    return _moved(session, events, line, Decision.ROLL_BACK, act, current=_before(session, line))


def stop(session: Session, events: AdapterEvents, tenant_id: str, domain: str, act: Act) -> Move:
    """Use no operator's template any more: the kill switch of prompts.

    Raises:
        LineNotFoundError: the tenant's domain has no line.
        PromptMoveError: none is used.
    """
    line = registry.require_line(session, tenant_id, domain)
    newest = _newest(session, line, act)
    if newest.current is None and newest.candidate is None:
        raise PromptMoveError("the line uses no template; nothing was changed")
    return _moved(session, events, line, Decision.STOP, act)


def stands(session: Session, tenant_id: str, domain: str) -> Standing:
    """Return which templates a tenant's domain uses."""
    line = registry.find_line(session, tenant_id, domain)
    found = None if line is None else rows.standing_of(session, line.line_ref)
    return found or Standing()


def _newest(session: Session, line: AdapterLineRow, act: Act) -> Move:
    """Return how a line stands; one that nothing was decided about uses nothing."""
    moves = rows.moves_of(session, line.line_ref)
    return (
        moves[-1] if moves else Move(decision=Decision.STOP, actor=act.actor, reason=act.reason, at=act.now)
    )


def _before(session: Session, line: AdapterLineRow) -> str | None:
    """Return what was used before what is used now; each roll-back goes one further back, and none comes forward."""
    used: list[str | None] = [None]
    for one in rows.moves_of(session, line.line_ref):
        if one.decision is Decision.ROLL_BACK:
            used.pop()
        elif one.current != used[-1]:
            used.append(one.current)
    if len(used) < 2:
        raise PromptMoveError("the line used no other template before; there is nothing to go back to")
    return used[-2]


def _moved(
    session: Session,
    events: AdapterEvents,
    line: AdapterLineRow,
    decision: Decision,
    act: Act,
    *,
    current: str | None = None,
    candidate: str | None = None,
    percent: float = 0.0,
    salt: str = "",
) -> Move:
    require_reason(act)
    move = Move(
        decision=decision,
        current=current,
        candidate=candidate,
        candidate_percent=percent,
        salt=salt,
        actor=act.actor,
        reason=act.reason,
        at=act.now,
    )
    rows.append_move(session, line.line_ref, move)
    action = f"prompt.{decision.value}"
    _note(session, line, action, act, current=current, candidate=candidate, percent=percent)
    serving = registry.current_version(session, line)
    announce(
        session,
        events,
        line,
        AdapterEventKind.PROMPT_MOVED,
        act,
        version=None if serving is None else registry.read_version(serving),
        change=DesiredChange.UNCHANGED if serving is None else DesiredChange.SET,
        desired=None if serving is None else registry.read_version(serving),
    )
    return move


def _note(
    session: Session, line: AdapterLineRow, action: str, act: Act, **detail: str | float | None
) -> None:
    audit_trail.append(
        session,
        line.tenant_id,
        actor=act.actor,
        action=action,
        detail={"line_ref": line.line_ref, "reason": act.reason, **detail},
        now=act.now,
    )


def require_reason(act: Act) -> None:
    """Refuse an act without a reason that auditors can read.

    Raises:
        PromptMoveError: it has none, or a very long one.
    """
    if not act.reason.strip() or len(act.reason) > LONGEST_REASON:
        raise PromptMoveError(f"a reason of 1 to {LONGEST_REASON} characters is needed; auditors see it")
