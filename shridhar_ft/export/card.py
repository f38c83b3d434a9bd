"""The model card: what the model came from and what was measured; counts and losses only, never a line of the data."""

from typing import Any

import yaml


def model_card(facts: dict[str, Any]) -> str:
    """README.md of an exported model, with the front matter that the Hub reads.

    Args:
        facts: `name`, `licence`, `base` (None for random weights), `base_on_hub`, `context`, `dtype`, `parts` (the
            finished parts), `data` (rows and characters by split and kind), `tokens`, `certificate`, `receipts`
            (path to ok), `version`.

    Returns:
        Markdown.
    """
    front: dict[str, Any] = {
        "license": facts["licence"],
        "language": ["ru"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["shridhar_ft", "long-context"],
    }
    if facts["base_on_hub"]:
        front["base_model"] = facts["base"]
    held = sum(facts["receipts"].values())
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {facts['name']}",
        "",
        f"A causal language model with a window of {facts['context']:,} tokens, trained with shridhar_ft "
        f"{facts['version']} from {facts['base'] or 'random weights (model.from_config)'}. "
        f"Weights are {facts['dtype']}.",
        "",
        "## Data",
        "",
        "| split | rows of books | rows of dialogues | tokens of books | tokens of dialogues |",
        "|---|---|---|---|---|",
        *(
            f"| {split} | {facts['data'][split]['books']:,} | {facts['data'][split]['dialogues']:,} | "
            f"{facts['tokens'][split]['books']:,} | {facts['tokens'][split]['dialogues']:,} |"
            for split in ("train", "validation", "test")
        ),
        "",
        "## Training",
        "",
        "| part | method | window | steps | validation loss before | after |",
        "|---|---|---|---|---|---|",
        *(
            f"| {part['part']} | {part['method']} | {part['context']:,} | {part['steps']:,} | "
            f"{_loss(part['loss_before'])} | {_loss(part['loss_after'])} |"
            for part in facts["parts"]
            if "method" in part
        ),
        "",
        "Losses are nats a token, each part at its own window; they compare only within one row.",
        "",
        "## Receipts",
        "",
        f"{held} of {len(facts['receipts'])} receipts hold. The merge certificate compares the trained, merged and "
        f"reloaded models over {facts['certificate']['measured']['tokens']:,} tokens: largest difference of a logit "
        f"{facts['certificate']['measured']['reloaded']['largest_logit_difference']:.2e}.",
        "",
        "## Limits",
        "",
        "A low loss at the full window does not show that the whole window is used. What the model says is learned "
        "from its books and dialogues and was reviewed by nobody; it can be wrong, and it can repeat what it read.",
        "",
    ]
    return "\n".join(lines)


def _loss(losses: dict[str, float | None]) -> str:
    value = losses.get("validation")
    return "–" if value is None else f"{value:.4f}"
