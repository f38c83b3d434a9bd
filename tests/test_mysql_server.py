"""Rows read from dumps are, value for value, what a real server returns."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shridhar_ft.data.sources.mysql.create_table import Column, Table
from shridhar_ft.data.sources.mysql.reader import Dump

TOOLS = ("mariadbd", "mariadb-install-db", "mariadb", "mariadb-dump")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="needs a MariaDB server and its client"
)


class Server:
    """A MariaDB server of our own, without network."""

    def __init__(self, socket: Path | str) -> None:
        self.socket = str(socket)

    def run(self, sql: str | bytes, database: str = "") -> bytes:
        command = ["mariadb", "-S", self.socket, "--default-character-set=utf8mb4", "-N", "-B", "--binary-mode"]
        raw = sql if isinstance(sql, bytes) else sql.encode()
        done = subprocess.run(
            [*command, *([database] if database else [])], input=raw, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def dump(self, database: str, *options: str) -> bytes:
        command = ["mariadb-dump", "-S", self.socket, *options, database]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def select(self, database: str, table: Table, charset: str = "utf8mb4") -> dict[str, list[Any]]:
        """Every row of a table by the server's own conversions, bytes as hexadecimal digits."""
        asked = ", ".join(_asked(column, charset) for column in table.columns)
        lines = self.run(f"SELECT {asked} FROM `{table.name.replace('`', '``')}`", database).decode().split("\n")[:-1]
        rows = [line.split("\t") for line in lines]
        return {column.name: [_meant(column, row[place]) for row in rows] for place, column in enumerate(table.columns)}


def _asked(column: Column, charset: str) -> str:
    name = f"`{column.name}`"
    if column.is_text:
        # What the dump's charset lacks comes as question marks there, too.
        through = name if charset == "binary" else f"CONVERT({name} USING {charset})"
        return f"CONCAT('x', HEX(CONVERT({through} USING utf8mb4)))"
    if column.is_binary:
        return f"CONCAT('x', HEX({name}))"
    return f"{name} + 0" if column.type == "bit" else name


def _meant(column: Column, text: str) -> Any:
    if text == "NULL":
        return None
    if column.is_text:
        return bytes.fromhex(text[1:]).decode()
    if column.is_binary:
        return bytes.fromhex(text[1:])
    if column.is_integer:
        return int(text)
    if column.type in ("float", "double"):
        return float(text)
    return Decimal(text) if column.type == "decimal" else text


def read(
    files: list[Path], chunk: int = 1 << 20, encoding: str = "auto"
) -> tuple[Dump, dict[str, dict[str, list[Any]]]]:
    """Every row of a dump, by table and column."""
    dump = Dump(files, "data.dialogues.0", encoding)
    tables: dict[str, dict[str, list[Any]]] = {}
    for batch in dump.batches(chunk=chunk):
        table = tables.setdefault(batch.table, {name: [] for name in batch.columns})
        assert batch.number == len(next(iter(table.values())))
        for name, values in batch.columns.items():
            table[name] += values
    return dump, tables


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    user = ["--user=root"] if os.geteuid() == 0 else []
    install = [
        "mariadb-install-db",
        *user,
        f"--datadir={home}/data",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    ]
    subprocess.run(install, check=True, capture_output=True)
    command = [
        "mariadbd",
        "--no-defaults",
        *user,
        f"--datadir={home}/data",
        f"--socket={home}/s",
        f"--pid-file={home}/pid",
    ]
    small = [
        "--skip-networking",
        "--skip-log-bin",
        "--innodb-buffer-pool-size=32M",
        "--innodb-flush-log-at-trx-commit=0",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*command, *small], stdout=log, stderr=log)
        try:
            found = Server(home / "s")
            for _ in range(200):
                ask = ["mariadb", "--no-defaults", "-S", found.socket, "-e", "SELECT 1"]
                if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            yield found
        finally:
            process.terminate()
            process.wait(30)


