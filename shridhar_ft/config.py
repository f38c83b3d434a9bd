"""The recipe: every knob of a run, typed, with its unit; load, override, resolve, dump, JSON schema.

    from shridhar_ft.config import load_recipe
    recipe = load_recipe("recipes/demo/recipe.yaml", ["train.learning_rate=3e-4"])

A recipe is one YAML file. Unknown keys are refused with the nearest known one; numbers such as `1e-4`, which
PyYAML reads as strings, are numbers here. Relative paths are looked for beside the recipe first, then in the working
folder, then among the shipped files; those of an override in the working folder first. The resolved recipe holds them
absolute.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from shridhar_ft.config_data import Books, Data, PathList, Rows, Section
from shridhar_ft.config_errors import one_sentence
from shridhar_ft.config_export import Export
from shridhar_ft.config_training import OF_ADAPTERS, OF_QLORA, Sft, Stage, Train, Tuning
from shridhar_ft.errors import UserError
from shridhar_ft.paths import existing
from shridhar_ft.shipped import recipe_names, shipped

SPECIAL_TOKENS = ("<|spiritual|>", "<|dialogue|>", "<|end|>")  # book opens, dialogue opens, document or turn ends


# ------------------------------------------------------------------------------------------ tokenizer, model


class TrainTokenizer(Section):
    """A byte-level BPE trained on the train split."""

    vocab_size: int = Field(50_000, ge=300)
    """Tokens in the vocabulary, the 256 bytes and the special tokens included."""
    special_tokens: list[str] = Field(list(SPECIAL_TOKENS))
    """Special tokens; the three that documents are wrapped in must be among them."""
    min_frequency: int = Field(2, ge=1)
    """How often a pair must occur to be merged (occurrences)."""

    @field_validator("special_tokens")
    @classmethod
    def _has_the_three(cls, tokens: list[str]) -> list[str]:
        if missing := [token for token in SPECIAL_TOKENS if token not in tokens]:
            raise ValueError(
                f"documents are wrapped in {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}"
            )
        return tokens


class Tokenizer(Section):
    """Train one, or extend the base's own with the special tokens."""

    train: TrainTokenizer | None = None
    extend: str | None = None
    """Folder or Hub id of a tokenizer that gets the special tokens added (default: that of model.base)."""


class Sparse(Section):
    """Sliding windows with global layers between them, for `attention: sparse`."""

    window: int = Field(1024, ge=8)
    """Tokens that a token of a sliding layer sees, itself included."""
    global_every: int = Field(4, ge=2)
    """Every so many layers one sees the whole context; the last layer of each group does."""


class Model(Section):
    """A model from a config with random weights, or an open base with its weights."""

    from_config: dict[str, Any] | None = None
    """`model_type` and the keys of its transformers config (sizes in units, layers, heads)."""
    base: str | None = None
    """Folder or Hub id of a causal language model with RoPE."""
    revision: str | None = None
    """Commit of the base on the Hub."""
    attention: Literal["auto", "flash", "flex", "sdpa", "sparse"] = "auto"
    """Attention; auto takes the best kernel that is here, sparse makes most layers of a model from config see a sliding
    window only (shridhar_ft/model/attention.py)."""
    sparse: Sparse = Sparse()

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.from_config is None) == (self.base is None):
            raise ValueError("give one of from_config (random weights) and base (an open model's weights)")
        if self.from_config is not None and "model_type" not in self.from_config:
            raise ValueError("from_config needs model_type, e.g. llama")
        if self.attention == "sparse" and self.base is not None:
            raise ValueError(
                "attention: sparse layers are for from_config; an open base has those that it was trained with"
            )
        return self


# ------------------------------------------------------------------------------------------- the rest


class Eval(Section):
    """What stages are measured on beside the validation split, and what `shridhar-ft eval` measures."""

    long_text: PathList = Field([])
    """Texts that nothing trains on, long enough for the last window (files, folders or globs)."""
    encoding: str = "auto"
    """Encoding of long_text."""
    context: int | None = Field(None, ge=8)
    """Length at which every stage is measured on long_text, in tokens (default: the last stage's context)."""
    max_windows: int = Field(8, ge=1)
    """Windows measured on each text and length, spread evenly (windows)."""
    suite: str = "default"
    """Suite of `shridhar-ft eval`: a YAML file, or the name of a shipped one (eval/suites)."""
    others: PathList = Field([])
    """Other authors' texts of the same kind, one author a file; nothing trains on them. They are the floor of style and
    what forgetting is measured on."""
    glossary: str | None = None
    """Terms of the subject, one a line, `term — definition` (default: words that the books have more often than
    `others`)."""
    rublimp: str | None = None
    """Folder with the CSVs of RuBLiMP, where they are at hand."""


