"""How this process joins the others that train with it, and leaves them; and what they must not change for good.

DeepSpeed on a CPU has to be started by hand: accelerate turns to it on GPUs only. And both it and transformers keep
switches of the whole process, which the next part, or the next model, would trip over.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from shridhar_ft.engines import DEEPSPEED_FILE, Engine, found_deepspeed_file
from shridhar_ft.errors import UserError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState


def launched() -> Engine:
    """What started this process; DeepSpeed's settings, named from the root of a checkout, are found from anywhere.

    Raises:
        UserError: They are not where they were named, nor among the shipped ones.
    """
    if named := os.environ.get(DEEPSPEED_FILE):
        os.environ[DEEPSPEED_FILE] = str(found_deepspeed_file(named))
    return Engine.of_process()


def device_type(engine: Engine) -> str:
    """Type of the device that this process will train on."""
    import torch

    if engine.cpu or not torch.accelerator.is_available():
        return "cpu"
    found = torch.accelerator.current_accelerator()
    # DeepSpeed trains on Apple's chips by their CPU.
    return "cpu" if found is None or (engine.deepspeed and found.type == "mps") else found.type


def join(engine: Engine) -> "PartialState":
    """Start what this process exchanges with the others, and say how many came up.

    Raises:
        UserError: DeepSpeed is asked for and not installed, or its settings are not where they were named.
    """
    from accelerate import PartialState

    on_cpu = device_type(engine) == "cpu"
    if engine.deepspeed:
        need_deepspeed()
        os.environ.pop("ACCELERATE_USE_CPU", None)  # with it, accelerate silently leaves DeepSpeed out
        if on_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
            import deepspeed

            # An all-reduce through shared memory for inference: nothing here calls it, and compiling it takes minutes.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            # Before accelerate's own: it would start torch's, which DeepSpeed then takes for a GPU's.
            deepspeed.init_distributed("gloo")
    # Without `cpu`, accelerate takes every CPU process for the only one until a Trainer is built; its launcher sets
    # the flag for some configurations only.
    return PartialState(cpu=on_cpu)


def need_deepspeed() -> None:
    """Refuse to go on without DeepSpeed.

    Raises:
        UserError: It is not installed.
    """
    if find_spec("deepspeed") is None:
        raise UserError(
            "launch.config needs DeepSpeed, which is not installed; pip install 'shridhar_ft[deepspeed]', or take "
            "another config"
        )


def part_company(agreed: bool) -> None:
    """End the exchange with the others; left open, DeepSpeed's aborts the process when Python ends.

    Args:
        agreed: Whether all of them end here. NCCL waits for the others, and one that failed alone must not.
    """
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    if agreed or torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def build_whole_models() -> None:
    """Let models be built and loaded whole on each process again, after a trainer under ZeRO-3.

    transformers splits every model from then on as it is made: hashes, receipts and probes of it would see nothing.
    The engine splits it when it has been looked at. The next trainer switches it on again.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


@contextmanager
def shared_attention(engine: Engine) -> Iterator["SharedAttention | None"]:
    """What Ulysses puts in the place of transformers' attention, for one part; afterwards it is as it was."""
    if engine.sequence == 1:
        yield None
        return
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    parallel_state_sp._release_sequence_parallel_groups()  # of the part before; DeepSpeed refuses to make them twice
    plain = ALL_ATTENTION_FUNCTIONS[engine.attention]
    try:
        yield SharedAttention(engine.attention, plain)
    finally:
        ALL_ATTENTION_FUNCTIONS[engine.attention] = plain


class SharedAttention:
    """Ulysses in training, transformers' own attention in evaluation, where each process reads windows of its own.

    DeepSpeed's function drops the attention mask in both, and with it the documents' boundaries.
    """

    def __init__(self, name: str, plain: Any) -> None:  # noqa: ANN401 - transformers' attention function
        self.name, self.plain = name, plain

    def only_in_training(self) -> None:
        """Call it when the engine has put its function in place."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        shared, plain = ALL_ATTENTION_FUNCTIONS[self.name], self.plain
        assert shared is not plain, "Ulysses is not in place"

        def attend(module: "torch.nn.Module", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            return (shared if module.training else plain)(module, *args, **kwargs)

        ALL_ATTENTION_FUNCTIONS[self.name] = attend
