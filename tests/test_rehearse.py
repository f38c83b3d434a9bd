"""Rehearsal: what shrinks keeps its proportions and is listed, the sample stands in loudly, and blocks are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft.config import Recipe, load_recipe, recipe_names
from shridhar_ft.config_training import LIMITS
from shridhar_ft.plan.layout import Layout, layout_of_config
from shridhar_ft.plan.machines import machine
from shridhar_ft.plan.models import config_of
from shridhar_ft.plan.plan import default_layout, plan_recipe
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.rehearse.blocks import blocks
from shridhar_ft.rehearse.launching import stand_in
from shridhar_ft.rehearse.sampling import Found, sample
from shridhar_ft.rehearse.shrink import LONGEST, SHORTEST, SUFFIX, divisor_of, shrink
from shridhar_ft.rehearse.sizes import small_config
from shridhar_ft.rehearse.small import Laptop, Made, Shrunk
from shridhar_ft.runfolder import Run
from shridhar_ft.shipped import shipped

CPU = Layout(for_cpu=True)
BOOKS = str(shipped("recipes/demo/data/books"))
TALKS = str(shipped("recipes/demo/data/dialogues/besedy.jsonl"))

ropes = st.sampled_from(
    [{"type": "none"}, {"type": "yarn"}, {"type": "linear", "factor": 16}, {"type": "theta"}, {"type": "llama3"}]
)
ways = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["full", "lora", "qlora"]),
        "rank": st.integers(1, 64),
        "batch_size": st.integers(1, 16),
        "gradient_accumulation": st.integers(1, 64),
        "precision": st.sampled_from(["auto", "fp32", "bf16"]),
        "optimizer": st.just("adamw"),
        "memory": st.sampled_from(
            ["auto", [], ["checkpointing", "offload_host"], ["paged_adamw_8bit"], ["adamw_8bit"]]
        ),
        "max_epochs": st.sampled_from([None, 1, 4]),
        "keep": st.sampled_from(["last", "best"]),
    }
)


@st.composite
def recipes(draw: Any) -> Recipe:
    contexts = sorted(draw(st.lists(st.integers(64, 200_000), min_size=1, max_size=4)))
    stages = []
    for index, context in enumerate(contexts):
        stage = {
            "name": f"s{index}",
            "context": context,
            "rope": draw(ropes),
            "packing": draw(st.sampled_from(["works", "split"])),
        }
        if draw(st.booleans()):
            stage["replay"] = {"context": max(8, context // 4), "share": 0.25}
        stages.append(stage)
    sft = draw(st.none() | ways)
    if sft is not None:
        sft["context"] = draw(st.sampled_from([None, contexts[-1], max(8, contexts[0] // 2)]))
    heads = draw(st.sampled_from([4, 16, 32]))
    return Recipe.model_validate(
        {
            "name": "any",
            "data": {"books": {"paths": [BOOKS]}, "dialogues": [{"paths": [TALKS]}]},
            "tokenizer": {"train": {"vocab_size": draw(st.sampled_from([600, 50_000]))}},
            "model": {
                "from_config": {
                    "model_type": draw(st.sampled_from(["llama", "qwen3", "olmo3"])),
                    "hidden_size": heads * draw(st.sampled_from([32, 64, 128])),
                    "intermediate_size": 2816,
                    "num_hidden_layers": draw(st.integers(4, 40)),
                    "num_attention_heads": heads,
                    "num_key_value_heads": heads // draw(st.sampled_from([1, 2, 4])),
                    "attention_dropout": 0.1,
                }
            },
            "train": {
                **draw(ways),
                "backup": draw(st.none() | st.just("s3://b/r")),
                "report_to": draw(st.just([]) | st.just(["wandb"])),
                "stop_after": draw(st.none() | st.just("1m")),
                "notify": draw(st.none() | st.just("true")),
            },
            "stages": stages,
            "sft": sft,
            "eval": {"long_text": ["long.txt"], "max_windows": draw(st.integers(1, 8))},
            "export": {
                "gguf": draw(st.sampled_from([[], ["q8_0"], ["q8_0", "q4_k_m"]])),
                "push_to_hub": draw(st.none() | st.just("a/b")),
            },
            "budget": {"max_usd": draw(st.none() | st.just(180.0))},
        }
    )


def made_for(recipe: Recipe, **fields: Any) -> Made:
    return Made(
        data=recipe.data, long_text=recipe.eval.long_text, others=[], launch=recipe.launch.config, layout=CPU, **fields
    )


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Every setting by its key."""
    if isinstance(value, dict):
        return {
            k: v for name, inner in value.items() for k, v in leaves(inner, f"{key}.{name}" if key else name).items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {k: v for index, inner in enumerate(value) for k, v in leaves(inner, f"{key}.{index}").items()}
    return {key: value}


def unlisted(real: Recipe, small: Shrunk) -> set[str]:
    """Settings that differ and are neither among the changes nor among what is not tried."""
    before, after = leaves(real.model_dump(mode="json")), leaves(small.recipe.model_dump(mode="json"))
    named = {change.key for change in small.changes} | {sentence.split(":")[0] for sentence in small.untried}
    # A part's max_steps stands for whatever limited it: all limits of `train` have moved there.
    limits = {f"{part}.{name}" for part in ("train", "sft", *(f"stages.{i}" for i in range(9))) for name in LIMITS}
    same = {"name", "eval.encoding"} | limits
    # Batch and accumulation of a stage are train's, written out.
    own = {
        f"stages.{i}.{k}": f"train.{k}"
        for i in range(len(real.stages))
        for k in ("batch_size", "gradient_accumulation")
    }
    return {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in named | same)
        and not (key in own and after[key] == before[own[key]])
    }


