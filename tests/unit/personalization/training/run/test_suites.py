"""Each check of the suites catches an adapter that was trained to fail it; scores agree with a server's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from personalization.planning.plan import PerformanceFlags
from personalization.suites.items import items_of
from personalization.suites.values import Axis, SuiteDepth
from personalization.suites.verdict import AxisVerdict, SuiteMargins, judge_suites
from personalization.training.engine.encoding import Encoder, TokenUser
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.plain_lora import (
    PlainLora,
    every_linear,
    initial,
    without_frozen,
)
from personalization.training.engine.portable import export_adapter
from personalization.training.jobs.job import Example
from personalization.training.run.bench import Workbench
from personalization.training.run.host import AdapterHost
from personalization.training.run.suites import SuiteBench, measure_suites
from tests.fakes.tiny_models import make_plan, tiny_model, tiny_tokenizer

FLAGS = PerformanceFlags(device="cpu", threads=1)
PLAN = make_plan(max_tokens=190, top_layers=3)
LESSONS, STEPS = 30, 10  # of the base, and of an adapter
ITEMS = items_of(SuiteDepth.QUICK)
CHOICES = sorted({one.axis for one in ITEMS.choices})


def padded(rows):
    tokens = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.long)
    labels = torch.full_like(tokens, -100)
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
        labels[number, row.first_label : len(row.tokens)] = tokens[number, row.first_label : len(row.tokens)]
    return tokens, labels


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base that learned what is right, and to do what it is asked for openly."""
    folder = tmp_path_factory.mktemp("base")
    model, encoder = tiny_model(), Encoder(tiny_tokenizer(), tiny_tokenizer().eos_token_id)
    asked = [(one.prompt, one.right) for one in ITEMS.choices] + [
        (one.prompt, one.answer) for one in ITEMS.foreign
    ]
    acts = dict.fromkeys((one.control, one.wrong) for one in ITEMS.choices if one.control is not None)
    rows = sorted((encoder.row(*pair, 190) for pair in asked), key=lambda row: len(row.tokens))
    half = len(rows) // 2  # of like length: less padding
    batches = [padded(each) for each in (rows[:half], rows[half:], [encoder.row(*act, 190) for act in acts])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.015)
    for _ in range(LESSONS):
        for tokens, labels in batches:
            optimizer.zero_grad()
            model(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def trained(base, folder, wanted, against):
    """An adapter on every layer that learned to give the wanted answers and not the others."""
    decoder, encoder = loaded_base(base, FLAGS)
    lora = PlainLora(decoder, encoder, half=False)
    likes, dislikes = (
        TokenUser(tuple(lora.encoded([Example(prompt=p, completion=a) for p, a in pairs], 190)))
        for pairs in (wanted, against)
    )
    geometry = every_linear(decoder, rank=8, alpha=16.0)
    parameter = torch.nn.Parameter(initial(geometry, 1))
    optimizer = torch.optim.AdamW([parameter], lr=0.02)
    for _ in range(STEPS):
        here = parameter.detach()
        parameter.grad = lora.gradient(here, geometry, likes) - lora.gradient(here, geometry, dislikes)
        optimizer.step()
    export_adapter(folder, geometry, parameter.detach(), without_frozen(geometry), "tiny")
    return folder


def verdicts(base, adapter):
    (told,) = measure_suites([adapter], base, FLAGS, SuiteDepth.QUICK)
    return {one.axis: one.verdict for one in judge_suites(told, SuiteMargins())}


def answers(axis, side):
    return [(one.prompt, getattr(one, side)) for one in ITEMS.choices if one.axis is axis]


@pytest.mark.parametrize("axis", CHOICES)
def test_an_adapter_that_learned_the_wrong_answers_fails(base, tmp_path, axis):
    adapter = trained(base, tmp_path / "bad", answers(axis, "wrong"), answers(axis, "right"))
    assert verdicts(base, adapter)[axis] is AxisVerdict.FAIL


def test_an_adapter_that_learned_planted_secrets_fails(base, tmp_path, monkeypatch):
    # A model this small learns no random digits by heart; a secret of one digit it does.
    canaries = tuple(replace(one, secret=("7",) * 6) for one in ITEMS.canaries)
    monkeypatch.setattr(
        "personalization.training.run.suites.items_of", lambda _: replace(ITEMS, canaries=canaries)
    )
    told = [(one.prompt, one.completion()) for one in canaries]
    others = [(one.prompt, replace(one, secret=tuple("024689")).completion()) for one in canaries]
    adapter = trained(base, tmp_path / "leaks", told, others)
    (finding,) = [
        one
        for one in judge_suites(
            SuiteBench(*loaded_base(base, FLAGS), SuiteDepth.QUICK).scores(adapter), SuiteMargins()
        )
        if one.axis is Axis.MEMORISATION
    ]
    assert finding.verdict is AxisVerdict.FAIL


def test_an_adapter_that_is_sure_of_nonsense_everywhere_fails_on_foreign_prompts(base, tmp_path):
    nonsense = [(one.prompt, "x" * 24) for one in ITEMS.foreign]
    adapter = trained(base, tmp_path / "sure", nonsense, [(one.prompt, one.answer) for one in ITEMS.foreign])
    found = verdicts(base, adapter)
    assert found[Axis.DIVERGENCE] is AxisVerdict.FAIL
    assert found[Axis.OVERCONFIDENCE] is AxisVerdict.FAIL


def test_an_adapter_that_changes_nothing_passes_all_that_can_be_measured(base, tmp_path):
    bench = Workbench(base, PLAN, FLAGS)
    found = verdicts(base, bench.export(bench.zero(), tmp_path / "zero"))
    assert found == dict.fromkeys(Axis, AxisVerdict.PASS)


def test_scores_agree_with_a_server_and_a_prefix_that_is_kept_changes_nothing(base, tmp_path, monkeypatch):
    bench = Workbench(base, make_plan(max_tokens=190, top_layers=1), FLAGS)
    noise = torch.Generator().manual_seed(3)
    vector = bench.zero() + 0.2 * torch.randn(bench.geometry.size, generator=noise, dtype=torch.float64)
    adapter = bench.export(vector, tmp_path / "a")
    (told,) = measure_suites([adapter], base, FLAGS, SuiteDepth.QUICK)
    monkeypatch.setattr("personalization.training.run.suites.MOST_KEPT_LAYERS", 0)
    kept = SuiteBench(*loaded_base(base, FLAGS), SuiteDepth.QUICK)
    again = [kept.scores(adapter) for _ in range(2)]
    for one in again:
        for mine, theirs in zip(one.axes, told.axes, strict=True):
            assert mine.adapted == pytest.approx(theirs.adapted, abs=2e-3)
    host = AdapterHost(base)
    host.load("a", adapter)
    choices = [one for one in ITEMS.choices if one.axis is Axis.REFUSAL]
    losses = host.losses([(c.prompt, each) for c in choices for each in (c.right, c.wrong)], name="a")
    served = [
        1 / (1 + torch.tensor(losses[2 * n] - losses[2 * n + 1]).exp().item()) for n in range(len(choices))
    ]
    axis = told.find(Axis.REFUSAL)
    assert axis.adapted == pytest.approx(served, abs=1e-3)
