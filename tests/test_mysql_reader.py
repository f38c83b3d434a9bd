"""The dump reader reads what mysqldump and hands write, and refuses the rest with one sentence."""

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shridhar_ft.data.sources.mysql.charsets import repair_double_encoded
from shridhar_ft.data.sources.mysql.create_table import parse_create_table
from shridhar_ft.data.sources.mysql.foreign import foreign_dump, looks_like_dump
from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.errors import UserError

HEAD = "-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)\n--\n-- Server version\t5.7.33-log\n"
END = "-- Dump completed on 2020-01-01  0:00:00\n"
CHUNKS = (1, 50, 1 << 20)

Columns = dict[str, list[Any]]


def read(
    folder: Path,
    sql: str | bytes,
    wanted: Mapping[str, Sequence[str]] | None = None,
    encoding: str = "auto",
    partial: bool = False,
) -> tuple[Dump, dict[str, Columns]]:
    """Read a dump, with windows of several sizes, which must not matter."""
    file = folder / "dump.sql"
    file.write_bytes(sql.encode() if isinstance(sql, str) else sql)
    dump = Dump([file], "data.dialogues.0", encoding, partial)
    found: list[dict[str, Columns]] = []
    for chunk in CHUNKS:
        tables: dict[str, Columns] = {}
        for batch in dump.batches(wanted, chunk):
            columns = tables.setdefault(batch.table, {name: [] for name in batch.columns})
            assert {len(values) for values in batch.columns.values()} == {len(next(iter(batch.columns.values())))}
            for name, values in batch.columns.items():
                columns[name] += values
        found.append(tables)
    assert all(tables == found[0] for tables in found)
    return dump, found[0]


def refused(folder: Path, sql: str | bytes, **how: Any) -> str:
    """The sentence with which a dump is refused."""
    with pytest.raises(UserError) as refusal:
        read(folder, sql, **how)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (rb"'\0\n\r\t\b\Z\\\'\"'", "\0\n\r\t\b\x1a\\'\""),
        (rb"'50\% \_ \x \\n'", r"50\% \_ x \n"),
        (b"'it''s ''''quoted'''''", "it's ''quoted''"),
        (b"''", ""),
        (b"''''", "'"),
        (rb"'\\'", "\\"),
        (rb"'\\\''", "\\'"),
        (rb"'a\\\\''b'", "a\\\\'b"),
        (b'"say ""no"", it\'s"', 'say "no", it\'s'),
        (b"'NULL'", "NULL"),
        (b"NULL", None),
        (b"'a,(b);-- c /* d */ # e'", "a,(b);-- c /* d */ # e"),
        ("_utf8mb4'да'".encode(), "да"),
        ("_utf8mb4 'да'".encode(), "да"),
        (b"_cp1251'\xe4\xe0'", "да"),
        (b"_latin1 '\x81\xe9'", "\x81é"),
        (b"N'x'", "x"),
        (b"0xD0B4D0B0", "да"),
        (b"x'D0B4'", "д"),
        (b"_utf8mb4 x'D0B4'", "д"),
        (b"2010", "2010"),
    ],
)
def test_texts(tmp_path: Path, written: bytes, meant: str | None) -> None:
    _, tables = read(tmp_path, b"CREATE TABLE t (id int, s text); INSERT INTO t VALUES (1," + written + b"),(2,'x');")
    assert tables == {"t": {"id": [1, 2], "s": [meant, "x"]}}


