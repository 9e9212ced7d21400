"""Refuse a demo report that does not add up: ``python3 .ci/check_demo.py demo.json``."""

import json
import sys
from pathlib import Path


def problems(report: dict) -> list[str]:
    """Return what is wrong with the report, in words."""
    events = report["events"]
    found = []
    if events["published"] != events["stored"] + events["dead_lettered"]:
        found.append(f"events do not add up: {events}")
    for tenant in report["tenants"]:
        name = tenant["tenant"]
        if tenant["epsilon"] > tenant["target_epsilon"]:
            found.append(f"{name} spent {tenant['epsilon']} of {tenant['target_epsilon']}")
        if tenant["ledger_state"] != "committed":
            found.append(f"the ledger entry of {name} is {tenant['ledger_state']}")
        if not tenant["nll_adapter"] < tenant["nll_base"]:
            found.append(f"{name} did not improve: {tenant['nll_base']} → {tenant['nll_adapter']}")
    asked, base, adapted = (
        sum(one[name] for one in report["tenants"]) for name in ("prompts", "styled_base", "styled_adapter")
    )
    # So few users leave one tenant or another without a whole frame; many answers follow all the same.
    if not (adapted > base and 3 * adapted >= asked):
        found.append(
            f"of {asked} answers, {base} follow their tenant without adapters and {adapted} with them"
        )
    if len(report["tenants"]) < 2:
        found.append("fewer than two tenants were trained")
    return found


if __name__ == "__main__":
    wrong = problems(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    print("\n".join(wrong) or "The demo's report adds up.")
    sys.exit(1 if wrong else 0)
