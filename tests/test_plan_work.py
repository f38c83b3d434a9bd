"""Bytes that the plan counts for elementwise work, against those that torch moves in a layer of transformers."""

from math import prod
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from shridhar_ft.config_training import Tuning
from shridhar_ft.plan.calibrate import norms
from shridhar_ft.plan.layout import Layout
from shridhar_ft.plan.shapes import shape_of
from shridhar_ft.plan.sizes import sizes_of
from shridhar_ft.plan.work import IN_PLACE, step_work


class Elementwise(TorchDispatchMode):
    """Counts the bytes that kernels read and write, those of matrix products and attention aside."""

    VIEWS = ("view", "t", "transpose", "unsqueeze", "expand", "slice", "detach", "_unsafe_view")
    PRODUCTS = ("mm", "addmm", "bmm", "_scaled_dot_product")

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name not in self.VIEWS and not name.startswith(self.PRODUCTS):
            for tensor in tree_leaves((args, kwargs, made)):
                if isinstance(tensor, torch.Tensor):
                    apart = [size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
                    self.moved += tensor.element_size() * prod(apart)
        return made


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("hidden", "inside", "keys"), [(128, 256, 4), (128, 1024, 1), (256, 512, 2)])
def test_bytes_of_elementwise_work_are_those_that_torch_moves(method: str, hidden: int, inside: int, keys: int) -> None:
    window, moved, counted = 256, [], []
    for layers in (1, 3):
        sizes = {
            "hidden_size": hidden,
            "intermediate_size": inside,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": keys,
        }
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, attn_implementation="sdpa", **sizes))
        if method == "lora":
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        with Elementwise() as seen:
            found = model.get_base_model() if method == "lora" else model
            made = found.model(torch.zeros(1, window, dtype=torch.long), use_cache=False)[0]
            made.backward(torch.ones_like(made))
        counted.append(seen.moved)
        shape = shape_of({"model_type": "llama", **sizes}, 64)
        assert shape is not None
        tuning = Tuning(precision="fp32", method=method)
        work = step_work(sizes_of(shape, tuning), tuning, window, window, (), "cpu", False, Layout())
        moved.append(sum(size for tensor, size in work.moved.items() if tensor != IN_PLACE))
    assert moved[1] - moved[0] == pytest.approx(counted[1] - counted[0], rel=0.03)


def test_bytes_that_the_calibration_counts_are_those_that_torch_moves() -> None:
    counted, run = norms(64, torch.device("cpu"))
    with Elementwise() as seen:
        run()
    assert counted == pytest.approx(seen.moved, rel=0.01)
