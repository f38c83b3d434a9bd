"""The page of a run: what was run, whether each receipt holds, how it learned, what it is worth, what to do next.

    shridhar-ft report RUN  →  runs/<name>/report.html

One file without script or network, made from what the run folder holds; a run that is half done gives the page of what
there is, and says what is missing.
"""

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from shridhar_ft import __version__
from shridhar_ft.data.measure import KINDS
from shridhar_ft.data.split import SPLITS
from shridhar_ft.errors import STOPPED, BudgetSpent, Resumable
from shridhar_ft.report import run_scores, run_training
from shridhar_ft.report.collect import Record, collect
from shridhar_ft.report.pages import render
from shridhar_ft.report.run_receipts import HASH, receipt_rows
from shridhar_ft.report.samples_view import samples
from shridhar_ft.report.tongue import Language, Tongue
from shridhar_ft.runfolder import Run, write_text

REPORT = "report.html"


def write_run_page(run: Run, language: Language = "en", file: Path | None = None) -> dict[str, Any]:
    """Write the page.

    Args:
        run: The run.
        language: Of the page.
        file: Where it goes (default: report.html of the run folder).

    Returns:
        `report` (path), `state` and `missing` (sentences), `receipts` (part, name, ok of each).
    """
    record = collect(run)
    tongue = Tongue(language)
    path = file or run.root / REPORT
    write_text(path, run_page(record, tongue))
    rows = receipt_rows(record, tongue)
    return {
        "report": str(path),
        "state": state(record, tongue),
        "missing": missing(record, tongue),
        "receipts": [{key: row[key] for key in ("part", "name", "ok")} for row in rows],
    }


