"""What every training needs before its first step: data, tokenizer, the run's records, and windows that can fill.

All of it is checked here, before an hour is spent on a stage whose successor cannot begin.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Recipe, dump_recipe
from shridhar_ft.data import build as data
from shridhar_ft.documents import long_text
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import base_config
from shridhar_ft.progress import hush_libraries
from shridhar_ft.report.data_page import write_data_page
from shridhar_ft.runfolder import PART, Run, read_object, record_recipe, write_json
from shridhar_ft.sufficiency import write_verdict
from shridhar_ft.tokenizer import ensure_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare(recipe: Recipe, run: Run, say: Callable[[str], None], to_train: bool = True) -> "PreTrainedTokenizerBase":
    """Make what is missing of data and tokenizer and, where training follows, check that every stage fills a window.

    Raises:
        UserError: Wrong input, before anything is written; a train split shorter than one window, before training.
    """
    hush_libraries()
    base_config(recipe.model)  # a wrong base or config is told before the data are read
    data.ensure(recipe, run, say)
    tokenizer = ensure_tokenizer(recipe, run, say)
    check_ids(recipe, tokenizer)
    record_recipe(run, dump_recipe(recipe), recipe.seed)
    judged = judge(recipe, run, tokenizer)
    if to_train:
        check_windows(recipe, tokenizer, judged)
    return tokenizer


def check_ids(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a tokenizer of which an id would have no row of embeddings: a step would fail, with no word of why.

    Raises:
        UserError: It has holes among its ids, and ends beyond what it counts.
    """
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    stored = base_config(recipe.model).vocab_size if recipe.model.base else 0
    if highest >= (rows := max(len(tokenizer), stored)):
        raise UserError(
            f"tokenizer: {token!r} has the id {highest}, and the model will have {rows} rows of embeddings; the "
            "tokenizer is damaged, or another model's: give the base's own, or remove the run's tokenizer folder"
        )


def judge(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Count the tokens, judge whether they suffice, and write verdict.json, the ledger's tokens, and the data's page.

    The whole account (in = trained + masked + truncated + dropped) of a training part is in that part's ledger
    receipt, since it hangs on the window.
    """
    verdict = write_verdict(recipe, run, tokenizer, window_of_sft(recipe))
    file = run.data / "receipts" / "ledger.json"
    ledger = read_object(file, "measured", mend=f"remove {run.data / PART}, and the data are built anew")
    if ledger["measured"].get("tokens") != verdict["tokens"]:
        ledger["measured"]["tokens"] = verdict["tokens"]
        write_json(file, ledger)
    write_data_page(run)
    return verdict


def window_of_sft(recipe: Recipe) -> int:
    """Window of the dialogues in tokens: `sft.context`, else the last stage's, else the base's own."""
    own = recipe.sft.context if recipe.sft else None
    return own or recipe.last_context or int(base_config(recipe.model).max_position_embeddings)


def check_windows(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", judged: dict[str, Any]) -> None:
    """Refuse a train split, or a long text, that does not fill one window of the longest stage.

    Args:
        recipe: The recipe.
        tokenizer: The run's.
        judged: What `judge` returned.
    """
    for index, stage in enumerate(recipe.stages):
        held, dropped = (judged["stages"][index][key] for key in ("tokens", "dropped"))
        if held < stage.context:
            raise UserError(
                f"stages.{index}.context: one window of stage '{stage.name}' is {stage.context} tokens and the train "
                f"split of the books has {held}{f' after overlong: drop took {dropped}' if dropped else ''}; "
                "add books, or shorten the context"
            )
    if recipe.sft and not judged["tokens"]["train"]["dialogues"]:
        raise UserError("data.dialogues: no conversation is left in the train split; add dialogues, or drop sft")
    if recipe.eval.long_text:
        held, needed = len(long_text(recipe, tokenizer)), measured_context(recipe)
        if held < needed:
            raise UserError(
                f"eval.long_text: it holds {held} tokens, less than one window of {needed}; name a longer text, or set "
                f"eval.context to {held} or less"
            )


def measured_context(recipe: Recipe) -> int:
    """Length at which every stage is measured on the long text, in tokens."""
    return recipe.eval.context or recipe.last_context or window_of_sft(recipe)