@pytest.mark.parametrize(
    ("type_", "written", "meant"),
    [
        ("int(11)", "-5", -5),
        ("bigint unsigned", "18446744073709551615", 18446744073709551615),
        ("tinyint(1)", "1", 1),
        ("tinyint(1)", "TRUE", 1),
        ("int", "'12'", 12),
        ("int", "2.5", 3),
        ("year(4)", "2018", 2018),
        ("int(4) zerofill", "0007", 7),
        ("bit(1)", "'\x01'", 1),
        ("bit(1)", "'\\0'", 0),
        ("bit(1)", "b'1'", 1),
        ("bit(9)", "0x01FF", 511),
        ("bit(64)", "b'1010'", 10),
        ("bit(16)", r"'\'\\'", 0x275C),
        ("double", "1.5e-300", 1.5e-300),
        ("float", "-0", 0.0),
        ("double", "+1E+2", 100.0),
        ("decimal(12,4)", "-12345.6789", Decimal("-12345.6789")),
        ("decimal(12,4)", "'0.10'", Decimal("0.10")),
        ("date", "'2018-02-01'", "2018-02-01"),
        ("time", "'-838:59:59'", "-838:59:59"),
        ("datetime(3)", "'0000-00-00 00:00:00.000'", "0000-00-00 00:00:00.000"),
        ("enum('a','b,)')", "'b,)'", "b,)"),
        ("set('a','b')", "'a,b'", "a,b"),
        ("json", r"""'{\"k\": [\"a\", null]}'""", '{"k": ["a", null]}'),
        ("blob", "0x00FF", b"\x00\xff"),
        ("blob", "x'00ff'", b"\x00\xff"),
        ("blob", "0xF", b"\x0f"),
        ("blob", r"_binary '\0\Z\''", b"\0\x1a'"),
        ("varbinary(9)", "''", b""),
        ("geometry", "0x0000000001", b"\0\0\0\0\1"),
        ("point", r"_binary '\0\0'", b"\0\0"),
        ("varchar(9) CHARACTER SET binary", "'x'", b"x"),
        *(
            (type_, "NULL", None)
            for type_ in ("int", "double", "decimal", "date", "blob", "bit(1)", "enum('a')", "json")
        ),
    ],
)
def test_values_by_type(tmp_path: Path, type_: str, written: str, meant: Any) -> None:
    _, tables = read(
        tmp_path, f"CREATE TABLE `t` (`v` {type_} DEFAULT NULL);\nINSERT INTO `t` VALUES ({written}),(NULL);"
    )
    assert tables["t"]["v"] == [meant, None]
    assert type(tables["t"]["v"][0]) is type(meant)


def test_raw_bytes_of_blobs_come_through_whole(tmp_path: Path) -> None:
    every = bytes(byte for byte in range(256) if byte not in b"'\\")
    _, tables = read(tmp_path, b"CREATE TABLE t (b blob, s int); INSERT INTO t VALUES ('" + every + b"',1);")
    assert tables["t"]["b"] == [every]


def test_without_create_table_values_tell_their_types(tmp_path: Path) -> None:
    sql = "INSERT INTO t VALUES (1,'да',1.50,-2e3,0xFF,b'11',NULL,_binary 'x',TRUE);"
    _, tables = read(tmp_path, sql)
    assert {name: values[0] for name, values in tables["t"].items()} == {
        "column_1": 1,
        "column_2": "да",
        "column_3": Decimal("1.50"),
        "column_4": -2000.0,
        "column_5": b"\xff",
        "column_6": 3,
        "column_7": None,
        "column_8": b"x",
        "column_9": 1,
    }


# ---------------------------------------------------------------------------------------------- statements


@pytest.mark.parametrize(
    "insert",
    [
        "INSERT INTO `t` VALUES (1,'a'),(2,'b');",
        "INSERT INTO `t` VALUES\n(1,'a'),\n(2,'b');",
        "INSERT INTO `t` VALUES (1,'a');\nINSERT INTO `t` VALUES (2,'b');",
        "INSERT INTO `t` (`id`, `s`) VALUES (1,'a'),(2,'b');",
        "INSERT INTO `t` (`s`,`id`) VALUES ('a',1);INSERT INTO t (ID,S) VALUES (2,'b');",
        "INSERT IGNORE INTO `t` VALUES (1,'a'),(2,'b');",
        "REPLACE INTO `t` VALUES (1,'a'),(2,'b');",
        "INSERT  DELAYED IGNORE INTO `t` VALUES (1,'a'),(2,'b');",
        "insert t value(1,'a') , (2,'b')",
        'INSERT INTO "t" ("id","s") VALUES (1,"a"),(2,"b")',
        "INSERT INTO `db`.`t` VALUES (1,'a'),(2,'b');",
        "INSERT INTO `t` PARTITION (`p0`) VALUES (1,'a'),(2,'b');",
        "INSERT INTO `t` VALUES (1,'a'),(2,'b') ON DUPLICATE KEY UPDATE s='x;', id=id+1;",
        "INSERT /* it's */ INTO -- more\n `t` # and\n ( id , s ) VALUES ( 1 , /* ' */ 'a' -- (\n) , /* */\n(2,'b') ;",
        "/*!40000 INSERT INTO `t` VALUES (1,'a'),(2,'b') */;",
        "INSERT INTO `t` VALUES /*!50705 (1,'a'),*/(2,'b');",
        "INSERT INTO `t` VALUES (1/*!50705 ,'a'*/),(2,'b'/*!99999 ,'later'*/);",
        "INSERT INTO `t` VALUES (1, 'a'), (2, 'b');",
        "INSERT INTO `t` VALUES (1,'a'),(2,'b')",
        "LOCK TABLES t WRITE;;INSERT INTO `t` VALUES (1,'a'),(2,'b');UNLOCK TABLES",
        "INSERT INTO `t` SELECT 5,'z'; INSERT INTO t SET id=3; INSERT INTO `t` VALUES (1,'a'),(2,'b');",
        "DELIMITER $$\nINSERT INTO t VALUES (1,'a')$$\nINSERT INTO t VALUES (2,'b');$$\nDELIMITER ;\n",
    ],
)
def test_ways_of_writing_an_insert(tmp_path: Path, insert: str) -> None:
    sql = f"USE db;CREATE TABLE `t` (`id` int(11) NOT NULL, `s` varchar(9), PRIMARY KEY (`id`));\n{insert}"
    dump, tables = read(tmp_path, sql)
    assert {name: list(values) for name, values in tables["t"].items()} == {"id": [1, 2], "s": ["a", "b"]}
    assert dump.tables["t"].rows == 2
    assert len(dump.tables) == 1


