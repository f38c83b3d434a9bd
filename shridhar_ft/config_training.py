"""How a recipe trains: `train`, `stages` and `sft`, and what they share.

A stage is data: its length and RoPE, what it takes over from the stage before, which windows it reads, when it stops
and what it must reach before the next one may begin.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from shridhar_ft.config_data import Section
from shridhar_ft.config_rope import Rope
from shridhar_ft.durations import Duration

Lever = Literal[
    "checkpointing",
    "tiled_mlp",
    "recompute_attention",
    "offload_host",
    "offload_disk",
    "compile",
    "adamw_8bit",
    "paged_adamw_8bit",
    "bf16_weights",
]
"""Ways to train in less memory; shridhar_ft/model/memory.py says what each saves and costs."""


class Plateau(Section):
    """Stop a part whose validation loss no longer falls."""

    evaluations: int = Field(3, ge=1)
    """Evaluations without improvement after which the part ends."""
    improvement: float = Field(0.001, ge=0)
    """How far the loss must fall below the best one to count (nats a token)."""


class Tuning(Section):
    """How weights are changed: what pretraining and SFT share."""

    method: Literal["full", "lora", "qlora"] = "full"
    """Train all weights, low-rank adapters on a frozen base, or such adapters on a base in 4 or 8 bits."""
    rank: int = Field(16, ge=1)
    """LoRA rank (columns of A)."""
    alpha: int = Field(32, ge=1)
    """LoRA scale: the update is multiplied by alpha / rank (by alpha / √rank with rslora)."""
    rslora: bool = False
    """Rank-stabilised LoRA (arXiv 2312.03732): a scale that lets high ranks learn."""
    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353): a trained magnitude for each row beside the low-rank direction."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """LoRA dropout (probability)."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get adapters, or the last parts of them (q_proj, layers.0.self_attn.q_proj);
    all-linear is every linear layer but the head."""
    train_embeddings: bool | Literal["auto"] = "auto"
    """LoRA: train embeddings (and an untied head) whole; auto does where the tokenizer grew the vocabulary."""
    train_norms: bool = False
    """LoRA: train the norms whole too; with train_embeddings it is LongLoRA's recipe (arXiv 2309.12307)."""
    quantization: Literal["nf4", "int8"] = "nf4"
    """qlora: how the frozen base's linear layers are stored."""
    double_quantization: bool = True
    """qlora, nf4: quantise the scales too (0.4 bits a weight less)."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate (per optimizer step)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up; cosine and linear end at zero."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises (0 to 1)."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Optimizer; the levers of `memory` make AdamW's state smaller."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay (per step, times the learning rate)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    batch_size: int = Field(1, ge=1)
    """Windows in one forward pass, per process."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes in one optimizer step, per process."""
    max_epochs: float | None = Field(None, gt=0)
    """Stop after so many passes over the train windows (default: 1 where no other limit is given)."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimizer steps."""
    max_tokens: int | None = Field(None, ge=1)
    """Stop at the first step that has read so many tokens; of several limits the nearest decides."""
    plateau: Plateau | None = None
    """Stop earlier where the validation loss no longer falls."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products. auto: bf16 where the device computes faster in it than in fp32."""
    memory: Literal["auto"] | list[Lever] = "auto"
    """Levers that save memory, by name. auto turns them on, the cheapest first, until the step fits."""
    memory_limit: float | None = Field(None, gt=0)
    """GiB that auto may fill, per process (default: nine tenths of what is free)."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of the log."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between measurements on the validation split (default: ten times a stage)."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints (default: evaluate_every)."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints kept of a running stage, the best one beside them."""
    keep: Literal["last", "best"] = "last"
    """Weights that a stage hands over: its last, or those of its lowest validation loss."""


OF_ADAPTERS = ("rank", "alpha", "rslora", "dora", "dropout", "targets", "train_embeddings", "train_norms")
OF_QLORA = ("quantization", "double_quantization")
LIMITS = ("max_epochs", "max_steps", "max_tokens")