class Launch(Section):
    """How `shridhar-ft run` starts the training entries."""

    config: str = "auto"
    """An accelerate config file; auto takes cpu, mps, single_gpu or ddp by the devices that are there."""


class Budget(Section):
    """Where a run is meant to train, and what it may cost: `plan` judges it by that, and training ends by it."""

    machine: str = "here"
    """A machine of plan/machines.yaml or of the user's own file; here is this one."""
    max_usd: float | None = Field(None, gt=0)
    """What the whole run may cost, over all its restarts (US dollars): training stops with a checkpoint, status 76."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of the whole machine, where it is another than the listed one (US dollars an hour)."""


class Recipe(Section):
    """Everything a run needs to know."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its folder is runs/<name>."""
    seed: int = 108
    """Seed of initial weights, dropout and the order of windows."""
    data: Data
    tokenizer: Tokenizer = Tokenizer()
    model: Model
    train: Train = Train()
    stages: list[Stage] = Field([])
    sft: Sft | None = None
    eval: Eval = Eval()
    launch: Launch = Launch()
    export: Export = Export()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            if stage.name in names[:index]:
                raise ValueError(f"stages.{index}.name: '{stage.name}' is taken; give each stage its own name")
            if index and stage.context < (before := self.stages[index - 1]).context:
                raise ValueError(
                    f"stages.{index}.context: {stage.context} is shorter than the {before.context} of stage "
                    f"'{before.name}' before it; contexts may only grow"
                )
            if not index and any(stage.carry.model_dump().values()):
                raise ValueError(f"stages.0.carry: '{stage.name}' is the first stage; there is nothing to take over")
            if index:
                self._check_carry(index)
        if not self.stages and self.sft is None:
            raise ValueError("stages: nothing to train; give stages, sft, or both")
        if self.stages and self.data.books is None and not self.data.texts:
            raise ValueError("data.books: the stages train on books and there are none; name their paths")
        if self.sft is not None and not self.data.dialogues:
            raise ValueError("data.dialogues: sft trains on dialogues and there are none; name a source, or drop sft")
        if self.sft and self.sft.context and self.stages and self.sft.context > self.stages[-1].context:
            raise ValueError(
                f"sft.context: {self.sft.context} is longer than the {self.stages[-1].context} that the last stage "
                "trained; shorten it, or lengthen the stage"
            )
        if self.model.base is None and self.tokenizer.train is None and self.tokenizer.extend is None:
            raise ValueError(
                "tokenizer.train: a model from config has no tokenizer of its own; train one or extend one"
            )
        if self.tokenizer.train and (self.tokenizer.extend or self.model.base):
            raise ValueError(
                "tokenizer.train: a base's weights know only its own tokens; take tokenizer.train away "
                "(the base's tokenizer is extended by itself), or use model.from_config"
            )
        if self.model.from_config is not None and not self.stages:
            raise ValueError("stages: random weights know nothing yet; give at least one stage before sft")
        return self

    def _check_carry(self, index: int) -> None:
        """Refuse what a stage cannot take over from the one before."""
        before, stage = self.stages[index - 1 : index + 1]
        if stage.carry.schedule:
            for other in (index - 1, index):
                limits = self.stages[other].tuning(self.train)
                if limits.max_epochs or not (limits.max_steps or limits.max_tokens):
                    raise ValueError(
                        f"stages.{index}.carry.schedule: one schedule spans both stages, so their steps must be known "
                        f"beforehand; give stages.{other} max_steps or max_tokens, and no max_epochs"
                    )
            if before.tuning(self.train).warmup != stage.tuning(self.train).warmup:
                raise ValueError(
                    f"stages.{index}.carry.schedule: one schedule has one warmup, and the two stages differ in it; "
                    f"take stages.{index}.warmup away"
                )
        if stage.carry.data and stage.packing != before.packing:
            raise ValueError(
                f"stages.{index}.carry.data: what was not read is known by the packing of the stage before; "
                f"set packing to {before.packing}"
            )

    @property
    def last_context(self) -> int | None:
        """Context of the last stage in tokens; None where only SFT trains (then it is the base's own)."""
        return self.stages[-1].context if self.stages else None

    def without_effect(self) -> list[str]:
        """One sentence for each key that was given and changes nothing."""
        said = []
        for key, part in (("train", self.train), ("sft", self.sft)):
            if part is not None:
                idle = {"full": (*OF_ADAPTERS, *OF_QLORA), "lora": OF_QLORA, "qlora": ()}[part.method]
                given = [field for field in idle if getattr(part, field) != Tuning.model_fields[field].default]
                said += [f"{key}.{field} has no effect: {key}.method is {part.method}" for field in given]
            if part is not None and part.keep == "best" and not self.data.split.validation:
                said.append(
                    f"{key}.keep=best has no effect: there is no validation split, so the last weights are kept"
                )
        said += [
            f"stages.{index}.overlong has no effect: only packing documents drops anything"
            for index, stage in enumerate(self.stages)
            if stage.overlong == "drop" and stage.packing != "documents"
        ]
        if self.model.attention != "sparse" and self.model.sparse != Sparse():
            said.append(f"model.sparse has no effect: model.attention is {self.model.attention}")
        if self.stages and not self.eval.long_text:
            said.append("eval.long_text is empty: context beyond the shelf's own validation text is not measured")
        return said


