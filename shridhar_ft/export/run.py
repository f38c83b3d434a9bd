"""Exports what a recipe, a run folder or an adapter ends with."""

import difflib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.config import Recipe, export_section, load_recipe
from shridhar_ft.config_export import Export
from shridhar_ft.data.split import SPLITS
from shridhar_ft.documents import book_documents, long_text
from shridhar_ft.errors import CheckFailed, UserError, first_line
from shridhar_ft.export.card import adapter_card, model_card
from shridhar_ft.export.gguf_convert import needs_quantiser
from shridhar_ft.export.gguf_limits import check_gguf
from shridhar_ft.export.gguf_model import has_llama_cpp
from shridhar_ft.export.hub import upload
from shridhar_ft.export.merge import Merge, merge_and_certify
from shridhar_ft.export.ollama import check_texts, modelfile, ollama_template
from shridhar_ft.export.serve import serve_commands
from shridhar_ft.model.build import base_config, model_fingerprint, stage_config
from shridhar_ft.model.rope import original_context
from shridhar_ft.preparation import window_of_sft
from shridhar_ft.progress import hush_libraries
from shridhar_ft.receipts import read_receipts
from shridhar_ft.runfolder import (
    PART,
    RUNS,
    Run,
    begin_peak_rss,
    check_owner,
    environment,
    fingerprint,
    finish_part,
    is_current,
    locked,
    only_one,
    part_of,
    publishing,
    read_json,
    read_object,
    run_folder,
    write_json,
    write_text,
)
from shridhar_ft.stages import last_part, part_names
from shridhar_ft.tokenizer import load_tokenizer
from shridhar_ft.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")


def open_run(folder: Path) -> tuple[Recipe, Run]:
    """The recipe and run of a run folder.

    Raises:
        UserError: It is no run folder, or belongs to another name.
    """
    if not (folder / "recipe.yaml").is_file():
        near = difflib.get_close_matches(folder.name, [p.name for p in RUNS.glob("*") if p.is_dir()], n=1)
        raise UserError(
            f"{folder}: no run folder (no recipe.yaml in it)" + (f"; did you mean runs/{near[0]}?" if near else "")
        )
    run = Run(folder)
    check_owner(run)
    return load_recipe(folder / "recipe.yaml"), run


