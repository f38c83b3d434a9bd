"""What the modules of `evaluate` under eval/metrics share: how they describe themselves, and how a score answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shridhar_ft.evaluation.measures import Measure, Record, score

if TYPE_CHECKING:
    import evaluate

SEED = 108  # of the draws that intervals are made from


def described(metric: "evaluate.Metric", inputs: str, **columns: Any) -> "evaluate.MetricInfo":  # noqa: ANN401
    """What `evaluate` wants to know of a module.

    Args:
        metric: The module; its docstring says what it measures.
        inputs: What its columns hold.
        **columns: Type of each, by name: that of a value, as `datasets` calls it, or a feature.
    """
    import datasets
    import evaluate

    features = {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}
    return evaluate.MetricInfo(
        description=metric.__class__.__doc__,
        citation="",
        features=datasets.Features(features),
        inputs_description=inputs,
    )


def scored(measure: Measure, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measure of some records under its own name, with its 95 % interval and of how many."""
    rows: list[Record] = [{"key": index, **record} for index, record in enumerate(records)]
    found = score(measure, rows, SEED)
    return {measure.name: found.value, "low": found.low, "high": found.high, "n": found.n}
