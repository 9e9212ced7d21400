"""What the template puts before every prompt is read once, and nothing comes out otherwise."""

from __future__ import annotations

import pytest
import torch

from personalization.training.engine.batches import Member, PrefixCache, assemble
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenUser
from personalization.training.engine.plain_lora import PlainLora, every_linear, initial
from personalization.training.engine.shared_opening import SharedOpening, shared_opening
from personalization.training.jobs.job import Example, TenantJob, UserExamples
from tests.fakes.tiny_models import damped_plan, encode_user, make_run, make_users, tiny_model, tiny_tokenizer

STYLES = ("llama", "qwen2", "gemma2")
SHORT = 14  # tokens: a template does not fit whole beside an answer


def one_tenant():
    return TenantJob(job_key="a", plan=damped_plan(), users=make_users((3,), (5, 9, 2)), noise_key=bytes(32))


def cached(run, users, *, opening, limit=10_000):
    cache = PrefixCache(run.decoder, 2, enabled=True, opening=opening)
    members = cache.fill([(0, user) for user in users], limit)
    return cache, members


def states(cache, member):
    return cache.hidden(assemble([member], torch.device("cpu"), torch.float64))


def encoded(run, *, max_tokens=None):
    plan = run.tenants[0].plan
    made = make_users((4, 6), (5,), (7, 1, 3))
    if max_tokens is None:
        return [encode_user(run.encoder, user, plan) for user in made]
    return [
        run.encoder.user(user, bound=plan.contribution_bound, objective=plan.objective, max_tokens=max_tokens)
        for user in made
    ]


def test_the_opening_is_what_every_prompt_begins_with_and_of_no_prompt():
    encoder = Encoder(tiny_tokenizer(), 2)
    assert encoder.opening
    for text in ("", "a letter or two", "7", "\nzzz"):
        assert tuple(encoder.prompt(text)[: len(encoder.opening)]) == encoder.opening
    other = [encoder.prompt(text)[len(encoder.opening)] for text in ("a letter", "7 digits")]
    assert other[0] != other[1]
    bare = tiny_tokenizer()
    bare.chat_template = None
    assert Encoder(bare, 2).opening == ()


@pytest.mark.parametrize("style", STYLES)
def test_states_are_those_of_rows_that_are_read_in_full(style):
    run = make_run(style, [one_tenant()])
    users = encoded(run)
    whole, once = (cached(run, users, opening=one) for one in ((), run.encoder.opening))
    assert torch.isfinite(once[0]._store).all()
    for one, other in zip(whole[1], once[1], strict=True):
        assert one.user is other.user
        torch.testing.assert_close(states(once[0], other), states(whole[0], one), rtol=1e-10, atol=1e-10)


def test_a_pass_reads_the_opening_once(monkeypatch):
    run = make_run("llama", [one_tenant()])
    users = encoded(run)
    read = []
    embed = FrozenDecoder.embed
    monkeypatch.setattr(
        FrozenDecoder, "embed", lambda self, tokens: (read.append(len(tokens)), embed(self, tokens))[1]
    )
    cached(run, users, opening=run.encoder.opening)
    rows = sum(len(example.rows) for user in users for example in user.examples)
    assert sum(read) == sum(user.tokens for user in users) - (rows - 1) * len(run.encoder.opening)


def test_rows_that_lost_the_opening_are_read_in_full_and_beside_no_other():
    """A cut template is a user's own; who still has it is read as if that user were not there."""
    run = make_run("llama", [one_tenant()])
    cut = encoded(run, max_tokens=SHORT)[2]
    assert all(row.tokens[: len(run.encoder.opening)] != run.encoder.opening for row in rows_of(cut))
    users = encoded(run)[:2]
    alone, beside = (cached(run, people, opening=run.encoder.opening) for people in (users, [*users, cut]))
    for one, other in zip(alone[1], beside[1], strict=False):
        assert torch.equal(states(alone[0], one), states(beside[0], other))
    plain = cached(run, [cut], opening=())
    torch.testing.assert_close(
        states(beside[0], beside[1][2]), states(plain[0], plain[1][0]), rtol=1e-10, atol=1e-10
    )


def rows_of(user):
    return [row for example in user.examples for row in example.rows]