def export(what: str, overrides: list[str], say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Export a recipe's run, a run folder, or an adapter folder.

    Args:
        what: RECIPE, RUN or ADAPTER, as the user names it.
        overrides: `key.sub=value`, for a recipe or run.
        say: Told each line.

    Returns:
        The folder that was written, and its certificate.

    Raises:
        UserError: It is none of the three, or not finished.
        CheckFailed: The certificate does not hold.
    """
    hush_libraries()
    path = Path(what)
    if (path / "adapter_config.json").is_file():
        wanted = export_section(overrides)
        path = path.resolve()  # `.` has a name too
        inside = path.parent
        for parent in inside.parents:
            if (parent / "recipe.yaml").is_file() and (inside / "part.json").is_file():
                _, run = open_run(parent)
                recipe = load_recipe(parent / "recipe.yaml", overrides)
                name = str(inside.relative_to(parent))
                if name == part_names(recipe)[-1]:
                    return run.export, _alone(recipe, run, say)
                with _at_rest(run):
                    tokenizer = load_tokenizer(run.tokenizer)
                    return inside / "export", _export_part(recipe, run, name, tokenizer, inside / "export", say)
        target = path.with_name(f"{path.name}-export")
        with locked(path.with_name(f".{target.name}.lock"), f"{target}: another process is writing it; wait for it"):
            _need_ours(target)
            return target, _export_adapter(path, wanted, target, say)
    if (path / "status.json").is_file() or (path / "data" / "part.json").is_file():
        _, run = open_run(path)
        recipe = load_recipe(path / "recipe.yaml", overrides)
    else:
        _refuse_half_a_run(path)
        recipe = load_recipe(what, overrides)
        run = run_folder(recipe.name)
    return run.export, _alone(recipe, run, say)


def _alone(recipe: Recipe, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    with _at_rest(run):
        return ensure_export(recipe, run, say)


@contextmanager
def _at_rest(run: Run) -> Iterator[None]:
    """Hold a run that nobody trains or exports: of two exports each would remove what the other writes.

    Raises:
        UserError: Another process is working on it.
    """
    with ExitStack() as held:
        if run.root.is_dir():  # of a run that was never begun, no lock is left either
            held.enter_context(only_one(run))
            held.enter_context(only_one(run, "training"))  # can outlive the `run` that started it
        yield


def _refuse_half_a_run(folder: Path) -> None:
    """Refuse a run folder of which only a part is here: as a recipe's folder, it would name another run.

    Raises:
        UserError: It is one.
    """
    made = [f"{name}/" for name in ("stages", "sft", "tokenizer") if (folder / name).is_dir()]
    if made and (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{folder}: half a run folder ({', '.join(made)}, and neither status.json nor data/{PART}); copy the whole "
            f"of it, or name {folder}/recipe.yaml if it is a recipe"
        )


def _need_ours(target: Path) -> None:
    """Refuse to put an export in the place of what no export made.

    Raises:
        UserError: There is something else.
    """
    if os.path.lexists(target) and not ((target / PART).is_file() and (target / "certificate.json").is_file()):
        raise UserError(
            f"{target}: the export would be written there, and what is there now is no export of ours (no {PART} and "
            "certificate.json in it); move it, or copy the adapter to another folder"
        )


def ensure_export(recipe: Recipe, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """The run's export: made if it is missing or made from something else."""
    if part_of(run.tokenizer) is None:
        raise UserError(f"{run.root} has trained nothing yet; run `shridhar-ft run` with this recipe first")
    tokenizer = load_tokenizer(run.tokenizer)
    last = last_part(recipe, run, tokenizer)
    # Where it is uploaded to changes no file: a failed upload is tried again without another merge.
    wanted = fingerprint(last["fingerprint"], recipe.export.model_dump(exclude={"push_to_hub", "private"}))
    if not is_current(run.export, wanted):
        return _export_part(recipe, run, last["name"], tokenizer, run.export, say, wanted)
    say("export: up to date")
    upload(run.export, recipe.export, say)
    return read_object(
        run.export / "certificate.json", "ok", "measured", mend=f"remove {run.export} and export the run anew"
    )


def _export_part(
    recipe: Recipe,
    run: Run,
    name: str,
    tokenizer: "PreTrainedTokenizerBase",
    target: Path,
    say: Callable[[str], None],
    made_from: str = "",
) -> dict[str, Any]:
    """Merge, certify, describe and publish what the part of this name ended with."""
    started = time.monotonic()
    begin_peak_rss()
    part = part_of(run.root / name, "weights.base", "weights.revision", "weights.adapters")
    if part is None:
        raise UserError(f"{run.root / name} is not finished; run `shridhar-ft run {run.root}/recipe.yaml` first")
    stages = [f"stages/{stage.name}" for stage in recipe.stages]
    index = stages.index(name) if name in stages else -1
    config, wanted = stage_config(recipe, index, len(tokenizer))
    context = wanted.context if recipe.stages else window_of_sft(recipe)
    dtype = _dtype(recipe)
    check_wanted(recipe.export, config, tokenizer)
    merge = Merge(
        weights=Weights.from_dict(part["weights"], run.root),
        config=config,
        tokenizer=tokenizer,
        text=_certificate_text(recipe, run, tokenizer, context, say),
        original_context=wanted.original_context,
        dtype=dtype,
        name=recipe.name,
        gguf=recipe.export.gguf_kinds,
        shard_bytes=int(recipe.export.shard_gb * 1e9),
    )
    return _publish(
        *(merge, recipe.export, target, say),
        *(lambda found, made: _run_card(recipe, run, name, config, context, dtype, found, made), made_from, started),
    )


def check_wanted(wanted: Export, config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse what could not be written, before anything is.

    Raises:
        UserError: A GGUF would lose something, or its tools are not installed; no such Modelfile can be made.
    """
    if wanted.gguf_kinds:
        check_gguf(config, tokenizer)
    if (quantised := needs_quantiser(wanted.gguf_kinds)) and not has_llama_cpp():
        raise UserError(
            f"export.gguf: {quantised[0]} is made by llama.cpp's own quantiser, which is not installed; run "
            "`pip install 'shridhar_ft[llama-cpp]'`, or take q8_0"
        )
    if wanted.ollama:
        check_texts(wanted.system, wanted.licence)
        ollama_template(tokenizer)


def _publish(
    merge: Merge,
    wanted: Export,
    target: Path,
    say: Callable[[str], None],
    card: Callable[[dict[str, Any], Path], str],
    made_from: str,
    started: float,
) -> dict[str, Any]:
    failed = target.with_name(f"{target.name}_failed_certificate.json")
    with publishing(target) as folder:
        try:
            certificate = merge_and_certify(merge, folder, say)
        except CheckFailed as error:
            if (folder / "certificate.json").is_file():  # the folder goes, what it showed stays
                write_json(failed, read_json(folder / "certificate.json"))
                raise CheckFailed(f"the merge certificate does not hold ({failed}): {error}") from error
            raise
        if wanted.ollama:
            sampling = read_json(folder / "model" / "generation_config.json")
            file = f"{merge.name}-{merge.gguf[0]}.gguf"
            write_text(
                folder / "Modelfile",
                modelfile(file, merge.tokenizer, len(merge.text), sampling, wanted.system, wanted.licence),
            )
        write_text(folder / "README.md", card(certificate, folder))
        finish_part(folder, made_from, time.monotonic() - started, dtype=merge.dtype)
    failed.unlink(missing_ok=True)
    say(f"export: {target}/model ({', '.join((merge.dtype, *merge.gguf))})")
    upload(target, wanted, say)
    return certificate


def _dtype(recipe: Recipe) -> str:
    if recipe.export.dtype != "auto":
        return recipe.export.dtype
    if recipe.model.from_config is not None:
        return "float32"
    return _stored_dtype(base_config(recipe.model))


def _stored_dtype(config: "PreTrainedConfig") -> str:
    """The type that a base's weights are stored in; float32 where its config names none that we write."""
    stored = str(config.dtype).removeprefix("torch.")
    return stored if stored in DTYPES else "float32"


def _certificate_text(
    recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase", context: int, say: Callable[[str], None]
) -> np.ndarray:
    """A text of exactly `context` tokens: the long text, else the books, repeated where they are shorter."""
    try:
        ids = long_text(recipe, tokenizer)
    except UserError as error:  # a run folder that was brought here from another machine
        say(f"export: the certificate reads the run's own books instead ({error})")
        ids = np.zeros(0, dtype=np.int32)
    if len(ids) < context:
        books = [
            document.ids
            for split in ("test", "validation", "train")
            for document in book_documents(run, tokenizer, split)
        ]
        ids = np.concatenate([ids, *books])
    if not len(ids):
        ids = random_text(len(tokenizer), context)
    return np.resize(ids, context)


def random_text(vocab_size: int, length: int) -> np.ndarray:
    """Seeded random token ids, for a certificate without any text at hand."""
    return np.random.default_rng(0).integers(0, vocab_size, length, dtype=np.int32)


def _run_card(
    recipe: Recipe,
    run: Run,
    last: str,
    config: "PreTrainedConfig",
    context: int,
    dtype: str,
    certificate: dict[str, Any],
    made: Path,
) -> str:
    names = part_names(recipe)
    parts = [{"part": name, **(part_of(run.root / name) or {})} for name in names[: names.index(last) + 1]]
    build = f"remove {run.data / PART} and run `shridhar-ft data build` with this recipe"
    ledger = read_object(run.data / "receipts" / "ledger.json", "measured.tokens", mend=build)["measured"]
    report = read_object(
        run.data / "report.json", *(f"splits.{split}" for split in SPLITS), "books.files", "dialogues.files", mend=build
    )
    base = recipe.model.base
    return model_card(
        {
            "name": recipe.name,
            "licence": recipe.export.licence,
            "languages": recipe.export.language,
            "data_licences": recipe.export.data_licences,
            **_base_facts(base),
            "context": context,
            "dtype": dtype,
            "parts": parts,
            "data": {
                split: {kind: report["splits"][split][kind]["rows"] for kind in ("books", "dialogues")}
                for split in SPLITS
            },
            "sources": [
                (kind, file["source"], file["rows"])
                for kind in ("books", "dialogues")
                for file in report[kind]["files"]
            ],
            "tokens": ledger["tokens"],
            "certificate": certificate,
            "evaluation": _evaluation(run, made),
            "serve": serve_commands(
                config, dtype, context, [f"{recipe.name}-{kind}.gguf" for kind in recipe.export.gguf_kinds]
            ),
            "ollama": recipe.export.ollama,
            "receipts": {path: receipt["ok"] for path, receipt in read_receipts(run.root).items()}
            | {"export/certificate.json": certificate["ok"]},
            "version": environment()["packages"].get("shridhar_ft", "?"),
        }
    )


def _base_facts(base: str | None) -> dict[str, Any]:
    """A base for a card: by its id on the Hub, or by the name of its folder, whose place says nothing to others."""
    local = base is not None and Path(base).is_dir()
    return {
        "base": Path(base).resolve().name if base is not None and local else base,
        "base_on_hub": base is not None and not local,
    }


def _evaluation(run: Run, made: Path) -> dict[str, Any] | None:
    """What was measured of the very model that lies in `made`; None where there is nothing, or it was another model."""
    results = run.root / "eval" / "results.json"
    evaluate = f"remove it, or run `shridhar-ft eval {run.root}`"
    found = read_object(results, "made_from.model", mend=evaluate) if results.is_file() else None
    same = found is not None and found["made_from"]["model"] == model_fingerprint(made / "model")
    return found if same else None


def _export_adapter(folder: Path, wanted: Export, target: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Merge an adapter that lies outside any run onto the base that its own config names."""
    from transformers import AutoTokenizer

    from shridhar_ft.config import Model

    started = time.monotonic()
    stored = read_object(folder / "adapter_config.json", mend="copy the adapter again")
    base = stored.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{folder / 'adapter_config.json'}: it names no base (base_model_name_or_path); add it")
    model = Model(base=base, revision=stored.get("revision"))
    config = base_config(model)
    source = folder if (folder / "tokenizer_config.json").is_file() else base
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # of a damaged file the library raises whatever comes, plain Exceptions too
        raise UserError(
            f"{source}: no tokenizer can be read there ({first_line(error)}); copy the one that the adapter "
            "was trained with beside it"
        ) from error
    own = AdapterBase.read(folder)
    if own is not None:
        own.check_rope(folder, config)
    check_wanted(wanted, config, tokenizer)
    # Nobody says how long the texts of another program's adapter were.
    length = own.context if own is not None else min(int(config.max_position_embeddings), 4096)
    merge = Merge(
        weights=Weights(base, model.revision, (str(folder),)),
        config=config,
        tokenizer=tokenizer,
        text=random_text(len(tokenizer), length),
        original_context=original_context(config),
        dtype=wanted.dtype if wanted.dtype != "auto" else _stored_dtype(config),
        name=folder.name,
        gguf=wanted.gguf_kinds,
        shard_bytes=int(wanted.shard_gb * 1e9),
    )
    rank = stored.get("r")
    facts = {
        "name": folder.name,
        "licence": wanted.licence,
        "languages": wanted.language,
        "data_licences": wanted.data_licences,
        **_base_facts(base),
        "context": length,
        "dtype": merge.dtype,
        "adapter": f"{stored.get('peft_type', 'of unknown kind')}" + (f" of rank {rank}" if rank else ""),
        "serve": serve_commands(config, merge.dtype, length, [f"{merge.name}-{kind}.gguf" for kind in merge.gguf]),
        "ollama": wanted.ollama,
        "version": environment()["packages"].get("shridhar_ft", "?"),
    }
    return _publish(
        *(merge, wanted, target, say),
        *(lambda found, _: adapter_card(facts | {"certificate": found}), "", started),
    )
