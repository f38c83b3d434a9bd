"""`shridhar-ft plan`: without torch and at once, verdicts, machines and prices, tokens, refusals, and the receipt."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import get_scheduler

from shridhar_ft.cli import run_command
from shridhar_ft.config import Model, load_recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.cores import cores
from shridhar_ft.errors import UserError
from shridhar_ft.plan import machines as machines_module
from shridhar_ft.plan.command import Asked, plan_one
from shridhar_ft.plan.layout import Layout, layout_of_config
from shridhar_ft.plan.machines import calibration_file, machine, machines, user_file
from shridhar_ft.plan.models import config_of, known_bases
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.plan.sizes import sizes_of
from shridhar_ft.plan.steps import NOTHING, schedule, trains_nothing
from shridhar_ft.plan.tokens import characters_per_token, supplies
from shridhar_ft.plan.verdicts import Again, verdicts
from shridhar_ft.plan.work import pairs, step_seconds, step_work
from shridhar_ft.runfolder import run_folder
from shridhar_ft.shipped import recipe_names, shipped

LAMBDA = "lambda-8xa100-80gb"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and home of the test's own: no run, no calibration, no machines of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machines.cache_clear()
    yield tmp_path
    machines.cache_clear()


def planned(name: str, *overrides: str, **asked):
    recipe = load_recipe(name, overrides)
    return plan_one(recipe, run_folder(recipe.name), Asked(**asked))


def said(plan, **tokens) -> str:
    return "\n".join(verdicts(Again(plan, run_folder(plan.recipe.name), **tokens)))


# ---------------------------------------------------------------------------------------------- at once


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_planned_in_under_a_second_without_torch(name: str) -> None:
    command = ["plan", name, "--machine", LAMBDA, "--book-tokens", "1000000", "--dialogue-tokens", "1000000", "--json"]
    script = (
        f"import sys; from shridhar_ft.cli import run_command; assert run_command({command}) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Seconds of the processor: those on the wall hang on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    found = json.loads(done.stdout)
    assert found["parts"] and found["hours"] > 0 and found["usd"] > 0
    for part in found["parts"]:
        assert part["peak_bytes"] == sum(part["device_bytes"].values()) > 0
        assert part["step_seconds"] == pytest.approx(sum(part["step_seconds_by_term"].values()))


def test_an_architecture_without_formula_is_counted_with_torch(alone: Path, capsys) -> None:
    recipe = yaml.safe_load(shipped("recipes/demo/recipe.yaml").read_text())
    recipe["model"]["from_config"]["model_type"] = "phi3"
    (alone / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert run_command(["plan", "r.yaml", "--book-tokens", "9999", "--dialogue-tokens", "9999", "--json"]) == 0
    answered = capsys.readouterr()
    assert "counting it with torch" in answered.err
    assert 800_000 < json.loads(answered.out)["parameters"] < 1_000_000


# ---------------------------------------------------------------------------------------------- verdicts


def test_the_plans_own_numbers_are_judged(capsys) -> None:
    original = [
        *(f"stages.2.{key}" for key in ("max_epochs=null", "max_steps=5000", "gradient_accumulation=2")),
        "model.from_config.num_key_value_heads=16",
    ]
    tokens = {"books": 18_750_000, "dialogues": 10**6}
    plan = planned("shridhar-gpt", *original, machine=LAMBDA, **tokens)
    last = plan.parts[2]
    assert plan.shape.total == 256_950_272 or round(plan.shape.total / 1e6) == 257
    assert last.tokens_a_step * last.steps == 16 * 108_000 * 5000, "8.6 billion tokens"
    assert round(last.epochs) == 576
    told = said(plan, **tokens)
    assert "576 epochs" in told and "repeating teaches little" in told and "what halves the bill" in told
    assert plan.usd > 180 and "is more than budget.max_usd allows ($180.00)" in told
    assert "attention" in told.split("a step of stages/108k is ")[1][:20]


def test_what_does_not_fit_is_said_with_the_smallest_change_and_the_cheapest_machine() -> None:
    whole = ("train.memory=[]", "train.method=full", "train.train_embeddings=false", "sft=null")
    plan = planned("qwen3-8b", *whole, machine="runpod-1xrtx4090", books=10**7)
    told = said(plan, books=10**7)
    assert not plan.fits and "does not fit" in told and "GiB are missing" in told
    assert "are missing; set method to lora." in told and "are missing; set method to qlora." in told
    small = planned("shridhar-gpt", "train.memory=[]", machine=LAMBDA, books=450_000, dialogues=10**6)
    assert "set memory to [tiled_mlp]" in said(small, books=450_000, dialogues=10**6)
    assert "cheapest: " in said(small, books=450_000, dialogues=10**6)


def test_the_table_of_machines_and_methods(capsys) -> None:
    assert run_command(["plan", "smollm2-32k", "--compare", "--book-tokens", "1000000", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert {plan["method"] for plan in plans} == {"full", "lora", "qlora"}
    assert {plan["machine"] for plan in plans} == {"here", *machines()}
    assert run_command(["plan", "smollm2-32k", "--compare", "--book-tokens", "1000000"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(plans) + 1 and LAMBDA in "\n".join(rows)


def test_mistakes_are_one_sentence_each(alone: Path, capsys) -> None:
    for arguments, needed in (
        (["plan"], "name a RECIPE"),
        (["plan", "demo", "--machine", "lambda-8xa100-80g"], "did you mean 'lambda-8xa100-80gb'?"),
        (["plan", "demo", "--config", "none.yaml"], "no such accelerate config"),
        (["plan", "demo", "train.memory=[offload_disk]"], "add checkpointing"),
        (["plan", "qwen3-8b", "model.base=some/other"], "sizes are known"),
    ):
        assert run_command(arguments) == 2
        error = capsys.readouterr().err
        assert needed in " ".join(error.split()), arguments
        assert "Traceback" not in error


def test_a_part_whose_only_step_is_its_warm_up_is_told() -> None:
    def told(*settings: str) -> str:
        return said(planned("smollm2-32k", "stages.0.max_steps=1", *settings, machine=LAMBDA))

    assert f"stages/32k: {NOTHING}." in told()
    assert NOTHING not in told("stages.0.warmup=0") + told("stages.0.max_steps=2")
    assert not trains_nothing(Tuning(), 1, goes_on=True), "a schedule over two stages has risen in the first"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=1, num_training_steps=1)
    assert optimizer.param_groups[0]["lr"] == 0, "transformers begins at zero"


def test_nobody_can_tell_the_tokens_of_files_that_are_not_there() -> None:
    plan = planned("shelf-108k", "data.books.paths=nowhere", machine=LAMBDA)
    assert plan.hours is None and plan.usd is None
    assert "nobody can tell how many tokens it reads" in said(plan) and "--books-tokens" not in said(plan)
    fixed = planned("shelf-108k", "data.books.paths=nowhere", "train.max_steps=7", machine=LAMBDA)
    assert fixed.parts[0].steps is None, "the stage's own limit is in epochs"
    assert planned("smollm2-32k", "data.books.paths=nowhere", machine=LAMBDA).parts[0].steps == 24


# -------------------------------------------------------------------------------------- machines, prices


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to a core")
def test_only_the_cores_that_the_process_may_use_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr("shridhar_ft.cores.TOPOLOGY", tmp_path)
    for allowed, count in (({0, 1, 2, 3}, 2), ({0, 2}, 1), ({3}, 1), ({7, 8, 9}, 3)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, allowed=allowed: allowed)
        assert cores() == count, "two threads of one core are one; what Linux does not tell of is counted whole"


def test_prices_are_dated_and_sourced() -> None:
    wanted = {LAMBDA, "aws-p4d.24xlarge", "aws-p4de.24xlarge", "gcp-a2-megagpu-16g", "gcp-a2-ultragpu-8g"}
    assert wanted < set(machines())
    for found in machines().values():
        assert found.source and (found.usd_per_hour is None) == (found.priced is None)
    assert machine("aws-p4d.24xlarge").memory < 40 * 2**30 < machine("aws-p4de.24xlarge").memory
    assert {machine(name).devices for name in ("gcp-a2-megagpu-16g",)} == {16}


def test_the_users_own_machines_go_before_ours(alone: Path) -> None:
    user_file().parent.mkdir(parents=True)
    user_file().write_text(
        "chips: {mine: {kind: cuda, memory_gib: 10, bf16: 50, fp32: 10, gb_per_s: 500, link_gb_per_s: 10, "
        "efficiency: {matmul: 0.5, attention: 0.5, memory: 0.5}}}\n"
        "machines: {shed: {chip: mine, devices: 2, host_gib: 64, usd_per_hour: 0.1, priced: 2026-11-01, source: me}}\n"
    )
    machines.cache_clear()
    plan = planned("shridhar-gpt", machine="shed", books=450_000, dialogues=10**6)
    assert plan.layout.processes == 2 and plan.price == 0.1
    there = planned("shridhar-gpt", machine=LAMBDA, books=450_000, dialogues=10**6)
    assert [part.per_step for part in plan.parts] == [part.per_step for part in there.parts], "the same steps"
    assert any("starts 8 processes, shed has 2 devices" in note for note in plan.notes)
    user_file().write_text("machines: {shed: {chip: nothing, devices: 2}}\n")
    machines.cache_clear()
    with pytest.raises(UserError, match=r"machines\.shed"):
        machines()


def test_the_recipes_own_price_goes_before_the_list() -> None:
    plan = planned("shridhar-gpt", "budget.usd_per_hour=10", books=450_000, dialogues=10**6)
    assert plan.machine.name == LAMBDA and plan.price == 10
    assert planned("shridhar-gpt", "budget.usd_per_hour=10", machine="aws-p4d.24xlarge", books=1).price == 21.957642


@pytest.mark.parametrize(
    ("said", "bf16"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2", False),
        (None, False),
    ],
)
def test_a_processor_is_guessed_by_what_it_multiplies(
    alone: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, bf16: bool
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    file = alone / "cpuinfo"
    if said is not None:
        file.write_text(f"processor : 0\n{said}\nbugs : none\n")
    monkeypatch.setattr("shridhar_ft.plan.machines.CPUINFO", file)
    here = machine("here")
    assert here.in_bf16("auto") == bf16
    # Emulated bf16 is slower than float32; what is multiplied is several times as fast, attention less so.
    times = here.rates.matmul_at("bf16", 1024) / here.rates.matmul_at("fp32", 1024)
    assert 4 < times < 5 if bf16 else times < 0.01
    assert here.rates.attention_at("fp32", 4096) > 5e10


def test_a_calibration_is_taken(alone: Path) -> None:
    assert "guessed" in machine("here").source
    rates = {
        "matmul": {"fp32": {"128": 1e9, "256": 3e9}, "bf16": {"128": 1e8, "256": 1e8}},
        "attention": {"fp32": {"512": 5e8, "1024": 7e8}, "bf16": {"512": 1e8}},
        "memory": {"2097152": 4e9, "4194304": 1e9},
        "layer": 0.01,
        "link": 1e9,
    }
    calibration_file().parent.mkdir(parents=True)
    held = {"kind": "cpu", "chip": "x", "devices": 1, "memory": 2**34, "at": "2026-11-25", "rates": rates}
    calibration_file().write_text(json.dumps(held))
    here = machine("here")
    assert here.rates.measured and not here.in_bf16("auto")
    assert [here.rates.matmul_at("fp32", width) for width in (64, 192, 999)] == [1e9, 2e9, 3e9]
    assert [here.rates.attention_at("fp32", length) for length in (9, 768, 9000)] == [5e8, 6e8, 7e8]
    assert [here.rates.memory_at(size << 20) for size in (1, 3, 4, 99)] == [4e9, 4e9, 1e9, 1e9]
    calibration_file().write_text(json.dumps({**held, "rates": {**rates, "memory": 1e9}}))
    assert "by an earlier version" in machine("here").source and not machine("here").rates.measured
    calibration_file().write_text(json.dumps({**held, "cores": cores() + 1}))
    assert f"on {cores() + 1} cores" in machine("here").source and not machine("here").rates.measured
    empty = {**held, "rates": {**rates, "memory": {}}}
    for damaged in ("{", "[]", json.dumps({**held, "rates": {}}), json.dumps(empty)):
        calibration_file().write_text(damaged)
        with pytest.raises(UserError, match=r"is damaged .* plan --calibrate"):
            machine("here")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("machines: [a]", "machines is no mapping"),
        ("- a", "chips is no mapping"),
        ("machines: {a: eight}", "machines.a: "),
        ("machines: {a: {chip: a100-80gb, devices: eight, host_gib: 1}}", "machines.a: .*'eight'"),
        ("machines: {a: {chip: a100-80gb, devices: 0, host_gib: 100}}", "machines.a: .*above zero"),
        ("machines: {a: {chip: a100-80gb, devices: 1, host_gib: 100, usd_per_hour: cheap}}", "machines.a: .*'cheap'"),
        ("chips: {c: {}}\nmachines: {a: {chip: c, devices: 1, host_gib: 100}}", "machines.a: 'memory_gib'"),
    ],
)
def test_a_wrong_file_of_machines_is_one_sentence(alone: Path, text: str, told: str) -> None:
    user_file().parent.mkdir(parents=True)
    user_file().write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told):
        machines()


@pytest.mark.parametrize("text", ["[1]", "{", "num_processes: two", "a sentence", "deepspeed_config: [1]"])
def test_what_is_no_accelerate_config_is_one_sentence(alone: Path, text: str) -> None:
    file = alone / "mine.yaml"
    file.write_text(f"distributed_type: DEEPSPEED\n{text}" if "deepspeed" in text else text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.yaml is no accelerate configuration"):
        layout_of_config(file)


@pytest.mark.slow
def test_calibrating_measures_this_machine(alone: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from shridhar_ft.plan import calibrate

    monkeypatch.setattr(calibrate, "EACH", 0.01)
    monkeypatch.setattr(calibrate, "WIDTHS", (64, 128))
    monkeypatch.setattr(calibrate, "LENGTHS", (64, 128))
    monkeypatch.setattr(calibrate, "ROWS", (64, 128))
    assert run_command(["plan", "--calibrate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(calibration_file().read_text())
    for what in ("matmul", "attention"):
        assert all(rate > 1e6 for rates in found["rates"][what].values() for rate in rates.values())
    assert len(found["rates"]["memory"]) == 3 and all(rate > 1e7 for rate in found["rates"]["memory"].values())
    assert machine("here").rates.measured


# ----------------------------------------------------------------------------------- operations, tokens


def test_pairs_of_tokens_are_those_that_see_one_another() -> None:
    for length in (1, 5, 40):
        for window in (0, 1, 7, 100):
            counted = sum(1 for i in range(length) for j in range(i + 1) if not window or i - j < window)
            assert pairs(length, window) == counted


def test_operations_of_a_step_are_six_a_parameter_and_token_and_attention_grows_with_the_square() -> None:
    shape = shape_of({"model_type": "llama"}, 32_000)
    assert shape is not None
    tuning = Tuning(precision="bf16")

    def work(window: int, document: float, levers: tuple = ()):
        return step_work(sizes_of(shape, tuning), tuning, window, document, levers, "cpu", True, Layout())

    whole = work(4096, 4096)
    assert whole.linear + whole.head == pytest.approx(6 * (shape.linear + shape.head) * 4096)
    assert work(8192, 8192).attention == pytest.approx(4 * whole.attention, rel=1e-3)
    assert work(8192, 4096).attention == pytest.approx(2 * whole.attention), "packed documents do not see one another"
    assert work(4096, 4096, ("checkpointing",)).linear == pytest.approx(whole.linear * 4 / 3)
    again = work(4096, 4096, ("checkpointing", "recompute_attention"))
    assert again.attention == pytest.approx(whole.attention * 4.5 / 3.5)
    sliding = shape_of({"model_type": "olmo3", "sliding_window": 256})
    assert sliding is not None
    of_sliding = step_work(sizes_of(sliding, tuning), tuning, 8192, 8192, (), "cpu", True, Layout())
    assert of_sliding.attention < 0.35 * work(8192, 8192).attention


def test_more_devices_take_a_step_of_more_windows_in_the_same_time_and_exchange() -> None:
    shape = shape_of({"model_type": "llama"}, 32_000)
    assert shape is not None
    tuning, where = Tuning(precision="bf16"), machine(LAMBDA)
    size = sizes_of(shape, tuning)
    one, eight = (
        step_seconds(step_work(size, tuning, 4096, 4096, (), "cuda", True, layout), size, where, True)
        for layout in (Layout(), Layout(8, sharding="ddp"))
    )
    assert one["exchange"] == 0 < eight["exchange"] and one["layers"] == eight["layers"]


def test_tokens_are_guessed_from_the_files_and_counted_where_the_data_are_built(alone: Path) -> None:
    book = alone / "book.txt"
    book.write_text("Терпение и труд всё перетрут. " * 5000, encoding="utf-8")
    recipe = load_recipe("demo", [f"data.books.paths={book}"])
    each = characters_per_token(recipe)
    assert each == 1.9 and characters_per_token(load_recipe("shridhar-gpt")) == 4.6
    run = run_folder("demo")
    found = supplies(recipe, run, 512)["stages/8k"]
    assert not found.counted and found.tokens == pytest.approx(150_000 / each * 0.8, rel=0.01)
    book.write_bytes(("Терпение и труд всё перетрут. " * 5000).encode("cp1251"))
    assert supplies(recipe, run, 512)["stages/8k"].tokens == pytest.approx(found.tokens, rel=0.01)
    counted = {"documents": 4, "tokens": 777, "windows": 7, "replay_windows": 0}
    stages = [{"name": s.name, "context": s.context, "packing": s.packing, **counted} for s in recipe.stages]
    kinds = {"books": 50, "dialogues": 60}
    verdict = {
        "tokens": dict.fromkeys(("train", "validation", "test"), kinds),
        "stages": stages,
        "sft": {"tokens": 100, "windows": 2, "conversations": 5},
    }
    (run.data).mkdir(parents=True)
    (run.data / "verdict.json").write_text(json.dumps(verdict))
    found = supplies(recipe, run, 512)
    assert found["stages/8k"].counted and found["stages/8k"].tokens == 777 and found["sft"].document == 20
    assert supplies(recipe, run, 512, books=10_000)["stages/8k"].tokens == 8000, "what is given goes before"
    changed = load_recipe("demo", ["stages.0.context=64", f"data.books.paths={book}"])
    assert not supplies(changed, run, 512)["stages/8k"].counted, "counted for other windows"


def test_the_schedule_of_a_plan_is_the_trainings_own() -> None:
    plan = planned("shridhar-gpt", machine=LAMBDA, books=450_000, dialogues=10**6)
    for part in plan.parts:
        assert part.steps == schedule(part.part.tuning, part.supply.windows, part.part.window, 8)["steps"]


@pytest.mark.parametrize("base", ["gone/model", "./gone/model/here", "../m", "two words/x", "/gone"])
def test_a_base_that_is_nowhere_is_one_sentence(alone: Path, base: str) -> None:
    with pytest.raises(UserError, match=r"model.base: no folder with config.json"):
        config_of(Model(base=base))


@pytest.mark.parametrize("text", ["{", "[]", "<html>"])
def test_a_base_whose_config_is_none_is_one_sentence(alone: Path, text: str) -> None:
    (alone / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is no model's config"):
        config_of(Model(base=str(alone)))


def test_known_bases_have_the_sizes_of_their_models() -> None:
    assert {round(shape_of(config).total / 1e6) for config in known_bases().values()} >= {135, 596, 4022, 8030}
    for name in recipe_names():
        recipe = load_recipe(name)
        assert shape_of(config_of(recipe.model).config, 1000) is not None


# --------------------------------------------------------------------------------- before a training, after it


@pytest.mark.slow
def test_an_entry_refuses_what_cannot_fit_before_it_reads_anything(alone: Path, monkeypatch, capsys) -> None:
    from shridhar_ft.entry import main
    from shridhar_ft.plan.check import NO_PLAN
    from shridhar_ft.pretrain import pretrain

    monkeypatch.setenv(NO_PLAN, "")  # so that what `main` sets is taken back
    huge = ["demo", "name=huge", "stages.2.context=80000000", "train.memory=[]"]
    assert main("pretrain", "", pretrain, huge) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "plan: stages/108k cannot fit" in told and "--no-plan" in told and not (alone / "runs/huge/data").exists()
    assert main("pretrain", "", pretrain, [*huge, "data.books.paths=nowhere", "--no-plan"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "(--no-plan: it is tried)" in told and "nowhere does not exist" in told


@pytest.mark.slow
def test_every_part_leaves_its_plan_receipt(alone: Path) -> None:
    short = ["name=short", "stages=[{name: 8k, context: 128, max_steps: 3}]", "eval.long_text=[]"]
    assert run_command(["run", "demo", *short, "sft.max_steps=2", "sft.max_epochs=null", "sft.context=128"]) == 0
    for part in ("stages/8k", "sft"):
        receipt = json.loads(Path(f"runs/short/{part}/receipts/plan.json").read_text())
        claimed, measured = receipt["claimed"], receipt["measured"]
        assert receipt["receipt"] == "plan" and receipt["ok"] == (measured["peak_off"] <= 0.2)
        assert claimed["peak_bytes"] == sum(claimed["peak_bytes_by_term"].values())
        assert measured["before_bytes"] <= measured["peak_bytes"]
        assert abs(measured["peak_off"]) < 0.25, "a peak that is mostly the process"
        assert measured["step_seconds"] > 0 and measured["hours"] > 0


def test_a_forecast_that_was_wrong_is_told_and_stops_nothing(alone: Path) -> None:
    from shridhar_ft.plan_receipt import StepFigures, write_plan_receipt

    figures = StepFigures()
    figures.begin(100)
    figures.seconds = [9.0, 1.0, 3.0]
    figures.end(200)
    claimed = {"peak_bytes": 100, "step_seconds": 1.0, "rates": "calibrated", "usd_per_hour": 3.0}
    line = write_plan_receipt(Path("plan.json"), claimed, figures, hours=2.0, steps=10)
    receipt = json.loads(Path("plan.json").read_text())
    assert not receipt["ok"] and "leave more room" in receipt["mend"]
    assert "(+100%)" in line and "a step took 2.00 s" in line
    assert receipt["measured"]["usd"] == 6.0 and receipt["claimed"]["usd"] == pytest.approx(10 / 3600 * 3)
    figures.end(50)
    write_plan_receipt(Path("plan.json"), claimed, figures, hours=2.0, steps=10)
    assert json.loads(Path("plan.json").read_text())["ok"], "more room than needed is no failure"


def test_files_of_the_package_are_read_from_beside_the_code() -> None:
    assert machines_module.FILE.is_file()
