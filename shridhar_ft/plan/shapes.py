"""A decoder's shape by formula, from the keys of its config: every parameter counted, without transformers or torch.

    shape_of({"model_type": "llama", "hidden_size": 1024, ...}, vocabulary=50_000) -> Shape

Architectures that are not in FAMILIES are counted on the meta device instead (meta.py), with torch.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

SLIDING = "sliding_attention"
Linear = tuple[int, int]
"""Inputs and outputs of a linear layer."""


@dataclass(frozen=True)
class Family:
    """What an architecture of transformers has beside llama's parts, and the values that its config class fills in."""

    defaults: dict[str, Any]
    norms: int = 2
    """Norms of `hidden_size` in a layer."""
    head_norms: Literal["none", "head", "whole"] = "none"
    """Norms on queries and keys: over each head (`head_dim`), or over all heads together."""
    attention_bias: Literal["none", "qkv", "key"] = "key"
    """none; on q, k and v; or on q, k, v and o where the config's `attention_bias` says so."""
    whole_norms: bool = False
    """Whether norms are multiplied by their weight in float32, and narrowed after it."""
    mlp_bias: bool = False
    """Whether the config's `mlp_bias` is read."""
    global_every: int = 0
    """Every so many layers one sees the whole context where the config does not say which; 0: all do."""
    window_by_default: bool = False
    """Whether all layers slide where the config gives a window and no kinds of layers (mistral)."""


_LLAMA = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_QWEN = _LLAMA | {"vocab_size": 151_936, "intermediate_size": 22_016, "max_position_embeddings": 32_768}
_OLMO = _LLAMA | {"vocab_size": 50_304}
_GEMMA = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
}

FAMILIES: dict[str, Family] = {
    "llama": Family(_LLAMA, mlp_bias=True),
    "mistral": Family(
        _LLAMA
        | {
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        },
        attention_bias="none",
        window_by_default=True,
    ),
    "qwen2": Family(_QWEN | {"num_key_value_heads": 32}, attention_bias="qkv"),
    "qwen3": Family(_QWEN | {"num_key_value_heads": 32, "head_dim": 128}, head_norms="head"),
    "olmo2": Family(_OLMO, head_norms="whole", whole_norms=True),
    "olmo3": Family(_OLMO | {"sliding_window": 4096}, head_norms="whole", whole_norms=True, global_every=4),
    "gemma2": Family(
        _GEMMA | {"vocab_size": 256_000, "max_position_embeddings": 8192}, norms=4, whole_norms=True, global_every=2
    ),
    "gemma3_text": Family(
        _GEMMA | {"vocab_size": 262_208, "max_position_embeddings": 131_072},
        norms=4,
        head_norms="head",
        whole_norms=True,
        global_every=6,
    ),
    "smollm3": Family(
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": True,
        },
        mlp_bias=True,
    ),
}