# --------------------------------------------------------------------------------- load, override, resolve


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as the number that it is in YAML 1.2, and that PyYAML takes for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML
    return yaml.load(text, _Loader)


def find_recipe(argument: str | Path) -> Path:
    """The recipe file that a command's RECIPE means: a file, a folder with recipe.yaml, or a shipped name."""
    path = Path(argument)
    shipped_ones = (shipped("recipes") / path / "recipe.yaml", shipped(path) / "recipe.yaml", shipped(path))
    for candidate in (path, path / "recipe.yaml", *shipped_ones):
        if candidate.is_file():
            return candidate
    near = difflib.get_close_matches(path.name, recipe_names(), n=1)
    hint = f"did you mean the shipped recipe '{near[0]}'?" if near else f"shipped ones: {', '.join(recipe_names())}"
    raise UserError(
        f"{argument}: there is no such recipe; give a YAML file, a folder with recipe.yaml, or a name ({hint})"
    )


def load_recipe(argument: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override, validate and resolve a recipe.

    Args:
        argument: A YAML file, a folder that holds recipe.yaml, or the name of a shipped recipe.
        overrides: `key.sub=value` strings, values in YAML; list items by index (`stages.0.context=512`).

    Returns:
        The recipe with absolute paths.

    Raises:
        UserError: The file is missing or no YAML, a key is unknown, or a value does not fit; names file and key.
    """
    file = find_recipe(argument)
    raw = raw_recipe(file, overrides)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_sentence(error, file, Recipe)) from error
    _resolve_paths(recipe, file.resolve().parent)
    return recipe


def raw_recipe(file: Path, overrides: Sequence[str], from_here: bool = True) -> dict[str, Any]:
    """The mapping that a recipe file and overrides make, before it is validated.

    Args:
        file: The recipe's.
        overrides: `key.sub=value` strings.
        from_here: Make paths of overrides absolute where they exist below the working folder.

    Raises:
        UserError: The file is no YAML mapping, or an override does not fit into it.
    """
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise UserError(f"{where}: not valid YAML ({getattr(error, 'problem', error)}); mend the line") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file}: a recipe is a mapping of keys; begin with `name:`")
    for override in overrides:
        _override(raw, override, from_here)
    return raw


def export_section(overrides: Sequence[str]) -> Export:
    """The export section that overrides alone make, for what is exported without a recipe.

    Args:
        overrides: `export.key=value`.

    Raises:
        UserError: One is of another section, a key is unknown, or a value does not fit.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        if not override.startswith("export."):
            raise UserError(f"{override}: an adapter is exported as it was trained; only export.* can be set here")
        _override(raw, override)
    try:
        return Export.model_validate(raw.get("export", {}))
    except ValidationError as error:
        raise UserError(one_sentence(error, Path("export"), Export)) from error


def _override(raw: dict[str, Any], override: str, from_here: bool = True) -> None:
    """Set one `key.sub=value` inside the raw recipe, in place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}': an override is key.sub=value, e.g. train.learning_rate=3e-4")
    try:
        names = [part for part in key.split(".") if not part.isdigit()]  # the list's own name, for its items
        value = read_yaml(text)
        value = _from_here(value, names[-1] if names else "") if from_here else value
    except yaml.YAMLError as error:
        raise UserError(f"'{override}': the value is not valid YAML; quote it") from error
    *parents, last = key.split(".")
    here: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(here, list):
            here = here[_index(here, part, override)]
            continue
        if here.get(part) is None:
            here[part] = {}
        here = here[part]
        if not isinstance(here, dict | list):
            raise UserError(f"'{override}': {'.'.join(parents[: depth + 1])} holds a value, not keys")
    if isinstance(here, list):
        here[_index(here, last, override)] = value
    else:
        here[last] = value


PATH_KEYS = ("paths", "long_text", "others", "glossary", "rublimp", "suite", "config", "base", "extend")


def _from_here(value: Any, key: str) -> Any:  # noqa: ANN401 - any YAML
    """An override's value with its paths made absolute: on the command line they are meant from the working folder."""
    if isinstance(value, dict):
        return {inner: _from_here(held, inner) for inner, held in value.items()}
    if isinstance(value, list):
        return [_from_here(held, key) for held in value]
    if key in PATH_KEYS and isinstance(value, str) and (found := existing(Path.cwd(), value)):
        return found
    return value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"'{override}': '{part}' is no index of that list; it holds items 0 to {len(items) - 1}")
    return int(part)


