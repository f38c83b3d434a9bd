"""A failed allocation: one sentence with the smallest change that helps, in the order of what it costs."""

import pytest
import torch
from transformers import LlamaConfig

from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import OutOfMemory
from shridhar_ft.out_of_memory import memory_errors, smallest_change
from shridhar_ft.plan.levers import Levers

CONFIG = LlamaConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
CPU = torch.device("cpu")
ALL = ("tiled_mlp", "checkpointing", "offload_disk", "recompute_attention")


def change(levers: tuple = (), **tuning: object) -> str:
    return smallest_change(Tuning(**tuning), 4096, Levers(levers), False, CONFIG, CPU)


def test_exact_levers_come_first_then_the_batch_then_the_context() -> None:
    assert change().startswith("set memory to [tiled_mlp], which saves about ")
    assert change(("tiled_mlp",)).startswith("set memory to [tiled_mlp, checkpointing], which saves about ")
    half = change(ALL, batch_size=4)
    assert half.startswith("set batch_size to 2 and gradient_accumulation to 2, the same windows a step (--allow batch")
    assert change(ALL, batch_size=3).startswith("set batch_size to 1 and gradient_accumulation to 3")
    assert change(ALL, batch_size=5).startswith("set batch_size to 2 (--allow batch_size,gradient_accumulation)")
    assert change(ALL).startswith("halve the context to 2,048, which saves about ")


@pytest.mark.parametrize("how", ["torch", "python", "cuda"])
def test_every_kind_of_failed_allocation_is_told(how: str) -> None:
    def allocate() -> None:
        if how == "torch":
            torch.empty(1 << 60, dtype=torch.uint8)
        if how == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        bytearray(1 << 60)

    with pytest.raises(OutOfMemory) as told, memory_errors("sft", Tuning(), 4096, Levers(), False, CONFIG, CPU):
        allocate()
    sentence = str(told.value)
    assert told.value.status == 2 and sentence.startswith(
        "sft: out of memory with windows of 4,096 tokens, batch_size 1"
    )
    assert "levers none, at a peak of " in sentence and "set memory to [tiled_mlp]" in sentence


def test_other_errors_go_on_their_way() -> None:
    with (
        pytest.raises(RuntimeError, match="size mismatch"),
        memory_errors("sft", Tuning(), 64, Levers(), False, CONFIG, CPU),
    ):
        raise RuntimeError("size mismatch")
