"""Write the tables of README.md and docs/ from the figures in this folder: python results/render.py [--check].

A table is the text between ``<!-- table: NAME -->`` and ``<!-- end -->``; ``tables.md`` specifies it. ``--check``
changes nothing and exits 1 if a page differs from the figures.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

import derive

PAGES = (derive.HERE.parent / "README.md", *sorted((derive.HERE.parent / "docs").glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SPECIFICATION = re.compile(
    r"^## ([\w*]+):(?: (benchmark_\w+))?,?(?: each of (.+))?\n"  # name, file, rows
    r"((?:[^|#\n].*\n|\n)*)((?:\|.*\n)+)((?:[^#\n].*\n)*)",  # text before the table, its lines, text after it
    re.MULTILINE,
)
_SPECIFICATIONS = {
    found[1]: found.groups()[1:]
    for found in _SPECIFICATION.finditer((derive.HERE / "tables.md").read_text(encoding="utf-8"))
}
_FIGURES = {path.stem: derive.read(path.stem) for path in derive.HERE.glob("benchmark_*.json")}


def on(figures: Mapping[str, Any]) -> str:
    """Return the machine and the date of a measurement."""
    found = figures.get("provenance", figures)
    return f"{found['machine']['cpu']}, {found['machine']['cores']} cores, {found['date'][:10]}"


def show(value: Any, form: str, unit: str = "", by: float = 1) -> str:
    """Return a figure with its unit, or nothing if it is null."""
    return "" if value is None else f"{value / by:{form}}{unit}"


_NAMES = {"derive": derive, "on": on, "plain": derive.plain, "show": show, "mean": fmean}


def _fill(text: str, names: dict[str, Any]) -> str:
    return str(eval(f"f'''{text}'''", names))


def _cells(line: str, names: dict[str, Any]) -> Iterator[str]:
    for cell in line.strip("|\n").split(" |"):
        cell = cell.strip()
        yield from map(str, eval(f"[{cell[1:-1]}]", names)) if cell.startswith("{*") else [_fill(cell, names)]


def _named(rows: Any) -> Iterable[dict[str, Any]]:
    """Yield the figures of each row, and its name if it has one: of a list of rows or pairs, or of an object."""
    for row in rows.items() if isinstance(rows, Mapping) else rows:
        name, row = row if isinstance(row, tuple) else (None, row)
        yield {"row": row, **({} if name is None else {"name": name}), **(row if isinstance(row, Mapping) else {})}


def render(name: str) -> str:
    """Return a table in Markdown, with the text before and after it."""
    kind, _, table = name.partition("_")
    if not (found := _SPECIFICATIONS.get(name) or _SPECIFICATIONS.get(f"{kind}_*")):
        sys.exit(f"results/tables.md: no table {name!r}, which a page shows; it has {', '.join(_SPECIFICATIONS)}")
    file, each, before, table_lines, after = found
    figures = (_FIGURES.get(file) or derive.read(file)) if file else {}
    names = _NAMES | _FIGURES | {"table": table, **figures, "figures": figures}
    head, *lines = table_lines.splitlines()
    try:
        rows = [_cells(lines[0], {**names, **row}) for row in _named(eval(each, names))] if each else []
        rows += [_cells(line, names) for line in lines[bool(each) :]]
        titles = [*_cells(head, names)]
        done = "".join(f"| {' | '.join(line)} |\n" for line in (titles, ["---"] * len(titles), *rows))
        notes = _fill(" ".join(after.splitlines()), names)
        return _fill(before.rstrip("\n"), names) + "\n\n" * bool(before) + done + (f"\n{notes}\n" if notes else "")
    except (AttributeError, IndexError, KeyError, NameError) as error:
        sys.exit(f"results/tables.md, {name}: {file}.json lacks {error}; measure it as results/run.sh does")


def main() -> None:
    """Render or check every page."""
    stale = []
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = _TABLE.sub(lambda match: f"{match[1]}{render(match[2])}{match[3]}", old)
        if new != old:
            stale.append(str(path.relative_to(derive.HERE.parent)))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8", newline="\n")
    if stale and "--check" in sys.argv:
        sys.exit(f"differ from the figures in results/: {', '.join(stale)}; run: python results/render.py")


if __name__ == "__main__":
    main()
