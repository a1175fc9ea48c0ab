"""Tables for the terminal and for Markdown, the targets, and the README between its markers."""
import re
import textwrap
from pathlib import Path

from peers import chart

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

# What issue 9 asks for: name of the row, measure, against, at most.
TARGETS = [
    ("start bwrap", "start to exit, busybox `true`, warm", "`bwrap --unshare-all`", 0.70),
    ("start crun", "the same", "crun, no cgroup", 0.45),
    ("start runc", "the same", "runc", 0.15),
    ("start unshare", "the same", "unshare", 0.80),
    ("tiny", "the same, tiny static payload", "the floor program", 1.25),
    ("limits", "start to exit after 100 ms idle, with limits of cpu, memory, processes", "crun with limits", 0.25),
    ("tar", "first start from a tar of 120 MB", "`tar xf` alone, same disk", 0.10),
    ("exec", "`mini exec ID true`", "`nsenter -a true`", 1.5),
    ("idle", "PSS of an idle container in the background", "bwrap, foreground", 0.40),
    ("many", "1,000 containers: time of a start", "10 containers", 1.5),
]


class Report:
    """Collects what was measured, printing each table as soon as it is there."""

    def __init__(self):
        self.machine = ""
        self.notes = []
        self.tables = []
        self.results = {}
        self.bars = []  # (name, milliseconds, first quartile, third quartile) for the chart
        self.shown = []  # tables for the README

    def note(self, text):
        self.notes.append(text)
        print(textwrap.fill(text, 120), flush=True)

    def table(self, title, header, rows, note="", readme=False):
        """Prints a Markdown table with columns aligned, and keeps it; `readme`: it is shown there, too."""
        text, note = "{}\n\n{}\n", f"\n{textwrap.fill(note, 118)}\n" if note else ""
        printed = text.format(title, "\n".join(aligned(header, rows))) + note
        # A stroke within a cell would end it.
        escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
        kept = text.format(title[0].upper() + title[1:] + ":", "\n".join(aligned(header, escaped))) + note
        self.tables.append(kept)
        if readme:
            self.shown.append(kept)
        print(f"\n{printed}", end="", flush=True)

    def target(self, name, ratio, why=""):
        """The result of a target: (median, first quartile, third quartile), or None with the reason it was not measured."""
        self.results[name] = (ratio, why)

    def targets(self):
        """The table of targets, each with what came out, of those that were measured."""
        if not self.results:
            return
        rows = []
        for name, measure, against, limit in TARGETS:
            ratio, why = self.results.get(name, (None, "not measured in this run"))
            if ratio is None:
                rows.append([measure, against, f"{limit:.2f}", "-", why])
                continue
            middle, low, high = ratio
            verdict = "met" if middle <= limit else f"missed by {(middle / limit - 1) * 100:.0f} %"
            spread = f" ({low:.3g}-{high:.3g})" if low != high else ""
            rows.append([measure, against, f"{limit:.2f}", f"{middle:.3g}{spread}", f"{verdict}{': ' + why if why else ''}"])
        header = ["measure", "against", "at most", "measured", ""]
        self.table("the targets: ratios, with the first and third quartile", header, rows, readme=True)
        self.shown.insert(0, self.shown.pop())

    def markdown(self):
        head = [f"# tests/bench\n\n{self.machine}\n", *(f"{note}\n" for note in self.notes)]
        return "\n".join(head + self.tables)

    def write(self, root):
        """README: its table between the markers is replaced; chart.svg beside this file."""
        path = Path(root, "README.md")
        text = path.read_text()
        head = textwrap.fill(f"{self.machine}. {' '.join(self.notes)}", 118)
        table = "\n".join([BEGIN, head + "\n", *self.shown])
        found = re.search(f"{BEGIN}.*?{END}", text, re.S)
        if not found:
            raise SystemExit(f"tests/bench: README.md has no {BEGIN} … {END}")
        path.write_text(text[: found.start()] + table + END + text[found.end() :])
        if self.bars:
            Path(root, "tests/peers/chart.svg").write_text(chart.draw(self.bars))


def aligned(header, rows):
    """Lines of a Markdown table whose columns are padded to one width, so that it reads well as text too."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [min(max(len(row[column]) for row in cells), 60) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