def test_rows_by_hand_between_rows_of_mysqldump(tmp_path: Path) -> None:
    odd = ["(%d,'x')", "( %d ,'x')", '(%d,"x")', "(%d,/* ; */'x')", "(%d,'x' )"]
    rows = ",".join(odd[n % 5 if n % 7 == 0 else 0] % n for n in range(2000))
    _, tables = read(
        tmp_path, f"CREATE TABLE t (id int, s text);INSERT INTO t VALUES {rows};INSERT INTO t VALUES (2000,'x');"
    )
    assert tables == {"t": {"id": list(range(2001)), "s": ["x"] * 2001}}


def test_comments_longer_than_the_window_are_passed_over(tmp_path: Path) -> None:
    long = "x'\"`; " * 1000
    for comment in (f"/* {long}*/", f"-- {long}\n", f"# {long}\n", f"/*!99999 {long}*/", f"/*M!999999 {long}*/"):
        sql = """*CREATE *TABLE t (id int*, s text);*INSERT INTO *t (*id,s*) VALUES*(*1,*'x'*)*,*(2,'y')*;*"""
        _, tables = read(tmp_path, sql.replace("*", comment))
        assert tables == {"t": {"id": [1, 2], "s": ["x", "y"]}}


def test_batches_are_bounded_and_know_their_place(tmp_path: Path) -> None:
    file = tmp_path / "dump.sql"
    head = b"CREATE TABLE t (id int);INSERT INTO t VALUES "
    file.write_bytes(head + b",".join(b"(%d)" % n for n in range(25_000)) + b";")
    batches = list(Dump([file], "k").batches())
    assert [(batch.number, len(batch.columns["id"])) for batch in batches] == [
        (0, 10_000),
        (10_000, 10_000),
        (20_000, 5000),
    ]
    assert batches[0].where == f"{file}: byte {len(head)}"
    place = int(batches[1].where.rsplit(" ", 1)[1])
    assert file.read_bytes()[place:].startswith(b"(10000),")
    assert batches[0].file == "dump.sql"


