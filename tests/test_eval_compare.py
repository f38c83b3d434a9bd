"""What `--compare` leaves out and `--base` refuses, and why: results as `eval` writes them, by hand, of no model."""

import json
from pathlib import Path
from typing import Any

import pytest

from shridhar_ft.errors import UserError
from shridhar_ft.evaluation.bytes import Settings as BytesSettings
from shridhar_ft.evaluation.compare import compare
from shridhar_ft.evaluation.materials import Materials
from shridhar_ft.evaluation.runner import check_base
from shridhar_ft.evaluation.suite import Wanted

STYLE = {"prompts": 60, "opening_words": 60, "words": 200, "temperature": 0.8, "top_p": 0.95}
BYTES = {"characters": 3000, "passages": 80}
POSITIONS = {"context": None, "windows": 8, "reading": ["windows"]}


def written(folder: Path, task: str, settings: dict, records: list[dict], **more: Any) -> Path:
    """An evaluation by one task."""
    (folder / "items").mkdir(parents=True)
    results = {
        "model": folder.name,
        "made_from": {"model": folder.name, "texts": "texts", "base": more.pop("base", None)},
        "tokenizer": "tokenizer",
        "window": 8192,
        "suite": {task: settings},
        "seed": 1,
        "base": None,
        "scores": [],
        **more,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [{"made_from": ""}, *records]
    (folder / "items" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def judged(accepted: float) -> list[dict]:
    return [
        {"key": str(i), "said/accepted": accepted, "true/accepted": float(i % 5 > 0), "floor/accepted": 0.1}
        | {"said/copied": 0, "said/runs": 100, "true/copied": 0, "true/runs": 100}
        for i in range(20)
    ]


def passages(nats: float) -> list[dict]:
    return [{"key": f"held-out/{i}", "side": "held-out", "nats": nats + i, "tokens": 9, "bytes": 30} for i in range(9)]


def read(nats: float) -> list[dict]:
    sums = [[nats, 10]] * 4
    return [
        {"key": f"windows/8192/{i}", "reading": "windows", "blocks": [[nats, 10, 20]], "gains": sums}
        | {"early": sums, "late": sums}
        for i in range(5)
    ]


def style_score(value: float | None) -> list[dict]:
    return [{"name": "style acceptance S", "value": value, "lacking": "" if value else "undefined: the verifier tells"}]


def test_passages_cut_by_tokens_are_not_compared_between_tokenizers(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours", "loss_by_position", POSITIONS, read(3.0))
    same = written(tmp_path / "same", "loss_by_position", POSITIONS, read(4.0))
    other = written(tmp_path / "other", "loss_by_position", POSITIONS, read(4.0), tokenizer="another")
    assert {row["name"] for row in compare(ours, same)["differences"]} >= {
        "bits per byte (windows)",
        "perplexity (windows)",
    }
    with pytest.raises(UserError, match="the tokenizers differ, so its windows hold other passages"):
        compare(ours, other)


def test_bytes_are_compared_between_tokenizers(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours", "bits_per_byte", BYTES, passages(3.0))
    other = written(tmp_path / "other", "bits_per_byte", BYTES, passages(4.0), tokenizer="another")
    (row,) = compare(ours, other)["differences"]
    assert row["better"] == "ours"


def test_windows_that_share_no_item_are_named(tmp_path: Path) -> None:
    theirs = [{**record, "key": f"windows/4096/{i}"} for i, record in enumerate(read(4.0))]
    ours = written(tmp_path / "ours", "loss_by_position", POSITIONS, read(3.0))
    other = written(tmp_path / "other", "loss_by_position", POSITIONS, theirs, window=4096)
    with pytest.raises(UserError, match="loss_by_position: the windows differ, so no item is shared"):
        compare(ours, other)


def test_a_style_score_that_is_undefined_is_not_made_anew(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours", "style_acceptance", STYLE, judged(1.0), scores=style_score(1.1))
    other = written(tmp_path / "other", "style_acceptance", STYLE, judged(0.0), scores=style_score(None))
    found = compare(ours, other)
    assert found["left_out"] == {"style acceptance S": "other: undefined: the verifier tells"}
    assert {row["name"] for row in found["differences"]} == {"accepted as the author's", "copied runs of 8 words"}


def test_style_scores_that_count_from_other_bases_are_not_compared(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours", "style_acceptance", STYLE, judged(1.0), base="base", scores=style_score(1.1))
    other = written(tmp_path / "other", "style_acceptance", STYLE, judged(0.0), scores=style_score(0.1))
    third = written(tmp_path / "third", "style_acceptance", STYLE, judged(0.0), base="base", scores=style_score(0.1))
    assert "the bases differ" in compare(ours, other)["left_out"]["style acceptance S"]
    assert "style acceptance S" in {row["name"] for row in compare(ours, third)["differences"]}


def test_a_base_of_other_texts_settings_or_seed_is_no_floor(tmp_path: Path) -> None:
    base = written(tmp_path / "base", "bits_per_byte", BYTES, passages(3.0))
    wanted, texts = [Wanted("bits_per_byte", BytesSettings())], Materials(made_from="texts")
    check_base(base, wanted, texts, 1)
    for suite, materials, seed, words in (
        (wanted, Materials(made_from="others"), 1, "its texts differ"),
        (wanted, texts, 2, "its seed is 1 and this one's 2"),
        ([Wanted("bits_per_byte", BytesSettings(passages=9))], texts, 1, "its settings of bits_per_byte differ"),
        ([*wanted, Wanted("retention", BytesSettings())], texts, 1, "it has no retention"),
    ):
        with pytest.raises(UserError, match=words):
            check_base(base, suite, materials, seed)
