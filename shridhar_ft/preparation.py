"""What every training needs before its first step: data, tokenizer, the run's records, and windows that can fill.

All of it is checked here, before an hour is spent on a stage whose successor cannot begin.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shridhar_ft.config import Recipe, dump_recipe
from shridhar_ft.data import build as data
from shridhar_ft.data.split import SPLITS
from shridhar_ft.documents import book_documents, dialogue_documents, long_text
from shridhar_ft.errors import UserError
from shridhar_ft.model.build import base_config
from shridhar_ft.progress import hush_libraries
from shridhar_ft.runfolder import PART, Run, read_json, record_recipe, write_json
from shridhar_ft.tokenizer import ensure_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare(recipe: Recipe, run: Run, say: Callable[[str], None]) -> "PreTrainedTokenizerBase":
    """Make what is missing of data and tokenizer, and check that every stage can fill a window.

    Raises:
        UserError: Wrong input, before anything is written; a train split shorter than one window, before training.
    """
    hush_libraries()
    base_config(recipe.model)  # a wrong base or config is told before the data are read
    data.ensure(recipe, run, say)
    tokenizer = ensure_tokenizer(recipe, run, say)
    record_recipe(run, dump_recipe(recipe), recipe.seed)
    count_tokens(recipe, run, tokenizer)
    check_windows(recipe, run, tokenizer)
    return tokenizer


def count_tokens(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Add the tokens of each split to the data ledger, once for each tokenizer.

    The whole account (in = trained + masked + truncated + dropped) of a training part is in that part's ledger
    receipt, since it hangs on the window.
    """
    ledger = run.data / "receipts" / "ledger.json"
    receipt = read_json(ledger)
    made_from = read_json(run.tokenizer / PART)["fingerprint"]
    context = window_of_sft(recipe)
    made_from = f"{made_from}-{context}"  # a conversation longer than the window is counted in parts
    if receipt["measured"].get("tokens", {}).get("tokenizer") != made_from:
        counted: dict[str, Any] = {
            split: {
                "books": sum(len(d.ids) for d in book_documents(run, tokenizer, split)),
                "dialogues": sum(len(d.ids) for d in dialogue_documents(run, tokenizer, split, context, True)),
            }
            for split in SPLITS
        }
        receipt["measured"]["tokens"] = {"tokenizer": made_from, **counted}
        write_json(ledger, receipt)
    return receipt["measured"]["tokens"]


def window_of_sft(recipe: Recipe) -> int:
    """Window of the dialogues in tokens: `sft.context`, else the last stage's, else the base's own."""
    own = recipe.sft.context if recipe.sft else None
    return own or recipe.last_context or int(base_config(recipe.model).max_position_embeddings)


def check_windows(recipe: Recipe, run: Run, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a train split, or a long text, that does not fill one window of the longest stage."""
    counted = read_json(run.data / "receipts" / "ledger.json")["measured"]["tokens"]
    for index, stage in enumerate(recipe.stages):
        if counted["train"]["books"] < stage.context:
            raise UserError(
                f"stages.{index}.context: one window of stage '{stage.name}' is {stage.context} tokens and the train "
                f"split of the books has {counted['train']['books']}; add books, or shorten the context"
            )
    if recipe.sft and not counted["train"]["dialogues"]:
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
