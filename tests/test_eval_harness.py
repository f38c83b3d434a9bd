"""Our tasks through lm-evaluation-harness itself, item by item as ours; skipped where it is not installed."""

from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
pytest.importorskip("pymorphy3", reason="needs the extra eval")

from test_eval_tasks import books

from shridhar_ft.evaluation.hf_reader import HfReader
from shridhar_ft.evaluation.lm_eval import opening_text, write_tasks
from shridhar_ft.evaluation.materials import Materials, Text, Unmeasured
from shridhar_ft.evaluation.measures import Record, score
from shridhar_ft.evaluation.retention import Settings as NeedleSettings
from shridhar_ft.evaluation.ru_pairs import Settings as PairSettings
from shridhar_ft.evaluation.suite import Wanted
from shridhar_ft.evaluation.term_cloze import Settings as TermSettings

WINDOW = 1024
SUITE = [
    Wanted("retention", NeedleSettings(kinds=["single_key", "two_fact"], lengths=[512, 768], depths=2, seeds=1)),
    Wanted("ru_pairs", PairSettings(each=12)),
    Wanted("term_cloze", TermSettings(items=24)),
]


@pytest.fixture(scope="module")
def texts(corpus: list[str]) -> Materials:
    made = books()
    made.held_out += [Text(f"книга {n}", text) for n, text in enumerate(corpus)]
    return made


@pytest.fixture
def reader(tokenizer, llama) -> HfReader:
    return HfReader(llama(max_position_embeddings=WINDOW), tokenizer, "tiny", "")


def harness(reader: HfReader, folder: Path, max_length: int | None) -> dict[str, list[dict]]:
    """What the harness finds for each item of each task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    given = {"max_length": max_length} if max_length else {}
    tasks = TaskManager(include_path=str(folder), include_defaults=False, metadata=dict(given))
    model = HFLM(pretrained=reader.model, tokenizer=reader.tokenizer, add_bos_token=False, **given)
    found = simple_evaluate(
        model,
        tasks=sorted(path.stem.join(("shridhar_", "")) for path in folder.glob("*.yaml")),
        task_manager=tasks,
        bootstrap_iters=0,
    )
    return {"samples": found["samples"], "results": found["results"]}


def ours(reader: HfReader, texts: Materials) -> dict[str, tuple]:
    """Each task, its records by key."""
    found = {}
    for wanted in SUITE:
        task = wanted.make(texts, 1)
        items = task.items(reader)
        batches = [items[at : at + task.batch] for at in range(0, len(items), task.batch)]
        found[wanted.name] = (task, {r["key"]: r for batch in batches for r in task.measure(reader, batch)})
    return found


def values(task, records: dict[str, Record]) -> dict[str, float]:
    return {
        measure.name: score(measure, list(records.values()), 1).value for measure in task.measures([*records.values()])
    }


def test_each_item_is_scored_as_ours(reader: HfReader, texts: Materials, tmp_path: Path) -> None:
    assert opening_text(reader) == "<|spiritual|>"
    said = write_tasks(reader, SUITE, texts, tmp_path, 1)
    assert set(said["tasks"]) == {"retention_512", "retention_768", "ru_pairs", "term_cloze"}
    theirs, own = harness(reader, tmp_path, WINDOW), ours(reader, texts)

    for name, of in (("retention_512", "retention"), ("retention_768", "retention")):
        for sample in theirs["samples"][f"shridhar_{name}"]:
            record = own[of][1][sample["doc"]["key"]]
            assert sample["resps"][0][0] == record["said"]
            assert sample["right"] == record["exact"]
            assert sample["doc"]["tokens"] == record["tokens"]
    for sample in theirs["samples"]["shridhar_ru_pairs"]:
        record = own["ru_pairs"][1][sample["doc"]["key"]]
        logs = [float(response[0][0]) for response in sample["resps"]]
        assert [-log for log in logs] == pytest.approx([record["good"], record["bad"]], rel=1e-4)
        assert sample["own_pairs"]["sum"] == record["sum"]
    for sample in theirs["samples"]["shridhar_term_cloze"]:
        assert sample["right"] == own["term_cloze"][1][sample["doc"]["key"]]["right"]

    results = theirs["results"]
    for name, key, measure in (
        ("retention_512", "right", "needles at 512, exact"),
        ("ru_pairs", "own_pairs", "own pairs, sum log-probability"),
        ("term_cloze", "right", "term cloze"),
    ):
        task, records = own[name.partition("_5")[0]]
        assert results[f"shridhar_{name}"][f"{key},none"] == pytest.approx(values(task, records)[measure])


@pytest.mark.parametrize("max_length", [None, 400], ids=["not given", "too short"])
def test_a_prompt_that_would_be_cut_is_refused(
    reader: HfReader, texts: Materials, tmp_path: Path, max_length: int | None
) -> None:
    write_tasks(reader, SUITE[:1], texts, tmp_path, 1)
    with pytest.raises(ValueError, match=r"longest prompt and answer take \d{3} tokens, and max_length is"):
        harness(reader, tmp_path, max_length)


def test_the_rule_of_needles(tmp_path: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    from shridhar_ft.shipped import shipped

    judge = load_yaml(shipped("eval/lm_eval/retention.yaml"))["process_results"]
    for said, answer, right in (
        (" 12345. И ещё 6", "12345", 1.0),
        (": это 12345", "12345", 1.0),
        (" 123456", "12345", 0.0),
        (" В саду,", "в саду", 1.0),
        (" там, в саду", "в саду", 0.0),
    ):
        assert judge({"answer": answer}, [said]) == {"right": right}


@pytest.mark.slow  # the harness reads its thousands of task files in each process
def test_the_harness_own_tasks_run_a_process_a_length(reader: HfReader, tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("wonderwords", reason="needs lm-eval[ruler]")
    from shridhar_ft.evaluation.hub import Settings, make
    from shridhar_ft.evaluation.hub_process import run

    reader.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader.model.name_or_path = str(tmp_path)
    task = make(Settings(tasks=["niah_single_1"], lengths=[700, 5000], limit=2), Materials(), 1)
    items = task.items(reader)
    (record,) = task.measure(reader, items[:1])
    assert record["tasks"]["niah_single_1"]["n"] == 2
    # RULER stays below the length by up to a step of its filling: what counts is that no prompt of its own is longer.
    asked = {**task.settings.model_dump(), "length": 700, "model": str(tmp_path), "seed": 1, "window": WINDOW}
    samples = run(asked, samples=True).found["samples"]["niah_single_1"]
    takes = [
        len(tokenizer(prompt).input_ids) + said["max_gen_toks"]
        for prompt, said in (sample["arguments"][0] for sample in samples)
    ]
    assert len(takes) == 2 and record["max_length"] == max(takes) <= WINDOW
    found = {measure.name: score(measure, [record], 1) for measure in task.measures([record])}
    task.scores([record], found, [])
    (one,) = found.values()
    assert one.name == "lm-eval: niah_single_1 at 700" and one.n == 2 and one.low <= one.value <= one.high
    with pytest.raises(Unmeasured, match=r"at 5,000 tokens: a prompt and its answer take \d+ tokens"):
        list(task.measure(reader, items[1:]))
