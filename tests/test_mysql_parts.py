"""Parts of a dump are found, ordered, unpacked and missed by name."""

import gzip
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from shridhar_ft.data.sources.mysql.parts import dump_groups, dump_name
from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.errors import UserError

HEAD = b"-- MySQL dump 10.13  Distrib 5.7.33, for Linux (x86_64)\n"
ROWS = b"INSERT INTO `t` VALUES " + b",".join(b"(%d,'\xd0\xb4\xd0\xb0 %d')" % (n, n) for n in range(1500)) + b";\n"
DUMP = HEAD + b"CREATE TABLE `t` (`id` int, `s` text);\n" + ROWS + b"-- Dump completed on 2020-01-01\n"


def touch(folder: Path, names: list[str], first: bytes = HEAD) -> list[Path]:
    """Files of which only the first begins like a dump."""
    for index, name in enumerate(names):
        (folder / name).write_bytes(first if not index else b"\xd0\xb0',1),(2,'x")
    return [folder / name for name in names]


def rows(files: list[Path], chunk: int = 1 << 20) -> list[tuple[int, str]]:
    read = []
    for batch in Dump(files, "data.dialogues.0").batches(chunk=chunk):
        read += list(zip(*batch.columns.values(), strict=True))
    return read


EXPECTED = [(n, f"да {n}") for n in range(1500)]


