"""A public part and a private core leave as one adapter that does what the merged base with the core does."""

from __future__ import annotations

import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from personalization.adapters.factors import average_versions, blend, read_config, split_factors
from personalization.adapters.parts import has_public_part, private_names
from personalization.errors import MetaStartError
from personalization.gates.drift import movement
from personalization.gates.gate import Accepted, RejectionReason, judge
from personalization.planning.plan import ALL_LINEAR, FEED_FORWARD, PerformanceFlags
from personalization.training.child import job as child
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.portable import import_adapter, read_factors
from personalization.training.errors import AdapterFormatError
from personalization.training.jobs.job import TenantJob, TrainingJob
from personalization.training.jobs.wire import decode_job, decode_reply, encode_job, encode_results
from personalization.training.metric.frozen import LoadedShape
from personalization.training.metric.sparing import LARGEST_CHANGE, pulled_back
from personalization.training.public.texts import protected_users, public_users
from personalization.training.run import fused
from personalization.training.run.fused import train
from personalization.training.run.host import AdapterHost
from personalization.training.run.measure import nll_per_user
from personalization.training.styles import foundation, public_part
from personalization.training.styles.foundation import lay_foundation, merged, part_key
from tests.fakes.small_public_parts import make_public_parts_small
from tests.fakes.tiny_models import (
    damped_plan,
    make_plan,
    make_users,
    poor_card,
    style_card,
    tiny_model,
    tiny_tokenizer,
    write_tiny_base,
)

