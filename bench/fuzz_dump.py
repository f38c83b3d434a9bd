"""Fuzzes the dump reader: whatever the bytes are, it reads rows or says one sentence, soon, however they are cut.

python bench/fuzz_dump.py --minutes 60 [--corpus DUMP…] [--seed 0]

Each try mutates a dump, reads it twice with windows of different size, and as parts, and wants the same rows or a
UserError each time. The last line tells the tries; a failure prints the seed of its try, keeps its input, and ends
with status 1.
"""

import argparse
import gzip
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.errors import UserError

SLOW = 20  # seconds; a try of some KiB takes milliseconds
LONGEST = 1 << 16  # bytes of a mutated dump
SEEDS = [
    rb"""/*M!999999\- enable the sandbox mode */
-- MariaDB dump 10.19  Distrib 10.11.18-MariaDB, for debian-linux-gnu (x86_64)
--
-- Server version	10.11.18-MariaDB
/*!40101 SET NAMES utf8mb4 */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;
DROP TABLE IF EXISTS `t`;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `t` (
  `id` int(11) NOT NULL AUTO_INCREMENT COMMENT 'the key, (one)',
  `name` varchar(64) CHARACTER SET cp1251 NOT NULL DEFAULT 'a,b',
  `flag` bit(1) DEFAULT b'1', `raw` blob, `x` double, `d` decimal(12,4), `e` enum('a','b'), `j` json,
  PRIMARY KEY (`id`), KEY `k` (`name`(10))
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `t` WRITE;
/*!40000 ALTER TABLE `t` DISABLE KEYS */;
INSERT INTO `t` VALUES
(1,'\xd0\x97\xd0\xbd\xd0\xb0','\0',_binary '\0\xff\Z\n\r\\\'',1.5e-300,-12345.6789,'a','{\"k\": [\"a\", null]}'),
(2,'It\'s a test; -- no','\x01',NULL,NULL,NULL,NULL,NULL),
(3,'','',0xFF00,-0,0.0000,'b','\"\"');
UNLOCK TABLES;
/*!50001 CREATE VIEW `v` AS SELECT 1 AS `id` */;
DELIMITER ;;
/*!50003 CREATE*/ /*!50020 DEFINER=`root`@`localhost`*/ /*!50003 PROCEDURE `p`() BEGIN SELECT ';', "it's"; END */;;
DELIMITER ;
-- Dump completed on 2026-11-24 11:58:30
""".replace(rb"\xd0\x97\xd0\xbd\xd0\xb0", "Зна".encode())
    .replace(rb"\xff", b"\xff")
    .replace(rb"\x01", b"\x01"),
    b"""-- by hand
SET NAMES cp1251; USE `db`;
# a comment; with 'quotes
INSERT IGNORE INTO db.t (`a`, b , "c") VALUES ( 1 , 'it''s' /* no ' */, "say ""no"" " ) , -- more
 (2, x'4142', _utf8mb4'abc'), (b'101', N'x', TRUE)
 ON DUPLICATE KEY UPDATE a = 1;
REPLACE u VALUES (1,'47',/*!50705 0x0000000001010000003E0A325D,*/'2014-09-25'),(2,'8',/*!50705 0x00,*/'x')""",
    b"\n".join(b"INSERT INTO `one` VALUES (%d,'\\'%d','2018-01-01',NULL);" % (n, n) for n in range(60)),
    b"INSERT INTO `many` VALUES " + b",".join(b"(%d,'text %d')" % (n, n) for n in range(200)) + b";\n",
]
TOKENS = [
    *[bytes([byte]) for byte in b"'\"`\\;,()-#/*\n \0\x80\xd0\xff0N"],
    *[
        b"''",
        b"\\'",
        b"\\\\",
        b"/*",
        b"*/",
        b"/*!",
        b"/*!50001 ",
        b"/*M!999999",
        b"-- ",
        b"--\n",
        b"NULL",
        b"0x",
        b"x'",
    ],
    *[
        b"_binary ",
        b"_utf8mb4",
        b"INSERT INTO `t` VALUES ",
        b"(1,",
        b"),(",
        b");\n",
        b"CREATE TABLE `t` (",
        b" VALUES ",
    ],
    *[b"DELIMITER ;;\n", b"DELIMITER $$\n", b"SET NAMES gbk;", b"SET NAMES binary;", b"1e999999", b"9" * 5000, b"-"],
    *[
        b"SET sql_mode='NO_BACKSLASH_ESCAPES';",
        b"-- MySQL dump ",
        b"-- Dump completed\n",
        b"USE `x`;",
        b"\r\n",
        b"CREATE ",
    ],
    b"/* " + b"long ' " * 400 + b"*/",
    b"-- " + b"long ' " * 400 + b"\n",
]


