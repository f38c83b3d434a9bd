"""Runs the cells of a long-context measurement, each in a process of its own, and keeps what is finished."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _long_work import Flops

KIB = 1024
PROGRAM = Path(__file__).with_name("long_context.py")


class Done:
    """Finished cells; with a file, kept there at once, one JSON object a line."""

    def __init__(self, file: Path | None, limit: float) -> None:
        """
        Args:
            file: Where they are kept.
            limit: Seconds that a cell may take now: one that was stopped at less is run again.
        """
        self.file = file
        self.results: dict[str, dict[str, Any]] = {}
        text = file.read_text() if file and file.is_file() else ""
        if file and text and not text.endswith("\n"):  # killed while writing: what comes now begins a line of its own
            file.write_text(text := text[: text.rfind("\n") + 1])
        for kept in map(json.loads, text.splitlines()):
            if kept["result"].get("seconds_more_than", limit) >= limit:
                self.results[json.dumps(kept["cell"])] = kept["result"]

    def result(self, cell: dict[str, Any]) -> dict[str, Any] | None:
        return self.results.get(json.dumps(cell))

    def add(self, cell: dict[str, Any], result: dict[str, Any]) -> None:
        self.results[json.dumps(cell)] = result
        if self.file and "failed" not in result:  # what failed is tried again
            with self.file.open("a") as file:
                file.write(json.dumps({"cell": cell, "result": result}) + "\n")


def measure(cell: dict[str, Any], place: str, limit: float, cap: float | None, done: Done) -> None:
    """Run one cell.

    Args:
        cell: What it is asked; the kernels' rates have no limit, everything else is judged by them.
        place: Where in the run it stands, for what is told.
        limit: Seconds after which it is stopped.
        cap: GiB at which it is stopped (default: nine tenths of what is free).
        done: Where its result goes.
    """
    name = f"{place} round {cell['round'] + 1}, {sum(cell['documents']):,} tokens, {cell['who']} {cell['dtype']}"
    most = cap * KIB**3 if cap else 0.9 * psutil.virtual_memory().available
    live = sys.stderr.isatty()
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([sys.executable, str(PROGRAM), "--cell", json.dumps(cell)], stdout=out, stderr=err)
        process = psutil.Process(child.pid)
        result: dict[str, Any] | None = None
        filled, told = 0, 0.0
        try:
            while child.poll() is None:
                time.sleep(0.2)
                try:
                    filled = process.memory_info().rss
                except psutil.NoSuchProcess:
                    break
                seconds = time.monotonic() - started
                if filled > most:
                    result = {"memory_more_than": filled}
                elif seconds > limit and cell["who"] != "machine":
                    result = {"seconds_more_than": limit}
                if result:
                    break
                if live and seconds > told + 1:
                    told = seconds
                    print(
                        f"\r\x1b[K{name}: {seconds:.0f} s, {filled / KIB**3:.2f} GiB",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
        if result is None:
            out.seek(0)
            err.seek(0)
            said = [line for line in err.read().splitlines() if line.strip()]
            answer = out.read().splitlines()
            if child.returncode == 0:
                result = json.loads(answer[-1])
            elif child.returncode == -signal.SIGKILL:  # not by us: the system had no memory left
                result = {"memory_more_than": filled}
            else:
                result = {"failed": said[-1] if said else f"ended with status {child.returncode}"}
    done.add(cell, result)
    print(f"{chr(13) + chr(27) + '[K' if live else ''}{name}: {outcome(result)}", file=sys.stderr, flush=True)


def outcome(result: dict[str, Any]) -> str:
    if "rates" in result:
        return "matmul " + ", ".join(f"{k} {v['matmul'] / 1e9:.3g} GFLOP/s" for k, v in result["rates"].items())
    if "seconds" in result:
        steps = " ".join(f"{second:.4g}" for second in result["seconds"])
        return f"steps {steps} s, peak {result['peak'] / KIB**3:.2f} GiB, loss {result['loss'][0]:.5f}"
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result.items())


def tell_floor(cells: list[dict[str, Any]], needs: dict[int, Flops], done: Done) -> None:
    """Say what the whole run takes at the very least, before hours of it are spent."""
    rates = (done.result(cells[0]) or {}).get("rates")
    if rates:
        least = sum(
            cell["steps"] * needs[sum(cell["documents"])].seconds(rates.get(cell["dtype"]) or max_rates(rates))
            for cell in cells
            if cell["who"] != "machine"
        )
        print(f"by FLOPs at this machine's kernel rates the whole run takes {least:,.0f} s or more", file=sys.stderr)


def max_rates(rates: dict[str, dict[str, float]]) -> dict[str, float]:
    """Those of the dtype that multiplies faster."""
    return max(rates.values(), key=lambda kernels: kernels["matmul"])
