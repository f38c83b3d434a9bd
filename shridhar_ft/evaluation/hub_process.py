"""Runs tasks of lm-evaluation-harness at one length: python -m shridhar_ft.evaluation.hub_process ASKED SAID.

The requests are built first, and `max_length` is the longest prompt and answer among them: the harness would cut what
is longer from the left, with a warning only.
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shridhar_ft.evaluation.materials import Unmeasured

BY_DEFAULT = 256  # tokens that the harness lets a model say where a task names no number


@dataclass(frozen=True)
class Harnessed:
    """What the harness did."""

    model: Any
    """Its HFLM."""
    tasks: dict[str, Any]
    """Its tasks by name."""
    found: dict[str, Any]
    """What `simple_evaluate` returned."""
    max_length: int
    """Tokens of the longest prompt and answer."""


def longest(requests: list[Any], tokenizer: Any) -> int:  # noqa: ANN401 - the harness's and transformers'
    """Tokens of the longest prompt with all that may be said after it."""
    most = 0
    for request in requests:
        before, then = request.args[0], request.args[1] if len(request.args) > 1 else ""
        said = then.get("max_gen_toks", BY_DEFAULT) if isinstance(then, dict) else len(tokenizer(then).input_ids)
        most = max(most, len(tokenizer(before).input_ids) + said)
    return most


def run(asked: dict[str, Any], samples: bool = False) -> Harnessed:
    """Load the tasks at one length, prove that their prompts fit, and let the harness measure.

    Args:
        asked: `model` (folder), `tasks`, `length` (tokens), `limit`, `seed`, `window` (tokens).
        samples: Keep each item's prompt, answer and score.

    Raises:
        Unmeasured: A package or data is absent, a task unknown, a prompt too long.
    """
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    random.seed(asked["seed"])  # RULER draws its words and numbers as a task is loaded
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    manager = TaskManager(metadata={"pretrained": asked["model"], "max_seq_lengths": [asked["length"]]})
    try:
        tasks = manager.load(asked["tasks"])["tasks"]
    except ImportError as error:
        raise Unmeasured(
            f"a package of its own is absent ({error.name or error}); pip install 'lm_eval[ruler]'"
        ) from error
    except KeyError as error:
        raise Unmeasured(f"{error.args[0]}; see `lm_eval ls tasks`") from error
    except (OSError, ConnectionError, ValueError) as error:
        raise Unmeasured(f"its data did not come ({type(error).__name__}): is the Hub reached?") from error
    requests = []
    for task in tasks.values():
        task.build_all_requests(limit=asked["limit"])
        requests += task.instances
    needed = longest(requests, tokenizer)
    if needed > asked["window"]:
        raise Unmeasured(f"a prompt and its answer take {needed} tokens and the window has {asked['window']}")
    # The harness's own default is CUDA, there or not.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(pretrained=asked["model"], max_length=needed, device=device)
    # The tasks themselves, not their names: loaded anew, RULER would draw other prompts, some of them longer.
    found = simple_evaluate(
        model,
        tasks=[*tasks.values()],
        task_manager=manager,
        limit=asked["limit"],
        bootstrap_iters=0,
        log_samples=samples,
    )
    if (asked_for := longest([one for task in tasks.values() for one in task.instances], tokenizer)) > needed:
        raise Unmeasured(f"the harness asked for {asked_for} tokens where {needed} were counted")
    return Harnessed(model, tasks, found, needed)


def main(asked_file: str, said_file: str) -> int:
    """Exit status 0 with numbers in the second file, 1 with a sentence."""
    asked = json.loads(Path(asked_file).read_text(encoding="utf-8"))
    try:
        done = run(asked)
    except Unmeasured as error:
        print(error, file=sys.stderr)
        return 1
    said = {}
    for name in done.tasks:
        values = {key.partition(",")[0]: value for key, value in done.found["results"][name].items()}
        any_value = next((v for v in values.values() if isinstance(v, float) and v >= 0), None)
        value = values.get(str(asked["length"]), any_value)
        if value is not None:
            said[name] = {"value": float(value), "n": done.found["n-samples"][name]["effective"]}
    Path(said_file).write_text(json.dumps({"tasks": said, "max_length": done.max_length}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
