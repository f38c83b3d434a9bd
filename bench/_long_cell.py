"""One cell of a long-context measurement, in a process of its own: one trainer, one length, a few steps.

Every side trains the same window from the same weights with AdamW, a constant learning rate and clipped gradients,
through its own trainer's train(); what differs is what each trainer does by itself.
"""

import gc
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from _long_work import SEED, Work, machine_rates
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from shridhar_ft.adapters import attach
from shridhar_ft.config_training import Tuning
from shridhar_ft.model.build import build_model
from shridhar_ft.runfolder import begin_peak_rss, peak_rss_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAD = 0
ALIKE = {"learning_rate": 1e-4, "lr_scheduler_type": "constant", "logging_steps": 1, "report_to": [], "seed": SEED}
ALIKE |= {"save_strategy": "no", "disable_tqdm": True, "logging_nan_inf_filter": False}
ALIKE |= {"use_cpu": not (torch.cuda.is_available() or torch.backends.mps.is_available())}


def run_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Measure one cell.

    Args:
        cell: As `long_context.py` makes it.

    Returns:
        Seconds, CPU seconds, losses and gradient norms by step; memory in bytes; what the side did by itself, in words.
    """
    if cell["who"] == "ours":
        from shridhar_ft.allocator import keep_memory_low

        keep_memory_low()  # before the first tensor, as the library's own entries do
    device = PartialState().device
    work = Work(cell["model"], cell["method"], tuple(cell["documents"]))
    if cell["who"] == "machine":
        return {
            "rates": machine_rates(work.model_config(), cell["dtype"].split(","), device),
            "threads": torch.get_num_threads(),
        }
    with tempfile.TemporaryDirectory(prefix="bench-long-") as folder:
        trainer, facts = SIDES[cell["who"]](cell, work, Path(folder))
        check_batch(next(iter(trainer.get_train_dataloader())), work)
        watch = Watch(device)
        trainer.add_callback(watch)
        trainer.train()
        return {**facts, **watch.measured, "held": held(trainer), "threads": torch.get_num_threads()}


class Watch(TrainerCallback):
    """Times every step, from before its forward pass to after its update, and its memory."""

    def __init__(self, device: torch.device) -> None:
        self.kind = device.type
        self.measured: dict[str, Any] = {
            "seconds": [], "cpu": [], "before": [], "loss": [], "grad_norm": [],
        }  # fmt: skip
        self.started = self.cpu_started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if not self.measured["before"]:
            gc.collect()
            self.measured["peak_loading"] = self._peak()
            torch.cuda.reset_peak_memory_stats() if self.kind == "cuda" else begin_peak_rss()
        self.measured["before"].append(
            torch.cuda.memory_allocated() if self.kind == "cuda" else psutil.Process().memory_info().rss
        )
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if self.kind != "cpu":
            torch.accelerator.synchronize()
        self.measured["seconds"].append(time.perf_counter() - self.started)
        self.measured["cpu"].append(time.process_time() - self.cpu_started)
        self.measured["peak"] = self._peak()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:  # noqa: ANN401
        if "grad_norm" in logs:
            self.measured["loss"].append(logs["loss"])
            self.measured["grad_norm"].append(logs["grad_norm"])

    def _peak(self) -> int:
        """Bytes: of the GPU on CUDA; of the process elsewhere, which on Apple silicon holds what Metal allotted too."""
        return torch.cuda.max_memory_allocated() if self.kind == "cuda" else peak_rss_bytes()


def held(trainer: Trainer) -> int:
    """Bytes of gradients and optimizer state, which a step makes and which do not grow with its length."""
    gradients = sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    states = trainer.optimizer.state.values()
    return gradients + sum(v.nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor))


def check_batch(batch: dict[str, torch.Tensor], work: Work) -> None:
    """Refuse a batch that is not the work: other tokens, other documents, another number of learned tokens."""
    ids, labels = batch["input_ids"], batch["labels"]
    assert ids.shape == (1, work.length), f"the batch is {tuple(ids.shape)}, not (1, {work.length})"
    assert int(ids.sum()) == sum(int(part.sum()) for part in work.ids()), "the batch holds other tokens"
    if "position_ids" in batch:
        opens = [*(batch["position_ids"][0] == 0).nonzero().flatten().tolist(), work.length]
        assert sorted(np.diff(opens)) == sorted(work.documents), f"the documents open at {opens}, not {work.documents}"
    else:
        assert len(work.documents) == 1, "packed, and no positions keep the documents apart"
    learned = int((labels[:, 1:] != -100).sum())
    assert learned == work.length - len(work.documents), f"{learned} tokens are learned, not all that follow another"


# ---------------------------------------------------------------------------------------------------- sides


def ours(cell: dict[str, Any], work: Work, folder: Path) -> tuple[Trainer, dict[str, Any]]:
    """This library, put together as a stage is: attention, levers, precision, trainer, loss and optimizer by choice."""
    from transformers.trainer_utils import SaveStrategy

    from shridhar_ft.arguments import arguments
    from shridhar_ft.data.windows import IGNORED
    from shridhar_ft.model.attention import choose_attention
    from shridhar_ft.model.isolation import probe_isolation
    from shridhar_ft.model.memory import apply_levers, choose_levers
    from shridhar_ft.model.rope_receipt import check_rope
    from shridhar_ft.resume import Facts
    from shridhar_ft.starting import precision
    from shridhar_ft.trainer import WindowCollator, WindowTrainer

    state = PartialState()
    tuning = Tuning(
        method=work.method,
        precision=cell["dtype"],
        memory=cell["memory"],
        memory_limit=cell["memory_limit"],
        max_steps=cell["steps"],
        learning_rate=ALIKE["learning_rate"],
        schedule="constant",
        warmup=0.0,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        log_every=1,
    )
    config = work.model_config()
    bf16, why = precision(tuning, state.device)
    attention = choose_attention(work.section(), config, state.device, half=bf16)
    model = the_model(work, attention.implementation).to(state.device)
    claimed = work.model_config()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    levers = choose_levers(tuning, config, work.length, state.device, trainable=trained)
    apply_levers(model, levers, folder / "spilled", bf16)
    base = model.get_base_model() if work.method == "lora" else model
    receipts = {"rope": check_rope(base, claimed, work.length)[2]}
    with torch.autocast(state.device.type, torch.bfloat16, enabled=bf16):
        receipts["isolation"] = probe_isolation(model, config.vocab_size, work.length)[2]
    settings = arguments(tuning, folder, work.length, 1, False, bf16, SEED, state, state.num_processes, print)
    settings.save_strategy = SaveStrategy.NO
    window = np.concatenate(work.ids())
    labels = window.copy()
    labels[np.cumsum(work.documents) - work.documents] = IGNORED
    row = {"input_ids": window, "labels": labels, "lengths": list(work.documents), "row": 0, "replayed": False}
    trainer = WindowTrainer(
        model=model,
        args=settings,
        tuning=tuning,
        levers=levers,
        window=work.length,
        train_dataset=Dataset.from_dict({key: [value] for key, value in row.items()}),
        data_collator=WindowCollator(PAD),
        processing_class=tokenizer(),
        facts=Facts.now({}, {}, 1),
        keep_checkpoints=1,
    )
    facts = {"levers": list(levers.names), "estimate": levers.after, "did": [attention.why, why], "receipts": receipts}
    return trainer, {"dtype": "bf16" if bf16 else "fp32", **facts}


def trl(cell: dict[str, Any], work: Work, folder: Path) -> tuple[Trainer, dict[str, Any]]:
    """TRL's SFTTrainer as it comes: it packs the documents itself, best fit decreasing, padding-free."""
    from trl import SFTConfig, SFTTrainer

    packed = len(work.documents) > 1
    trainer = SFTTrainer(
        model=the_model(work, "sdpa"),
        args=SFTConfig(
            output_dir=str(folder),
            max_length=work.length,
            packing=packed,
            packing_strategy="bfd",
            per_device_train_batch_size=1,
            max_steps=cell["steps"],
            bf16=cell["dtype"] == "bf16",
            **ALIKE,
        ),
        train_dataset=Dataset.from_dict({"input_ids": work.ids()}),
        processing_class=tokenizer(),
    )
    did = ["attention: SDPA", "fused head", f"gradient checkpointing {trainer.args.gradient_checkpointing}"]
    return trainer, {"dtype": cell["dtype"], "did": did + ["packing bfd, padding-free"] * packed}