def test_views_routines_and_the_header_are_told_not_read(tmp_path: Path) -> None:
    sql = (
        HEAD
        + """
/*!40101 SET NAMES utf8 */;
/*!50001 CREATE TABLE `v` (
  `id` tinyint NOT NULL
) ENGINE=MyISAM */;
SET @saved_cs_client     = @@character_set_client;
/*!50001 CREATE VIEW `w` AS SELECT
 1 AS `id` */;
/*!50003 SET sql_mode = 'NO_BACKSLASH_ESCAPES' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `tr` BEFORE INSERT ON `t` FOR EACH ROW BEGIN
SET @x = ';\\'; -- it's
END */;;
CREATE DEFINER=`root`@`localhost` PROCEDURE `calc`()
BEGIN INSERT INTO t VALUES (1,'no row'); SELECT ";;"; END ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `ev` ON SCHEDULE EVERY 1 DAY DO DELETE FROM t */ ;;
DELIMITER ;
/*!50003 SET sql_mode = @saved_sql_mode */ ;
CREATE TABLE `t` (`id` int);
INSERT INTO `t` VALUES (1);
UPDATE t SET id = 2;
/*!50001 DROP TABLE IF EXISTS `v`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */
/*!50001 VIEW `v` AS select `t`.`id` AS `id` from `t` */;
"""
        + END
    )
    dump, tables = read(tmp_path, sql)
    assert tables == {"t": {"id": [1]}}
    assert {name: table.is_view for name, table in dump.tables.items()} == {"v": True, "w": True, "t": False}
    assert dump.facts.tool == "MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)"
    assert dump.facts.server == "5.7.33-log"
    assert dump.facts.charset == "utf8"
    assert dump.facts.skipped == {"view": 2, "trigger": 1, "procedure": 1, "event": 1, "update": 1}
    assert "v is a view" in refused(tmp_path, sql, wanted={"v": ["id"]})


def test_tables_of_one_name_in_two_databases_are_told_apart(tmp_path: Path) -> None:
    one = "CREATE TABLE `t` (`id` int); INSERT INTO `t` VALUES (%d);"
    dump, tables = read(tmp_path, f"USE `a`; {one % 1} USE `b`; {one % 2} USE a; INSERT INTO t VALUES (3);")
    assert tables == {"t": {"id": [1, 3]}, "b.t": {"id": [2]}}
    assert dump.facts.databases == ["a", "b"]
    assert "created a second time" in refused(tmp_path, one % 1 + "DROP TABLE t;" + one % 2)
    assert read(tmp_path, one % 1 + one.replace("TABLE", "TABLE IF NOT EXISTS") % 2)[1] == {"t": {"id": [1, 2]}}


def test_only_what_is_wanted_is_converted(tmp_path: Path) -> None:
    sql = (
        "CREATE TABLE a (id int, s text, n int); CREATE TABLE b (id int, s text);"
        "INSERT INTO a VALUES (1,'x',what),(2,'y',7); INSERT INTO b VALUES (1,'ÿ'); INSERT INTO a (id) VALUES (3);"
    ).encode("latin-1")
    dump, tables = read(tmp_path, sql, wanted={"a": ["s", "id"]})
    assert tables == {"a": {"s": ["x", "y", None], "id": [1, 2, 3]}}
    assert list(tables["a"]) == ["s", "id"]
    assert {name: table.rows for name, table in dump.tables.items()} == {"a": 3, "b": 1}
    assert read(tmp_path, sql, wanted={})[1] == {}


@pytest.mark.parametrize(
    ("definition", "columns"),
    [
        ("`a` int(10) unsigned NOT NULL AUTO_INCREMENT, PRIMARY KEY (`a`)", [("a", "int", None)]),
        ("`a` enum('x','y)','it''s, `b` int') CHARACTER SET cp1251 DEFAULT 'x'", [("a", "enum", "cp1251")]),
        ("`a``b` varchar(9) COLLATE koi8r_bin, `key` text", [("a`b", "varchar", "koi8r"), ("key", "text", "utf8mb4")]),
        ("a TEXT CHARSET latin1 COMMENT 'CHARACTER SET x', KEY k (a(9))", [("a", "text", "latin1")]),
        (
            "`j` json, `d` decimal(10,2), `p` point /*!80003 SRID 4326 */",
            [("j", "json", "utf8mb4"), ("d", "decimal", None), ("p", "point", None)],
        ),
        (
            "`x` double precision, CONSTRAINT `c` CHECK (`x` in (1,2)), `y` bit(1) DEFAULT b'0'",
            [("x", "double", None), ("y", "bit", None)],
        ),
        (
            "`b` varchar(3) CHARACTER SET binary, `l` long varbinary",
            [("b", "varbinary", None), ("l", "longblob", None)],
        ),
        ("`имя` char(1) -- comment, `no` int\n, FULLTEXT KEY `f` (`имя`)", [("имя", "char", "utf8mb4")]),
        ("`m` national varchar(3), `s` serial", [("m", "varchar", "utf8mb4"), ("s", "serial", None)]),
    ],
)
def test_columns_of_create_table(definition: str, columns: list[tuple[str, str, str | None]]) -> None:
    statement = f"CREATE TABLE IF NOT EXISTS `db`.`t` ({definition}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='x'"
    created = parse_create_table(statement.encode(), bytes.decode)
    assert created and (created.database, created.name, created.careful) == ("db", "t", True)
    assert [(column.name, column.type, column.charset) for column in created.columns] == columns


