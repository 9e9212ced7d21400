"""Tiny base models of each style with random weights, and a tokenizer made in code: no download, milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from personalization.planning.plan import FEED_FORWARD, Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.styles.card import StyleCard, StyleEntry
from personalization.styles.families import Feature
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.jobs.job import Example, ExampleKind, UserExamples
from personalization.training.run.fused import FusedRun

STYLES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-_/#()[]\n'\"!?"
VOCABULARY = ["<unk>", "<|im_start|>", "<|im_end|>", *_CHARACTERS]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character tokenizer with a chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in VOCABULARY[:3]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(
    style: str = "llama", *, layers: int = 3, hidden: int = 32, seed: int = 0, embedding: float = 0.7
) -> torch.nn.Module:
    """Return a model with random weights large enough that its outputs differ clearly between inputs.

    Where ``hidden`` is larger, ``embedding`` must be smaller for the answers to stay uncertain, which training needs.
    """
    shape = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    config = {
        "llama": lambda: LlamaConfig(**shape, tie_word_embeddings=True),
        "mistral": lambda: MistralConfig(**shape, sliding_window=128),
        "qwen2": lambda: Qwen2Config(**shape),
        "qwen3": lambda: Qwen3Config(**shape, head_dim=8),
        "gemma": lambda: GemmaConfig(**shape, head_dim=8),
        "gemma2": lambda: Gemma2Config(**shape, head_dim=8, query_pre_attn_scalar=8, sliding_window=128),
    }[style]()
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(
                    0.0,
                    0.6 * parameter.shape[1] ** -0.5 if "embed" not in name else embedding,
                    generator=generator,
                )
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator))
    return model.eval()


def write_tiny_base(
    directory: Path,
    style: str = "llama",
    *,
    layers: int = 3,
    hidden: int = 32,
    seed: int = 0,
    embedding: float = 0.7,
) -> Path:
    """Write a tiny base model with its tokenizer as a local directory."""
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(style, layers=layers, hidden=hidden, seed=seed, embedding=embedding)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def make_plan(**changes):
    """A small valid plan."""
    fields = {
        "family": Family.FULL,
        "rank": 4,
        "alpha": 8.0,
        "top_layers": 2,
        "steps": 3,
        "sample_rate": 1.0,
        "expected_cohort": 3.0,
        "clipping_norm": 0.5,
        "noise_multiplier": 0.7,
        "learning_rate": 0.05,
        "contribution_bound": 8,
        "max_tokens": 48,
        "averaging_fraction": 0.5,
    }
    fields |= changes
    numbers = ("steps", "sample_rate", "clipping_norm", "noise_multiplier", "contribution_bound")
    mechanism = mechanism_of(**{name: fields.pop(name) for name in numbers})
    return TrainingPlan(mechanism=mechanism, **fields)


def damped_plan(**changes):
    """A small valid plan in the public metric: cores on the last block's feed-forward layers."""
    fields = {
        "family": Family.CORE,
        "alpha": 4.0,
        "top_layers": 1,
        "target_modules": FEED_FORWARD,
        "damping": 0.3,
    }
    return make_plan(**{**fields, **changes})


def in_float64_norms(model):
    """Reference norms compute in float32 even in a float64 model; compute them in float64 instead."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            gemma = type(module).__name__.startswith("Gemma")
            epsilon = getattr(module, "variance_epsilon", None) or module.eps

            def forward(x, module=module, gemma=gemma, epsilon=epsilon):
                scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
                return scaled * (1.0 + module.weight) if gemma else module.weight * scaled

            module.forward = forward
    return model


def make_users(*shapes, kind=ExampleKind.SFT):
    """One user per tuple of completion lengths."""
    users = []
    for number, lengths in enumerate(shapes):
        examples = tuple(
            Example(
                prompt=f"file {number}-{index}" * (1 + index % 2),
                completion="abcdefghijklmnopqrstuvwxyz"[number:][:length],
                kind=kind,
                shown="zyx" * (1 + index) if kind is ExampleKind.PREFERENCE else None,
            )
            for index, length in enumerate(lengths)
        )
        users.append(UserExamples(examples=examples))
    return tuple(users)


def encode_user(encoder, user, plan):
    """The user as a run under the plan reads it."""
    return encoder.user(
        user, bound=plan.contribution_bound, objective=plan.objective, max_tokens=plan.max_tokens
    )


def make_run(style, tenants, dtype=torch.float64, **flags):
    """A fused run of tenant jobs on a tiny base."""
    decoder = FrozenDecoder(tiny_model(style), torch.device("cpu"), dtype)
    encoder = Encoder(tiny_tokenizer(), 2)
    return FusedRun(decoder, encoder, tenants, PerformanceFlags(device="cpu", **flags), lambda _p: None)


def random_vectors(run, scale=0.3, seed=1):
    """Adapters in general position: no factor is zero."""
    noise = torch.randn(run.start.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return run.start + scale * noise


def style_card(word="DONE", *, closing="ok", seed=0):
    """A card whose answers open with ``[word] `` and close with `` | closing``; ``seed`` changes its digest alone."""
    found = {"sureness": 5.0}
    return StyleCard(
        entries=(
            StyleEntry(feature=Feature.OPENING, key="[{t}] ", share=0.95, **found),
            StyleEntry(feature=Feature.OPENING_WORDS, key="[{t}] ", words=word, share=0.95, **found),
            StyleEntry(feature=Feature.CLOSING, key=" | {t}", share=0.95, **found),
            StyleEntry(feature=Feature.CLOSING_WORDS, key=" | {t}", words=closing, share=0.95, **found),
            StyleEntry(feature=Feature.PROMPT_KIND, key="title", share=0.9, **found),
        ),
        voters=100 + seed,
        noise_multiplier=4.0,
        delta=1e-6,
    )


def poor_card():
    """A card that tells nothing but how long answers are."""
    entry = StyleEntry(feature=Feature.LENGTH, key="6", share=0.5, sureness=3.0)
    return StyleCard(entries=(entry,), voters=100, noise_multiplier=4.0, delta=1e-6)
