"""The OpenAI-compatible front door of one engine: tokens, choice of adapter and template, answers, feedback."""