def test_generated_columns_are_not_in_the_dump(tmp_path: Path) -> None:
    sql = (
        "CREATE TABLE t (id int, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, s text /*!80023 INVISIBLE */);"
        "INSERT INTO t (id, s) VALUES (1,'x'); INSERT INTO t (id) VALUES (2);"
    )
    assert read(tmp_path, sql, wanted={"t": ["id", "s"]})[1] == {"t": {"id": [1, 2], "s": ["x", None]}}
    assert "t.twice is computed by the server" in refused(tmp_path, sql, wanted={"t": ["twice"]})


# ---------------------------------------------------------------------------------------------- charsets


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("utf8", "utf-8", "да é"),
        ("utf8mb3", "utf-8", "да"),
        ("utf8mb4", "utf-8", "да 😀"),
        ("cp1251", "cp1251", "да"),
        ("koi8r", "koi8_r", "да"),
        ("cp866", "cp866", "да"),
        ("latin1", "cp1252", "é “ €"),
    ],
)
def test_client_charsets_decode(tmp_path: Path, charset: str, codec: str, text: str) -> None:
    sql = f"/*!40101 SET NAMES {charset} */;\nCREATE TABLE t (s text) DEFAULT CHARSET=utf8mb4;\n".encode()
    insert = b"INSERT INTO t VALUES ('" + text.encode(codec) + b"');"
    dump, tables = read(tmp_path, sql + insert)
    assert tables["t"]["s"] == [text]
    assert dump.facts.charset == charset
    # With the client charset binary the server hands over what is stored: the column's charset counts.
    binary = f"SET NAMES binary; CREATE TABLE t (s text) DEFAULT CHARSET={charset};".encode() + insert
    assert read(tmp_path, binary)[1]["t"]["s"] == [text]
    # And the recipe's encoding is stronger than both.
    assert read(tmp_path, b"SET NAMES latin1; CREATE TABLE t (s text);" + insert, encoding=codec)[1]["t"]["s"] == [text]


@pytest.mark.parametrize("charset", ["gbk", "sjis", "big5", "gb18030", "cp932", "utf16", "klingon"])
def test_client_charsets_that_cannot_be_read_are_refused(tmp_path: Path, charset: str) -> None:
    assert f"charset {charset}" in refused(tmp_path, f"SET NAMES {charset}; INSERT INTO t VALUES ('a');")


def test_no_backslash_escapes_is_refused(tmp_path: Path) -> None:
    sql = "/*!40101 SET SQL_MODE='STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES' */; INSERT INTO t VALUES ('a');"
    assert "NO_BACKSLASH_ESCAPES" in refused(tmp_path, sql)


def test_bytes_that_do_not_fit_the_charset_are_refused_with_place_and_mend(tmp_path: Path) -> None:
    sql = "CREATE TABLE t (s text);INSERT INTO t VALUES ('ok'),('тайна".encode() + b"\xd1');"
    said = refused(tmp_path, sql)
    place = sql.index("'тайна".encode())
    assert f"dump.sql: byte {place}: a value of t.s holds 0xD1" in said
    assert "data.dialogues.0.encoding=" in said
    assert "тайна" not in said


MOJIBAKE = "Привет, мир".encode().decode("cp1252", "surrogateescape")
MOJIBAKE = "".join(chr(ord(c) - 0xDC00) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in MOJIBAKE)


def test_double_encoded_text_is_told_and_repaired_only_when_asked(tmp_path: Path) -> None:
    sql = (
        "CREATE TABLE t (id int, bad text, good text, fr text);"
        f"INSERT INTO t VALUES (1,'{MOJIBAKE}','мир','déjà “vu”'),(2,'plain','plain','plain'),(3,NULL,NULL,NULL);"
    )
    dump, tables = read(tmp_path, sql)
    assert dump.facts.double_encoded == {"t": ["bad"]}
    assert tables["t"]["bad"] == [MOJIBAKE, "plain", None]
    dump, tables = read(tmp_path, sql, encoding="double")
    assert tables["t"]["bad"] == ["Привет, мир", "plain", None]
    assert tables["t"]["good"] == ["мир", "plain", None]
    assert (dump.facts.repaired, dump.facts.unrepaired) == (1, 2)


