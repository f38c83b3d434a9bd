"""The model card: what the model came from and what was measured; counts and losses only, never a line of the data."""

from typing import Any

import yaml

from shridhar_ft.data.split import SPLITS
from shridhar_ft.score_table import HEAD, score_cells

EVALUATION = "## Evaluation"


def model_card(facts: dict[str, Any]) -> str:
    """README.md of an exported model, with the front matter that the Hub reads.

    Args:
        facts: `name`, `licence`, `base` (None for random weights), `base_on_hub`, `context`, `dtype`, `parts` (the
            finished parts), `data` (rows and characters by split and kind), `data_licences` (by source), `tokens`,
            `certificate`, `receipts` (path to ok), `evaluation` (results.json of this very model, or None), `serve`
            (commands by server), `ollama`, `version`.

    Returns:
        Markdown.
    """
    held = sum(facts["receipts"].values())
    return "\n".join(
        [
            *_head(facts["name"], facts["licence"], facts["base"] if facts["base_on_hub"] else None),
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
                for split in SPLITS
            ),
            "",
            *_data_licences(facts["data_licences"]),
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
            f"{held} of {len(facts['receipts'])} receipts hold.",
            "",
            *_certificate(facts["certificate"]),
            *_evaluation(facts["evaluation"]),
            *_serving(facts["serve"], facts["ollama"], facts["name"]),
            "## Limits",
            "",
            "A low loss at the full window does not show that the whole window is used. What the model says is learned "
            "from its books and dialogues and was reviewed by nobody; it can be wrong, and it can repeat what it read.",
            "",
        ]
    )


def with_evaluation(card: str, results: dict[str, Any]) -> str:
    """A run's card with the section on its evaluation made anew from `results` (what results.json holds)."""
    head, _, rest = card.partition(f"{EVALUATION}\n")
    _, following, tail = rest.partition("\n## ")
    return head + "\n".join(_evaluation(results)) + following + tail


def adapter_card(name: str, base: str, licence: str, serve: dict[str, str], certificate: dict[str, Any]) -> str:
    """README.md of an adapter that was merged outside any run: what is known of it.

    Args:
        name: Of the adapter.
        base: Folder or Hub id.
        licence: As the Hub names it.
        serve: Commands by server.
        certificate: The merge certificate.
    """
    return "\n".join(
        [
            *_head(name, licence, base if base.count("/") == 1 and not base.startswith((".", "/")) else None),
            f"The adapter {name}, merged onto {base}.",
            "",
            *_certificate(certificate),
            *_serving(serve, False, name),
        ]
    )


def _head(name: str, licence: str, base: str | None) -> list[str]:
    front: dict[str, Any] = {
        "license": licence,
        "language": ["ru"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["shridhar_ft", "long-context"],
    }
    if base is not None:
        front["base_model"] = base
    return ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "", f"# {name}", ""]


def _data_licences(licences: dict[str, str]) -> list[str]:
    if not licences:
        return ["The licences of the data are not stated (export.data_licences in the recipe).", ""]
    return [*(f"- {source}: {licence}" for source, licence in licences.items()), ""]


def _certificate(certificate: dict[str, Any]) -> list[str]:
    """What the merge certificate found of each artefact, as a table."""
    measured = certificate["measured"]
    lines = [
        f"The merge certificate reads {measured['tokens']:,} tokens with each artefact and compares their logits with "
        "those of the trained model, near the start, at the original context and at the full one:",
        "",
        "| artefact | largest difference of a logit | mean KL divergence, nats a position |",
        "|---|---|---|",
        *(
            f"| {name} | {found['largest_logit_difference']:.2e} | {found['mean_kl_nats']:.2e} |"
            for name, found in measured.items()
            if isinstance(found, dict) and "mean_kl_nats" in found
        ),
        "",
    ]
    if skipped := certificate["claimed"].get("not_read"):
        lines += [f"Not read by anything: GGUF {', '.join(skipped)}.", ""]
    return lines


def _evaluation(results: dict[str, Any] | None) -> list[str]:
    """Every score with its interval, items, floor and ceiling; what was not measured is named with the reason."""
    if results is None:
        return [EVALUATION, "", "Not measured yet; `shridhar-ft eval` on the run writes its scores here.", ""]
    rows = (HEAD, ("---",) * len(HEAD), *(score_cells(score) for score in results["scores"]))
    return [
        EVALUATION,
        "",
        f"Measured {results['at'][:10]} on held-out text by `shridhar-ft eval`, in a window of {results['window']:,} "
        f"tokens, seed {results['seed']}. A floor is what knows nothing, or the base, reaches; a ceiling what the "
        "author's own text reaches.",
        "",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
        "",
        *(f"- {score['name']}: {score['target']}" for score in results["scores"] if score["target"]),
        *(f"- not measured: {task}: {why}" for task, why in results["unmeasured"].items()),
        "",
    ]


def _serving(commands: dict[str, str], ollama: bool, name: str) -> list[str]:
    lines = ["## Serving", "", "In this folder:", ""]
    for server, command in commands.items():
        lines += [f"{server}:", "", "```", command, "```", ""]
    if ollama:
        lines += [
            "Ollama:",
            "",
            "```",
            f"ollama create {name.lower()} -f Modelfile",
            f"ollama run {name.lower()}",
            "```",
            "",
        ]
    return lines


def _loss(losses: dict[str, float | None]) -> str:
    value = losses.get("validation")
    return "–" if value is None else f"{value:.4f}"