def run_page(record: Record, tongue: Tongue) -> str:
    """The page as HTML."""
    receipts = receipt_rows(record, tongue)
    return render(
        "run_page.html",
        t=tongue.say,
        lang=tongue.language,
        number=tongue.number,
        sentence=tongue.sentence,
        name=record.run.name,
        state=state(record, tongue),
        failed=record.status.get("status") not in (None, 0, *STOPPED),
        message=record.status.get("message", "") if record.status.get("status") else "",
        standing=_standing(receipts, tongue),
        missing=missing(record, tongue),
        figures=_figures(record, tongue),
        what=_what(record, tongue),
        parts=_parts(record, tongue),
        recipe=yaml.safe_dump(record.recipe, sort_keys=False, allow_unicode=True) if record.recipe else "",
        receipts=receipts,
        losses=run_training.losses(record, tongue),
        positions=run_training.positions(record, tongue),
        gains=run_training.gains(record, tongue),
        evaluations=run_scores.evaluations(record, tongue),
        needles=run_scores.needles(record, tongue),
        models=run_scores.positions_of_models(record, tongue),
        data=_data(record, tongue),
        verdict=record.verdict,
        ledger=run_training.token_ledger(record, tongue),
        plan=run_training.plan(record, tongue),
        samples=samples(record, tongue),
        commands=commands(record, tongue),
        foot=tongue.say("foot", version=__version__, at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    )


# -------------------------------------------------------------------------------------------------- the head


def state(record: Record, tongue: Tongue) -> str:
    """Where the run stands, in a sentence."""
    if not record.status:
        return tongue.say("state_unknown")
    status, part = record.status["status"], record.status["part"]
    if status is None:
        return tongue.say("state_working", part=part, message=record.status["message"])
    key = {0: "state_done", Resumable.status: "state_stopped", BudgetSpent.status: "state_spent"}.get(
        status, "state_failed"
    )
    return tongue.say(key, part=part, status=str(status))


def _standing(receipts: list[dict[str, Any]], tongue: Tongue) -> dict[str, Any]:
    bad = [f"{row['part']} {row['name']}" for row in receipts if not row["ok"]]
    if not receipts:
        return {"ok": True, "says": tongue.say("receipts_none")}
    if bad:
        says = tongue.say("receipts_fail", bad=len(bad), n=len(receipts), names=", ".join(bad))
        return {"ok": False, "says": says}
    return {"ok": True, "says": tongue.say("receipts_hold", n=len(receipts))}


def missing(record: Record, tongue: Tongue) -> list[str]:
    """What a whole run has and this one has not, a phrase each."""
    found = [tongue.say("missing_file", file=file) for file in record.unreadable]
    if not record.recipe:
        found.append(tongue.say("missing_recipe"))
    found += [tongue.say("missing_part", part=name) for name in ("data", "tokenizer") if name not in record.done]
    for part in record.parts:
        if part.done is None:
            step = part.log[-1]["step"] if part.log else None
            known = step is not None
            found.append(
                tongue.say("missing_begun", part=part.name, step=step)
                if known
                else tongue.say("missing_part", part=part.name)
            )
    if "export" not in record.done:
        found.append(tongue.say("missing_part", part="export"))
    where = str(record.run.root)
    if not record.evaluations and "export" in record.done:
        found.append(tongue.say("missing_eval", command=shlex.join(["shridhar-ft", "eval", where])))
    if record.samples is None and any(part.done for part in record.parts):
        found.append(tongue.say("missing_samples", command=shlex.join(["shridhar-ft", "report", where])))
    stages = [part for part in record.parts if part.name != "sft" and part.before]
    if any(f"long_text_{part.settings['context']}" not in part.before for part in stages):
        found.append(tongue.say("missing_long"))
    return found


def _figures(record: Record, tongue: Tongue) -> list[tuple[str, str]]:
    """The few numbers that one wants first."""
    figures = []
    stages = [part for part in record.parts if part.name != "sft"]
    ended = [part for part in stages if part.done]
    if ended:
        first = (ended[0].before.get("validation") or {}).get("loss")
        last = (ended[-1].after.get("validation") or {}).get("loss")
        if last is not None:
            figures.append((tongue.number(last, 3), tongue.say("fig_loss", first=tongue.number(first, 3))))
        figures.append((tongue.number(ended[-1].done["context"]), tongue.say("fig_context")))  # type: ignore[index]
    if record.verdict:
        train = record.verdict["tokens"]["train"]
        figures.append((tongue.compact(sum(train.values())), tongue.say("fig_tokens")))
    all_parts = [*record.done.values(), *(part.done for part in record.parts if part.done)]
    if all_parts:
        figures.append((tongue.time(sum(part["seconds"] for part in all_parts)), tongue.say("fig_time")))
    if steps := sum(part.done["steps"] for part in record.parts if part.done):
        figures.append((tongue.number(steps), tongue.say("fig_steps")))
    return figures


# ---------------------------------------------------------------------------------------------- what was run


def _what(record: Record, tongue: Tongue) -> list[tuple[str, str]]:
    """Recipe, machine and versions as terms and their values."""
    rows: list[tuple[str, str]] = []
    recipe, environment = record.recipe, record.environment
    if recipe:
        model = recipe["model"]
        base = " ".join(filter(None, (model.get("base"), (model.get("revision") or "")[:HASH])))
        kind = (model.get("from_config") or {}).get("model_type", "")
        rows.append((tongue.say("model"), base or tongue.say("from_config", kind=kind)))
        sft = recipe.get("sft") or {}
        method = [recipe.get("train", {}).get("method"), sft.get("method") and f"SFT: {sft['method']}"]
        rows.append((tongue.say("method"), " · ".join(filter(None, method))))
        stages = [
            f"{stage['name']}: {tongue.number(stage['context'])} ({(stage.get('rope') or {}).get('type') or 'default'})"
            for stage in recipe.get("stages") or []
        ]
        rows.append((tongue.say("curriculum"), " → ".join([*stages, *(["SFT"] if sft else [])])))
        rows.append((tongue.say("seed"), str(recipe.get("seed", ""))))
    if environment:
        rows.append((tongue.say("commit"), environment.get("commit") or tongue.say("not_there")))
        processors = tongue.say("processors", n=environment["processors"])
        rows.append((tongue.say("machine"), f"{environment['platform']}, {processors}, Python {environment['python']}"))
        packages = (f"{name} {version}" for name, version in environment["packages"].items())
        rows.append((tongue.say("versions"), ", ".join(packages)))
    return rows


def _parts(record: Record, tongue: Tongue) -> list[tuple[str, ...]]:
    """Rows of the table of parts: hashes, time, memory."""
    done = {
        **{name: record.done.get(name) for name in ("data", "tokenizer")},
        **{part.name: part.done for part in record.parts},
        "export": record.done.get("export"),
    }
    return [
        (
            name,
            part["fingerprint"][:HASH] if part else tongue.say("not_there"),
            (part.get("hash") or "")[:HASH] if part else "",
            tongue.time(part["seconds"]) if part else "",
            tongue.memory(part.get("peak_rss_bytes")) if part else "",
        )
        for name, part in done.items()
    ]


def _data(record: Record, tongue: Tongue) -> list[dict[str, Any]]:
    """Splits of each kind of text: pieces, characters, tokens."""
    if not record.data:
        return []
    tokens = (record.verdict or {}).get("tokens")
    return [
        {
            "title": tongue.say(f"kind_{kind}"),
            "rows": [
                (
                    tongue.say(split),
                    tongue.number(record.data["splits"][split][kind]["rows"]),
                    tongue.number(record.data["splits"][split][kind]["characters"]),
                    tongue.number(tokens[split][kind] if tokens else None),
                )
                for split in SPLITS
            ],
        }
        for kind in KINDS
        if record.data[kind]["files"]
    ]


def commands(record: Record, tongue: Tongue) -> list[tuple[str, str]]:
    """What to type next, and what it does."""
    where = str(record.run.root)
    recipe = str(record.run.root / "recipe.yaml")
    found = []
    if "export" in record.done:
        found.append((shlex.join(["shridhar-ft", "chat", where]), tongue.say("do_chat")))
    if record.recipe:
        again = record.status.get("resume") or shlex.join(["shridhar-ft", "run", recipe])
        found.append((again, tongue.say("do_resume")))
    if record.parts and all(part.done for part in record.parts):
        found.append((shlex.join(["shridhar-ft", "export", where, "export.dtype=bfloat16"]), tongue.say("do_export")))
    if "export" in record.done:
        found.append((shlex.join(["shridhar-ft", "eval", where]), tongue.say("do_eval")))
    return [*found, (shlex.join(["shridhar-ft", "report", where]), tongue.say("do_report"))]