TYPES = {
    "i1": "tinyint",
    "i2": "smallint unsigned",
    "i3": "mediumint",
    "i4": "int unsigned zerofill",
    "i8": "bigint",
    "u8": "bigint unsigned",
    "flag": "tinyint(1)",
    "y": "year",
    "b1": "bit(1)",
    "b13": "bit(13)",
    "b64": "bit(64)",
    "f4": "float",
    "f8": "double",
    "d": "decimal(30,10)",
    "day": "date",
    "t": "time(6)",
    "dt": "datetime(3)",
    "ts": "timestamp null",
    "c": "char(20)",
    "v": "varchar(60)",
    "v3": "varchar(60) character set utf8mb3",
    "v1251": "varchar(60) character set cp1251",
    "v1": "varchar(60) character set latin1",
    "vk": "varchar(60) character set koi8r collate koi8r_bin",
    "v866": "varchar(60) character set cp866",
    "tt": "tinytext",
    "mt": "mediumtext",
    "lt": "longtext",
    "e": "enum('да','нет','it''s','a,b','')",
    "s": "set('а','б','c\\'d')",
    "j": "json",
    "bin": "binary(8)",
    "vb": "varbinary(60)",
    "tb": "tinyblob",
    "bl": "blob",
    "lb": "longblob",
    "g": "geometry",
    "p": "point",
    "ip": "inet6",
    "id6": "uuid",
}
nasty = st.sampled_from(
    ["'", '"', "\\", "\n", "\r", "\0", "\x1a", "\t", "\b", "%", "_", "`", ";", ",", "(", ")", "--", "я", "é", "😀"]
)
texts = st.lists(st.one_of(nasty, st.characters(codec="utf-8")), max_size=20).map("".join)
blobs = st.one_of(
    st.binary(max_size=30), st.lists(st.sampled_from([b"'", b"\\", b"\0", b"\n", b"\xd1", b"\xff"])).map(b"".join)
)

single_bytes = st.binary(max_size=40).map(lambda raw: raw.replace(b"\x98", b""))  # which stands for nothing in cp1251


def _hex(raw: bytes) -> str:
    return f"x'{raw.hex()}'"


def _value(type_: str) -> st.SearchStrategy[str]:
    """Literals of a type, written so that nothing but hexadecimal digits carries bytes."""
    base = type_.split("(")[0].split()[0]
    if "character set" in type_ and "utf8mb3" not in type_:
        charset = type_.split("character set ")[1].split()[0]
        return single_bytes.map(lambda raw: f"_{charset} {_hex(raw)}")
    if base in ("char", "varchar", "tinytext", "mediumtext", "longtext"):
        return texts.map(lambda text: f"_utf8mb4 {_hex(text.encode())}")
    if base in ("binary", "varbinary", "tinyblob", "blob", "longblob"):
        return blobs.map(_hex)
    if base == "bit":
        width = int(type_[4:-1])
        return st.integers(0, 2**width - 1).map(str)
    return {
        "tinyint": st.integers(-128, 127).map(str),
        "smallint": st.integers(0, 65535).map(str),
        "mediumint": st.integers(-(2**23), 2**23 - 1).map(str),
        "int": st.integers(0, 2**32 - 1).map(str),
        "bigint": (st.integers(0, 2**64 - 1) if "unsigned" in type_ else st.integers(-(2**63), 2**63 - 1)).map(str),
        "year": st.one_of(st.just(0), st.integers(1901, 2155)).map(str),
        "float": st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
        "double": st.floats(allow_nan=False, allow_infinity=False).map(repr),
        "decimal": st.decimals(-(10**19), 10**19, allow_nan=False, places=10).map(str),
        "date": st.dates().map(lambda day: f"'{day:%Y-%m-%d}'"),
        "time": st.sampled_from(["'-838:59:59'", "'00:00:00.000001'", "'12:34:56.789'"]),
        "datetime": st.sampled_from(["'0000-00-00 00:00:00'", "'2018-02-01 23:23:46.125'", "'9999-12-31 23:59:59'"]),
        "timestamp": st.sampled_from(["'2018-02-01 23:23:46'", "'1970-01-02 00:00:01'"]),
        "enum": st.sampled_from(["'да'", "'нет'", "'it''s'", "'a,b'", "''"]),
        "set": st.sampled_from(["''", "'а'", "'а,б'", "'c\\'d,б'"]),
        "json": st.one_of(
            st.just("'null'"), texts.map(lambda text: f"JSON_OBJECT('ключ', _utf8mb4 {_hex(text.encode())})")
        ),
        "geometry": st.sampled_from(
            ["ST_GeomFromText('LINESTRING(0 0,39 92,10.5 -1e-7)')", "ST_GeomFromText('POINT(34 13)')"]
        ),
        "point": st.floats(-180, 180).map(lambda x: f"POINT({x!r}, {x / 2!r})"),
        "inet6": st.sampled_from(["'::1'", "'2001:db8::ff00:42:8329'"]),
        "uuid": st.uuids().map(lambda one: f"'{one}'"),
    }[base]


