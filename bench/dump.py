"""Measures reading a MySQL dump, from bytes to Python's rows, beside sqlglot and a real server on the same bytes.

python bench/dump.py DUMP… [--sqlglot] [--server SOCKET] [--repeats 3] [--prefix 4] [--json]

The ways take turns, each time in a process of its own, so that peak memory is that way's alone. sqlglot (pip install
sqlglot) reads a prefix of the dump, and so does our reader for the comparison. The server (mariadb client on PATH)
imports the whole dump into a database of its own, `bench_dump`, which is dropped afterwards, and selects every row.
Seconds are wall time; beside them stands the process' own CPU time, which a busy machine disturbs less.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from shridhar_ft.data.sources.mysql.reader import Dump

DATABASE = "bench_dump"
MB = 1e6


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("dump", nargs="+", type=Path, help="the dump, or its parts")
    ask.add_argument("--sqlglot", action="store_true", help="also parse the INSERTs of a prefix with sqlglot")
    ask.add_argument("--server", help="socket of a MariaDB server to import into")
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--prefix", type=float, default=4, help="MB that sqlglot reads")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    ask.add_argument("--one", choices=sorted(WAYS), help=argparse.SUPPRESS)  # a measurement, in a process of its own
    given = ask.parse_args()
    if given.one:
        print(json.dumps(measure_here(given.one, given.dump, given.server)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-dump-") as folder:
        ways = [("ours", given.dump)]
        if given.sqlglot:
            prefix = Path(folder) / "prefix.sql"
            write_prefix(given.dump, prefix, int(given.prefix * MB))
            ways += [("ours", [prefix]), ("sqlglot", [prefix])]
        if given.server:
            ways.append(("server", given.dump))
        measured: dict[int, list[dict]] = {place: [] for place in range(len(ways))}
        for _ in range(given.repeats):
            for place, (way, files) in enumerate(ways):
                measured[place].append(measure(way, files, given.server))
    results = [summary(way, runs) for (way, _), runs in zip(ways, measured.values(), strict=True)]
    if given.json:
        print(json.dumps(results, indent=1))
        return
    print(f"{'way':<10}{'MB':>8}{'rows':>10}{'MB/s':>8}{'(least, most)':>18}{'MB/s of CPU':>13}{'peak MiB':>10}")
    for result in results:
        spread = f"({result['least']:.1f}, {result['most']:.1f})"
        print(
            f"{result['way']:<10}{result['mb']:>8.1f}{result['rows']:>10}{result['median']:>8.1f}{spread:>18}"
            f"{result['cpu']:>13.1f}{result['peak_mib']:>10.0f}"
        )


def measure(way: str, files: list[Path], server: str | None) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", way, *(["--server", server] if server else []), *map(str, files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_here(way: str, files: list[Path], server: str | None) -> dict:
    if way == "sqlglot":
        import sqlglot  # noqa: F401  its loading is not measured
    wall, cpu = time.perf_counter(), time.process_time()
    rows = WAYS[way](files, server)
    return {
        "mb": sum(file.stat().st_size for file in files) / MB,
        "rows": rows,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def summary(way: str, runs: list[dict]) -> dict:
    speeds = [run["mb"] / run["seconds"] for run in runs]
    return {
        "way": way,
        "mb": runs[0]["mb"],
        "rows": runs[0]["rows"],
        "median": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
        "cpu": statistics.median(run["mb"] / run["cpu_seconds"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "runs": runs,
    }


def ours(files: list[Path], _: str | None) -> int:
    """Every value of every table."""
    dump = Dump(files, "bench", partial=True)
    for _batch in dump.batches():
        pass
    return sum(table.rows for table in dump.tables.values())


def by_sqlglot(files: list[Path], _: str | None) -> int:
    """The literals of every INSERT, as text."""
    import sqlglot
    from sqlglot import expressions

    rows = 0
    for statement in inserts(files):
        parsed = sqlglot.parse_one(statement.decode(), read="mysql")
        for row in parsed.expression.find_all(expressions.Tuple):
            values = [value.name if not isinstance(value, expressions.Null) else None for value in row.expressions]
            rows += bool(values)
    return rows


def by_server(files: list[Path], socket: str | None) -> int:
    """Import into a real server, then SELECT every row."""
    client = ["mariadb", "-S", str(socket), "--default-character-set=utf8mb4"]
    subprocess.run([*client, "-e", f"DROP DATABASE IF EXISTS {DATABASE}; CREATE DATABASE {DATABASE}"], check=True)
    rows = 0
    try:
        with subprocess.Popen([*client, DATABASE], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            for file in files:
                process.stdin.write(file.read_bytes())
        assert process.returncode == 0
        listed = subprocess.run(
            [*client, "-NB", "-e", f"SHOW FULL TABLES IN {DATABASE} WHERE Table_type = 'BASE TABLE'"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for line in listed.splitlines():
            table = line.split("\t")[0]
            select = [*client, "--quick", "-NB", "-e", f"SELECT * FROM `{table}`", DATABASE]
            with subprocess.Popen(select, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                rows += sum(1 for _ in process.stdout)
            assert process.returncode == 0
    finally:
        subprocess.run([*client, "-e", f"DROP DATABASE IF EXISTS {DATABASE}"], check=True)
    return rows


def write_prefix(files: list[Path], target: Path, size: int) -> None:
    """The first bytes of a dump, up to the end of a statement."""
    raw = b""
    for file in files:
        with file.open("rb") as handle:
            raw += handle.read(size - len(raw))
        if len(raw) >= size:
            break
    target.write_bytes(raw[: raw.rindex(b";\n") + 2])


def inserts(files: list[Path]) -> Iterator[bytes]:
    """The INSERT statements of a dump in mysqldump's layout, in which no value holds a bare line feed."""
    statement = b""
    for file in files:
        with file.open("rb") as handle:
            for line in handle:
                if statement or line.startswith(b"INSERT INTO "):
                    statement += line
                    if line.endswith(b";\n"):
                        yield statement
                        statement = b""


WAYS = {"ours": ours, "sqlglot": by_sqlglot, "server": by_server}


if __name__ == "__main__":
    main()
