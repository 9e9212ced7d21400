"""``discreet ask`` over a real database and real HTTP; the model is scripted."""

from __future__ import annotations

import json

import pytest

from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import PromptTemplate
from personalization.registry import queries as registry
from privacy.storage.session import transaction
from streams.cli.main import main
from streams.serving.holder import Holdings
from streams.serving.web import ServingWeb
from tests.fakes.training import Workshop


class ScriptedHost:
    """Says which model answers; an adapter is less surprised than the base."""

    def answers(self, prompts, *, name, max_new_tokens, favour=()):
        return [f"{name or 'base'} says: {prompt[:max_new_tokens]}" for prompt in prompts]

    def losses(self, pairs, *, name):
        return [2.0 if name is None else 1.25 for _ in pairs]


@pytest.fixture
def shop(engine, database_url, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_SERVING__TOKEN", "t0")
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


@pytest.fixture
def holdings(monkeypatch):
    holdings = Holdings()
    with ServingWeb(port=0, token="t0", host=ScriptedHost(), holdings=holdings) as web:
        monkeypatch.setenv("DISCREET_SERVING__PORT", str(web.port))
        yield holdings


@pytest.fixture
def released(shop):
    shop.open_round()
    shop.process().run_once()
    with transaction(shop.engine) as session:
        version = registry.current_version(session, registry.find_line(session, "acme", "default"))
        return version.line_ref, version.served_name


def test_both_models_answer_side_by_side(released, holdings, capsys):
    line_ref, name = released
    holdings.current[line_ref] = name
    assert main(["ask", "acme", "Where is it?", "--wanted", "On its way."]) == 0
    assert capsys.readouterr().out == (
        f"base model (loss 2.000): base says: Where is it?\n{name} (loss 1.250): {name} says: Where is it?\n"
    )
    assert main(["ask", "acme", "Where is it?", "--tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "tenant": "acme",
        "domain": "default",
        "answers": [
            {"model": None, "answer": "base says: Where", "loss": None},
            {"model": name, "answer": f"{name} says: Where", "loss": None},
        ],
    }


def test_the_lines_template_is_put_around_the_prompt_where_it_is_asked_for(released, holdings, capsys):
    line_ref, name = released
    holdings.current[line_ref] = name
    holdings.templates[line_ref] = rendering_of(PromptTemplate(source="Calmly: {{ prompt }}"))
    assert main(["ask", "acme", "Where?", "--template", "--json"]) == 0
    told = [one["answer"] for one in json.loads(capsys.readouterr().out)["answers"]]
    assert told == ["base says: Calmly: Where?", f"{name} says: Calmly: Where?"]


def _refused(capsys, *words):
    status = main(["ask", "acme", "Where is it?", *words])
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return status, error


@pytest.mark.usefixtures("holdings")
def test_a_tenant_without_an_adapter_is_told_apart_from_none(shop, capsys):
    assert "no adapter for domain 'default' yet" in _refused(capsys)[1]
    assert main(["ask", "globex", "Where is it?"]) != 0
    assert "[privacy.tenant.unknown]" in capsys.readouterr().err


def test_it_waits_for_the_newest_version_and_no_longer_than_asked(released, holdings, capsys):
    line_ref, name = released
    holdings.current[line_ref] = "a-older"
    status, error = _refused(capsys, "--wait", "0")
    assert (status, f"does not hold {name} after 0 seconds" in error) == (5, True)
    holdings.failures[name] = "client.artifact.corrupt"
    status, error = _refused(capsys)
    assert (status, f"refused the adapter {name} (client.artifact.corrupt)" in error) == (5, True)


def test_without_a_server_or_its_token_it_says_so(released, holdings, capsys, monkeypatch):
    monkeypatch.setenv("DISCREET_SERVING__TOKEN", "wrong")
    status, error = _refused(capsys)
    assert (status, "401" in error) == (5, True)
    monkeypatch.delenv("DISCREET_SERVING__TOKEN")
    assert _refused(capsys)[0] == 2
    monkeypatch.setenv("DISCREET_SERVING__TOKEN", "t0")
    monkeypatch.setenv("DISCREET_SERVING__PORT", "1")
    status, error = _refused(capsys, "--wait", "0")
    assert (status, "no server answers" in error) == (5, True)