class Train(Tuning):
    """How the stages train, and when any training stops by itself."""

    stop_after: Duration | None = None
    """Save and stop (status 75) at the first step that ends so long after the command began, e.g. 11h30m."""
    stall_after: Duration = "6h"
    """End the process (status 75), with a file of where every thread stood, when no step ends for so long."""
    backup: str | None = None
    """Where checkpoints and small files are copied meanwhile, texts never: s3://bucket/folder, gs://…, or a path."""
    backup_wait: Duration = "10m"
    """How long the end of a command waits for what is not copied yet, e.g. 90s."""
    report_to: list[Literal["wandb", "trackio", "mlflow"]] = Field([])
    """Services that figures are sent to; TensorBoard's files are in the run folder always, and go nowhere."""
    notify: str | None = None
    """What gets word, as JSON, of a part's end and of the run's end, stop or failure: a URL (by POST), or a shell
    command (on standard input). Write a token as $NAME, which the environment has: one that is written out is kept from
    the backup and from the run's page."""


class Carry(Section):
    """What a stage takes over from the stage before it; the weights always come along."""

    optimizer: bool = False
    """Go on with the optimizer's moments instead of zeros."""
    schedule: bool = False
    """One learning-rate schedule over this stage and the one before; both need max_steps or max_tokens."""
    data: bool = False
    """Read only what the stage before did not get to."""


class Replay(Section):
    """Short pieces inside a long stage: what was learned at short lengths is kept (ProLong, arXiv 2410.02660)."""

    context: int = Field(ge=8)
    """Length of the short pieces, in tokens; as many as fit share a window, isolated."""
    share: float = Field(gt=0, lt=1)
    """Share of the stage's windows that hold short pieces (0 to 1)."""


class Pose(Section):
    """Positional skip-wise training (Zhu et al. 2023, PoSE, arXiv 2309.10400): short windows that see far positions."""

    window: int = Field(ge=8)
    """Tokens of a window; its two chunks lie somewhere within `context` positions."""


class Stage(Section):
    """One stage of the curriculum: a context length and its RoPE; the other keys override `train` for this stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the stage: its folder is stages/<name>."""
    context: int = Field(ge=8)
    """Positions that the stage trains, in tokens: the length of its windows, but for `pose`."""
    rope: Rope = Rope()
    carry: Carry = Carry()
    replay: Replay | None = None
    pose: Pose | None = None
    gate: Literal["stop", "tell"] = "stop"
    """What a loss at the stage's length does that is worse after the stage than before it: stop the run, or be told."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of this stage."""
    warmup: float | None = Field(None, ge=0, lt=1)
    """Share of this stage's steps in which the learning rate rises from zero; a stage of one step wants 0."""
    batch_size: int | None = Field(None, ge=1)
    """Windows in one forward pass, per process."""
    gradient_accumulation: int | None = Field(None, ge=1)
    """Forward passes in one optimizer step, per process."""
    max_epochs: float | None = Field(None, gt=0)
    """Passes over the train windows."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens read."""
    plateau: Plateau | None = None
    """Stop earlier where the validation loss no longer falls."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between measurements on the validation split."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints."""
    memory: Literal["auto"] | list[Lever] | None = None
    """Levers that save memory."""
    packing: Literal["documents", "works", "split"] = "split"
    """How text fills the windows. documents: whole chapters, best fit, isolated. works: chapters of a work and works of
    an author one after another, seeing one another. split: each work cut into windows, what remains best fit."""
    overlong: Literal["split", "drop"] = "split"
    """packing documents: what becomes of a chapter that is longer than the window."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.pose and self.pose.window >= self.context:
            raise ValueError(f"pose.window: {self.pose.window} is not shorter than the context of {self.context}")
        if self.replay and self.replay.context >= self.window:
            raise ValueError(f"replay.context: {self.replay.context} is not shorter than the window of {self.window}")
        return self

    @property
    def window(self) -> int:
        """Tokens of one window."""
        return self.pose.window if self.pose else self.context

    def tuning(self, train: Train) -> Tuning:
        """`train` with this stage's own values in place; a limit of its own replaces all of train's."""
        own = {key: value for key in Tuning.model_fields if (value := getattr(self, key, None)) is not None}
        if any(key in own for key in LIMITS):
            own = {**dict.fromkeys(LIMITS), **own}
        return train.model_copy(update=own)


class Sft(Tuning):
    """Supervised fine-tuning on the dialogues."""

    context: int | None = Field(None, ge=8)
    """Window length, in tokens; conversations share windows, isolated (default: the last stage's context)."""
    assistant_only_loss: bool = True
    """Learn only what the assistant says, its closing token included."""
