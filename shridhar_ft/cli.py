"""The command line: each command is a function here that imports what it needs only when it is called.

shridhar-ft run RECIPE [key.sub=value …]
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, TextIO

import typer

from shridhar_ft import __version__
from shridhar_ft.allowed import ALLOW, parse_allowed
from shridhar_ft.errors import Resumable, Stop, UserError
from shridhar_ft.progress import print_error, quiet, say
from shridhar_ft.signals import stoppable

app = typer.Typer(
    name="shridhar-ft",
    help="Fine-tune a language model on books and dialogues, up to 108,000 tokens of context, with receipts.",
    epilog="Example: shridhar-ft run recipes/demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Look at sources, compare cleaning, build a run's data.", no_args_is_help=True, rich_markup_mode=None
)
tokenizer_app = typer.Typer(help="Train a run's tokenizer.", no_args_is_help=True, rich_markup_mode=None)
recipe_app = typer.Typer(help="Check a recipe, or print its schema.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data", epilog="Example: shridhar-ft data build recipes/demo")
app.add_typer(tokenizer_app, name="tokenizer", epilog="Example: shridhar-ft tokenizer train recipes/demo")
app.add_typer(recipe_app, name="recipe", epilog="Example: shridhar-ft recipe check recipes/demo")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, a folder with recipe.yaml, or a shipped recipe's name.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key.sub=value]...", help="Settings that replace the recipe's.")
]
BY_CTRL_C = 130  # what typer makes of a KeyboardInterrupt

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]


def main() -> None:
    """The console script."""
    sys.exit(run_command())


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; the user's mistakes are one sentence, ours a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stoppable(" ".join(given[:1]) or "shridhar-ft"), _answers_alone(sys.stdout if "--json" in given else None):
            status = app(args=given, prog_name="shridhar-ft", standalone_mode=False)
            if status == BY_CTRL_C:
                raise KeyboardInterrupt
    except Stop as stop:
        again = f"to go on: {shlex.join(['shridhar-ft', *given])}" if isinstance(stop, Resumable) else None
        return _told(given, stop.status, str(stop), again)
    except (NotADirectoryError, IsADirectoryError, PermissionError) as error:  # a path that was given
        if error.filename is None:
            raise
        return _told(given, UserError.status, f"{error.filename}: {error.strerror}; mend the path, or its permissions")
    except OSError as error:  # what writes knows its path and tells it itself, mostly
        from pathlib import Path

        from shridhar_ft.runfolder import DISK_ERRORS, disk_failed

        if error.errno not in DISK_ERRORS or error.filename is None:
            raise
        failed = disk_failed(Path(os.fsdecode(error.filename)), error)
        return _told(given, failed.status, str(failed))
    except Exception as error:
        if not (hasattr(error, "exit_code") and hasattr(error, "format_message")):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # a command group without a command
            print(error.format_message())
            return 2
        return _told(given, int(error.exit_code), f"{error.format_message().rstrip('.')}; see shridhar-ft --help")
    return status if isinstance(status, int) else 0


def _told(given: list[str], status: int, sentence: str, again: str | None = None) -> int:
    """Say why a command ended, in JSON too where that was asked for; its status."""
    if "--json" in given:
        print(json.dumps({"status": status, "error": sentence}, ensure_ascii=False))
    print_error(sentence)
    if again:
        print_error(again)
    return status


_answers: TextIO | None = None  # standard output, while everything but answers is kept from it


@contextmanager
def _answers_alone(output: TextIO | None) -> Iterator[None]:
    """Keep this output for answers in JSON: DeepSpeed, where it is installed, prints as transformers imports it."""
    global _answers
    if output is None:
        yield
        return
    _answers = output
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _answers = None


def answer(as_json: bool, value: Any, lines: Sequence[str] = (), a_line: bool = False) -> None:  # noqa: ANN401
    """Print a command's answer: JSON (in one line, where one of many), or lines for a person."""
    if as_json:
        text = json.dumps(value, ensure_ascii=False, indent=None if a_line else 1, default=str)
        print(text.encode("utf-8", errors="replace").decode("utf-8"), file=_answers or sys.stdout)
    else:
        for line in lines:
            print(line)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options of no command."""
    if version:
        print(f"shridhar-ft {__version__}")
        raise typer.Exit


@app.command(epilog="Example: shridhar-ft run recipes/demo train.learning_rate=3e-4")
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME,…", help=ALLOW.capitalize() + ".")] = None,
    no_plan: Annotated[bool, typer.Option("--no-plan", help="Try what does not fit by the plan.")] = False,
    as_json: Json = False,
) -> None:
    """Do everything in order: data, tokenizer, stages, SFT, export. Stops and resumes anywhere."""
    from shridhar_ft.config import load_recipe
    from shridhar_ft.pipeline import run_recipe
    from shridhar_ft.plan.check import NO_PLAN
    from shridhar_ft.runfolder import run_folder

    allowed = parse_allowed(allow or [])
    if no_plan:
        os.environ[NO_PLAN] = "1"  # for the training's own processes
    loaded = load_recipe(recipe, overrides or [])
    made = run_recipe(loaded, run_folder(loaded.name), say, allowed)
    folder = made["run"]
    answer(
        as_json,
        made,
        [
            *_table(made["parts"]),
            "",
            f"what was done, and how well, is in {made['report']}",
            f"the model is in {folder}/export/model; talk to it:",
            f"  shridhar-ft chat {folder}",
        ],
    )


def _table(parts: list[dict[str, Any]]) -> list[str]:
    """Parts of a run with their time, memory and losses, as lines."""
    lines = [f"{'part':<18}{'seconds':>9}{'peak GB':>9}  validation loss"]
    for part in parts:
        losses = [(part.get(key) or {}).get("validation") for key in ("loss_before", "loss_after")]
        change = f"{losses[0]:.4f} → {losses[1]:.4f}" if None not in losses else ""
        lines.append(f"{part['part']:<18}{part['seconds']:>9.1f}{part['peak_rss_bytes'] / 1e9:>9.2f}  {change}")
    return lines


@data_app.command("build", epilog="Example: shridhar-ft data build recipes/demo data.books.paths=my/books")
def data_build(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Read, clean and split the sources, train the tokenizer, and keep the ledger."""
    run, _ = _prepared(recipe, overrides)
    from shridhar_ft.runfolder import read_object

    receipts = {name: read_object(run.data / "receipts" / f"{name}.json") for name in ("ledger", "split")}
    verdict = read_object(run.data / "verdict.json", "stages", "sft", "notes")
    judged = [*verdict["stages"], *([{"name": "sft", **verdict["sft"]}] if verdict["sft"] else [])]
    answer(
        as_json,
        {"run": str(run.root), **receipts, "verdict": verdict},
        [
            *(f"{part['name']}: {' '.join([part['verdict'], *part['notes']])}" for part in judged),
            *verdict["notes"],
            f"the data are in {run.data}, and what became of them in {run.data}/report.html",
        ],
    )


