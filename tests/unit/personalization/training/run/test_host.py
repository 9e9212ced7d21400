"""The adapter host: plain PEFT adapters beside one base, each used only when asked for."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from personalization.training.engine.encoding import Encoder
from personalization.training.errors import AdapterFormatError, BaseModelError
from personalization.training.run.host import AdapterHost
from tests.fakes.tiny_models import write_tiny_base

PAIRS = [
    ("where is it?", "on its way"),
    ("a much longer question than the other one", "yes"),
    ("x", "no, sorry"),
]


def _write_adapter(base, directory, *, seed, rank=2):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    wrapped.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("host")
    base = write_tiny_base(root / "base")
    other = write_tiny_base(root / "other", hidden=64)
    return {
        "base": base,
        "one": _write_adapter(base, root / "one", seed=1),
        "two": _write_adapter(base, root / "two", seed=2),
        "misfit": _write_adapter(other, root / "misfit", seed=3),
    }


@pytest.fixture
def host(places):
    return AdapterHost(places["base"])


def _plain_losses(base, adapter=None):
    """The same losses one text at a time, without padding, straight from transformers and PEFT."""
    encoder = Encoder.load(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    losses = []
    for prompt, completion in PAIRS:
        row = encoder.row(prompt, completion, 192)
        tokens = torch.tensor([row.tokens])
        labels = tokens.clone()
        labels[0, : row.first_label] = -100
        with torch.no_grad():
            losses.append(float(model(input_ids=tokens, labels=labels).loss))
    return losses


def test_losses_are_those_of_transformers_and_peft(places, host):
    base = _plain_losses(places["base"])
    assert host.losses(PAIRS, name=None) == pytest.approx(base, abs=1e-4)
    for name in ("one", "two"):
        host.load(name, places[name])
    for name in ("one", "two", "one"):
        assert host.losses(PAIRS, name=name) == pytest.approx(
            _plain_losses(places["base"], places[name]), abs=1e-4
        )
    assert host.losses(PAIRS, name=None) == pytest.approx(base, abs=1e-4)
    assert host.names == {"one", "two"}


def test_an_unloaded_adapter_is_gone_and_the_base_is_as_before(places, host):
    before = host.losses(PAIRS, name=None)
    answer = host.answers(["where?", "how much of it is there?"], name=None, max_new_tokens=6)
    host.load("one", places["one"])
    host.unload("one")
    host.unload("one")
    assert host.losses(PAIRS, name=None) == pytest.approx(before, abs=1e-5)
    assert host.answers(["where?"], name=None, max_new_tokens=6) == answer[:1]
    assert host.answers(["how much of it is there?"], name=None, max_new_tokens=6) == answer[1:]
    with pytest.raises(KeyError):
        host.losses(PAIRS, name="one")
    host.load("two", places["two"])
    assert host.losses(PAIRS, name="two") == pytest.approx(
        _plain_losses(places["base"], places["two"]), abs=1e-4
    )


def test_a_name_is_never_used_twice_and_a_misfit_is_refused(places, host):
    host.load("one", places["one"])
    with pytest.raises(AdapterFormatError, match="loaded already"):
        host.load("one", places["two"])
    with pytest.raises(AdapterFormatError, match="does not fit"):
        host.load("misfit", places["misfit"])
    assert host.names == {"one"}
    assert host.losses(PAIRS, name="one") == pytest.approx(
        _plain_losses(places["base"], places["one"]), abs=1e-4
    )


def test_a_base_that_is_none_is_refused(tmp_path):
    with pytest.raises(BaseModelError, match="tokenizer"):
        AdapterHost(tmp_path)


def test_a_favoured_name_is_said_sooner_and_only_by_the_request_that_favours_it(host, monkeypatch):
    monkeypatch.setattr("personalization.training.run.host.FAVOURED_BIAS", 100.0)
    prompts = [prompt for prompt, _ in PAIRS]
    plain = host.answers(prompts, name=None, max_new_tokens=12)
    told = host.answers(prompts, name=None, max_new_tokens=12, favour=["sorry"])
    assert all("sorry" in text for text in told)
    assert not any("sorry" in text for text in plain)
    assert host.answers(prompts, name=None, max_new_tokens=12) == plain
