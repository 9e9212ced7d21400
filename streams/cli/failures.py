"""One place that turns an exception into what a person reads: a sentence, a stable code, an exit status."""

from __future__ import annotations

from typing import NamedTuple

USAGE_STATUS = 2
BUG_STATUS = 70  # as in sysexits.h: an internal error
SYSTEM_STATUS = 71  # as in sysexits.h: an operating system error


class Failure(NamedTuple):
    """What the command line shows and returns for one error."""

    sentence: str
    code: str
    exit_status: int


def describe(error: BaseException) -> Failure:
    """Return the sentence, code and exit status for ``error``.

    Our own error trees carry all three; a usage error carries its text. Any other exception's text is not
    shown, because a driver's or a library's text may hold what somebody wrote.
    """
    if isinstance(error, BaseExceptionGroup):
        return describe(error.exceptions[0])
    code, exit_status = getattr(error, "code", None), getattr(error, "exit_status", None)
    if isinstance(code, str) and isinstance(exit_status, int):
        return Failure(_sentence(str(error)), code, exit_status)
    return _of_a_library(error) or Failure(
        f"An error nobody foresaw ({type(error).__name__}); run the command with --debug and report it.",
        "internal.unexpected",
        BUG_STATUS,
    )


def _of_a_library(error: BaseException) -> Failure | None:
    """Recognise the errors of typer, pydantic and the operating system by their shape, importing none."""
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        return Failure(_sentence(str(format_message())), "cli.usage", USAGE_STATUS)
    if type(error).__name__ == "Abort":
        return Failure("Stopped before anything was done.", "cli.aborted", 1)
    if type(error).__name__ == "ValidationError" and callable(getattr(error, "errors", None)):
        return Failure(_invalid_settings(error), "settings.invalid", USAGE_STATUS)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        text = f"The operating system refused: {error.strerror or type(error).__name__}{where}"
        return Failure(_sentence(text), "system.refused", SYSTEM_STATUS)
    return None


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else text + "."


def _invalid_settings(error: BaseException) -> str:
    """Name the first wrong setting by its variable, without its value: a setting can be a secret."""
    problems = error.errors()  # type: ignore[attr-defined]  # a pydantic ValidationError, recognised by shape
    first = problems[0]
    variable = "DISCREET_" + "__".join(str(part) for part in first["loc"]).upper()
    others = f" ({len(problems) - 1} more wrong)" if len(problems) > 1 else ""
    return _sentence(f"The setting {variable} is not usable: {first['msg']}{others}")