@pytest.mark.parametrize(
    "options",
    [
        "-b 1k",
        "-a 3 -b 700",
        "-b 30",
        "-d -b 1k",
        "-d -b 200",
        "-x -b 700",
        "-x -b 90",
        "--numeric-suffixes=1 -a 4 -b 1k",
        "-b 5k --additional-suffix=.sql",
        "-a 1 -b 5k",
    ],
)
@pytest.mark.parametrize("prefix", ["alice_", "x", "dump.sql.", "dataa", "2018"])
@pytest.mark.skipif(shutil.which("split") is None, reason="needs split")
def test_what_split_writes_is_put_together(tmp_path: Path, options: str, prefix: str) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(DUMP)
    folder = tmp_path / "parts"
    folder.mkdir()
    subprocess.run(["split", *options.split(), str(whole), str(folder / prefix)], check=True)
    files = list(folder.iterdir())
    random.Random(1).shuffle(files)
    (group,) = dump_groups(files)
    assert b"".join(part.read_bytes() for part in group) == DUMP
    for missing in (group[0], group[len(group) // 2]):
        with pytest.raises(UserError, match=rf"{re.escape(missing.name)}\b.* missing"):
            dump_groups([part for part in files if part != missing])


def test_parts_numbered_from_one_and_unpadded_are_ordered_by_number(tmp_path: Path) -> None:
    names = [f"dump.sql.{number}" for number in range(1, 12)]
    assert dump_groups(sorted(touch(tmp_path, names))) == [[tmp_path / name for name in names]]
    names = [f"dump.sql.{number:03d}" for number in range(1, 12)]
    (tmp_path / "other").mkdir()
    assert dump_groups(touch(tmp_path / "other", names)) == [[tmp_path / "other" / name for name in names]]


def test_dumps_of_their_own_stay_apart(tmp_path: Path) -> None:
    for name in (
        "a.sql",
        "b.sql",
        "backup01.sql",
        "backup02.sql",
        "backup04.sql",
        "dump.1",
        "dump.2",
        "my_db",
        "alpha",
        "beta",
    ):
        (tmp_path / name).write_bytes(HEAD)
    files = sorted(tmp_path.iterdir())
    assert dump_groups(files) == [[file] for file in files]


def test_dumps_by_hand_stay_apart(tmp_path: Path) -> None:
    for name in ("a.sql", "b.sql", "part1.sql", "part3.sql", "whole.sql.gz"):
        raw = b"INSERT INTO t VALUES (1,'x');\n"
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    files = sorted(tmp_path.iterdir())
    assert dump_groups(files) == [[file] for file in files]


def test_two_dumps_in_parts_and_a_stranger_in_one_folder(tmp_path: Path) -> None:
    alice = touch(tmp_path, ["alice_aa", "alice_ab", "alice_ac"])
    bob = touch(tmp_path, ["bob.00", "bob.01"])
    stranger = tmp_path / "alice_readme"
    stranger.write_text("Read me.")
    assert dump_groups([*alice, stranger, *bob]) == [alice, [stranger], bob]
    assert [dump_name(group) for group in (alice, bob, [stranger])] == ["alice", "bob", "alice_readme"]


def test_a_lone_later_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alice_aa: the first part of the dump is missing"):
        dump_groups(touch(tmp_path, ["alice_ab"], first=b"x'),(1,"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_packed_dumps_whole_cut_and_part_by_part(tmp_path: Path, pack) -> None:
    ending = ".gz" if pack is gzip.compress else ".zst"
    whole = tmp_path / f"dump.sql{ending}"
    packed = pack(DUMP)
    whole.write_bytes(packed)
    assert rows([whole]) == EXPECTED
    cut = [tmp_path / f"cut.sql{ending}.a{letter}" for letter in "abc"]
    for index, part in enumerate(cut):
        third = len(packed) // 3 + 1
        part.write_bytes(packed[index * third : (index + 1) * third])
    assert dump_groups(cut[::-1]) == [cut]
    assert rows(cut, chunk=1000) == EXPECTED
    each = [tmp_path / f"each_a{letter}{ending}" for letter in "abc"]
    for index, part in enumerate(each):
        third = len(DUMP) // 3 + 1
        part.write_bytes(pack(DUMP[index * third : (index + 1) * third]))
    assert dump_groups(each[::-1]) == [each]
    assert rows(each, chunk=1000) == EXPECTED
    with pytest.raises(UserError, match=f"each_ab{ending}: .* missing"):
        dump_groups([each[0], each[2]])


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress], ids=["gzip", "zstd"]
)
@pytest.mark.parametrize("wound", ["cut", "changed", "tail"])
def test_damaged_packing_is_refused(tmp_path: Path, pack, wound: str) -> None:
    packed = bytearray(pack(DUMP))
    if wound == "cut":
        del packed[len(packed) // 2 :]
    elif wound == "changed":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed += b"something else"
    file = tmp_path / "dump.sql.packed"
    file.write_bytes(packed)
    with pytest.raises(UserError, match=r"dump.sql.packed: the (gzip|zstd) data is damaged or cut off"):
        rows([file])


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_a_bomb_is_unpacked_piece_by_piece_and_refused(tmp_path: Path, pack) -> None:
    piece = pack(b"a" * (32 << 20))
    file = tmp_path / "bomb.sql"
    file.write_bytes(pack(b"INSERT INTO t VALUES ('") + piece * 64)  # two GiB, in a megabyte or two
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="has no end within 64 MiB"):
            rows([file])
        assert tracemalloc.get_traced_memory()[1] < 512 << 20
    finally:
        tracemalloc.stop()


def test_the_place_of_a_bad_value_is_that_of_its_part(tmp_path: Path) -> None:
    raw = DUMP.replace("да 1000".encode(), b"\xff\xfe 1000")
    cut = [tmp_path / f"alice_a{letter}" for letter in "abcd"]
    quarter = len(raw) // 4 + 1
    for index, part in enumerate(cut):
        part.write_bytes(raw[index * quarter : (index + 1) * quarter])
    at = raw.index(b"'\xff\xfe 1000")
    part, byte = cut[at // quarter], at % quarter
    with pytest.raises(
        UserError, match=rf"{part}: byte {byte}: a value of t\.s holds 0xFF.*data\.dialogues\.0\.encoding="
    ):
        rows(cut)


@pytest.mark.parametrize("swap", [(0, 1), (1, 2), (2, 5), (6, 7)])
def test_renamed_parts_are_refused(tmp_path: Path, swap: tuple[int, int]) -> None:
    table = b"CREATE TABLE `t` (`id` int NOT NULL AUTO_INCREMENT, `s` text, PRIMARY KEY (`id`)) ENGINE=InnoDB;\n"
    raw = HEAD + table + ROWS.replace(b"(0,", b"(-1,") + b"-- Dump completed\n"
    pieces = [raw[at : at + len(raw) // 8 + 1] for at in range(0, len(raw), len(raw) // 8 + 1)]
    pieces[swap[0]], pieces[swap[1]] = pieces[swap[1]], pieces[swap[0]]
    files = [tmp_path / f"alice_a{letter}" for letter in "abcdefgh"]
    for file, piece in zip(files, pieces, strict=True):
        file.write_bytes(piece)
    for wanted in (None, {}):
        with pytest.raises(UserError):
            for _ in Dump(files, "data.dialogues.0").batches(wanted):
                pass


def test_swapped_parts_that_join_without_a_seam_are_told_by_the_order_of_the_rows(tmp_path: Path) -> None:
    table = b"CREATE TABLE `t` (`id` int NOT NULL AUTO_INCREMENT, `s` text, PRIMARY KEY (`id`)) ENGINE=InnoDB;\n"
    lines = [b"INSERT INTO `t` VALUES (%d,'x');\n" % n for n in range(1, 401)]
    pieces = [HEAD + table + b"".join(lines[:100]), *(b"".join(lines[at : at + 100]) for at in (200, 100, 300))]
    files = [tmp_path / f"alice_a{letter}" for letter in "abcd"]
    for file, piece in zip(files, [*pieces[:3], pieces[3] + b"-- Dump completed\n"], strict=True):
        file.write_bytes(piece)
    with pytest.raises(UserError, match="out of order or renamed"):
        rows(files)
    # A table that goes back elsewhere, too, is not in the order of its key, and tells nothing.
    files[0].write_bytes(HEAD + table + b"".join(lines[:100][::-1]))
    assert len(rows(files)) == 400


def test_without_the_library_for_zstd_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "dump.sql.zst"
    file.write_bytes(zstandard.ZstdCompressor().compress(DUMP))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match="pip install zstandard"):
        rows([file])
