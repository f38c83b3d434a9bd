"""The state of a run as lines for a person, once or live."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from shridhar_ft.monitoring.status import Read, followed

GIB = 2**30


def lines(state: dict[str, Any]) -> Iterator[str]:
    """A state as lines; what is not known has none."""
    alive = state["alive"]
    since = f" since {_clock(alive['at'])}" if state["state"] in ("gone", "silent") else ""
    yield f"{state['run']}: {state['state']}{since}" + (
        f" · {state['part']}" if state["part"] and state["state"] != "done" else ""
    )
    if state["message"] and state["state"] in ("stopped", "failed"):
        yield f"  {state['message']}"
    if state["step"] is not None:
        yield f"  step {state['step']:,} of {state['steps']:,}" + (
            f", {_time(state['eta_seconds'])} to go" if state["eta_seconds"] is not None else ""
        )
    shown = {"loss": "loss {:.4f}", "eval_loss": "validation loss {:.4f}", "tokens_per_second": "{:,.0f} tokens/s"}
    figures = [text.format(state[key]) for key, text in shown.items() if state[key] is not None]
    if state["share_of_peak"] is not None:
        figures.append(f"{state['share_of_peak']:.1%} of the peak ({state['rates'].split(':')[0]})")
    if figures:
        yield "  " + " · ".join(figures)
    peak, planned = state["memory"]["peak_bytes"], state["memory"]["planned_bytes"]
    if peak:
        yield f"  memory {peak / GIB:.2f} GiB at the peak, {planned / GIB:.2f} by the plan ({peak / planned - 1:+.0%})"
    if state["step_seconds"]:
        yield f"  a step takes {state['step_seconds']:.2f} s, {state['planned_step_seconds']:.2f} by the plan"
    usd = state["usd"]
    if usd["spent"] is not None:
        to_go = f", ${usd['to_go']:,.2f} to go in this part" if usd["to_go"] is not None else ""
        most = f" of ${usd['max']:,.2f}" if usd["max"] is not None else ""
        yield f"  ${usd['spent']:,.2f} spent{most}{to_go} (${usd['per_hour']:,.2f} an hour)"
    elif state["hours"] is not None:
        yield f"  {_time(state['hours'] * 3600)} spent; no price is known (budget.usd_per_hour)"
    if state["parts"]:
        yield "  " + " · ".join(f"{part['part']} {'✓' if part['finished'] else '–'}" for part in state["parts"])
    if state["checkpoint"]:
        yield f"  last checkpoint: {state['checkpoint']}"
    if alive is not None:
        there = {True: "alive", None: "nothing was heard of it", False: "gone without a word"}[alive["alive"]]
        since = f"last sign of life {_time(alive['seconds_since_a_sign'])} ago"
        yield f"  process {alive['pid']} on {alive['host']}: {there}, {since}"
    if state["resume"] and state["state"] in ("stopped", "failed", "gone"):
        yield f"  to go on: {state['resume']}"
    if state["resume"] and state["state"] == "silent":
        yield f"  to go on, where it has ended: {state['resume']}"


def _clock(at: str) -> str:
    """A time in ISO 8601 as a clock here shows it."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def watch(read: Read, every: float, console: Console, tell: Callable[[dict[str, Any]], None] | None) -> None:
    """Show a run until it ends, or until Ctrl-C, which is no error here.

    Args:
        read: From `status.reader`.
        every: Seconds between two looks.
        console: Where it is shown; without a terminal, anew after each change.
        tell: Gets each changed state instead.
    """
    shown: Any = None
    try:
        if tell is None and console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for state in followed(read, every):
                    live.update(Text("\n".join(lines(state))), refresh=True)
            return
        for state in followed(read, every):
            mark = (state["state"], state["part"], state["step"])
            if mark == shown:
                continue
            shown = mark
            if tell is not None:
                tell(state)
            else:
                console.print("\n".join(lines(state)), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        return
