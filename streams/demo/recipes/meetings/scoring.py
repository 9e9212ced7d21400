"""Errors of words in notes, told apart: on a house's names (B-WER) and on all other words (U-WER)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """Of one text against what was said.

    Attributes:
        names: errors on names.
        of_names: names that were said.
        others: errors on other words.
        of_others: other words that were said.
    """

    names: int
    of_names: int
    others: int
    of_others: int

    @property
    def names_right(self) -> float:
        """Share of names without an error, 1 where none was said."""
        return 1.0 - min(1.0, self.names / self.of_names) if self.of_names else 1.0

    @property
    def others_right(self) -> float:
        """Share of other words without an error."""
        return 1.0 - min(1.0, self.others / self.of_others) if self.of_others else 1.0


def word_errors(said: str, text: str, names: set[str]) -> WordErrors:
    """Return the errors of the cheapest alignment; what was put in beside a name is that name's error.

    Args:
        said: what was said.
        text: what came of it.
        names: words of ``said`` that count by themselves.
    """
    one, other = said.split(), text.split()
    cost = [[row + column for column in range(len(other) + 1)] for row in range(len(one) + 1)]
    for row, word in enumerate(one, start=1):
        for column, heard in enumerate(other, start=1):
            cost[row][column] = min(
                cost[row - 1][column - 1] + (word != heard),
                cost[row - 1][column] + 1,
                cost[row][column - 1] + 1,
            )
    wrong_names: set[int] = set()
    wrong_others = 0
    row, column = len(one), len(other)
    while row or column:
        put_in = False
        if (
            row
            and column
            and cost[row][column] == cost[row - 1][column - 1] + (one[row - 1] != other[column - 1])
        ):
            place, wrong, row, column = row - 1, one[row - 1] != other[column - 1], row - 1, column - 1
        elif row and cost[row][column] == cost[row - 1][column] + 1:
            place, wrong, row = row - 1, True, row - 1
        else:
            place, wrong, column, put_in = row - 1, True, column - 1, True
        if not wrong:
            continue
        # A word that was put in is the error of the name that it stands beside, if it does.
        near = (place, place + 1) if put_in else (place,)
        name = next((at for at in near if 0 <= at < len(one) and one[at] in names), None)
        if name is None:
            wrong_others += 1
        else:
            wrong_names.add(name)
    of_names = sum(word in names for word in one)
    return WordErrors(
        names=len(wrong_names), of_names=of_names, others=wrong_others, of_others=len(one) - of_names
    )