def test_repair_undoes_exactly_mysqls_latin1() -> None:
    every = "".join(map(chr, range(0x80, 0x800))) + "✓😀"
    for character in every:
        raw = character.encode()
        seen = "".join(bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte)) for byte in raw)
        assert repair_double_encoded(seen) == character
    assert repair_double_encoded(MOJIBAKE[:-1]) == "Привет, ми"  # cut off by the column's length
    assert repair_double_encoded("мир") is None
    assert repair_double_encoded("déjà") is None
    assert repair_double_encoded("plain") is None


# --------------------------------------------------------------------------------------------- bad input


WHOLE = HEAD + "CREATE TABLE `t` (`id` int, `s` text);\nINSERT INTO `t` VALUES (1,'a'),(2,'it\\'s'),(3,'c');\n" + END


@pytest.mark.parametrize(
    "left", ["(3,'c", "(3,'c'", "(3,", "(3", "(", "),", "(2,'it\\", "VALUES ", "INSERT INTO `t`", "`s` text"]
)
def test_a_dump_that_breaks_off_is_refused_or_read_as_far_as_it_goes(tmp_path: Path, left: str) -> None:
    cut = WHOLE[: WHOLE.rindex(left) + len(left)]
    said = refused(tmp_path, cut)
    assert "dump.sql: the dump breaks off" in said
    assert "data.dialogues.0.partial=true" in said
    dump, tables = read(tmp_path, cut, partial=True)
    ids = [1, 2, 3][: cut.count("),")]
    assert tables.get("t", {"id": []})["id"] == ids
    assert dump.facts.truncated and "breaks off" in dump.facts.truncated


def test_a_dump_without_its_closing_line_is_refused(tmp_path: Path) -> None:
    assert "before its closing line" in refused(tmp_path, WHOLE.removesuffix(END))
    assert read(tmp_path, WHOLE.removesuffix(END), partial=True)[1]["t"]["id"] == [1, 2, 3]
    assert read(tmp_path, WHOLE.removesuffix(END).removeprefix(HEAD))[1]["t"]["id"] == [1, 2, 3]  # by hand
    two = WHOLE + WHOLE.replace("`t`", "`u`")
    assert list(read(tmp_path, two)[1]) == ["t", "u"]
    assert "before its closing line" in refused(tmp_path, two.removesuffix(END))


@pytest.mark.parametrize(
    ("raw", "engine"),
    [
        (b"PGDMP\x01\x0e", "PostgreSQL"),
        (b"--\n-- PostgreSQL database dump\n--\nSET statement_timeout = 0;\n", "PostgreSQL"),
        (b"CREATE TABLE t (id int);\nCOPY t (id) FROM stdin;\n1\n\\.\n", "PostgreSQL"),
        (b"SQLite format 3\0\x10", "SQLite"),
        (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t (id);\n", "SQLite"),
        (b'<?xml version="1.0"?>\n<mysqldump xmlns:xsi="x">\n', "--xml"),
        (b"USE [db]\nGO\nSET ANSI_NULLS ON\nGO\nINSERT [dbo].[t] ([id]) VALUES (1)\nGO\n", "Microsoft SQL Server"),
        ("-- MySQL dump 10.13\nINSERT".encode("utf-16"), "UTF-16"),
    ],
)
def test_dumps_of_other_engines_are_named(tmp_path: Path, raw: bytes, engine: str) -> None:
    assert engine in (foreign_dump(raw) or "")
    assert engine in refused(tmp_path, raw)
    assert looks_like_dump(tmp_path / "dump.sql")


def test_what_looks_like_a_dump(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for raw in (
        WHOLE,
        "\ufeff-- by hand\nINSERT INTO t VALUES (1);",
        "/*!40101 SET NAMES utf8 */;\nCREATE TABLE `t` (\n",
    ):
        file.write_text(raw, encoding="utf-8")
        assert looks_like_dump(file)
    for raw in ("", "Set out, he said; insert a coin.", '{"a": 1}', "a,b\n1,2\n", "# A title\n\nSELECT is a word.\n"):
        file.write_text(raw, encoding="utf-8")
        assert not looks_like_dump(file)


def test_a_missing_table_or_column_is_refused_with_the_nearest(tmp_path: Path) -> None:
    said = refused(tmp_path, WHOLE.replace("`t`", "`messages_in`"), wanted={"message_in": ["s"]})
    assert "no table 'message_in'; did you mean 'messages_in'" in said
    said = refused(tmp_path, WHOLE.replace("`s`", "`text`"), wanted={"t": ["txt"]})
    assert "the table t has no column 'txt'; did you mean 'text'? it has id, text" in said
    assert "no column 'x'" in refused(tmp_path, "INSERT INTO t (a) VALUES (1);", wanted={"t": ["x"]})


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("(1,'a'),(2)", "row 2 of the table t has 1 values where 2 belong"),
        ("(1,'a'),(2,'b','c')", "row 2 of the table t has more than 2 values where 2 belong"),
        ("(1,'a'),()", "something else than a constant"),
        ("(1,NOW())", "something else than a constant"),
        ("(1,'a' 'b')", "something else than a constant"),
        ("(1,'a') (2,'b')", "neither a comma nor the end"),
        ("(1,'a'),,(2,'b')", "something else than a constant"),
        ("('x','a')", "a value of t.id is no number"),
        ("(" + "9" * 6000 + ",'a')", "a value of t.id"),
        ("(1e400,'a')", "a value of t.id"),
        ("(nan,'a')", "a value of t.id is no constant"),
        ("(1_000,'a')", "a value of t.id is no constant"),
        ("(1,_klingon'a')", "charset klingon"),
    ],
)
def test_rows_that_no_dump_holds_are_refused(tmp_path: Path, rows: str, why: str) -> None:
    said = refused(tmp_path, f"CREATE TABLE t (id int, s text);INSERT INTO t VALUES {rows}; -- {' ' * 3000}\n")
    assert why in said
    assert "dump.sql: byte" in said


