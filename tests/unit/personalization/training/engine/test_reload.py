"""Any family on any linear layers of any top layers reloads through plain PEFT with the trainer's own logits."""

from __future__ import annotations

import peft
import pytest
import torch

from personalization.planning.plan import ALL_LINEAR, Family
from personalization.training.engine.batches import assemble
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.portable import export_adapter
from personalization.training.jobs.job import TenantJob
from tests.fakes.tiny_models import (
    STYLES,
    encode_user,
    make_plan,
    make_run,
    make_users,
    random_vectors,
    tiny_model,
)

SUFFIXES = [
    ("q_proj",),
    ("v_proj", "down_proj"),
    ("gate_proj", "up_proj"),
    ("k_proj", "o_proj", "up_proj"),
    ALL_LINEAR,
]
# Every style with every set of layers; families and depths take turns.
CASES = [
    (style, suffixes, list(Family)[(i + j) % 3], 1 + (i + 2 * j) % 3)
    for i, style in enumerate(STYLES)
    for j, suffixes in enumerate(SUFFIXES)
]


def our_logits(run, vectors, rows):
    members = run._prefix()[0]
    micro = assemble(members, run.decoder.device, torch.float64)
    binding = Binding(run.geometry, run.frozen, vectors, None)
    hidden = run.decoder.run(run._cache.hidden(micro), micro.batch, run_layers(run), binding)
    normed = run.decoder._norm(hidden, run.decoder._body.norm)
    logits = normed @ run.decoder.model.get_output_embeddings().weight.t()
    cap = run.decoder.head._softcap
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    return logits.split([row.length for row in rows])


def run_layers(run):
    return range(run.geometry.first_layer, run.decoder.layer_count)


@torch.no_grad()
@pytest.mark.parametrize(("style", "suffixes", "family", "top_layers"), CASES)
def test_reloaded_adapter_gives_the_trainers_logits(tmp_path, style, suffixes, family, top_layers):
    plan = make_plan(family=family, target_modules=suffixes, top_layers=top_layers)
    job = TenantJob(job_key="a", plan=plan, users=make_users((3,), (9,)), noise_key=bytes(32))
    run = make_run(style, [job])
    vectors = random_vectors(run)
    export_adapter(tmp_path / "a", run.geometry, vectors[0], run.frozen, "base")
    plain = tiny_model(style).to(torch.float64)
    plain.set_attn_implementation("eager")  # the only one that keeps Gemma 2's soft cap
    model = peft.PeftModel.from_pretrained(plain, str(tmp_path / "a"))
    assert {name.split(".")[-1] for name in model.peft_config["default"].target_modules} == set(suffixes)
    rows = [row for user in job.users for row in encode_user(run.encoder, user, plan).examples[0].rows]
    for row, ours in zip(rows, our_logits(run, vectors, rows), strict=True):
        ids = torch.tensor([row.tokens[:-1]])
        theirs = model(ids).logits[0]
        # Norms of the reference compute in float32, and the adapter is stored in float32.
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=2e-5)
        with model.disable_adapter():
            assert float((model(ids).logits[0] - theirs).abs().max()) > 1e-3