@data_app.command("inspect", epilog="Example: shridhar-ft data inspect my/books my/dump.sql.gz")
def data_inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, or globs.")],
    no_samples: Annotated[bool, typer.Option("--no-samples", help="Show no text of the sources.")] = False,
    as_json: Json = False,
) -> None:
    """Look before anything is built: formats, encodings, tables, columns, samples, a mapping to paste."""
    from shridhar_ft.data.inspect import inspect
    from shridhar_ft.data.inspect_view import lines

    found = inspect(paths, samples=not no_samples)
    answer(as_json, found, list(lines(found)))


@data_app.command("diff", epilog="Example: shridhar-ft data diff my/books/book.txt mojibake=true --step page_numbers")
def data_diff(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A book.")],
    switches: Annotated[
        list[str] | None, typer.Argument(metavar="[STEP=true|false]...", help="Cleaning steps, as under data.clean.")
    ] = None,
    step: Annotated[str | None, typer.Option(help="Show this step only.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Changes shown of each step.")] = 10,
    encoding: Annotated[str, typer.Option(help="Encoding of a plain text.")] = "auto",
    as_json: Json = False,
) -> None:
    """Show what each cleaning step does to a book, before and after, in colour."""
    from rich.console import Console

    from shridhar_ft.data.diff import render, show

    shown = show(file, switches or [], step, most, encoding)
    if as_json:
        answer(True, shown)
    else:
        render(shown, Console(highlight=False))