def test_a_round_reads_its_users_with_the_template_once():
    run = make_run("llama", [one_tenant()])
    run._prefix()
    assert run._cache._opening == run.encoder.opening != ()


def test_what_is_told_of_reading_users_is_alike_whoever_they_are():
    """How many passes there are, and how much of the whole each is, tells how long users' texts are."""
    told = []
    for shapes in (((3,),), ((5, 9, 2), (7,) * 4, (1,))):
        job = TenantJob(job_key="a", plan=damped_plan(), users=make_users(*shapes), noise_key=bytes(32))
        run = make_run("llama", [job], tokens_per_microbatch=64)
        seen = []
        run.progress = seen.append
        run._prefix()
        told.append([(one.stage, one.done, one.total) for one in seen])
    assert told[0] == told[1] == [("prefix", 0, 1), ("prefix", 1, 1)]


@pytest.mark.parametrize("lengths", [(("a", 3), ("b", 3)), (("a", 3), ("b", 7), ("c", 1))])
@pytest.mark.parametrize("style", STYLES)
def test_a_plain_lora_learns_what_rows_read_in_full_teach(style, lengths):
    decoder, encoder = (
        FrozenDecoder(tiny_model(style), torch.device("cpu"), torch.float64),
        Encoder(tiny_tokenizer(), 2),
    )
    lora = PlainLora(decoder, encoder, half=False)
    people = [
        UserExamples(examples=(Example(prompt=f"say {one}", completion=one * length),))
        for one, length in lengths
    ]
    examples = lora.encoded([one.examples[0] for one in people], 64)
    assert shared_opening(examples) >= len(encoder.opening)
    geometry = every_linear(decoder, rank=2, alpha=4.0)
    vector = initial(geometry, 3).double()
    vector += 0.1 * torch.randn(
        geometry.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    ours = lora.gradient(vector, geometry, TokenUser(tuple(examples)))
    each = [lora.gradient(vector, geometry, TokenUser((one,))) for one in alone(lora, examples)]
    torch.testing.assert_close(ours, torch.stack(each).mean(0), rtol=1e-6, atol=1e-8)


def alone(lora, examples):
    """Examples whose rows share nothing: read one by one, in a base that reads every token of a row."""
    lora._decoder.opened_once = lambda micro, _: SharedOpening.opened_once(lora._decoder, micro, 0)
    return examples


def test_what_rows_share_ends_before_the_token_before_a_label():
    encoder = Encoder(tiny_tokenizer(), 2)
    user = UserExamples(examples=(Example(prompt="x", completion="a"), Example(prompt="x", completion="b")))
    both = encoder.user(user, bound=2, objective=damped_plan().objective, max_tokens=64).examples
    assert shared_opening(both) == both[0].rows[0].first_label - 1
    micro = assemble([Member(0, TokenUser(both), ())], torch.device("cpu"), torch.float64)
    decoder = SharedOpening.of(FrozenDecoder(tiny_model(), torch.device("cpu"), torch.float64), half=False)
    batch, tokens = decoder.opened_once(micro, shared_opening(both))
    assert tokens[batch.label_at].tolist() == micro.tokens[micro.batch.label_at].tolist()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("opened", [True, False])
def test_states_that_are_taken_on_are_those_read_from_the_beginning(style, opened):
    run = make_run(style, [one_tenant()])
    users = encoded(run)
    opening = run.encoder.opening if opened else ()
    whole, members = cached(run, users, opening=opening)
    early = PrefixCache(run.decoder, 1, enabled=True, opening=opening)
    early.fill([(0, user) for user in users], 10_000)
    before = [states(early, member).clone() for member in members]
    early.advance(run.decoder, 2, 40)
    for member, lower in zip(members, before, strict=True):
        torch.testing.assert_close(states(early, member), states(whole, member))
        assert not torch.allclose(states(early, member), lower)


def test_states_that_are_not_kept_are_taken_on_too():
    run = make_run("llama", [one_tenant()])
    users = encoded(run)
    whole, members = cached(run, users, opening=())
    fleeting = PrefixCache(run.decoder, 1, enabled=False)
    fleeting.fill([(0, user) for user in users], 10_000)
    fleeting.advance(run.decoder, 2, 10_000)
    for member in members:
        torch.testing.assert_close(states(fleeting, member), states(whole, member))
