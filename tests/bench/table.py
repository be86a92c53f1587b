"""What was measured, as figures with units, and the Markdown table of them."""

import dataclasses
import os
import sys

COLUMNS = "| measured | bots-ctl | alternative | bots-ctl ÷ alternative | to reach |\n|---|---|---|---|---|"


@dataclasses.dataclass
class Figure:
    """A number, for ratios, and how it is shown."""

    number: float
    text: str

    def also(self, detail):
        """The same with more to read, in brackets."""
        return Figure(self.number, f"{self.text} ({detail})")


class Table:
    """One theme."""

    def __init__(self, title):
        self.title, self.rows, self.notes = title, [], []

    def row(self, what, ours, beside=None, target=""):
        """`beside` are the figures of the alternatives, by name. What has no number, as when there is nothing to
        compare with, is a text instead of a figure."""
        beside = beside or {}
        alternatives = "; ".join(f"{name}: {text(figure)}" for name, figure in beside.items())
        found = {name: share for name, figure in beside.items() if (share := ratio(ours, figure))}
        ratios = "; ".join(f"{name}: {share}" if len(beside) > 1 else share for name, share in found.items())
        self.rows.append((what, text(ours), alternatives, ratios, target))
        print("  " + " | ".join(filter(None, self.rows[-1])), file=sys.stderr, flush=True)

    def note(self, words):
        """What a reader has to know beside the figures, such as what could not be measured."""
        self.notes.append(words)
        print(f"  {words}", file=sys.stderr, flush=True)

    def print(self):
        print(f"\n## {self.title}\n")
        if self.rows:
            print(COLUMNS)
        for cells in self.rows:
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if self.rows and self.notes:
            print()
        for words in self.notes:
            print(f"- {words}")
        print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}", flush=True)


def text(figure):
    return figure.text if isinstance(figure, Figure) else figure


def ratio(ours, theirs):
    if not isinstance(ours, Figure) or not isinstance(theirs, Figure) or theirs.number == 0:
        return ""
    share = ours.number / theirs.number
    return f"{share:.2f}" if share >= 0.1 else f"{share:.2g}"


def duration(value):
    """Seconds, in the unit that fits."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if abs(value) < limit:
            shown = value * factor
            return Figure(value, f"{shown:.{1 if abs(shown) < 10 else 0}f} {unit}")
    return Figure(value, f"{value:.2f} s")


def spread(times, share=0.95):
    """The median of many, and what most of them stay below."""
    return duration(times.median).also(f"p{share * 100:.0f} {duration(times.percentile(share)).text}")


def least(times):
    """The median of some, and the least."""
    return duration(times.median).also(f"least {duration(times.least).text}")


def megabytes(value):
    return Figure(value, f"{value / 1e6:.1f} MB")


def rate(value, unit="/s"):
    return Figure(value, f"{value:,.0f}{unit}")


def count(value):
    return Figure(value, f"{value:,}")


def percent(value):
    """Of a core."""
    return Figure(value, f"{value * 100:.{1 if value >= 0.1 else 2}f} %")
