"""The model card: what the model came from and what was measured; counts and losses only, never a line of the data."""

from typing import Any

import yaml

from shridhar_ft.data.split import SPLITS
from shridhar_ft.score_table import HEAD, score_cells

EVALUATION = "## Evaluation"
UNKNOWN = "Not known: trained outside a run"
HERE = "In this folder:"
MODEL = "./model"
MOST_SOURCES = 50  # rows of the table of sources; a dump can have hundreds of files
# huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = frozenset(
    (
        *(
            "apache-2.0",
            "mit",
            "openrail",
            "bigscience-openrail-m",
            "creativeml-openrail-m",
            "bigscience-bloom-rail-1.0",
        ),
        *("bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
        *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0"),
        *("etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1"),
        *("lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr"),
        *("mpl-2.0", "odc-by", "odbl", "openmdw-1.0", "openmdw-1.1", "openrail++", "osl-3.0", "postgresql", "ofl-1.1"),
        *("ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "gemma", "grok2-community"),
        *("fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
        *("unknown", "other"),
    )
)


def model_card(facts: dict[str, Any]) -> str:
    """README.md of an exported model, with the front matter that the Hub reads.

    Args:
        facts: `name`, `licence`, `languages`, `base` (None for random weights), `base_on_hub`, `context`, `dtype`,
            `parts` (the finished parts), `data` (rows and characters by split and kind), `sources` (kind, name, rows of
            each), `data_licences` (by source or kind), `tokens`, `certificate`, `receipts` (path to ok), `evaluation`
            (results.json of this very model, or None), `serve` (commands by server), `ollama`, `version`.

    Returns:
        Markdown.
    """
    held = sum(facts["receipts"].values())
    return "\n".join(
        [
            *_head(facts),
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
            *_sources(facts["sources"], facts["data_licences"]),
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


def adapter_card(facts: dict[str, Any]) -> str:
    """README.md of an adapter that was merged outside any run: what is known of it, and that the rest is not.

    Args:
        facts: `name`, `licence`, `languages`, `base`, `base_on_hub`, `context`, `dtype`, `adapter` (what its config
            says of its kind), `data_licences`, `certificate`, `serve`, `ollama`, `version`: as for `model_card`.

    Returns:
        Markdown.
    """
    return "\n".join(
        [
            *_head(facts),
            f"The adapter {facts['name']} ({facts['adapter']}), merged onto {facts['base']} with shridhar_ft "
            f"{facts['version']}. Weights are {facts['dtype']}.",
            "",
            "## Data",
            "",
            f"{UNKNOWN}.",
            "",
            *(f"- {source}: {licence}" for source, licence in facts["data_licences"].items()),
            *([""] if facts["data_licences"] else []),
            "## Training",
            "",
            f"{UNKNOWN}.",
            "",
            "## Receipts",
            "",
            f"{UNKNOWN}; the merge certificate alone was made here.",
            "",
            *_certificate(facts["certificate"]),
            EVALUATION,
            "",
            f"{UNKNOWN}; nothing was measured here.",
            "",
            *_serving(facts["serve"], facts["ollama"], facts["name"]),
            "## Limits",
            "",
            f"{UNKNOWN}: neither what it learned from nor how long its texts were. The certificate covers "
            f"{facts['context']:,} tokens. What the model says was reviewed by nobody here.",
            "",
        ]
    )


def for_hub(card: str, repository: str) -> str:
    """A card as it stands on the Hub: its commands name the repository instead of folders beside the card."""
    return card.replace(HERE, f"By name, or from a copy (`hf download {repository} --local-dir .`):").replace(
        MODEL, repository
    )


def _head(facts: dict[str, Any]) -> list[str]:
    front: dict[str, Any] = {
        **licence_lines(facts["licence"]),
        "language": facts["languages"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["shridhar_ft", "long-context"],
    }
    if facts["base_on_hub"]:
        front["base_model"] = facts["base"]
    written = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()
    return ["---", written, "---", "", f"# {facts['name']}", ""]


def licence_lines(licence: str) -> dict[str, str]:
    """The licence in front matter: the Hub takes its own ids only, and every other one by its name."""
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _sources(sources: list[tuple[str, str, int]], licences: dict[str, str]) -> list[str]:
    """A table of the data's sources; a licence is stated by the name of a source, or of its kind."""
    rows = [
        (source, kind, rows, licences.get(source) or licences.get(kind) or "not stated")
        for kind, source, rows in sources
    ]
    shown, rest = rows[:MOST_SOURCES], rows[MOST_SOURCES:]
    lines = [
        "| source | kind | rows | licence |",
        "|---|---|---|---|",
        *(_row(source, kind, f"{rows:,}", licence) for source, kind, rows, licence in shown),
    ]
    for licence in dict.fromkeys(row[3] for row in rest):
        of_it = [row for row in rest if row[3] == licence]
        lines.append(f"| {len(of_it):,} further ones | | {sum(row[2] for row in of_it):,} | {licence} |")
    named = {name for row in rows for name in row[:2]}
    stated = [f"- {source}: {licence}" for source, licence in licences.items() if source not in named]
    return [*lines, "", *stated, *([""] if stated else [])]


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
        *(_row(*row) for row in rows),
        "",
        *(f"- {score['name']}: {score['target']}" for score in results["scores"] if score["target"]),
        *(f"- not measured: {task}: {why}" for task, why in results["unmeasured"].items()),
        "",
    ]


def _row(*cells: str) -> str:
    """A row of a table in Markdown, in which a bar would begin another cell."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _serving(commands: dict[str, str], ollama: bool, name: str) -> list[str]:
    lines = ["## Serving", "", HERE, ""]
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
