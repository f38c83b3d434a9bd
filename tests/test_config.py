"""The recipe: overrides, refusals with the nearest key, paths, and a schema in which every field explains itself."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shridhar_ft.config import Recipe, dump_recipe, find_recipe, load_recipe, read_yaml, recipe_schema
from shridhar_ft.errors import UserError
from shridhar_ft.paths import expand
from shridhar_ft.shipped import shipped

RECIPE = """
name: small
data: {books: {paths: books}, dialogues: [{paths: d.jsonl}]}
tokenizer: {train: {vocab_size: 400}}
model: {from_config: {model_type: llama, hidden_size: 32}}
train: {learning_rate: 1e-4}
stages: [{name: a, context: 64}, {name: b, context: 128, rope: {type: yarn}}]
sft: {method: lora, rank: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "books").mkdir()
    return tmp_path / "recipe.yaml"


def test_a_number_that_yaml_reads_as_a_string_is_a_number(recipe: Path) -> None:
    assert yaml.safe_load(RECIPE)["train"]["learning_rate"] == "1e-4"
    assert load_recipe(recipe).train.learning_rate == 1e-4
    assert load_recipe(recipe, ["sft.learning_rate=3e-5"]).sft.learning_rate == 3e-5
    loaded = load_recipe(recipe, ["model.from_config.rope_theta=1e6", "train.max_steps=1e3"])
    assert loaded.model.from_config["rope_theta"] == 1e6
    assert loaded.train.max_steps == 1000


def test_overrides_reach_into_sections_and_lists(recipe: Path) -> None:
    loaded = load_recipe(
        recipe,
        ["stages.1.context=256", "data.books.paths=[x, y]", "train.weight_decay=0", "sft=null", "export.dtype=float16"],
    )
    assert loaded.stages[1].context == 256
    assert [Path(path).name for path in loaded.data.books.paths] == ["x", "y"]
    assert loaded.train.weight_decay == 0
    assert loaded.sft is None
    assert loaded.export.dtype == "float16"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trian.method=lora", "'train'"),
        ("train.learnin_rate=1", "'learning_rate'"),
        ("stages.0.rope.typ=yarn", "'type'"),
        ("data.dialogues.0.colums={}", "'columns'"),
        ("train.method=lorra", "'lora'"),
        ("train.learning_rate=-1", "greater than 0"),
        ("stages.1.context=32", "stages.1.context: 32 is shorter"),
        ("stages.1.name=a", "stages.1.name: 'a' is taken"),
        ("stages.7.name=a", "items 0 to 1"),
        ("model.base=x", "give one of"),
        ("model={}", "give one of"),
        ("data.books=null", "data.books"),
        ("data.dialogues=[]", "data.dialogues"),
        ("data.split.test=0.5", "make it 1"),
        ("stages.0.rope.factor=4", "type none"),
        ("stages.1.rope={type: theta, theta: 1e6, factor: 2}", "keep one"),
        ("tokenizer={}", "tokenizer.train"),
        ("tokenizer.train.special_tokens=[a]", "<|spiritual|>"),
        ("stages=[]", "stages"),
        ("name=../x", "name: a name is made of Latin letters"),
        ("name=Полка", "name: a name is made of Latin letters"),
        ("sft.context=256", "sft.context: 256 is longer"),
        ("nonsense", "key.sub=value"),
        ("train.warmup.x=1", "train.warmup: Input should be a valid number"),
        ("0=1", "unknown key '0'"),
        ("stages.0.max_epochs=.inf", "stages.0.max_epochs: Input should be a finite number"),
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("name=[1", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_key(recipe: Path, override: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@given(st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda key: key not in Recipe.model_fields))
def test_any_unknown_key_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="unknown key"):
        load_recipe("demo", [f"{key}=1"])


@settings(max_examples=40)
@given(
    st.sampled_from(["train", "sft", "eval", "data.split", "data.dialogues.0.columns", "stages.1", "stages.1.rope"]),
    st.from_regex(r"z[a-z_]{1,12}", fullmatch=True),  # no field begins with z
)
def test_any_unknown_key_is_refused_in_every_section(section: str, key: str) -> None:
    with pytest.raises(UserError, match=f"unknown key '{section}.{key}'"):
        load_recipe("demo", [f"{section}.{key}=1"])