@tokenizer_app.command("train", epilog="Example: shridhar-ft tokenizer train recipes/demo")
def tokenizer_train(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the recipe's tokenizer on its train split, or extend its base's."""
    run, tokenizer = _prepared(recipe, overrides)
    from shridhar_ft.runfolder import PART, read_json

    part = read_json(run.tokenizer / PART)
    answer(
        as_json,
        {"run": str(run.root), **part},
        [f"the tokenizer is in {run.tokenizer}: {len(tokenizer):,} tokens"],
    )


def _prepared(recipe: str, overrides: list[str] | None) -> tuple[Any, Any]:
    """Data and tokenizer of a recipe's run, made if need be."""
    from shridhar_ft.config import load_recipe
    from shridhar_ft.preparation import prepare
    from shridhar_ft.runfolder import only_one, run_folder

    loaded = load_recipe(recipe, overrides or [])
    run = run_folder(loaded.name)
    with only_one(run):
        return run, prepare(loaded, run, say, to_train=False)


@recipe_app.command("check", epilog="Example: shridhar-ft recipe check recipes/demo sft.rank=8")
def recipe_check(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Validate a recipe, and the machine and suite that it names; prints what has no effect."""
    from shridhar_ft.config import find_recipe, load_recipe
    from shridhar_ft.evaluation.suite import load_suite
    from shridhar_ft.plan.machines import machine

    loaded = load_recipe(recipe, overrides or [])
    machine(loaded.budget.machine)
    load_suite(loaded.eval.suite)
    notes = loaded.without_effect()
    answer(
        as_json,
        {"ok": True, "notes": notes, "recipe": loaded.model_dump(mode="json")},
        [f"{find_recipe(recipe)}: valid", *(f"note: {note}" for note in notes)],
    )


@recipe_app.command("schema", epilog="Example: shridhar-ft recipe schema > recipe.schema.json")
def recipe_schema_command() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from shridhar_ft.config import recipe_schema

    answer(True, recipe_schema())


@app.command(epilog="Example: shridhar-ft plan recipes/shridhar-gpt --machine lambda-8xa100-80gb")
def plan(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="As for run; not needed with --calibrate.")
    ] = None,
    overrides: Overrides = None,
    machine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where (default: budget.machine; here is this machine).")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="YAML", help="An accelerate config (default: launch.config).")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="All machines and methods in one table.")] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine for a minute first.")] = False,
    book_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of books to plan with, instead of those there are.")
    ] = None,
    dialogue_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="The same of dialogues.")] = None,
    as_json: Json = False,
) -> None:
    """Memory, time and money before a single step; what does not fit, and the smallest change that mends it."""
    from shridhar_ft.plan.command import Asked, answer_for

    if calibrate:
        from shridhar_ft.plan.calibrate import calibrate as measure

        measured = measure(say)
        if recipe is None:
            answer(as_json, measured)
            return
    if recipe is None:
        raise UserError("plan: name a RECIPE, or --calibrate this machine; e.g. shridhar-ft plan recipes/demo")
    asked = Asked(machine, config, book_tokens, dialogue_tokens, count=_counted_with_torch)
    answer(as_json, *answer_for(recipe, overrides or [], asked, compare))


@app.command(epilog="Example: shridhar-ft cloud recipes/shridhar-gpt --to aws --machine aws-p4de.24xlarge")
def cloud(
    recipe: RecipeArgument,
    to: Annotated[str, typer.Option("--to", metavar="CLOUD", help="lambda, aws, gcp or slurm.")],
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; from two on with ZeRO-3 over all of them.")] = 1,
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where (default: budget.machine, or the cheapest that it fits on)."),
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--no-spot", help="Machines that may be taken away (default: on AWS and GCP).")
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the files go (default: cloud/ by the recipe)."),
    ] = None,
    book_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="As for plan.")] = None,
    dialogue_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="As for plan.")] = None,
    as_json: Json = False,
) -> None:
    """Write what rents a machine and runs a recipe there: a SkyPilot task or an sbatch script. Rents nothing itself."""
    from shridhar_ft.cloud.command import folder_for, write
    from shridhar_ft.cloud.target import Wish

    where = folder_for(recipe, folder)
    wish = Wish(to, where, machine, nodes, spot, book_tokens, dialogue_tokens, count=_counted_with_torch)
    made_by = ["shridhar-ft", "cloud", recipe, "--to", to]
    asked = {"--nodes": nodes if nodes > 1 else None, "--machine": machine, "-o": folder}
    asked |= {"--book-tokens": book_tokens, "--dialogue-tokens": dialogue_tokens}
    for option, value in asked.items():
        made_by += [] if value is None else [option, str(value)]
    made_by += [] if spot is None else ["--spot" if spot else "--no-spot"]
    answer(as_json, *write(recipe, overrides or [], wish, [*made_by, *(overrides or [])]))


@app.command(epilog="Example: shridhar-ft rehearse recipes/shridhar-gpt")
def rehearse(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the rehearsal's run folder there.")] = False,
    as_json: Json = False,
) -> None:
    """Run the recipe small, through kill, stop and resume to the eval, and list what the real run would stumble over.

    Exit status 0 where every step passed, or 1; what the real run would stumble over is listed either way.
    """
    from shridhar_ft.rehearse.command import rehearse as rehearse_it

    found, lines = rehearse_it(recipe, overrides or [], say, keep)
    answer(as_json, found, lines)
    if not found["ok"]:
        raise typer.Exit(1)


def _counted_with_torch(recipe: Any, vocabulary: int | None) -> Any:  # noqa: ANN401
    """The shape of a model that no formula knows."""
    from shridhar_ft.model.build import base_config
    from shridhar_ft.plan.meta import shape_on_meta

    say("plan: no formula for this architecture; counting it with torch")
    return shape_on_meta(base_config(recipe.model, vocabulary))


@app.command(epilog="Example: shridhar-ft status runs/demo --watch")
def status(
    what: Annotated[str, typer.Argument(metavar="RUN|BACKUP", help="A run folder, or where its backup lies.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until the run ends.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: between two looks.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Where a run stands, live or ended: step, loss, speed, memory, money, time to go, and whether it is alive."""
    from rich.console import Console

    from shridhar_ft.monitoring.status import reader
    from shridhar_ft.monitoring.view import lines
    from shridhar_ft.monitoring.view import watch as follow

    read = reader(what)
    if watch:
        follow(
            read, every, Console(highlight=False), (lambda state: answer(True, state, a_line=True)) if as_json else None
        )
        return
    state = read()
    answer(as_json, state, list(lines(state)))


@app.command(epilog="Example: shridhar-ft pull s3://bucket/backups demo")
def pull(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="As train.backup: s3://…, gs://…, or a folder.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run's name, where it is not the only one.")
    ] = None,
    into: Annotated[
        str, typer.Option("-o", "--output", metavar="DIR", help="Folder that the run folder goes into.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """Bring a run back from its backup, every file verified; what is damaged is set aside."""
    from pathlib import Path

    from shridhar_ft.backup.pull import pull as bring

    made = bring(where, name, Path(into), say)
    last = made["checkpoint"] or "its last finished part" if made["finished"] or made["checkpoint"] else "the start"
    answer(as_json, made, [f"{made['run']} goes on from {last}:", f"  {made['resume']}"])


@app.command(epilog="Example: shridhar-ft export runs/demo export.dtype=bfloat16")
def export(
    what: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN|ADAPTER", help="A recipe, a run folder, or an adapter folder.")
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Merge adapters, certify, and write safetensors, tokenizer and model card."""
    from shridhar_ft.export.run import export as export_it

    folder, certificate = export_it(what, overrides or [], quiet if as_json else say)
    answer(as_json, {"export": str(folder), "certificate": certificate}, [f"{folder}/model"])


@app.command("eval", epilog="Example: shridhar-ft eval runs/demo --suite quick")
def evaluate(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|RUN|MODEL|GGUF", help="A recipe, a run folder or a part of it, a model folder, a GGUF."
        ),
    ] = None,
    overrides: Overrides = None,
    suite: Annotated[str | None, typer.Option(help="A suite's name or file (default: eval.suite).")] = None,
    texts: Annotated[
        str | None, typer.Option(metavar="RUN", help="Measure on this run's texts (default: the model's own run).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="RESULTS", help="Evaluation of the base by the same suite: its scores are floors."),
    ] = None,
    context: Annotated[int, typer.Option(min=0, help="A GGUF's window in tokens; 0: the file's own.")] = 0,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Compare two evaluations instead, pair by pair.")
    ] = None,
    lm_eval: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write the items as tasks of lm-evaluation-harness instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model by a suite: every score with its interval, its floor and its ceiling."""
    from shridhar_ft.evaluation.command import compare_results, run_eval
    from shridhar_ft.evaluation.view import compared, lines

    if compare is not None:
        found = compare_results(*compare)
        answer(as_json, found, list(compared(found)))
        return
    if what is None:
        raise UserError("eval: name what is measured, or --compare A B; e.g. shridhar-ft eval runs/demo")
    told = quiet if as_json else say
    results, folder = run_eval(what, overrides or [], told, suite, texts, base, context, lm_eval)
    shown = [f"{name}: {count:,} items" for name, count in results["tasks"].items()] if lm_eval else lines(results)
    answer(as_json, results, [*shown, f"in {folder}"])


@app.command(epilog="Example: shridhar-ft report runs/demo --lang ru")
def report(
    what: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A run folder, a run's name, or a recipe.")],
    lang: Annotated[str, typer.Option(help="Language of the page: en or ru.")] = "en",
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to (default: the run's report.html).")
    ] = None,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Make no new samples; show those there are.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the run's page: one HTML file of what was run, its receipts, losses, scores, plan and samples.

    Samples are what the base, each stage and SFT say to the same prompts; they are made once and kept. A run that is
    half done gives the page of what there is.
    """
    from pathlib import Path

    from shridhar_ft.report.collect import find_run
    from shridhar_ft.report.run_page import write_run_page
    from shridhar_ft.report.tongue import LANGUAGES

    language = next((known for known in LANGUAGES if known == lang), None)
    if language is None:
        raise UserError(f"--lang {lang}: the page is written in {' or '.join(LANGUAGES)}; name one of them")
    run = find_run(what)
    if not no_samples:
        from shridhar_ft.samples import ensure_samples

        ensure_samples(run, quiet if as_json else say)
    made = write_run_page(run, language, Path(output) if output else None)
    answer(
        as_json, made, [made["state"], *(f"  {phrase}" for phrase in made["missing"]), f"the page is {made['report']}"]
    )


@app.command(epilog="Example: shridhar-ft chat runs/demo --prompt 'Что такое терпение?'")
def chat(
    given: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="RUN|MODEL|GGUF", help="A run folder, a folder with config.json, or a GGUF file.")
    ],
    prompt: Annotated[str | None, typer.Option(help="Ask once, print the answer, and leave.")] = None,
    load: Annotated[str | None, typer.Option(help="Put this text or book into the context first.")] = None,
    system: Annotated[str | None, typer.Option(help="System text of the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    context: Annotated[int, typer.Option(min=0, help="A GGUF's window in tokens; 0: the file's own.")] = 0,
    cache: Annotated[str, typer.Option(help="A GGUF's key/value cache: f16, q8_0 or q4_0.")] = "f16",
    web: Annotated[bool, typer.Option("--web", help="Serve the model and a page to talk to it, here.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65534, help="The page's port; the server takes the next one.")] = 8080,
    as_json: Json = False,
) -> None:
    """Talk to a model, streaming, with the tokens a second."""
    from pathlib import Path

    from shridhar_ft.chat import Chat, figures_line, find_model, talk

    found = find_model(model)
    _refuse_what_chat_ignores(given, found.suffix == ".gguf", web)
    if web:
        from shridhar_ft.web import serve

        serve(found, context, cache, port, say)
        return
    conversation = Chat(found, system, max_new_tokens, greedy, context, cache, quiet if as_json else say)
    if load is not None:
        conversation.load(Path(load))
    if prompt is None:
        talk(conversation)
        return
    write: Callable[[str], Any] = quiet if as_json else lambda piece: print(piece, end="", flush=True)
    figures = conversation.say(prompt, write)
    answer(as_json, figures, [""])
    if not as_json:
        say(figures_line(figures))


def _refuse_what_chat_ignores(given: typer.Context, gguf: bool, web: bool) -> None:
    """Refuse options of `chat` that would change nothing."""

    def named(*options: str) -> list[str]:
        sources = {option: given.get_parameter_source(option) for option in options}
        return [
            "--json" if option == "as_json" else f"--{option.replace('_', '-')}"
            for option, source in sources.items()
            if source is not None and source.name == "COMMANDLINE"
        ]

    if web and (found := named("prompt", "load", "system", "greedy", "max_new_tokens", "as_json")):
        raise UserError(f"chat: {', '.join(found)}: nothing to --web, whose page has its own settings; leave it out")
    if not gguf and (found := named("context", "cache")):
        raise UserError(f"chat: {', '.join(found)}: of a GGUF only; a model folder has its own window; leave it out")
    if not web and (found := named("port")):
        raise UserError("chat: --port: the port of the page, so it goes with --web")
    if given.params["prompt"] is None and (found := named("as_json")):
        raise UserError("chat: --json answers one --prompt; give one, or leave --json out to talk")


@app.command(epilog="Example: shridhar-ft doctor recipes/demo --json")
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Which configuration suits this recipe on this machine.")
    ] = None,
    overrides: Overrides = None,
    parity: Annotated[
        bool, typer.Option("--parity", help="Train a tiny model under every engine and compare (five minutes or more).")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="With --parity: optimizer steps that are compared.")] = 10,
    precision: Annotated[str, typer.Option(help="With --parity: fp32 or bf16.")] = "fp32",
    as_json: Json = False,
) -> None:
    """What this machine is, which accelerate config suits it or a recipe, what is missing; or the parity matrix.

    Exit status 0, or 1 where something that is needed is missing or an engine differs.
    """
    if parity:
        from shridhar_ft.doctor.command import compare_engines

        found, lines = compare_engines(steps, precision, say)
    else:
        from shridhar_ft.doctor.command import examine

        found, lines = examine(recipe, overrides or [])
    answer(as_json, found, lines)
    if not found["ok"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
