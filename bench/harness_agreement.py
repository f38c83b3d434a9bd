"""RULER's needles by lm-evaluation-harness and by our reader: the same prompts, tokens and judge, item by item.

    python bench/harness_agreement.py my/base [--task niah_single_1] [--length 4096] [--items 20] [--json]

Needs `pip install 'shridhar_ft[lm-eval]'`; niah_single_1 needs no network. The harness answers first; then our reader
goes on from the very tokens that the harness made of each prompt, and the task's own rule judges both.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from shridhar_ft.evaluation.hf_reader import open_folder
from shridhar_ft.evaluation.hub_process import BY_DEFAULT, run
from shridhar_ft.evaluation.measures import wilson

SEED = 108


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path, help="a model folder")
    ask.add_argument("--task", default="niah_single_1", help="one of the harness's RULER tasks")
    ask.add_argument("--length", type=int, default=4096, help="tokens of a prompt")
    ask.add_argument("--items", type=int, default=20, help="prompts")
    ask.add_argument("--json", action="store_true", help="answer as JSON")
    given = ask.parse_args()
    found = agreement(given.model, given.task, given.length, given.items)
    print(json.dumps(found, indent=1, ensure_ascii=False) if given.json else "\n".join(lines(found)))


def agreement(folder: Path, task: str, length: int, items: int) -> dict[str, Any]:
    """Shares right with intervals, how many items are judged alike, and how many answers are the same to the letter."""
    reader = open_folder(folder, folder.name)
    asked = {"model": str(folder), "tasks": [task], "length": length, "limit": items, "seed": SEED}
    done = run({**asked, "window": reader.window}, samples=True)
    rows = []
    for sample in done.found["samples"][task]:
        prompt, limits = sample["arguments"][0]
        reader.read(done.model.tok_encode(prompt))
        said = reader.decode(reader.go_on(limits.get("max_gen_toks", BY_DEFAULT)))
        judged = done.tasks[task].process_results(sample["doc"], [said])
        rows.append(
            {
                "answers": sample["target"],
                "harness": {"said": sample["resps"][0][0], "right": sample[str(length)]},
                "ours": {"said": said, "right": judged[str(length)]},
            }
        )
    right = {who: sum(row[who]["right"] for row in rows) / len(rows) for who in ("harness", "ours")}
    return {
        "model": folder.name,
        "task": task,
        "length": length,
        "longest prompt and answer": done.max_length,
        "n": len(rows),
        "right": {who: {"value": share, "interval": wilson(share, len(rows))} for who, share in right.items()},
        "judged alike": sum(row["harness"]["right"] == row["ours"]["right"] for row in rows),
        "same text": sum(row["harness"]["said"] == row["ours"]["said"] for row in rows),
        "items": rows,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """What is printed."""
    said = [f"{found['model']}, {found['task']}, {found['length']:,} tokens, {found['n']} items"]
    for who, one in found["right"].items():
        low, high = one["interval"]
        said.append(f"{who:>8}: {one['value']:.0%} right [{low:.0%}, {high:.0%}]")
    return [*said, f"judged alike {found['judged alike']}, the same text {found['same text']} of {found['n']}"]


if __name__ == "__main__":
    main()