def named_paths(recipe: Recipe) -> dict[str, list[str]]:
    """The paths of a loaded recipe's sources by their keys: data, texts to measure on, a base and a tokenizer here."""
    data = recipe.data
    found = {"data.books.paths": data.books.paths} if data.books else {}
    rows: list[tuple[str, Sequence[Rows]]] = [("texts", data.texts), ("dialogues", data.dialogues)]
    for kind, sources in rows:
        found |= {f"data.{kind}.{index}.paths": source.paths for index, source in enumerate(sources)}
    found |= {"eval.long_text": recipe.eval.long_text, "eval.others": recipe.eval.others}
    one = {"eval.glossary": recipe.eval.glossary, "eval.rublimp": recipe.eval.rublimp}
    one["eval.suite"] = recipe.eval.suite if recipe.eval.suite.endswith(".yaml") else None
    for key, value in (("model.base", recipe.model.base), ("tokenizer.extend", recipe.tokenizer.extend)):
        one[key] = value if value and is_a_path(value) else None
    found |= {key: [path] for key, path in one.items() if path}
    return {key: paths for key, paths in found.items() if paths}


def is_a_path(base: str) -> bool:
    """Whether a base is a folder's path, there or not, and not OWNER/NAME on the Hub."""
    return base.startswith(("/", "~", ".")) or base.count("/") > 1


def _resolve_paths(recipe: Recipe, folder: Path) -> None:
    """Make the recipe's relative paths absolute, in place; a path found nowhere is taken from the working folder."""
    data = recipe.data
    sources: list[Books | Rows] = [*([data.books] if data.books else []), *data.texts, *data.dialogues]
    for source in sources:
        source.paths = [_find(path, folder) for path in source.paths]
    recipe.eval.long_text = [_find(path, folder) for path in recipe.eval.long_text]
    recipe.eval.others = [_find(path, folder) for path in recipe.eval.others]
    for key in ("glossary", "rublimp"):
        if value := getattr(recipe.eval, key):
            setattr(recipe.eval, key, _find(value, folder))
    if (place := recipe.train.backup) and "://" not in place:
        recipe.train.backup = str(Path.cwd() / Path(place).expanduser())  # it need not be there yet
    if recipe.eval.suite.endswith(".yaml"):  # else it is a shipped one's name
        recipe.eval.suite = _find(recipe.eval.suite, folder)
    if recipe.launch.config != "auto":
        recipe.launch.config = _find(recipe.launch.config, folder)
    for holder, key in ((recipe.model, "base"), (recipe.tokenizer, "extend")):
        value = getattr(holder, key)
        # A Hub id looks like a relative path: it is one unless such a folder is there.
        if value and Path(_find(value, folder)).is_dir():
            setattr(holder, key, _find(value, folder))


def _find(path: str, folder: Path) -> str:
    for root in (folder, Path.cwd(), shipped("")):
        if found := existing(root, path):
            return found
    return str(Path.cwd() / Path(path).expanduser())


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors and checks."""
    return Recipe.model_json_schema()
