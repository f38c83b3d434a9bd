"""A suite's items as tasks of lm-evaluation-harness, for `lm_eval --include_path FOLDER`.

The YAMLs and the rules that they judge by lie in eval/lm_eval; here their items are made from the run's texts, and the
folder's place is written in. The harness cuts prompts beyond `max_length` with no more than a warning, so each row says
how many tokens it takes, and the tasks refuse a `max_length` below that.
"""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

from shridhar_ft.evaluation.materials import Materials, Unmeasured
from shridhar_ft.evaluation.reader import Reader
from shridhar_ft.evaluation.retention import EXTRA
from shridhar_ft.evaluation.suite import Item, Task, Wanted
from shridhar_ft.runfolder import write_text
from shridhar_ft.shipped import shipped

TEMPLATES = Path("eval/lm_eval")
RULES = "utils.py"
PLACE, LENGTH = "DATA_FOLDER", "LENGTH"
"""What stands in the YAMLs for the folder that the items lie in, and for the tokens of a needle's prompt."""


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
            tables = _tables(wanted.name, task, reader, task.items(reader))
        except Unmeasured as why:
            left_out[wanted.name] = str(why)
            continue
        for name, rows in tables.items():
            text = template.read_text(encoding="utf-8").replace(PLACE, folder.resolve().as_posix())
            write_text(folder / f"{name}.jsonl", "".join(f"{dumps(row, ensure_ascii=False)}\n" for row in rows))
            write_text(folder / f"{name}.yaml", text.replace(LENGTH, name.rpartition("_")[2]))
            written[name] = len(rows)
    if written:
        write_text(folder / RULES, shipped(TEMPLATES / RULES).read_text(encoding="utf-8"))
    return {"tasks": written, "left_out": left_out}


def _tables(name: str, task: Task, reader: Reader, items: Sequence[Item]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each task of the harness; needles are one a length, since `--limit` takes the first items only."""
    opening = opening_text(reader)
    if name != "retention":
        return {name: [_scored(reader, item, opening) for item in items if item.get("seen", True)]}
    tables: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        if item["how"] == "facts":
            tables.setdefault(f"{name}_{item['length']}", []).append(_asked(task, reader, item, opening))
    return tables


def _scored(reader: Reader, item: Item, opening: str) -> dict[str, Any]:
    """An item whose texts the harness scores."""
    texts = [*item["choices"], *item["words"]] if "choices" in item else [item["good"], item["bad"]]
    return {
        **{key: value for key, value in item.items() if isinstance(value, str | int | float)},
        "texts": texts,
        "opening": opening,
        "tokens": max(len(reader.opening) + len(reader.encode(text)) for text in texts),
        "room": 0,
    }


def _asked(task: Task, reader: Reader, item: Item, opening: str) -> dict[str, Any]:
    """An item after whose prompt the harness lets the model speak."""
    ids, asked = task.prompt(reader, item)  # type: ignore[attr-defined]  # retention's own
    text = reader.decode(ids[len(reader.opening) :])
    tokens, room = len(reader.opening) + len(reader.encode(text)), len(reader.encode(asked.answer)) + EXTRA
    assert tokens + room <= reader.window, "a prompt that does not fit"
    return {
        "key": item["key"],
        "tokens": tokens,
        "room": room,
        "prompt": opening + text,
        "answer": asked.answer.strip(),
    }


def opening_text(reader: Reader) -> str:
    """The tokens that a text begins with, as text that the harness's tokenizer reads as the same tokens.

    Empty where there is no such text, e.g. for a GGUF: the harness then opens with a token of its own choice.
    """
    tokenizer = getattr(reader, "tokenizer", None)
    if tokenizer is None:
        return ""
    text = str(tokenizer.decode(reader.opening))
    return text if tokenizer(text, add_special_tokens=False).input_ids == reader.opening else ""
