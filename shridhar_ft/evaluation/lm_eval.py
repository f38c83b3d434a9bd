"""A suite's items as tasks of lm-evaluation-harness, for `lm_eval --include_path FOLDER`.

The YAMLs lie in eval/lm_eval; here their items are made from the run's texts, and the folder's place is written in.
The harness cuts prompts beyond `max_length` with no more than a warning: always give it the window.
"""

from collections.abc import Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.suite import Item, Task, Wanted
from shridhar_ft.runfolder import write_text
from shridhar_ft.shipped import shipped

TEMPLATES = Path("eval/lm_eval")
PLACE = "DATA_FOLDER"
"""What stands in the YAMLs for the folder that the items lie in."""


def write_tasks(
    reader: Reader, suite: Sequence[Wanted], materials: Materials, folder: Path, seed: int
) -> dict[str, Any]:
    """Write items and YAMLs of those tasks of a suite that the harness can run.

    Args:
        reader: The model whose tokens prompts are measured in.
        suite: The tasks.
        materials: The texts.
        folder: Made if need be.
        seed: Of the items.

    Returns:
        `tasks` (name → items written) and `left_out` (name → why).
    """
    written: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for wanted in suite:
        template = shipped(TEMPLATES / f"{wanted.name}.yaml")
        if not template.is_file():
            left_out[wanted.name] = "the harness has no way to measure it"
            continue
        task = wanted.make(materials, seed)
        try:
            rows = list(_rows(wanted.name, task, reader, task.items(reader)))
        except Unmeasured as why:
            left_out[wanted.name] = str(why)
            continue
        write_text(folder / f"{wanted.name}.jsonl", "".join(f"{dumps(row, ensure_ascii=False)}\n" for row in rows))
        write_text(
            folder / f"{wanted.name}.yaml",
            template.read_text(encoding="utf-8").replace(PLACE, folder.resolve().as_posix()),
        )
        written[wanted.name] = len(rows)
    return {"tasks": written, "left_out": left_out}


def _rows(name: str, task: Task, reader: Reader, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        if name != "retention":
            yield {key: value for key, value in item.items() if isinstance(value, str | int | float | list)}
        elif item["how"] == "facts":
            ids, asked = task.prompt(reader, item)  # type: ignore[attr-defined]  # retention's own
            # Without the opening: the harness puts the model's own in front.
            text = reader.decode(ids[len(reader.opening) :])
            yield {"key": item["key"], "tokens": len(ids), "prompt": text, "answer": asked.answer.strip()}