def test_a_recipe_without_stages_and_sft_trains_nothing_and_is_refused(recipe: Path) -> None:
    with pytest.raises(UserError, match="nothing to train"):
        load_recipe(recipe, ["stages=[]", "sft=null"])


def test_a_broken_file_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\ndata: [\n")
    with pytest.raises(UserError, match=r"r\.yaml:\d+: not valid YAML"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("just text")
    with pytest.raises(UserError, match="mapping"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="byte 6"):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_is_found_by_file_folder_or_shipped_name(recipe: Path) -> None:
    assert find_recipe(recipe) == find_recipe(recipe.parent) == recipe
    assert find_recipe("demo").parts[-2:] == ("demo", "recipe.yaml")
    with pytest.raises(UserError, match="did you mean the shipped recipe 'demo'"):
        find_recipe("demoo")


def test_paths_of_the_file_are_beside_it_and_those_of_an_override_here(
    recipe: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    (here / "books").mkdir()
    assert load_recipe(recipe).data.books.paths == [str(recipe.parent / "books")]
    assert load_recipe(recipe, ["data.books.paths=books"]).data.books.paths == [str(here / "books")]
    assert load_recipe(recipe, ["data.books={paths: [books]}"]).data.books.paths == [str(here / "books")]
    (recipe.parent / "books").rmdir()
    assert load_recipe(recipe).data.books.paths == [str(here / "books")], "not beside the recipe, so here"
    assert load_recipe(recipe, ["data.books.paths=nowhere"]).data.books.paths == [str(here / "nowhere")]
    config = load_recipe(recipe, ["launch.config=accelerate_configs/cpu.yaml"]).launch.config
    assert config == str(shipped("accelerate_configs/cpu.yaml"))
    (here / "d[1].jsonl").write_text("")
    assert expand([str(here / "d[1].jsonl")], ["*"], "key") == [here / "d[1].jsonl"]


def test_dumped_and_loaded_again_it_is_the_same(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe)
    (tmp_path / "again.yaml").write_text(dump_recipe(loaded))
    assert load_recipe(tmp_path / "again.yaml") == loaded
    assert load_recipe(tmp_path / "again.yaml").without_effect() == loaded.without_effect()


@settings(max_examples=30)
@given(st.floats(1e-30, 1e3), st.integers(8, 10**9), st.text("абv:#'\"-{}[] \n", max_size=8))
def test_any_value_survives_the_dump(rate: float, context: int, text: str) -> None:
    made = {
        "name": "x",
        "data": {"books": {"paths": ["/b"]}},
        "tokenizer": {"train": {}},
        "model": {"from_config": {"model_type": "llama", "note": text}},
        "train": {"learning_rate": rate},
        "stages": [{"name": "a", "context": context}],
    }
    recipe = Recipe.model_validate(made)
    assert Recipe.model_validate(read_yaml(dump_recipe(recipe))) == recipe


def test_a_setting_without_effect_is_named(recipe: Path) -> None:
    notes = load_recipe(recipe, ["train.rank=8"]).without_effect()
    assert any("train.rank has no effect" in note for note in notes)
    assert any("eval.long_text" in note for note in notes)
    best = load_recipe(recipe, ["train.keep=best", "data.split={train: 0.9, validation: 0, test: 0.1}"])
    assert any("train.keep=best has no effect" in note for note in best.without_effect())


def test_a_stage_overrides_train_for_itself(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["train.max_steps=9", "stages.0.max_epochs=2", "stages.1.learning_rate=1e-3"])
    first, second = (stage.tuning(loaded.train) for stage in loaded.stages)
    assert (first.max_steps, first.max_epochs) == (None, 2)
    assert (second.max_steps, second.learning_rate) == (9, 1e-3)


def test_every_field_explains_itself() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    silent = [
        f"{section}.{field}"
        for section, body in [("Recipe", schema), *schema["$defs"].items()]
        for field, facts in body.get("properties", {}).items()
        # A field that is a section is explained by that section.
        if not facts.get("description") and "$ref" not in str(facts)
    ]
    assert not silent
    assert all(body.get("description") for body in schema["$defs"].values())