@dataclass(frozen=True)
class Shape:
    """What the formulas of memory and time hang on."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    queries: int
    """Heads × head dimension."""
    keys: int
    """Key/value heads × head dimension."""
    intermediate: int
    tied: bool
    """Whether the output head is the embedding."""
    linears: dict[str, Linear]
    """Linear layers of one decoder layer, by the last part of their names."""
    biases: int
    """Numbers in the biases of all linear layers."""
    norms: int
    """Numbers in all norms."""
    normed: int
    """Numbers of a token that the norms of one decoder layer take in: two hidden states, or four; queries and keys."""
    whole_norms: bool = False
    """Whether what they normed is multiplied by their weight in float32: in bf16 llama narrows it before."""
    tiles: bool = True
    """Whether every layer has an MLP that works token by token."""
    positions: int = 0
    """Positions that the config states (of a base: those that it was trained for)."""
    windows: tuple[int, ...] = field(default=())
    """Tokens that each layer sees, 0 for all of them; one number a layer."""

    @property
    def linear(self) -> int:
        """Weights in the linear layers of all decoder layers."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def head(self) -> int:
        """Weights of the output head, tied or not."""
        return self.vocabulary * self.hidden

    @property
    def total(self) -> int:
        """All parameters."""
        return self.linear + self.biases + self.norms + self.head * (1 if self.tied else 2)

    def adapters(self, rank: int, targets: list[str] | str, dora: bool = False) -> int:
        """Numbers in LoRA's matrices of this rank on these linear layers (`all-linear`: all of them)."""
        sizes = [self.linears[name] for name in self._chosen(targets)]
        return sum(rank * (inputs + outputs) + (outputs if dora else 0) for inputs, outputs in sizes)

    def adapted(self, targets: list[str] | str) -> list[tuple[str, int]]:
        """Each of these linear layers, and how many numbers of one token it puts out."""
        return [(name, self.linears[name][1]) for name in self._chosen(targets)]

    def _chosen(self, targets: list[str] | str) -> list[str]:
        """Names of the linear layers that these targets name, once for each decoder layer.

        A target may name a layer by more than its last part: self_attn.q_proj, layers.0.self_attn.q_proj.
        """
        wanted = list(self.linears) if targets == "all-linear" else targets
        chosen = {
            (layer, name)
            for *before, name in (target.split(".") for target in wanted)
            for layer in ([int(part) for part in before if part.isdigit()] or range(self.layers))
            if name in self.linears
        }
        return sorted(name for _, name in chosen)


def shape_of(config: dict[str, Any], vocabulary: int | None = None) -> Shape | None:
    """The shape of a decoder.

    Args:
        config: `model_type` and keys of its transformers config, as in a recipe or in config.json; what is missing
            has the config class's own default.
        vocabulary: Tokens, where the tokenizer decides.

    Returns:
        The shape; None for an architecture that is not known here.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return None
    given = family.defaults | {key: value for key, value in config.items() if value is not None}
    hidden, layers, heads = (given[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    dim = given.get("head_dim") or hidden // heads
    queries, keys = heads * dim, (given.get("num_key_value_heads") or heads) * dim
    inside = given["intermediate_size"]
    attention = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
    linears = {
        **attention,
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inside),
        "up_proj": (hidden, inside),
        "down_proj": (inside, hidden),
    }
    biased = 0
    if family.attention_bias == "qkv" or (family.attention_bias == "key" and given.get("attention_bias")):
        biased = queries + 2 * keys + (hidden if family.attention_bias == "key" else 0)
    if family.mlp_bias and given.get("mlp_bias"):
        biased += 2 * inside + hidden
    over_heads = {"none": 0, "head": 2 * dim, "whole": queries + keys}[family.head_norms]
    return Shape(
        vocabulary=vocabulary or given["vocab_size"],
        hidden=hidden,
        layers=layers,
        heads=heads,
        queries=queries,
        keys=keys,
        intermediate=inside,
        tied=bool(given["tie_word_embeddings"]),
        linears=linears,
        biases=layers * biased,
        norms=layers * (family.norms * hidden + over_heads) + hidden,
        normed=family.norms * hidden + (0 if family.head_norms == "none" else queries + keys),
        whole_norms=family.whole_norms,
        positions=given["max_position_embeddings"],
        windows=_windows(family, given, layers),
    )


def _windows(family: Family, given: dict[str, Any], layers: int) -> tuple[int, ...]:
    """The window of each layer, by the config's kinds of layers or the family's own order; 0 sees everything."""
    window, kinds = given.get("sliding_window") or 0, given.get("layer_types")
    if given.get("use_sliding_window") is False:
        window = 0
    if kinds is None and family.global_every:
        kinds = layer_kinds(layers, family.global_every)
    if kinds is None:
        return (window if family.window_by_default or given.get("use_sliding_window") else 0,) * layers
    return tuple(window if kind == SLIDING else 0 for kind in kinds)


def layer_kinds(layers: int, every: int) -> list[str]:
    """transformers' name for what each layer sees, where every so many layers one sees the whole context."""
    return [SLIDING if (layer + 1) % every else "full_attention" for layer in range(layers)]
