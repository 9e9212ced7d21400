"""A Tier 3 record for the Differential Privacy Deployments Registry, filled in from a privacy statement.

The field names and allowed words are those of the registry's public schema (opendp/deployments-registry-data,
deployments with the groups basic, dp_variant, privacy_loss, deployment_model, implementation and
administrative); ``registry_record.schema.json`` beside this module states them in our own words, and every
record is checked against it before it is returned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema

from privacy.errors import PolicyError
from privacy.reports.statement import mechanism_sentence

if TYPE_CHECKING:
    from privacy.reports.statement import PrivacyStatement


@dataclass(frozen=True, kw_only=True)
class DeploymentDescription:
    """What the ledger cannot know: who publishes what, for whom and where.

    Attributes:
        curator: name of the entity that publishes.
        curator_type: Government, Industry or Nonprofit.
        name: of the data product; None names it after the tenant.
        intended_use: what the adapters are for.
        region: what region the data describe.
        sector: Technology, Healthcare, Education, Government, Energy or Finance.
        author: who files the record.
    """

    curator: str
    author: str
    curator_type: str = "Industry"
    name: str | None = None
    intended_use: str = "Answers of a language model product in the style that a tenant's users prefer."
    region: str = "Not stated"
    sector: str = "Technology"


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 7) that records are checked against."""
    text = (
        resources.files("privacy.reports").joinpath("registry_record.schema.json").read_text(encoding="utf-8")
    )
    schema: dict[str, Any] = json.loads(text)
    return schema


def registry_record(statement: PrivacyStatement, description: DeploymentDescription) -> dict[str, Any]:
    """Return the record of a tenant's adapters.

    Raises:
        PolicyError: a word of the description is not one that the registry allows.
    """
    facts = statement.to_document()
    policy = facts["policy"] or {}
    record = {
        "url_slug": f"discreet-{facts['tenant']}",
        "deployment": {
            "basic": _basic(facts, description),
            "dp_variant": _dp_variant(policy),
            "privacy_loss": _privacy_loss(facts, policy),
            "deployment_model": _deployment_model(facts, policy),
            "implementation": _implementation(facts),
            "administrative": {"status": "Draft", "registry_authors": [description.author], "tier": 3},
        },
    }
    try:
        jsonschema.Draft7Validator(
            record_schema(), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
        ).validate(record)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        raise PolicyError(f"the registry record does not allow {where}: {error.message}") from error
    return record


def _basic(facts: dict[str, Any], description: DeploymentDescription) -> dict[str, Any]:
    releases = facts["releases"]
    first = releases[0]["reserved_at"] if releases else facts["generated_at"]
    return {
        "name": description.name or f"Personalization adapters of {facts['tenant']}",
        "data_curators": [
            {"data_curator_name": description.curator, "data_curator_type": description.curator_type}
        ],
        "description": (
            "Low-rank adapters of a language model, trained again and again on how one tenant's users accept, edit "
            "or reject answers."
        ),
        "intended_use": description.intended_use,
        "data_product_type": "Machine learning model",
        "data_product_region": description.region,
        "data_product_sector": description.sector,
        "publication_date": first[:10],
    }


def _dp_variant(policy: dict[str, Any]) -> dict[str, Any]:
    bound = policy.get("contribution_bound", "a fixed number of")
    return {
        "variant_name": "Approximate DP",
        "data_domain": (
            "Sets of users of the tenant; a user is all of that user's consented interactions, at most "
            f"{bound} per period."
        ),
        "unprotected_quantities": (
            "Public by policy: declared number of users, sample rate, clipping norm, steps, noise, schedule, and the "
            f"budget that is left. {_times(policy)} To the trusted operator alone: logs, metrics, traces, times of "
            "files, and events that were refused, which are kept as they came for the retention of their topic. Every "
            "field that leaves has a mark in the privacy statement."
        ),
    }


def _times(policy: dict[str, Any]) -> str:
    said = "Published times are instants of the public schedule, never of when training ended."
    padding = policy.get("release_padding_seconds", 0)
    if padding:
        return f"{said} A release appears at the end of a window of {padding} seconds of the public clock."
    return f"{said} When a release appears is not protected: it appears once it is trained."


