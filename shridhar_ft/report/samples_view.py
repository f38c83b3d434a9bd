"""Samples as the page shows them: for each prompt what every model said, side by side."""

from typing import Any

from shridhar_ft.report.collect import Record
from shridhar_ft.report.tongue import Tongue


def samples(record: Record, tongue: Tongue) -> dict[str, Any] | None:
    """The prompts with their answers; None where none are made yet.

    What samples.json holds is described in `shridhar_ft/samples.py`. A model whose weights were made anew since then is
    marked.
    """
    held = record.samples
    if held is None:
        return None
    now = {part.name: (part.done or {}).get("fingerprint") for part in record.parts}
    shown = []
    for index, prompt in enumerate(held["prompts"]):
        answers = []
        for model in held["models"]:
            answer = model["answers"][index]
            notes = [tongue.say("sample_cut")] if answer.get("cut") else []
            if model["name"] in now and now[model["name"]] != model["made_from"]:
                notes.append(tongue.say("sample_stale"))
            name = tongue.say("sample_base") if model["name"] == "base" else model["name"].removeprefix("stages/")
            answers.append({"name": name, "notes": notes, **_said(answer, tongue)})
        kind = "sample_question" if prompt["kind"] == "question" else "sample_text"
        shown.append(
            {
                "title": tongue.say(kind),
                "work": prompt.get("work", ""),
                "text": prompt["text"],
                "true": prompt.get("true", ""),
                "answers": answers,
            }
        )
    return {
        "says": tongue.say("samples_says", n=held["tokens"]),
        "random": tongue.say("sample_random") if held["random_base"] else "",
        "prompts": shown,
    }


def _said(answer: dict[str, Any], tongue: Tongue) -> dict[str, Any]:
    if "withheld" in answer:
        return {"text": tongue.say("sample_withheld"), "soft": True}
    if answer["text"] is None:
        return {"text": tongue.say("sample_no_template"), "soft": True}
    text = answer["text"].strip()
    return {"text": text or tongue.say("sample_silent"), "soft": not text}
