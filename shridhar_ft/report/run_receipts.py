"""What each receipt claims and what was measured, in a line each; a kind that is not known shows what was recorded."""

import json
from collections.abc import Callable
from typing import Any

from shridhar_ft.data.measure import KINDS
from shridhar_ft.report.collect import Record, part_of_receipt
from shridhar_ft.report.tongue import Tongue

Told = tuple[str, str]
Held = dict[str, Any]
HASH = 12  # characters of a hash that are shown


def receipt_rows(record: Record, tongue: Tongue) -> list[dict[str, Any]]:
    """One row a receipt, in the order of the run.

    Returns:
        `part`, `name`, `ok`, `claimed` and `measured` (sentences), `mend` (a failed one's), `recorded` (all its
        numbers, as JSON).
    """
    rows = []
    for path, receipt in record.receipts.items():
        claimed, measured = _told(path, receipt, tongue)
        kept = {key: receipt[key] for key in ("claimed", "measured") if key in receipt}
        rows.append(
            {
                "part": part_of_receipt(path),
                "name": receipt["receipt"],
                "ok": receipt["ok"],
                "claimed": claimed,
                "measured": measured,
                "mend": receipt.get("mend", ""),
                "recorded": json.dumps(kept, ensure_ascii=False, indent=1),
            }
        )
    return rows


def _told(path: str, receipt: Held, tongue: Tongue) -> Told:
    name = receipt["receipt"]
    teller = TELLERS.get("ledger_data" if path == "data/receipts/ledger.json" else name)
    if teller is None:
        return tongue.say("claim_other"), tongue.say("claim_other")
    return teller(receipt["claimed"], receipt["measured"], tongue)


def _data_ledger(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    kinds = [measured[kind] for kind in KINDS if kind in measured]  # `tokens` stands beside them
    kept, off = sum(kind["kept"] for kind in kinds), sum(abs(kind["difference"]) for kind in kinds)
    return tongue.say("claim_ledger_data"), tongue.say("found_ledger_data", kept=kept, off=off)


def _ledger(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    counts = {key: measured[key] for key in ("trained", "masked", "truncated", "dropped")}
    return tongue.say("claim_ledger"), tongue.say("found_ledger", all=measured["in"], **counts)


def _split(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    found = [runs for kind in KINDS if kind in measured for runs in measured[kind]["runs_of_13_words"].values()]
    shared, whole = (sum(runs[key] for runs in found) for key in ("in_train", "runs"))
    claim = "claim_split" if "runs_in_train" in claimed else "claim_split_free"
    return tongue.say(claim), tongue.say("found_split", runs=shared, all=whole)


def _rope(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    parameters = claimed["rope_parameters"]
    by_layer = [inner for inner in parameters.values() if isinstance(inner, dict)]  # sliding layers have their own
    kinds = dict.fromkeys(str(one.get("rope_type", "default")) for one in by_layer or [parameters])
    context = claimed.get("context", claimed["max_position_embeddings"])
    said = tongue.say("claim_rope", kind=", ".join(kinds), context=context)
    if measured.get("differs"):
        return said, "; ".join(measured["differs"])
    return said, tongue.say("found_rope", off=measured["largest_relative_frequency_difference"])


def _isolation(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    return tongue.say("claim_isolation", tolerance=claimed["tolerance"]), tongue.say(
        "found_isolation",
        off=measured["largest_difference_in_other_documents"],
        own=measured["largest_difference_in_the_changed_document"],
    )


def _handover(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    key = "claim_handover_first" if claimed["from"] == "the first weights" else "claim_handover"
    return (
        tongue.say(key, name=claimed["from"], hash=claimed["hash"][:HASH]),
        tongue.say("found_handover", hash=measured["hash"][:HASH]),
    )


def _gate(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    return tongue.say("claim_gate", text=text_name(claimed["measured_on"], tongue)), tongue.say(
        "found_gate",
        before=tongue.number(_float(measured["loss_before"]), 3),
        after=tongue.number(_float(measured["loss_after"]), 3),
        change=tongue.signed(_float(measured["change"])),
        error=tongue.number(_float(measured["standard_error"]), 3),
    )


def _mask(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    return tongue.say("claim_mask"), tongue.say(
        "found_mask",
        learned=measured["learned_tokens"],
        tokens=measured["tokens"],
        closed=measured["answers_with_their_closing_token"],
        answers=measured["answers"],
    )


def _plan(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    foretold = tongue.say(
        "claim_plan", memory=tongue.memory(claimed["peak_bytes"]), time=tongue.time(claimed["step_seconds"])
    )
    return foretold, tongue.say(
        "found_plan",
        memory=tongue.memory(measured["peak_bytes"]),
        memory_off=tongue.off(measured["peak_off"]),
        time=tongue.time(measured["step_seconds"]),
        time_off=tongue.off(measured["step_off"]),
    )


def _certificate(claimed: Held, measured: Held, tongue: Tongue) -> Told:
    if "tolerances" not in claimed:  # the written RoPE was wrong, so nothing was compared
        return tongue.say("claim_certificate"), tongue.say("found_certificate_rope")
    compared = {name: measured[name] for name in claimed["tolerances"]}
    said = (
        tongue.say("found_certificate", name=name, nats=tongue.number(_float(found["mean_kl_nats"])))
        for name, found in compared.items()
    )
    return tongue.say("claim_certificate"), "; ".join(said)


def _float(value: float | str | None) -> float | None:
    """A number of a receipt, which writes NaN and infinity as text."""
    return None if value is None else float(value)


def text_name(measured_on: str, tongue: Tongue) -> str:
    """`validation` or `long_text_<length>`, in words."""
    if measured_on == "validation":
        return tongue.say("on_validation")
    return tongue.say("on_long", n=int(measured_on.removeprefix("long_text_")))


TELLERS: dict[str, Callable[[Held, Held, Tongue], Told]] = {
    "ledger_data": _data_ledger,
    "ledger": _ledger,
    "split": _split,
    "rope": _rope,
    "rope_after": _rope,
    "rope_written": _rope,
    "isolation": _isolation,
    "isolation_shared": _isolation,
    "handover": _handover,
    "gate": _gate,
    "mask": _mask,
    "plan": _plan,
    "certificate": _certificate,
}
