"""Results as Markdown, as a plot (SVG) and as JSON."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from bench.peers import APPPOT, NATIVE
from bench.sides import STOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.series import Section

_MET = {True: "yes", False: "**no**", None: "-"}
_WIDTH, _LABEL, _NUMBER, _ROW, _TITLE = 860, 210, 150, 20, 34


def markdown(sections: Sequence[Section], facts: dict[str, str], how: str, plot: str) -> str:
    """Return the result as a page."""
    lines = ["# Benchmark", "", f"Made by `{how}`. Medians of series in which all took turns.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", f"![plot]({plot})", "", "## Goals", "", "| goal | found | met |", "|---|---|---|"]
    for section in sections:
        lines += [
            f"| {section.title}: {goal.text} | {goal.found} | {_MET[goal.met]} |"
            for goal in section.goals
        ]
    lines += side_by_side(sections)
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        lines += [section.note, ""] if section.note else []
        lines += _table(section)
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return text that does not end a table's cell."""
    return text.replace("|", "/")


def side_by_side(sections: Sequence[Section]) -> list[str]:
    """Return one table of all measures in which the stock kernel took part."""
    shown = [s for s in sections if {STOCK} & {*s.samples, *s.outcomes, *s.missing}]
    if not shown:
        return []
    lines = ["", "## Native, stock and AppPot", "", "Medians; in brackets: times native.", ""]
    lines += ["| measure | native | stock UML | AppPot | goals met |", "|---|---:|---:|---:|---|"]
    for section in shown:
        sides = [_side(section, case) for case in (NATIVE, STOCK, APPPOT)]
        met = ", ".join(_MET[goal.met] for goal in section.goals) or "-"
        lines.append(f"| {section.title}, {section.unit} | {' | '.join(sides)} | {met} |")
    return lines


def _side(section: Section, case: str) -> str:
    if case in section.outcomes:
        return cell(section.outcomes[case])
    median, ratio = section.median(case), section.ratio(case)
    if median is None:
        return "-"
    times = "" if ratio is None or case == section.baseline else f" ({ratio:.2f})"
    return f"{median:.{section.digits}f}{times}"


def _table(section: Section) -> list[str]:
    relative = f" to {section.baseline} |" if section.baseline else ""
    rule = "---:|" if section.baseline else ""
    rows = [
        f"| case | median, {section.unit} | min | max | n |{relative}",
        f"|---|---:|---:|---:|---:|{rule}",
    ]
    for case, sample in section.samples.items():
        numbers = [f"{x:.{section.digits}f}" for x in (sample.median, sample.low, sample.high)]
        cells = [case, *numbers, str(len(sample.values))]
        if section.baseline:
            ratio = section.ratio(case)
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        rows.append("| " + " | ".join(cells) + " |")
    empty = "- | " * (4 if section.baseline else 3)
    rows += [f"| {case} | {cell(how)} | {empty[:-1]}" for case, how in section.outcomes.items()]
    missing = [
        f"- {case}: not measured: {cell(reason)}" for case, reason in section.missing.items()
    ]
    return [*rows, *(["", *missing] if missing else [])]


def svg(sections: Sequence[Section]) -> str:
    """Return a plot: for each measure a bar per case, its end the median, a line min to max."""
    shown = [section for section in sections if section.samples]
    height = sum(_TITLE + _ROW * len(section.samples) + 12 for section in shown) + 10
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
            f' viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    top = 10
    for section in shown:
        parts += _panel(section, top)
        top += _TITLE + _ROW * len(section.samples) + 12
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(section: Section, top: int) -> list[str]:
    room = _WIDTH - _LABEL - _NUMBER
    longest = max(sample.high for sample in section.samples.values()) or 1.0
    title = f"{section.title} ({section.unit})".replace("`", "")
    parts = [f'<text x="10" y="{top + 18}" font-weight="bold">{escape(title)}</text>']
    for row, (case, sample) in enumerate(section.samples.items()):
        y = top + _TITLE + row * _ROW
        middle = y + _ROW // 2 - 3
        low, mid, high = (
            _LABEL + max(0.0, value) / longest * room
            for value in (sample.low, sample.median, sample.high)
        )
        colour = "#2b6cb0" if case.startswith("apppot") else "#a0aec0"
        text = f"{sample.median:.{section.digits}f}"
        parts += [
            f'<text x="{_LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(case)}</text>',
            (
                f'<rect x="{_LABEL}" y="{y}" width="{max(mid - _LABEL, 0.5):.1f}"'
                f' height="{_ROW - 6}" fill="{colour}"/>'
            ),
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>',
            f'<text x="{high + 6:.1f}" y="{y + 11}">{text}</text>',
        ]
    return parts


def data(sections: Sequence[Section], facts: dict[str, str]) -> str:
    """Return every value, for those who want to compute with them."""
    rows = [
        {
            "title": section.title,
            "unit": section.unit,
            "values": {case: list(sample.values) for case, sample in section.samples.items()},
            "outcomes": section.outcomes,
            "missing": section.missing,
            "goals": [[goal.text, goal.found, goal.met] for goal in section.goals],
        }
        for section in sections
    ]
    return json.dumps({"host": facts, "sections": rows}, indent=1) + "\n"