rows = st.tuples(*(st.one_of(st.just("NULL"), _value(type_), _value(type_)) for type_ in TYPES.values()))
DUMPS = {
    "as it comes": [],
    "complete, hex": ["--complete-insert", "--hex-blob"],
    "one row an INSERT": ["--skip-extended-insert"],
    "small INSERTs, ignore": ["--insert-ignore", "--net-buffer-length=4096", "--max-allowed-packet=4096"],
    "replace, compact": ["--replace", "--compact"],
    "cp1251": ["--default-character-set=cp1251"],
    "binary": ["--default-character-set=binary"],
    "ansi": ["--compatible=ansi", "--set-charset", "--default-character-set=utf8mb4", "--skip-extended-insert"],
    "utf8mb3, quiet": ["--default-character-set=utf8mb3", "--skip-comments", "--hex-blob"],
}


@settings(
    max_examples=3, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_every_value_of_every_type_is_what_select_returns(server: Server, tmp_path: Path, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(rows, min_size=15, max_size=40))
    columns = ", ".join(f"`{name}` {type_}" for name, type_ in TYPES.items())
    values = ",\n".join(f"({number}, {', '.join(row)})" for number, row in enumerate(drawn, start=1))
    other = data.draw(st.lists(single_bytes, max_size=10))
    server.run(
        "SET sql_mode = ''; DROP DATABASE IF EXISTS every; CREATE DATABASE every CHARACTER SET utf8mb4; USE every;\n"
        f"CREATE TABLE `ti``p` (id int not null auto_increment primary key, {columns});\n"
        f"INSERT INTO `ti``p` VALUES {values};\n"
        "CREATE TABLE old (id int, words text) CHARACTER SET cp1251;\n"
        "CREATE TABLE made (id int, twice int AS (id * 2) VIRTUAL, kept int AS (id * 3) STORED, last varchar(9));\n"
        "INSERT INTO made (id, last) VALUES (1, 'it''s'), (2, NULL);\n"
        "CREATE TABLE hidden (id int, secret int INVISIBLE DEFAULT 5, seen int);\n"
        "INSERT INTO hidden (id, secret, seen) VALUES (1, 2, 3);\n"
        "CREATE VIEW looks AS SELECT id, v FROM `ti``p`;\n"
        "CREATE TRIGGER pulled BEFORE INSERT ON old FOR EACH ROW SET NEW.id = 1;\n"
        + "".join(f"INSERT INTO old VALUES ({n}, _cp1251 {_hex(raw)});\n" for n, raw in enumerate(other))
        + "DELIMITER ;;\nCREATE PROCEDURE calc() BEGIN SELECT ';', \"it's\"; INSERT INTO old VALUES (1, 'x'); END ;;\n"
    )
    for what, options in DUMPS.items():
        file = tmp_path / "dump.sql"
        file.write_bytes(server.dump("every", "--routines", "--events", *options))
        dump, tables = read([file], chunk=data.draw(st.sampled_from([1 << 12, 1 << 16, 1 << 20])))
        charset = dump.facts.charset or "utf8mb4"
        assert dump.tables["looks"].is_view
        for table in dump.tables.values():
            if table.is_view or not table.rows:
                continue
            columns_there = tuple(column for column in table.columns if not column.generated)
            expected = server.select("every", Table(table.name, columns_there), charset)
            for name, values in expected.items():
                assert tables[table.name][name] == values, (what, table.name, name)


def test_names_in_russian_are_read(server: Server, tmp_path: Path) -> None:
    server.run(
        "CREATE DATABASE names CHARACTER SET utf8mb4; USE names;\n"
        'CREATE TABLE `таб``лица` (`но"мер` int, `сло``во` text);\n'
        "INSERT INTO `таб``лица` VALUES (1, 'да'), (2, NULL);"
    )
    file = tmp_path / "dump.sql"
    for options in ([], ["--complete-insert"], ["--databases"]):
        file.write_bytes(server.dump("names", *options))
        _, tables = read([file])
        assert tables == {"таб`лица": {'но"мер': [1, 2], "сло`во": ["да", None]}}