@settings(max_examples=60, deadline=None)
@given(recipes(), st.builds(Laptop, st.booleans(), st.booleans(), st.booleans(), st.booleans()))
def test_a_shrunk_recipe_keeps_what_is_done_and_lists_what_is_less(recipe: Recipe, laptop: Laptop) -> None:
    small = shrink(recipe, laptop, made_for(recipe))
    divisor, little = divisor_of(recipe), small.recipe
    assert little.name == recipe.name + SUFFIX
    assert not unlisted(recipe, small)
    assert [stage.name for stage in little.stages] == [stage.name for stage in recipe.stages]
    for here, there in zip(little.stages, recipe.stages, strict=True):
        assert here.rope.type == there.rope.type
        assert here.packing == there.packing
        assert here.context <= LONGEST
        assert abs(here.context - there.context / divisor) < 1 or here.context == min(there.context, SHORTEST)
        if there.rope.factor:
            assert here.rope.factor >= there.rope.factor, "raised where lengths were rounded, never lowered"
        assert (here.replay is None) == (there.replay is None)
    for here, there in ((little.train, recipe.train), (little.sft, recipe.sft)):
        if there is None:
            assert here is None
            continue
        assert (here.rank, here.precision, here.optimizer, here.keep) == (
            *(there.rank, there.precision, there.optimizer, there.keep),
        )
        assert here.method == there.method or not laptop.bitsandbytes
        assert here.memory == "auto" or set(here.memory) <= set(there.memory)
    assert not little.export.push_to_hub
    assert not little.train.report_to and little.train.stop_after is None
    assert little.train.backup is None, "the real run's bucket is not a rehearsal's"
    assert little.train.notify is None
    assert little.budget.max_usd is None
    assert set(little.export.gguf) <= set(recipe.export.gguf)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["llama", "mistral", "qwen2", "qwen3", "olmo2", "olmo3", "gemma2", "gemma3_text", "smollm3"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([16, 64, 128, 256]),
    st.sampled_from([32, 256]),
)
def test_a_small_model_is_built_as_the_large_one(kind: str, kv: int, groups: int, dim: int, row: int) -> None:
    own = kind.startswith(("gemma", "qwen3"))
    config = {
        "model_type": kind,
        "hidden_size": kv * groups * dim * (2 if own else 1),
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": kv * groups,
        "num_key_value_heads": kv,
        "vocab_size": 1000,
        "max_position_embeddings": 131_072,
        **({"head_dim": dim} if own else {}),
    }
    small = small_config(config, 64, row=row)
    large, little = shape_of(config), shape_of(small)
    assert large and little
    assert little.total <= max(large.total, 20_000_000)
    assert little.heads % (little.keys // dim) == 0
    assert little.queries // little.heads == dim, "the size of a head, and so the rotated pairs, stay"
    assert (little.heads == little.keys // dim) == (groups == 1 or little.heads == 1)
    assert {bool(window) for window in little.windows} == {bool(window) for window in large.windows}
    assert little.positions == 2048
    if not own and kv * groups * dim % row == 0:
        assert little.hidden % row == 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_shrinks(name: str) -> None:
    recipe = load_recipe(name)
    where = machine(recipe.budget.machine)
    launch = stand_in(recipe, default_layout(recipe, where)[0], Laptop())
    made = made_for(recipe, base="base" if recipe.model.base else None)
    small = shrink(recipe, Laptop(), Made(**{**made.__dict__, "launch": launch.config, "layout": launch.layout}))
    assert not unlisted(recipe, small)
    assert launch.layout.for_cpu
    if recipe.model.base:
        assert shape_of(small_config(config_of(recipe.model).config, divisor_of(recipe))) is not None


@pytest.mark.parametrize(
    ("config", "twin", "said"),
    [
        ("ddp", "cpu_ddp", "one process × 2|DDP × 2"),
        ("zero2", "cpu_zero2", "ZeRO-2"),
        ("zero3_offload", "cpu_zero3", "offload"),
        ("fsdp2", "cpu_ddp", "FSDP"),
        ("ulysses", "cpu_zero3", "Ulysses"),
        ("cpu_ddp", "cpu_ddp", ""),
        ("single_gpu", "cpu", ""),
    ],
)
def test_each_launch_config_has_a_twin(config: str, twin: str, said: str) -> None:
    file = shipped(f"accelerate_configs/{config}.yaml")
    recipe = load_recipe("demo", [f"launch.config={file}"])
    found = stand_in(recipe, layout_of_config(file), Laptop())
    assert Path(found.config).stem == twin
    assert any(word in " ".join(found.untried) for word in said.split("|"))
    without = stand_in(recipe, layout_of_config(file), Laptop(deepspeed=False))
    assert "zero" not in Path(without.config).stem


# ------------------------------------------------------------------------------------------------------- sample


def sampled(recipe: Recipe, folder: Path) -> Found:
    told: list[str] = []
    sample(recipe, folder, lambda found: told.append(json.dumps(found)))
    return json.loads(told[-1])


def test_what_is_missing_is_named_and_the_sample_stands_in(tmp_path: Path) -> None:
    recipe = load_recipe(
        "demo", ["data.books.paths=/no/books", "data.dialogues.0.paths=/no/dump_*", "eval.long_text=/no/l.txt"]
    )
    found = sampled(recipe, tmp_path)
    assert found["replaced"] == ["data.books.paths", "eval.long_text", "data.dialogues.0.paths"]
    assert [said.split(" does")[0] for said in found["missing"]] == [
        *("data.books.paths: /no/books", "eval.long_text: /no/l.txt", "data.dialogues.0.paths: /no/dump_*"),
    ]
    assert found["data"]["books"]["paths"] == [BOOKS]
    assert len(found["data"]["dialogues"]) == 2, "those that are here are read as they are"
    assert found["works"] == []


def test_large_books_are_cut_and_their_whole_length_is_known(tmp_path: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    for number in range(3):
        (books / f"{number}.txt").write_bytes(("Слово за слово идёт рассказ.\n" * 20_000).encode("cp1251"))
    found = sampled(
        load_recipe("demo", [f"data.books.paths={books}", "data.books.encoding=cp1251"]), tmp_path / "small"
    )
    assert [size for _, size in found["works"]] == [580_000] * 3
    assert found["cut"] == [["data.books", "1,740,000 characters", "200,000 of each work"]]
    [folder] = found["data"]["books"]["paths"]
    small = [file.read_text() for file in sorted(Path(folder).iterdir())]
    assert all(150_000 < len(text) <= 200_001 and text.endswith("рассказ.\n") for text in small)


def test_a_source_that_cannot_be_read_is_told_and_replaced(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user"\n')
    found = sampled(load_recipe("demo", [f"data.dialogues=[{{paths: {bad}}}]"]), tmp_path / "small")
    assert "bad.jsonl" in found["unreadable"][0]
    assert found["replaced"] == ["data.dialogues.0.paths"]
    assert found["data"]["dialogues"][0]["paths"] == [TALKS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["qwen3-8b", "llama3.1-8b", "gemma3-12b", "gemma3-270m", "yandexgpt5-lite-8b", "smollm2-32k"]
)
def test_each_base_of_ours_has_a_small_one_that_takes_its_stages(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from shridhar_ft.model.build import stage_config
    from shridhar_ft.model.rope_formulas import kind_of, long_range_parameters
    from shridhar_ft.rehearse.base import build_base
    from shridhar_ft.tokenizer import load_tokenizer

    recipe = load_recipe(name)
    text = "Слово за слово, и разговор о терпении затянулся до утра; никто не спешил домой.\n" * 50
    about = build_base(recipe, divisor_of(recipe), [text], tmp_path / "base")
    assert about["config"] == "bases.yaml"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert str(model.dtype) == "torch.bfloat16"
    assert model.num_parameters() < 5_000_000
    assert model.get_input_embeddings().weight.shape[0] >= len(load_tokenizer(tmp_path / "base"))
    small = shrink(recipe, Laptop(), made_for(recipe, base=str(tmp_path / "base"))).recipe
    for index, stage in enumerate(small.stages):
        config, _ = stage_config(small, index, 1027)
        kind = kind_of(long_range_parameters(config))
        own = {"llama3.1-8b": "llama3", "gemma3-12b": "linear"}.get(name, "default")
        assert kind == (stage.rope.type if stage.rope.type != "none" else own)


# ------------------------------------------------------------------------------------------------------- blocks


def found_blocks(recipe: Recipe, **made: Any) -> list[Any]:
    where = machine(recipe.budget.machine)
    run = Run(Path("runs/nothing"))
    known = {"works": [], "long": None, "missing": [], "unreadable": [], "hub": [], "replaced": [], **made}
    return blocks(recipe, run, where, plan_recipe(recipe, run, where, books=450_000, dialogues=10_000), known)


def test_the_plan_for_the_shelf_meets_its_stumbling_blocks() -> None:
    recipe = load_recipe("shridhar-gpt")
    works = [["a.txt", 150_000], ["b.fb2", 40_000]]
    found = found_blocks(
        recipe, works=works, long=100_000, missing=["eval.others: x does not exist"], replaced=["eval.others"]
    )
    said = "\n".join(block.what for block in found)
    assert "stages.2.context: one window is 108,000 tokens" in said
    assert "the longest of 2 works" in said
    assert "eval.long_text: about 21,739 tokens, less than one window of 108,000" in said
    assert "eval.others: x does not exist." in said
    assert "flash-attn is not installed here" in said
    stops = [block.stops for block in found]
    assert stops == sorted(stops, reverse=True), "the gravest first"
    assert any(block.about == "plan" and "fits" in block.what for block in found)


def test_a_config_that_the_machine_cannot_start_is_told() -> None:
    config = shipped("accelerate_configs/ddp.yaml")
    recipe = load_recipe("demo", [f"launch.config={config}", "budget.machine=rtx-4090"])
    found = [block for block in found_blocks(recipe) if block.about == "launch"]
    assert any("starts 8 processes and rtx-4090 has 1" in block.what and block.stops for block in found)


def test_full_data_leave_no_block_about_data() -> None:
    recipe = load_recipe("demo")
    found = found_blocks(recipe, works=[["a.txt", 3_000_000]], long=1_000_000)
    assert not [block for block in found if block.about == "data" and block.stops]


# --------------------------------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_demo_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from shridhar_ft.cli import run_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(shipped("")))
    two = "stages=[{name: 8k, context: 8192}, {name: 32k, context: 32768, rope: {type: yarn}}]"
    arguments = ["rehearse", "demo", two, "sft=null", "eval.long_text=/no/long.txt", "--json"]
    assert run_command(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    names = [step["name"] for step in found["steps"]]
    assert "data, tokenizer, stages/8k: killed (SIGKILL)" in names
    assert "resume stages/8k; stages/32k: stopped (SIGTERM)" in names
    assert found["replaced"] == ["eval.long_text"]
    folder = tmp_path / "runs" / "demo-rehearsal"
    assert json.loads((folder / "rehearsal.json").read_text()) == found
    assert not (folder / "stages").exists()
    (tmp_path / "runs" / "demo-rehearsal").rename(tmp_path / "runs" / "kept")
    (tmp_path / "runs" / "demo-rehearsal").mkdir()
    assert run_command(["rehearse", "demo"]) == 2, "a folder of that name that is no rehearsal is not touched"
