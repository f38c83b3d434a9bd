"""Random rows, written the way mysqldump writes them, are read back as they were, however the bytes are cut."""

import random
import runpy
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft.data.sources.mysql.reader import Dump

FUZZ = runpy.run_path(str(Path(__file__).parent.parent / "bench" / "fuzz_dump.py"))

COLUMNS = {
    "i": "bigint(20)",
    "s": "varchar(99)",
    "c": "text CHARACTER SET cp1251",
    "b": "blob",
    "bit": "bit(12)",
    "f": "double",
    "d": "decimal(30,10)",
    "j": "json",
}
texts = st.one_of(st.text(max_size=30), st.text(alphabet="'\\\"\n\r\0\x1a\t\b%_`;,()N0x- я😀", max_size=30))
values = st.fixed_dictionaries(
    {
        "i": st.integers(-(2**63), 2**63 - 1),
        "s": texts,
        "c": texts,
        "b": st.one_of(
            st.binary(max_size=30), st.lists(st.sampled_from([b"'", b"\\", b"\0", b"\n", b"\xd1"])).map(b"".join)
        ),
        "bit": st.integers(0, 2**12 - 1),
        "f": st.floats(allow_nan=False, allow_infinity=False),
        "d": st.decimals(-(10**19), 10**19, allow_nan=False, places=10),
        "j": texts,
    }
)
nulls = st.sets(st.sampled_from(sorted(COLUMNS)))
rows = st.tuples(values, nulls).map(
    lambda drawn: {name: None if name in drawn[1] else drawn[0][name] for name in COLUMNS}
)


def escaped(raw: bytes, quote: bytes = b"\\'") -> bytes:
    """What mysql_real_escape_string makes of it in UTF-8, with the quotes around it."""
    special = {0: b"\\0", 10: b"\\n", 13: b"\\r", 92: b"\\\\", 39: quote, 34: b'\\"', 26: b"\\Z"}
    return b"'" + b"".join(special.get(byte, bytes([byte])) for byte in raw) + b"'"


def written(row: dict[str, Any], how: dict[str, bool]) -> bytes:
    def one(name: str) -> bytes:
        value = row[name]
        if value is None:
            return b"NULL"
        if isinstance(value, int | float | Decimal) and name != "bit":
            return str(value).encode()
        raw = value.to_bytes(2, "big") if name == "bit" else value if isinstance(value, bytes) else value.encode()
        if how["hex"] and name in ("b", "bit"):
            return b"0x" + raw.hex().upper().encode() if raw else b"''"
        if how["binary"] and name == "b":
            return b"_binary " + escaped(raw)
        return escaped(raw, b"''") if how["doubled"] else escaped(raw)

    return b"(" + b",".join(map(one, COLUMNS)) + b")"


def dumped(table: list[dict[str, Any]], how: dict[str, bool]) -> bytes:
    columns = ",\n".join(f"  `{name}` {type_} DEFAULT NULL" for name, type_ in COLUMNS.items())
    head = (
        "-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)\n/*!40101 SET NAMES utf8mb4 */;\n"
        f"DROP TABLE IF EXISTS `t`;\nCREATE TABLE `t` (\n{columns}\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;\n"
        "LOCK TABLES `t` WRITE;\n/*!40000 ALTER TABLE `t` DISABLE KEYS */;\n"
    ).encode()
    insert = b"INSERT %sINTO `t` %sVALUES%s" % (
        b" IGNORE " if how["ignore"] else b"",
        b"(`" + b"`, `".join(name.encode() for name in COLUMNS) + b"`) " if how["complete"] else b"",
        b"\n" if how["line"] else b" ",
    )
    every = [written(row, how) for row in table]
    if how["single"]:
        body = b"".join(insert + row + b";\n" for row in every)
    else:
        body = insert + (b",\n" if how["line"] else b",").join(every) + b";\n" if every else b""
    return (
        head + body + b"/*!40000 ALTER TABLE `t` ENABLE KEYS */;\nUNLOCK TABLES;\n\n-- Dump completed on 2020-01-01\n"
    )


ways = st.fixed_dictionaries(
    {name: st.booleans() for name in ("hex", "binary", "doubled", "ignore", "complete", "line", "single")}
)


@settings(max_examples=80, deadline=None)
@given(table=st.lists(rows, max_size=12), how=ways, chunk=st.sampled_from([1, 13, 1024, 1 << 20]), draw=st.randoms())
def test_rows_come_back_as_they_were(table, how, chunk: int, draw: random.Random) -> None:
    raw = dumped(table, how)
    cuts = sorted(draw.randrange(len(raw)) for _ in range(draw.randrange(4)))
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(raw)], strict=True)):
            files.append(Path(folder) / f"part.{number}")
            files[-1].write_bytes(raw[begin:end])
        dump = Dump(files, "data.dialogues.0")
        read = [
            dict(zip(batch.columns, row, strict=True))
            for batch in dump.batches(chunk=chunk)
            for row in zip(*batch.columns.values(), strict=True)
        ]
    assert read == table
    assert dump.tables["t"].rows == len(table)


@settings(max_examples=60, deadline=20_000)
@given(seed=st.integers(0, 2**32))
def test_wounded_dumps_are_read_or_refused_however_they_are_cut(seed: int) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        FUZZ["check"](FUZZ["mutate"](draw, FUZZ["SEEDS"]), draw, Path(folder))