def plain(cell: dict[str, Any], work: Work, folder: Path) -> tuple[Trainer, dict[str, Any]]:
    """transformers' Trainer; it does not pack, so its batch is the documents, laid end to end by its own collator."""
    from transformers import DataCollatorWithFlattening, default_data_collator

    packed = len(work.documents) > 1
    documents = work.ids()
    trainer = Trainer(
        model=the_model(work, "sdpa"),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=len(documents),
            max_steps=cell["steps"],
            bf16=cell["dtype"] == "bf16",
            gradient_checkpointing=cell["checkpointing"],
            **ALIKE,
        ),
        train_dataset=Dataset.from_dict({"input_ids": documents, "labels": documents}),
        data_collator=DataCollatorWithFlattening() if packed else default_data_collator,
    )
    did = ["attention: SDPA", "whole logits", f"gradient checkpointing {cell['checkpointing']}"]
    return trainer, {"dtype": cell["dtype"], "did": did + ["DataCollatorWithFlattening"] * packed}


SIDES = {"ours": ours, "trl": trl, "trainer": plain}


def the_model(work: Work, attention: str) -> "PreTrainedModel":
    """The same weights for every side, in fp32."""
    model: Any = build_model(work.model_config(), SEED, attention)
    model.config.pad_token_id = PAD
    if work.method == "lora":
        torch.manual_seed(SEED)
        model = attach(model, Tuning(method="lora"), grown=False)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """What a trainer asks a tokenizer for: a padding token. No text is encoded here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": PAD, "<end>": 1}, "<pad>")), pad_token="<pad>", eos_token="<end>"
    )
