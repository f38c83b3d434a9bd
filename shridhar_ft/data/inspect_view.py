"""What `data inspect` prints: sources, tables, columns, samples, and the mapping to paste."""

from collections.abc import Iterator
from typing import Any


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The findings of `inspect.inspect`, as lines for a terminal."""
    for source in found["sources"]:
        yield from _source(source)
        yield ""
    if found["folders_passed_over"]:
        yield f"not looked into: {', '.join(found['folders_passed_over'])}"
        yield ""
    if found["yaml"]:
        yield "# paste this into a recipe, and mend what does not fit:"
        yield found["yaml"].rstrip()
    else:
        yield "nothing here looks like books or dialogues: no mapping to propose"


def _source(source: dict[str, Any]) -> Iterator[str]:
    parts = f" in {source['parts']:,} parts" if source.get("parts", 1) > 1 else ""
    facts = [source["format"], f"{source['bytes'] / 1e6:,.1f} MB{parts}"]
    facts += [source["encoding"]] if source.get("encoding") else []
    yield f"{source['path']}: {', '.join(facts)}"
    for note in source["notes"]:
        yield f"  {note}"
    if "characters" in source:
        yield from _book(source)
    tables = source.get("tables", ())
    for table in tables:
        if table["rows"]:
            yield from _table(table)
    if empty := [table["name"] for table in tables if not table["rows"]]:
        yield f"  without rows: {', '.join(empty)}"


def _book(source: dict[str, Any]) -> Iterator[str]:
    said = [f"“{source['title']}”"] if source["title"] else []
    said += [source["author"]] if source["author"] else []
    said += [f"{source['characters']:,} characters", f"{source['words']:,} words"]
    said += [f"{source['chapters']:,} chapters", f"{_percent(source['cyrillic'])} Cyrillic"]
    yield f"  {', '.join(said)}"
    for sample in source.get("samples", ()):
        yield f"  · {sample}"


def _table(table: dict[str, Any]) -> Iterator[str]:
    yield f"  {table['name']}: {table['rows']:,} rows"
    rows = [
        (
            column["name"],
            column["type"],
            _percent(column["empty"]),
            _percent(column["cyrillic"]),
            f"{column['mean_characters']:,.0f}" if column["mean_characters"] is not None else "",
        )
        for column in table["columns"]
    ]
    head = ("column", "type", "empty", "Cyrillic", "mean length")
    widths = [max(len(str(row[place])) for row in [head, *rows]) for place in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in _places(row, widths)]
        yield f"    {'  '.join(cells)}".rstrip()
    for number, sample in enumerate(table.get("samples", ()), start=1):
        yield f"    sample {number}: " + ", ".join(f"{name}={value!r}" for name, value in sample.items())


def _places(row: tuple[str, ...], widths: list[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    return enumerate(zip(row, widths, strict=True))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
