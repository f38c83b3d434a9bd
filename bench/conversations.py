"""Measures the whole way from a dump's bytes to conversations: lexing, sorting on disk, sessions.

python bench/conversations.py RECIPE 'data.dialogues.0.paths=dump/alice_*' [--source 0] [--repeats 3]

Each repeat runs in a process of its own, so that peak memory is its own. Nothing is cleaned or written.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shridhar_ft.config import load_recipe
from shridhar_ft.data.sources.counts import RowCounts
from shridhar_ft.data.sources.dialogues import read_dialogues, row_files
from shridhar_ft.runfolder import peak_rss_bytes


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("recipe")
    ask.add_argument("overrides", nargs="*")
    ask.add_argument("--source", type=int, default=0, help="index under data.dialogues")
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a measurement, in a process of its own
    given = ask.parse_args()
    if given.one:
        print(json.dumps(measure(given.recipe, given.overrides, given.source)))
        return
    found = [
        json.loads(subprocess.run([*sys.orig_argv, "--one"], check=True, capture_output=True, text=True).stdout)
        for _ in range(given.repeats)
    ]
    first, seconds = found[0], [one["seconds"] for one in found]
    print(
        f"{first['megabytes']:,.0f} MB, {first['rows']:,} rows, {first['conversations']:,} conversations: "
        f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"peak {max(one['peak_mib'] for one in found):,.0f} MiB"
    )


def measure(recipe: str, overrides: list[str], index: int) -> dict[str, float]:
    source = load_recipe(recipe, overrides).data.dialogues[index]
    key = f"data.dialogues.{index}"
    size = sum(file.stat().st_size for file in row_files(source, key))
    counts = RowCounts()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as spill:
        number = sum(1 for _ in read_dialogues(source, key, counts, Path(spill)))
    return {
        "megabytes": size / 1e6,
        "rows": counts.rows_in,
        "conversations": number,
        "seconds": time.perf_counter() - started,
        "peak_mib": peak_rss_bytes() / (1 << 20),
    }


if __name__ == "__main__":
    main()