def mutate(draw: random.Random, corpus: list[bytes]) -> bytes:
    """A dump with a few random wounds."""
    raw = bytearray(draw.choice(corpus))
    for _ in range(draw.choice([1, 1, 2, 3, 5, 10])):
        at = draw.randrange(len(raw) + 1)
        to = min(len(raw), at + draw.choice([1, 2, 5, 20, 200]))
        what = draw.randrange(7)
        if what == 0:
            raw[at:to] = b""
        elif what == 1:
            raw[at:at] = raw[at:to] * draw.choice([1, 1, 2, 50])
        elif what == 2:
            raw[at:at] = draw.choice(TOKENS)
        elif what == 3:
            raw[at:to] = draw.choice(TOKENS)
        elif what == 4:
            raw[at:at] = draw.randbytes(draw.choice([1, 3, 30]))
        elif what == 5:
            other = draw.choice(corpus)
            begin = draw.randrange(len(other) + 1)
            raw[at:to] = other[begin : begin + draw.choice([5, 50, 500])]
        else:
            del raw[at:]
    return bytes(raw[:LONGEST])


def read(files: list[Path], chunk: int, partial: bool) -> tuple[dict, bool]:
    """The rows by table, and whether they were refused."""
    rows: dict[str, list] = {}
    try:
        for batch in Dump(files, "data.dialogues.0", partial=partial).batches(chunk=chunk):
            rows.setdefault(batch.table, []).extend(map(repr, zip(*batch.columns.values(), strict=True)))
    except UserError as error:
        assert "\n" not in str(error), "one sentence"
        return {}, True
    return rows, False


def check(raw: bytes, draw: random.Random, folder: Path) -> bool:
    """Read a dump in several ways; whether it could be read.

    Raises:
        AssertionError: The ways differ. Any exception but UserError comes through.
    """
    whole = folder / "whole.sql"
    whole.write_bytes(raw)
    partial = draw.random() < 0.3
    expected = read([whole], 1 << 20, partial)
    for _ in range(2):
        assert read([whole], draw.choice([1, 7, 64, 1000, 4096]), partial) == expected, "another window, other rows"
    parts = []
    cuts = sorted(draw.randrange(len(raw) + 1) for _ in range(draw.randrange(1, 4)))
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(raw)], strict=True)):
        parts.append(folder / f"part.{number}")
        parts[-1].write_bytes(raw[begin:end])
    packed = folder / "packed.sql.gz"
    packed.write_bytes(gzip.compress(raw, 1))
    if all(part.stat().st_size for part in parts):  # rows that run backwards at a joint are refused, rightly
        rows, refused = read(parts, draw.choice([64, 1 << 20]), partial)
        assert refused or (rows, refused) == expected, "in parts, other rows"
    assert read([packed], 1 << 20, partial) == expected, "packed, other rows"
    return not expected[1]


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--minutes", type=float, default=1)
    ask.add_argument("--seed", type=int, default=0, help="of the first try")
    ask.add_argument("--corpus", type=Path, nargs="*", default=[], help="dumps whose pieces are mutated, too")
    ask.add_argument(
        "--keep", type=Path, default=Path("fuzz_dump_failed.sql"), help="where an input that fails is kept"
    )
    given = ask.parse_args()
    pieces = [dump.read_bytes() for dump in given.corpus]
    corpus = SEEDS + [
        raw[at : at + LONGEST // 4] for raw in pieces for at in range(0, min(len(raw), 1 << 20), LONGEST * 2)
    ]

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"no answer within {SLOW} s")

    signal.signal(signal.SIGALRM, too_slow)
    counts: Counter[str] = Counter()
    begun = told = time.monotonic()
    slowest = 0.0
    seed = given.seed
    with tempfile.TemporaryDirectory(prefix="fuzz-dump-") as folder:
        while time.monotonic() - begun < 60 * given.minutes:
            draw = random.Random(seed)
            raw = mutate(draw, corpus)
            one = time.process_time()
            signal.alarm(SLOW)
            try:
                counts["read" if check(raw, draw, Path(folder)) else "refused"] += 1
            except Exception:  # noqa: BLE001  whatever it is, it is what is looked for
                given.keep.write_bytes(raw)
                traceback.print_exc()
                print(f"FAILED at seed {seed}; the input is kept in {given.keep}", flush=True)
                return 1
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.process_time() - one)
            seed += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{(told - begun) / 60:.0f} min: {dict(counts)}, slowest {slowest:.2f} s of CPU", flush=True)
    print(
        f"PASSED: {counts.total()} tries in {given.minutes:g} min, {dict(counts)}, slowest {slowest:.2f} s of CPU, "
        f"next seed {seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