def _privacy_loss(facts: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    promised = facts["guarantee"]
    return {
        "privacy_unit": "User",
        "privacy_unit_details": (
            "Two datasets are adjacent if one is the other with all interactions of one user added or removed, over "
            "all releases (distance: number of differing users; bound: 1)."
        ),
        **({"number_of_privacy_units": policy["declared_users"]} if policy else {}),
        "privacy_parameters": {"epsilon": promised["epsilon"], "delta": promised["delta"]},
        "privacy_parameters_details": (
            "Cap over the tenant's lifetime, enforced before data is read. Spent so far: epsilon "
            f"{facts['spent']['epsilon']:.4g} at the same delta (best order, for parameters fixed in advance)."
        ),
    }


def _deployment_model(facts: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_name": "Central",
        "model_name_details": "The operator holds the interactions and adds the noise in training.",
        "trust_assumptions": " ".join(facts["assumptions"]),
        "actors": (
            "Users and the tenant's product: send interactions. The operator: trusted to hold them encrypted and to "
            "run this code. Serving systems, the tenant's readers of adapters and everyone they share them with: not "
            "trusted."
        ),
        "release_type": "Many releases",
        "release_type_details": _release_details(facts, policy),
        "data_source_type": "Dynamic",
        "data_source_type_details": (
            "New interactions arrive all the time; old ones expire after the retention of "
            f"{policy.get('retention_days', 'some')} days."
        ),
        "access_type": "Non-interactive",
        "access_type_details": "Nobody queries the data; adapters and their statements are published.",
    }


def _implementation(facts: dict[str, Any]) -> dict[str, Any]:
    accountant, ledger = facts["accountant"], facts["ledger"]
    return {
        "preprocessing_and_hyperparameter_tuning": (
            "Each interaction is redacted by rules of its own; users' contributions are bounded before sampling by "
            "keyed hashes of their own events. Hyperparameters come from the public policy, never from the data; a "
            "private selection would be a charged mechanism."
        ),
        "mechanisms": "\n".join(f"- {sentence}" for sentence in _mechanisms(facts)),
        "composition": (
            f"Sequential over all releases by Rényi DP ({accountant['name']} {accountant['version']}), admitted by a "
            f"{facts['filter']['rule']} filter in an append-only, hash-chained ledger; a crashed run stays charged. "
            f"{facts['filter']['selection_share']:.0%} of delta is kept for selections with approximate guarantees."
        ),
        "post_processing": (
            "Averaging of iterates, shrinkage, export, warm starts and rollbacks use released weights only."
        ),
        "justification": (
            "Fixed-order Rényi filters are proved for parameters that react to earlier releases; budgets are reserved "
            "before data is read, so that neither crashes nor retries can undercount. Not covered: "
            + " ".join(facts["not_covered"])
        ),
        "additional_information": f"Ledger of {ledger['entries']} entries, head {ledger['head']}.",
    }


def _mechanisms(facts: dict[str, Any]) -> list[str]:
    return [
        *sorted({mechanism_sentence(one) for release in facts["releases"] for one in release["mechanisms"]}),
        (
            "Implementation: Opacus optimizer over exact per-user gradients, one clip a user; noise from a ChaCha20 "
            "keystream with a secret key for each release; counts and votes use the discrete Gaussian."
        ),
        (
            "Floating point: each user's clipped gradient is rounded to whole multiples of 2^-20 of the clipping norm, "
            "its length is checked as a whole number, and sums and noise are whole numbers too (int64), so no order "
            "and no last bit tells anything; noisy sums are released in multiples of 1/512 to 1/256 of the noise's "
            "standard deviation. What ran is measured and signed (a receipt in the manifest). Not charged: rounding "
            "inside matrix products lets one user move the gradients of others in a batch, in float32 on a processor "
            "by about a millionth of the clipping norm, on a GPU (bfloat16, order by the batch's shape) by an amount "
            "that was not measured. Errors of a run are not published with it."
        ),
        "Security: interactions are encrypted under a key of each user, wrapped by the tenant's key.",
    ]


def _release_details(facts: dict[str, Any], policy: dict[str, Any]) -> str:
    promised = facts["guarantee"]
    text = (
        f"A fixed privacy loss (epsilon {promised['epsilon']:g} at delta {promised['delta']:g}) is allowed over the "
        "tenant's lifetime; after that nothing is trained on its data any more. It is never refreshed."
    )
    if policy:
        text += (
            f" Beside it a cap per period limits the pace: epsilon {policy['period_epsilon']:g} at delta "
            f"{policy['period_delta']:g} in each {policy['period_seconds'] / 86_400:g} days."
        )
    return text