FLAGS = PerformanceFlags(device="cpu")
PLAN = damped_plan(rank=4, max_tokens=60, steps=2)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_public_parts_small(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def tenant(key="a", card=None, plan=PLAN, **changes):
    return TenantJob(
        job_key=key,
        plan=plan,
        users=make_users((3,), (5, 2), (4,)),
        noise_key=bytes(32),
        card=card,
        **changes,
    )


def job_of(base, output, *tenants):
    return TrainingJob(base_model=str(base), tenants=tenants, output=output, flags=FLAGS)


def trained(base, output, *tenants):
    return train(job_of(base, output, *tenants), lambda _p: None)


def shape_on(base, plan=PLAN):
    decoder, encoder = loaded_base(base, FLAGS)
    return LoadedShape.of_plan(decoder, encoder, plan, FLAGS)


def parts_of(adapter):
    """The factors of the public and of the private part."""
    factors, _ = read_factors(adapter)
    own = {(2, suffix) for suffix in FEED_FORWARD}
    return (
        {key: pair for key, pair in factors.items() if key not in own},
        {key: pair for key, pair in factors.items() if key in own},
    )


def test_the_combined_adapter_is_the_merged_base_with_the_core(base, tmp_path):
    (result,) = trained(base, tmp_path / "out", tenant(card=style_card()))
    shape = shape_on(base)
    public, _ = parts_of(result.adapter)
    own = merged(shape.decoder, public, shape.geometry.scaling)
    core = import_adapter(result.adapter, shape.geometry, shape.frozen)
    tokens = torch.arange(3, 23)
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(plain, str(result.adapter))(tokens[None]).logits[0]
        hidden = own.model.model(tokens[None]).last_hidden_state  # the merged base alone, without the core
        without = own.model.lm_head(hidden)[0]
    users = make_users((6,), (4,))
    assert float((theirs - without).abs().max()) > 1e-4  # the core does something
    from personalization.training.engine.batches import Member, assemble

    micro = assemble([Member(0, shape.read(user), ()) for user in users], own.device, torch.float32)
    binding = Binding(shape.geometry, shape.frozen, core.float()[None], None)
    with torch.no_grad():
        out = own.run(own.embed(micro.tokens), micro.batch, range(own.layer_count), binding, labels_only=True)
        weighted = micro.terms.sft * own.head.label_nll(out, micro.batch.targets)
    ours = torch.zeros(2).index_add_(0, micro.batch.label_groups.users.of_token, weighted).tolist()
    assert ours == pytest.approx(nll_per_user(base, result.adapter, users, max_tokens=60), rel=1e-4)


def test_the_core_of_a_combined_adapter_is_what_the_run_released(base, tmp_path):
    (result,) = trained(base, tmp_path / "out", tenant(card=style_card()))
    shape = shape_on(base)
    core = import_adapter(result.adapter, shape.geometry, shape.frozen)
    assert float(torch.linalg.vector_norm(core)) == pytest.approx(result.delta_norm, rel=1e-4)
    again = trained(base, tmp_path / "next", tenant(card=style_card("MADE"), start_adapter=result.adapter))
    assert again[0].public_part is not None
    other = damped_plan(rank=4, alpha=8.0, max_tokens=60)
    far = LoadedShape.of_plan(shape.decoder, shape.encoder, other, FLAGS)
    with pytest.raises(AdapterFormatError, match="scaling"):
        import_adapter(result.adapter, far.geometry, far.frozen)
    moved = {key: (down.roll(1, 0), up) for key, (down, up) in shape.frozen.items()}
    with pytest.raises(AdapterFormatError, match="another frozen subspace"):
        import_adapter(result.adapter, shape.geometry, moved)


def test_a_file_that_does_not_say_which_part_is_private_is_refused_as_a_start(base, tmp_path):
    from safetensors.torch import save_file

    (result,) = trained(base, tmp_path / "out", tenant(card=style_card()))
    save_file(load_file(result.adapter / WEIGHTS), result.adapter / WEIGHTS, metadata={"format": "pt"})
    shape = shape_on(base)
    with pytest.raises(AdapterFormatError, match="other layers"):
        import_adapter(result.adapter, shape.geometry, shape.frozen)


def test_the_same_card_gives_the_same_bytes(base, tmp_path):
    (one,) = trained(base, tmp_path / "one", tenant(card=style_card()))
    for again in range(4):  # the library that writes the file keeps its metadata in no order
        (two,) = trained(base, tmp_path / f"again{again}", tenant(card=style_card()))
        assert (one.adapter / WEIGHTS).read_bytes() == (two.adapter / WEIGHTS).read_bytes()
    assert one.public_part == two.public_part
    (three,) = trained(base, tmp_path / "three", tenant(card=style_card(seed=1)))
    assert (one.adapter / WEIGHTS).read_bytes() != (three.adapter / WEIGHTS).read_bytes()


@pytest.mark.parametrize("card", [None, poor_card()])
def test_a_poor_card_changes_no_byte(base, tmp_path, card):
    (plain,) = trained(base, tmp_path / "plain", tenant())
    (result,) = trained(base, tmp_path / "card", tenant(card=card))
    assert result.public_part is None
    for name in (WEIGHTS, "adapter_config.json"):
        assert (plain.adapter / name).read_bytes() == (result.adapter / name).read_bytes()
    assert not has_public_part(result.adapter)


def test_a_plan_that_trains_more_than_the_last_feed_forward_layers_gets_no_public_part(base, tmp_path):
    plan = make_plan(rank=4, top_layers=1, max_tokens=60)
    assert part_key(tenant(card=style_card(), plan=plan)) is None
    (result,) = trained(base, tmp_path, tenant(card=style_card(), plan=plan))
    assert result.public_part is None


def test_tenants_train_together_where_their_public_part_is_the_same(base, tmp_path, monkeypatch):
    laid, groups = [], []
    plain_lay, plain_run = fused.lay_foundation, fused.FusedRun

    def lay(decoder, encoder, one, *rest):
        laid.append(part_key(one))
        return plain_lay(decoder, encoder, one, *rest)

    def run(decoder, encoder, tenants, *rest, **more):
        groups.append([one.job_key for one in tenants])
        return plain_run(decoder, encoder, tenants, *rest, **more)

    monkeypatch.setattr(fused, "lay_foundation", lay)
    monkeypatch.setattr(fused, "FusedRun", run)
    cards = {"a": style_card(), "b": None, "c": style_card("MADE"), "d": poor_card(), "e": style_card()}
    tenants = [tenant(key, card) for key, card in cards.items()]
    results = trained(base, tmp_path / "all", *tenants)
    assert groups == [["a", "e"], ["b", "d"], ["c"]]
    assert len(set(laid)) == 3
    assert [result.job_key for result in results] == list(cards)
    assert [result.public_part is not None for result in results] == [True, False, True, False, True]
    for one, result in zip(tenants, results, strict=True):
        (alone,) = trained(base, tmp_path / one.job_key, one)
        here, there = (load_file(found.adapter / WEIGHTS) for found in (alone, result))
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_the_plain_base_is_as_it_was(base, tmp_path):
    decoder, _ = loaded_base(base, FLAGS)
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    trained(base, tmp_path, tenant(card=style_card()))
    for name, value in decoder.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(path.name.startswith("subspace") for path in tmp_path.rglob("*"))


def test_the_config_and_a_server_take_all_layers(base, tmp_path):
    (result,) = trained(base, tmp_path, tenant(card=style_card()))
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == list(ALL_LINEAR)
    assert config["layers_to_transform"] == [0, 1, 2]
    assert (config["r"], config["lora_alpha"]) == (4, 4.0)
    assert sorted(path.name for path in result.adapter.iterdir()) == ["adapter_config.json", WEIGHTS]
    with safe_open(result.adapter / WEIGHTS, "pt") as file:
        assert set(file.metadata()) == {"format", "private"}
    host = AdapterHost(base)
    host.load("a", result.adapter)
    pairs = [("file 1", "abcdef")]
    served = host.losses(pairs, name="a")
    users = make_users((6,))
    text = users[0].examples[0]
    assert host.losses([(text.prompt, text.completion)], name="a")[0] == pytest.approx(
        nll_per_user(base, result.adapter, users)[0], rel=1e-4
    )
    assert served != host.losses(pairs, name=None)


def test_the_gate_takes_what_the_plan_and_the_card_made_and_nothing_else(base, tmp_path):
    (result,) = trained(base, tmp_path / "out", tenant(card=style_card()))
    (plain,) = trained(base, tmp_path / "plain", tenant())
    verdict = judge(result.adapter, PLAN, combined=True)
    assert isinstance(verdict, Accepted)
    assert verdict.lora.layers == (0, 1, 2)
    assert set(verdict.lora.target_modules) == set(ALL_LINEAR)
    own = verdict.lora.private_part()
    assert (own.layers, set(own.target_modules)) == ((2,), set(FEED_FORWARD))
    assert judge(result.adapter, PLAN).reasons == (RejectionReason.PROFILE,)
    assert judge(plain.adapter, PLAN, combined=True).reasons == (RejectionReason.PROFILE,)
    assert isinstance(judge(plain.adapter, PLAN), Accepted)
    from safetensors.torch import save_file

    tensors = load_file(result.adapter / WEIGHTS)
    with safe_open(result.adapter / WEIGHTS, "pt") as file:
        told = file.metadata()
    save_file(tensors, result.adapter / WEIGHTS, metadata={**told, "private": told["private"].split()[0]})
    assert judge(result.adapter, PLAN, combined=True).reasons == (RejectionReason.PROFILE,)
    save_file(
        {name: value for name, value in tensors.items() if ".layers.1.mlp.up_proj" not in name},
        result.adapter / WEIGHTS,
        metadata=told,
    )
    assert judge(result.adapter, PLAN, combined=True).reasons == (RejectionReason.PROFILE,)


def test_averages_blends_and_drift_are_of_the_private_part(base, tmp_path):
    (first,) = trained(base, tmp_path / "one", tenant(card=style_card()))
    (second,) = trained(
        base, tmp_path / "two", tenant(card=style_card("MADE"), plan=replace(PLAN, learning_rate=0.2))
    )
    (plain,) = trained(base, tmp_path / "three", tenant())
    shape = shape_on(base)

    def core(directory):
        return import_adapter(directory, shape.geometry, shape.frozen)

    blend(first.adapter, second.adapter, tmp_path / "blend", share=0.25)
    torch.testing.assert_close(
        core(tmp_path / "blend"),
        0.25 * core(first.adapter) + 0.75 * core(second.adapter),
        rtol=1e-4,
        atol=1e-6,
    )
    average_versions([first.adapter, second.adapter], tmp_path / "average", decay=1.0)
    for made in ("blend", "average"):
        for mine, theirs in zip(parts_of(tmp_path / made), parts_of(second.adapter), strict=True):
            assert set(mine) == set(theirs)
        public, newest = parts_of(tmp_path / made)[0], parts_of(second.adapter)[0]
        assert all(torch.equal(public[key][1], newest[key][1]) for key in newest)
        assert private_names(tmp_path / made) == private_names(second.adapter)
        assert isinstance(judge(tmp_path / made, PLAN, combined=True), Accepted)
    blend(first.adapter, plain.adapter, tmp_path / "poor", share=0.25)  # the newest card told nothing
    assert not has_public_part(tmp_path / "poor")
    assert isinstance(judge(tmp_path / "poor", PLAN), Accepted)
    moved = movement(first.adapter, second.adapter)
    down, up = split_factors(second.adapter)
    assert set(down) == set(up) == private_names(second.adapter)
    distance = torch.linalg.vector_norm(core(second.adapter) - core(first.adapter))
    assert moved.distance == pytest.approx(float(distance), rel=1e-4)  # B₀ is orthonormal
    assert read_config(second.adapter) == read_config(plain.adapter)


def test_the_card_and_its_facts_survive_the_wire(base, tmp_path):
    job = job_of(base, tmp_path, tenant(card=style_card()), tenant("b"))
    assert decode_job(encode_job(job)) == job
    results = trained(base, tmp_path, *job.tenants)
    assert decode_reply(encode_results(results)) == results
    facts = results[0].public_part
    assert facts.pairs == 24
    assert facts.strength == 1.0
    assert facts.loss_after < facts.loss_before


def test_a_whole_job_measures_and_blends_combined_adapters(base, tmp_path):
    (first,) = trained(base, tmp_path / "one", tenant(card=style_card()))
    one = tenant(card=style_card(), start_adapter=first.adapter, blend_with=first.adapter, blend_share=0.5)
    (result,) = child.run(job_of(base, tmp_path / "two", one), lambda _p: None)
    assert has_public_part(result.adapter)
    assert result.public_losses is not None
    assert result.public_losses.base != result.public_losses.adapted


def test_a_public_part_that_public_text_loses_by_is_weakened_or_left_out(base, tmp_path, monkeypatch):
    decoder, encoder = loaded_base(base, FLAGS)
    monkeypatch.setattr(decoder, "kept", type(decoder.kept)())  # nothing measured by a test before
    losses = iter([1.0, 2.0, 1.5, 1.004])  # of the plain base, then of the whole part, half of it, a quarter
    monkeypatch.setattr(foundation, "LARGEST_CHANGE", 0.008)
    monkeypatch.setattr(foundation, "public_loss", lambda *_: next(losses))
    found = lay_foundation(decoder, encoder, tenant(card=style_card()), FLAGS, lambda *_: None)
    assert found.facts.strength == 0.25
    monkeypatch.setattr(foundation, "public_loss", lambda base, *_: 1.0 if base is decoder else 2.0)
    assert lay_foundation(decoder, encoder, tenant(card=style_card()), FLAGS, lambda *_: None) is None
    (plain,) = trained(base, tmp_path / "plain", tenant())
    (result,) = trained(base, tmp_path / "left", tenant(card=style_card()))
    assert result.public_part is None
    assert (plain.adapter / WEIGHTS).read_bytes() == (result.adapter / WEIGHTS).read_bytes()


def test_a_release_above_the_limit_of_public_text_is_moved_back(base, tmp_path, monkeypatch):
    asked = []

    def halved(vector, *_curvatures, plain):
        asked.append(plain)
        return vector / 2

    monkeypatch.setattr(fused, "pulled_back", halved)
    (free,) = trained(base, tmp_path / "free", tenant(card=style_card()))
    assert asked == []  # a release within the limit stays as it is
    monkeypatch.setattr(fused, "LARGEST_CHANGE", -0.9)  # no adapter is within this
    (held,) = trained(base, tmp_path / "held", tenant(card=style_card()))
    assert held.delta_norm == pytest.approx(free.delta_norm / 2)
    plain = [
        sum(nll_per_user(base, None, users, max_tokens=60)) / len(users)
        for users in (protected_users(), public_users())
    ]
    assert asked[0] == pytest.approx(plain, rel=1e-4)  # limits are reckoned from the plain base


class Bowl:
    """Public texts whose loss grows with the length of an adapter."""

    def __init__(self, at_zero):
        self.at_zero = at_zero

    def loss(self, vector):
        return self.at_zero + 1e-3 * float(vector @ vector)

    def fisher(self, vector):
        return 2e-3 * torch.eye(len(vector), dtype=torch.float64)

    def protection(self):
        return torch.eye(8, dtype=torch.float64)


def test_pulling_back_on_a_foundation_keeps_to_the_limits_of_the_plain_base():
    texts, vector = Bowl(3.0), torch.full((8,), 10.0, dtype=torch.float64)
    today = pulled_back(vector, texts, texts, texts)
    assert texts.loss(today) <= 3.0 * (1 + LARGEST_CHANGE)
    assert torch.equal(today, pulled_back(vector, texts, texts, texts, plain=(3.0, 3.0)))
    roomy = pulled_back(vector, texts, texts, texts, plain=(3.3, 3.3))  # the public part gained a tenth
    assert (
        torch.linalg.vector_norm(today) < torch.linalg.vector_norm(roomy) < torch.linalg.vector_norm(vector)
    )
    assert 3.0 * (1 + LARGEST_CHANGE) < texts.loss(roomy) <= 3.3 * (1 + LARGEST_CHANGE)
    strict = pulled_back(
        vector, texts, texts, texts, plain=(2.0, 2.0)
    )  # the merged base is above the limit itself
    assert torch.linalg.vector_norm(strict) < 1e-3


@pytest.mark.parametrize("style", ["llama", "qwen2", "gemma2"])
def test_merging_adds_the_update_of_every_layer(style):
    decoder = FrozenDecoder(tiny_model(style), torch.device("cpu"), torch.float64)
    coins = torch.Generator().manual_seed(1)
    factors = {
        key: (torch.randn(2, d_in, generator=coins), torch.randn(d_out, 2, generator=coins))
        for key, (d_in, d_out) in decoder.shapes.items()
        if key[1] != "o_proj"
    }
    own = merged(decoder, factors, 0.5)
    for key, (down, up) in factors.items():
        change = own.linear(*key).weight - decoder.linear(*key).weight
        torch.testing.assert_close(change, 0.5 * (up.double() @ down.double()))
    assert own.linear(0, "o_proj").weight.data_ptr() == decoder.linear(0, "o_proj").weight.data_ptr()
    assert own.directory is None
    assert own.kept is not decoder.kept
    assert Encoder(tiny_tokenizer(), 2).end_token == 2


def test_a_tenant_with_memory_rehearses_notes_whole_and_one_without_is_what_it_was(
    base, tmp_path, monkeypatch
):
    for name, count in (("NOTED", 8), ("HELD_OUT_NOTED", 2)):
        monkeypatch.setattr(public_part, name, count)
    seen = []
    encoded = public_part.PlainLora.encoded

    def watched(self, examples, max_tokens):
        rows = encoded(self, examples, max_tokens)
        seen.extend((example.prompt, max_tokens) for example in examples)
        return rows

    monkeypatch.setattr(public_part.PlainLora, "encoded", watched)
    plain, noted = tenant(card=style_card()), tenant(key="b", card=style_card(), notes=True)
    assert part_key(plain) != part_key(noted)
    assert decode_job(encode_job(job_of(base, tmp_path, noted))).tenants[0].notes
    without, with_notes = trained(base, tmp_path / "out", plain, noted)
    assert "noted" not in without.public_part.to_document()
    assert with_notes.public_part.noted == 8
    told = {most for prompt, most in seen if prompt.startswith("Notes:")}
    assert told == {public_part.NOTED_TOKENS}
    assert {most for prompt, most in seen if not prompt.startswith("Notes:")} == {PLAN.max_tokens}
    (again,) = trained(base, tmp_path / "again", plain)
    ours, theirs = (load_file(one.adapter / WEIGHTS) for one in (without, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_of_a_line_that_remembers_both_parts_of_the_served_adapter_are_averaged_in(base, tmp_path):
    (first,) = trained(base, tmp_path / "one", tenant(card=style_card()))
    new = tenant(
        card=style_card("MADE"), blend_with=first.adapter, blend_share=0.5, remembers=first.public_part
    )
    assert decode_job(encode_job(job_of(base, tmp_path, new))).tenants[0] == new
    (alone,) = trained(base, tmp_path / "two", new)
    served = child.blended(new, alone)
    assert served.public_part == replace(alone.public_part, remembered=1)
    assert served.public_part.to_document()["remembered"] == 1
    assert "remembered" not in alone.public_part.to_document()
    assert decode_reply(encode_results((served,))) == (served,)
    assert isinstance(judge(served.adapter, PLAN, combined=True), Accepted)
    one, two, both = (parts_of(each.adapter)[0] for each in (first, alone, served))
    assert both.keys() == two.keys()
    for key, (down, up) in both.items():
        mean = (one[key][1] @ one[key][0] + two[key][1] @ two[key][0]) / 2
        assert up.shape == two[key][1].shape
        rest = torch.linalg.svdvals(mean)[PLAN.rank :]  # what no matrix of the rank can hold
        off = torch.linalg.matrix_norm(up @ down - mean)
        torch.testing.assert_close(off, rest.square().sum().sqrt(), rtol=1e-3, atol=1e-5)
    (plain,) = trained(base, tmp_path / "three", tenant())
    kept = child.blended(new, plain)  # the newest card told nothing
    assert kept.public_part == replace(first.public_part, pairs=0, rehearsed=0, steps=0)
    ours = parts_of(kept.adapter)[0]
    assert ours.keys() == one.keys()
    assert all(torch.equal(ours[key][side], one[key][side]) for key in ours for side in (0, 1))
    assert isinstance(judge(kept.adapter, PLAN, combined=True), Accepted)
    (plain,) = trained(base, tmp_path / "four", tenant())
    forgot = child.blended(replace(new, remembers=None), plain)
    assert forgot.public_part is None
    assert not has_public_part(forgot.adapter)


def test_what_is_remembered_must_be_there(base, tmp_path):
    (first,) = trained(base, tmp_path / "one", tenant(card=style_card()))
    (plain,) = trained(base, tmp_path / "two", tenant())
    with pytest.raises(MetaStartError, match="no public parts on the same layers"):
        blend(plain.adapter, first.adapter, tmp_path / "blend", share=0.5, remembered=1)
    with pytest.raises(ValueError, match="remembered is -1"):
        blend(first.adapter, first.adapter, tmp_path / "blend", share=0.5, remembered=-1)
