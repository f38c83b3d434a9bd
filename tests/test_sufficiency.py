"""The data-sufficiency verdict: its counts are those of the packing, and its sentences follow from the numbers."""

from pathlib import Path

import pytest

from shridhar_ft import sufficiency
from shridhar_ft.config import load_recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.data.load import load_split
from shridhar_ft.data.records import Document, Message
from shridhar_ft.data.rows import RowStream, block_row, dialogue_row, save_split
from shridhar_ft.data.split import SPLITS
from shridhar_ft.data.windows import Layout, pack_windows
from shridhar_ft.documents import book_documents, dialogue_documents
from shridhar_ft.plan.steps import schedule
from shridhar_ft.runfolder import Run, finish_part, write_json
from shridhar_ft.sufficiency import verdict, write_verdict

OTHERS = ["launch.config=accelerate_configs/cpu.yaml"]


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The bundled books by paragraphs, ten to a chapter, and ten conversations; a tenth or two of each is held out."""
    run = Run(tmp_path_factory.mktemp("runs") / "x")
    run.data.mkdir(parents=True)
    streams = {split: RowStream(run.data / f"{split}.arrow") for split in SPLITS}
    sizes = {split: {kind: {"rows": 0, "characters": 0} for kind in ("books", "dialogues")} for split in SPLITS}
    for index, text in enumerate(corpus):
        document = Document("x.txt", f"work{index}", f"work{index}", "", "", "Автор")
        for number, block in enumerate(line for line in text.split("\n") if line.strip()):
            split = {7: "validation", 8: "test"}.get(number % 10, "train")
            streams[split].append(block_row(document, number, block, f"Глава {number // 10}"), len(block))
            sizes[split]["books"]["characters"] += len(block)
    for number in range(10):
        split = {8: "validation", 9: "test"}.get(number, "train")
        turns = [Message("user", "Что такое покой?"), Message("assistant", "Когда нечего добавить. " * number + "Да.")]
        streams[split].append(dialogue_row("d.jsonl", str(number), turns), 100)
        sizes[split]["dialogues"]["characters"] += sum(len(turn.content) for turn in turns)
    for split, stream in streams.items():
        with stream:
            pass
        save_split(run.data / f"{split}.arrow", run.data / split)
    write_json(run.data / "report.json", {"splits": sizes})
    finish_part(run.data, "data", 0.0)
    run.tokenizer.mkdir()
    finish_part(run.tokenizer, "tokenizer", 0.0)
    return run


def test_the_counts_are_those_of_documents_and_windows(run: Run, tokenizer) -> None:
    changes = ["stages.0.packing=documents", "stages.0.overlong=drop", "stages.2.packing=works"]
    recipe = load_recipe("demo", [*OTHERS, *changes])
    found = verdict(recipe, run, tokenizer, 64)
    for split in SPLITS:
        assert found["tokens"][split] == {
            "books": sum(len(d.ids) for d in book_documents(run, tokenizer, split)),
            "dialogues": sum(len(d.ids) for d in dialogue_documents(run, tokenizer, split, 64, True)),
        }
    for stage, judged in zip(recipe.stages, found["stages"], strict=True):
        documents = list(book_documents(run, tokenizer, "train", stage.packing))
        table, ledger = pack_windows(documents, Layout(stage.context, stage.overlong), "x")
        assert judged["windows"] == len(table) and judged["dropped"] == sum(ledger.dropped.values())
        assert judged["tokens"] == ledger.came_in - judged["dropped"]
    first, second, last = found["stages"]
    assert first["dropped"] > 0 and any("dropped, as asked" in note for note in first["notes"])
    assert second["documents"] == last["documents"] == 4
    assert found["sft"]["conversations"] == 8 and found["sft"]["turns"] == 16
    assert found["sft"]["tokens"] == found["tokens"]["train"]["dialogues"]
    assert 0 < found["sft"]["assistant_tokens"] < found["sft"]["tokens"]
    assert found["sft"]["pieces_of_longer_exchanges"] > 0 and "longer than the window" in found["sft"]["notes"][0]
    assert 1 < found["characters_per_token"]["books"] < 6


def test_a_small_shelf_is_an_adaptation_and_the_first_stage_a_first_training(run: Run, tokenizer) -> None:
    stages = verdict(load_recipe("demo", OTHERS), run, tokenizer, 512)["stages"]
    assert [stage["kind"] for stage in stages] == ["first training", "adaptation", "adaptation"]
    assert stages[1]["verdict"].endswith("where the smallest published extension read 500,000,000.")
    assert stages[0]["notes"] == ["6 epochs, and beyond about 4 repeating teaches little; set max_epochs: 4."]


def test_enough_text_in_long_documents_is_an_extension(run: Run, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sufficiency, "SMALLEST_EXTENSION", 1000)
    judge = verdict(load_recipe("demo", OTHERS), run, tokenizer, 512)["stages"][2]
    assert judge["kind"] == "extension" and judge["longer_than_half_a_window"] == 4
    recipe = load_recipe("demo", [*OTHERS, "stages.2.context=20000"])
    judge = verdict(recipe, run, tokenizer, 512)["stages"][2]
    assert judge["kind"] == "adaptation" and judge["verdict"].endswith("but no document is long.")
    assert judge["notes"][0].startswith("No document is longer than half a window; the longest fills ")


def test_a_base_is_not_extended_within_its_own_window(run: Run, tokenizer, saved_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"name: x\nmodel: {{base: {saved_llama}}}\ndata: {{books: {{paths: x}}}}\n"
        "stages: [{name: a, context: 128}, {name: b, context: 256, rope: {type: yarn}}]\n",
        encoding="utf-8",
    )
    found = verdict(load_recipe(file), run, tokenizer, 128)
    assert found["stages"][0]["verdict"] == "Adaptation to a domain: the base holds 128 tokens already."
    assert found["stages"][1]["verdict"].startswith("Adaptation to a domain, no extension of context: ")
    assert found["sft"] is None


def test_shares_by_tokens_are_told_when_they_are_off(run: Run, tokenizer) -> None:
    found = verdict(load_recipe("demo", OTHERS), run, tokenizer, 512)
    for kind in ("books", "dialogues"):
        assert sum(share["tokens"] for share in found["shares"][kind].values()) == pytest.approx(1, abs=1e-3)
    off = {
        (kind, s) for kind, of in found["shares"].items() for s, x in of.items() if abs(x["tokens"] - x["asked"]) > 0.03
    }
    assert {tuple(note.split(" holds")[0].split(": ")) for note in found["notes"]} == off
    assert ("dialogues", "test") in off  # the longest conversation


def test_steps_and_epochs_follow_from_the_settings() -> None:
    assert schedule(Tuning(batch_size=2, gradient_accumulation=2, max_epochs=3), 10, 64, 2) == {
        "windows_per_step": 8, "steps": 6, "epochs": 3,
    }  # fmt: skip
    assert schedule(Tuning(max_steps=5000), 4, 64, 16) == {"windows_per_step": 16, "steps": 5000, "epochs": 20000}


def test_the_nearest_of_several_limits_decides() -> None:
    def steps(**limits: float) -> int:
        return schedule(Tuning(batch_size=2, **limits), 10, 64, 1)["steps"]

    assert steps() == 5
    assert steps(max_tokens=129) == 2 and steps(max_tokens=128) == 1
    assert steps(max_steps=7, max_epochs=2) == 7 and steps(max_steps=70, max_epochs=2) == 10
    assert steps(max_steps=7, max_epochs=2, max_tokens=3 * 128) == 3


def test_the_mend_of_many_steps_is_four_epochs_of_them(run: Run, tokenizer) -> None:
    recipe = load_recipe("demo", [*OTHERS, "stages.2.max_epochs=null", "stages.2.max_steps=5000"])
    stage = verdict(recipe, run, tokenizer, 512)["stages"][2]
    assert stage["epochs"] == round(5000 / stage["windows"], 2)
    assert stage["notes"][0].endswith(f"set max_steps: {4 * stage['windows']}.")


def test_nothing_left_is_told(run: Run, tokenizer) -> None:
    changes = ["stages.0.context=8", "stages.0.packing=documents", "stages.0.overlong=drop"]
    stage = verdict(load_recipe("demo", [*OTHERS, *changes]), run, tokenizer, 512)["stages"][0]
    assert stage["windows"] == stage["tokens"] == 0 and stage["notes"][0].startswith("Nothing is left to train on")


def test_the_verdict_is_kept_until_something_changes(run: Run, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_verdict(load_recipe("demo", OTHERS), run, tokenizer, 512)
    with monkeypatch.context() as patch:
        patch.setattr(sufficiency, "load_split", pytest.fail)
        assert write_verdict(load_recipe("demo", [*OTHERS, "export.licence=mit"]), run, tokenizer, 512) == first
    second = write_verdict(load_recipe("demo", [*OTHERS, "stages.1.context=600"]), run, tokenizer, 512)
    assert second["stages"][1]["context"] == 600 and second["made_from"] != first["made_from"]
    eight = load_recipe("demo", ["launch.config=accelerate_configs/ddp.yaml"])
    assert write_verdict(eight, run, tokenizer, 512)["processes"] == 8


def test_no_sentence_quotes_a_dialogue(run: Run, tokenizer) -> None:
    said = {turn["content"] for row in load_split(run, "train") for turn in row["messages"]}
    found = str(verdict(load_recipe("demo", OTHERS), run, tokenizer, 512))
    assert said and not any(text in found for text in said)