def test_what_is_no_sql_is_refused(tmp_path: Path) -> None:
    assert "no statement of MySQL" in refused(tmp_path, "once upon a time; there was")
    assert "no statement of MySQL" in refused(tmp_path, "'),(2,'b');\nINSERT INTO t VALUES (1);")


@pytest.mark.parametrize(
    "opening", [b"INSERT INTO t VALUES (1,'", b"INSERT INTO t VALUES (", b"/* ", b"SELECT `", b"x"]
)
def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path, opening: bytes) -> None:
    import tracemalloc

    file = tmp_path / "dump.sql"
    with file.open("wb") as handle:
        handle.write(opening)
        handle.truncate(1 << 30)  # zeros that take no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"no end within 64 MiB|something else than a constant|no statement"):
            list(Dump([file], "k").batches())
        assert tracemalloc.get_traced_memory()[1] < 512 << 20
    finally:
        tracemalloc.stop()


def test_a_row_of_many_megabytes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "dump.sql"
    file.write_bytes(b"CREATE TABLE t (s longtext);INSERT INTO t VALUES ('" + b"a\\'" * (10 << 20) + b"');")
    (batch,) = Dump([file], "k").batches()
    assert batch.columns["s"] == ["a'" * (10 << 20)]


def test_a_wide_row_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    # Each of its strings could be matched in two ways: a pattern that goes back would try 2**200 of them.
    row = b",".join([b"'47'"] * 200)
    file = tmp_path / "wide.sql"
    file.write_bytes(b"INSERT INTO `u` VALUES (%b,/*!50705 0x00,*/'x'),(%b);\n" % (row, row))
    started = time.process_time()
    with pytest.raises(UserError, match="row 2 of the table u has 200 values where 202 belong"):
        list(Dump([file], "data.dialogues.0").batches())
    assert time.process_time() - started < 2


@pytest.mark.parametrize("digits", ["9" * 5000, "0" * 4999 + "7"])
def test_an_integer_of_thousands_of_digits_is_read_or_refused(tmp_path: Path, digits: str) -> None:
    file = tmp_path / "long.sql"
    file.write_text(f"CREATE TABLE `t` (`a` int);\nINSERT INTO `t` VALUES ({digits});\n")
    if digits.startswith("9"):
        with pytest.raises(UserError, match="no whole number of 64 bits"):
            list(Dump([file], "data.dialogues.0").batches())
    else:
        [batch] = Dump([file], "data.dialogues.0").batches()
        assert batch.columns == {"a": [7]}
