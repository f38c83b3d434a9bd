"""How lm-evaluation-harness judges these tasks: by the rules of `shridhar-ft eval`, and with no prompt cut."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from shridhar_ft.evaluation.needles import is_right
from shridhar_ft.evaluation.ru_pairs import OWN, macro_share, paradigms_of, won

Doc = dict[str, Any]


class Fitting(ConfigurableTask):
    """A task that refuses a `max_length` below its longest prompt: the harness cuts such a one with a warning only."""

    def __init__(self, config: Doc) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def build_all_requests(self, **asked: Any) -> None:  # noqa: ANN401 - the harness's own
        longest = max(doc["tokens"] + doc["room"] for doc in self.test_docs())
        held = (self.config.metadata or {}).get("max_length")
        if held is None or int(held) < longest:
            raise ValueError(
                f"{self.config.task}: its longest prompt and answer take {longest} tokens, and max_length is "
                f"{held or 'not given'}; give --model_args …,max_length={longest} or more"
            )
        super().build_all_requests(**asked)


class Needles(Fitting):
    """Lets the model say as many tokens after each prompt as `shridhar-ft eval` does."""

    def construct_requests(self, doc: Doc, ctx: str, **how: Any) -> Any:  # noqa: ANN401 - the harness's own
        request = super().construct_requests(doc, ctx, **how)
        request.arguments[1]["max_gen_toks"] = doc["room"]
        return request


def needle(doc: Doc, said: Sequence[str]) -> dict[str, float]:
    """Whether the answer stands at the beginning of what was said."""
    return {"right": float(is_right(said[0], doc["answer"]))}


def terms(doc: Doc, found: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Whether the true term gains most over being said alone."""
    logs = [log for log, _ in found]
    half = len(logs) // 2
    gains = [whole - alone for whole, alone in zip(logs[:half], logs[half:], strict=True)]
    return {"right": float(gains.index(max(gains)) == 0)}


def pairs(doc: Doc, found: Sequence[tuple[float, bool]]) -> dict[str, Doc]:
    """Whether the grammatical sentence is the likelier, under the name of its set."""
    (good, _), (bad, _) = found
    row = {"set": doc["set"], "paradigm": doc["paradigm"], "sum": won(-bad, -good)}
    return {"own_pairs" if doc["set"] == OWN else "rublimp": row}


def mean_of_paradigms(rows: Sequence[Doc]) -> float:
    """Mean over the paradigms of a set, each weighing alike."""
    which = rows[0]["set"]
    return macro_share(rows, which, "sum", paradigms_of(rows, which))
