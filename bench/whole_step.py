"""One training step of a model on one window, layer by layer, going on where it was stopped: for steps that take hours.

    python bench/whole_step.py /some/folder --tokens 108000

Everything is the library's own: attention, tiled MLP, loss head, optimizer, receipts. Only checkpointing is replaced: a
layer's input, attention output and gradients go to files, and each finished layer counts as done. So the step survives
any number of stops; its seconds are the sum over its layers, its peak memory the largest of all its processes.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shridhar_ft.config import Model, Recipe
from shridhar_ft.config_training import Tuning
from shridhar_ft.model.attention import choose_attention
from shridhar_ft.model.boundaries import boundaries
from shridhar_ft.model.build import build_model, stage_config
from shridhar_ft.model.isolation import probe_isolation
from shridhar_ft.model.kept_attention import KeptAttention
from shridhar_ft.model.loss import add_loss_head
from shridhar_ft.model.memory import apply_levers
from shridhar_ft.model.optimizers import make_optimizer
from shridhar_ft.model.rope import check_rope, copied
from shridhar_ft.plan.levers import Levers
from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

VOCABULARY = 50_000


class Journal:
    """What is done of the step: a file of tensors and its seconds for each finished piece."""

    def __init__(self, folder: Path, work: dict[str, int]) -> None:
        """
        Args:
            folder: Where the pieces are kept.
            work: What the step is of; pieces of another are refused.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "work.json"
        if file.is_file() and json.loads(file.read_text()) != work:
            sys.exit(f"whole_step.py: {folder} holds pieces of another step ({file.read_text()}); name another folder")
        file.write_text(json.dumps(work))

    def do(self, name: str, work: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of a piece: from its file, or made now and kept."""
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            started = time.perf_counter()
            tensors = {key: tensor.detach().contiguous() for key, tensor in work().items()}
            seconds = time.perf_counter() - started
            save_file(tensors, file.with_suffix(".part"), {"seconds": f"{seconds:.3f}"})
            file.with_suffix(".part").rename(file)
            self.note(name, seconds)
            print(f"{name}: {seconds:,.1f} s, peak {peak_rss_bytes() / 2**30:.2f} GiB", flush=True)
            return tensors
        return load_file(file)

    def note(self, name: str, seconds: float) -> None:
        """Book the seconds of a piece and the memory so far."""
        booked = self.booked()
        booked["seconds"][name] = seconds
        booked["peak_rss_bytes"] = max(booked["peak_rss_bytes"], peak_rss_bytes())
        file = self.folder / "booked.json"
        file.with_suffix(".part").write_text(json.dumps(booked, indent=1))
        file.with_suffix(".part").rename(file)

    def booked(self) -> dict[str, Any]:
        file = self.folder / "booked.json"
        return json.loads(file.read_text()) if file.is_file() else {"seconds": {}, "peak_rss_bytes": 0}


class _Layer(torch.autograd.Function):
    """A decoder layer whose pieces are journalled; nothing of it stays in memory between its two passes."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,  # noqa: ANN401
        hidden: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor], name: str, journal: Journal,
        *weights: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        ctx.run, ctx.name, ctx.journal, ctx.weights = run, name, journal, weights

        def first() -> dict[str, torch.Tensor]:
            kept = KeptAttention()
            with torch.no_grad(), kept.first():
                out = run(hidden)
            attention = {f"kept{i}.{part}": t for i, call in enumerate(kept.calls) for part, t in enumerate(call)}
            return {"in": hidden, "out": out, **attention}

        return journal.do(f"forward-{name}", first)["out"]

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> Any:  # type: ignore[override]  # noqa: ANN401
        def again() -> dict[str, torch.Tensor]:
            held = load_file(ctx.journal.folder / f"forward-{ctx.name}.safetensors")
            hidden = held.pop("in").requires_grad_()
            del held["out"]
            kept = KeptAttention()
            for call in range(len(held) // 2):
                kept.keep(held.pop(f"kept{call}.0"), held.pop(f"kept{call}.1"))
            with torch.enable_grad(), kept.again():
                out = ctx.run(hidden)
            found = torch.autograd.grad(out, [hidden, *ctx.weights], above)
            return {str(place): gradient for place, gradient in enumerate(found)}

        found = ctx.journal.do(f"backward-{ctx.name}", again)
        gradients = [found[str(place)] for place in range(len(found))]
        return gradients[0], None, None, None, *gradients[1:]


def journalled(layer: torch.nn.Module, name: str, journal: Journal) -> None:
    """Make every call of a decoder layer go through the journal."""
    own = layer.forward
    weights = [parameter for parameter in layer.parameters() if parameter.requires_grad]

    def forward(hidden: torch.Tensor, **rest: Any) -> torch.Tensor:  # noqa: ANN401
        return _Layer.apply(hidden, lambda given: own(given, **rest), name, journal, *weights)

    layer.forward = forward


@contextmanager
def timed(journal: Journal, name: str) -> Any:  # noqa: ANN401
    """Book the seconds of what is done inside, which is short and done again after a stop."""
    started = time.perf_counter()
    yield
    journal.note(name, time.perf_counter() - started)


def the_recipe(tokens: int, kv_heads: int) -> Recipe:
    """The plan's model, at the last length of its curriculum."""
    sizes = {
        "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": kv_heads, "tie_word_embeddings": True,
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": "step", "data": {"books": {"paths": "."}}, "tokenizer": {"train": {"vocab_size": VOCABULARY}},
            "model": {"from_config": sizes},
            "stages": [{"name": "8k", "context": 8192}, {"name": "far", "context": tokens, "rope": {"type": "yarn"}}],
        }
    )  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument(
        "folder", type=Path, help="where the finished pieces are kept (about 1.1 MB a layer and 1,000 tokens)"
    )
    ask.add_argument("--tokens", type=int, default=108_000, help="length of the window")
    ask.add_argument("--kv-heads", type=int, default=16, help="key/value heads")
    given = ask.parse_args()
    begin_peak_rss()
    journal = Journal(given.folder, {"tokens": given.tokens, "kv_heads": given.kv_heads})
    recipe = the_recipe(given.tokens, given.kv_heads)
    device = torch.device("cpu")
    config, _ = stage_config(recipe, -1, VOCABULARY)
    claimed = copied(config)
    attention = choose_attention(Model(from_config=recipe.model.from_config), config, device)
    print(attention.why)
    model = build_model(config, recipe.seed, attention.implementation)
    tuning = Tuning(memory=["tiled_mlp"])
    levers = Levers(("tiled_mlp",))
    apply_levers(model, levers, given.folder, False)
    for name, found in (
        ("rope", check_rope(model, claimed, given.tokens)),
        ("isolation", probe_isolation(model, VOCABULARY, given.tokens)),
    ):
        print(f"{name} receipt: {'ok' if found[2] else f'DOES NOT HOLD {found[1]}'}")
        assert found[2], name
    add_loss_head(model)
    for number, layer in enumerate(model.model.layers):
        journalled(layer, f"{number:02}", journal)
    optimizer = make_optimizer([{"params": list(model.parameters()), "weight_decay": 0.1}], tuning, levers)
    ids = torch.randint(VOCABULARY, (1, given.tokens), generator=torch.Generator().manual_seed(108))
    before = peak_rss_bytes()
    forward = partial(model, input_ids=ids, labels=ids, position_ids=torch.arange(given.tokens)[None], use_cache=False)
    loss = forward(**boundaries([[given.tokens]]), fused_lm_head=True).loss
    loss.backward()
    with timed(journal, "update"):
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), tuning.max_grad_norm)
        optimizer.step()
    booked = journal.booked()
    done = {
        "tokens": given.tokens, "loss": float(loss), "gradient_norm": float(norm),
        "seconds_of_layers_and_update": sum(booked["seconds"].values()),
        "peak_rss_gib": booked["peak_rss_bytes"] / 2**30, "before_step_gib": before / 2**30,
    }  # fmt: skip
    (given.folder / "done.json").write_text(json.dumps(done, indent=1))
    print(json.dumps(done, indent=1))
    if not (math.isfinite(done["loss"]) and math.isfinite(done["gradient_norm"])):
        sys.exit(65)


if __name__ == "__main__":
    main()
