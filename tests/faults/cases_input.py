"""Faults in what is read: tokenizers, data, RoPE, archives, pickles, templates, adapters."""

import io
import json
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import torch
from cases_saving import resumed, trained_to
from fault_cases import case, without
from fault_guards import taken_out
from fault_lab import ONE, Lab, checkpoint
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach, load_adapter, load_weights
from shridhar_ft.checkpoint import write_manifest
from shridhar_ft.config_training import Tuning
from shridhar_ft.data.sources.archives import open_archive
from shridhar_ft.data.sources.mysql.reader import Dump
from shridhar_ft.errors import Stop
from shridhar_ft.model.build import build_model, weights_hash
from shridhar_ft.runfolder import read_json
from shridhar_ft.tokenizer import CHAT_TEMPLATE, END, extend_tokenizer, load_tokenizer
from shridhar_ft.weights import Weights


def refused(done: Any, *parts: str) -> str:
    """The one sentence of a training that ended by wrong input."""
    assert done.status == 2, f"{done.status}: {done.text[-1500:]}"
    assert "Traceback" not in done.text
    sentence = next(line for line in done.text.splitlines() if line.startswith("shridhar-ft: "))
    assert all(part in sentence for part in parts), sentence
    return sentence.removeprefix("shridhar-ft: ")


def ends(work: Any, *parts: str) -> str:
    """The sentence that something refused ends with."""
    try:
        work()
    except Stop as stop:
        assert all(part in str(stop) for part in parts), str(stop)
        return str(stop)
    raise AssertionError("it was taken")


@case(
    14,
    "a tokenizer without an end or a template; data that are empty, or in other columns",
    "one sentence",
    "reader",
)
def empty_and_wrong(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    (folder / "empty.jsonl").write_text("")
    (folder / "columns.jsonl").write_text('{"left": 1, "right": 2}\n' * 9)
    for name, told in (("empty", "there are no rows"), ("columns", "no column tells the shape")):
        done = lab.train(folder, f"data.dialogues=[{{paths: {name}.jsonl}}]", without=without(out))
        refused(done, told, "data.dialogues")
    bare = json.loads((lab.prepared / "runs/tiny/tokenizer/tokenizer.json").read_text())
    (folder / "bare").mkdir()
    (folder / "bare/tokenizer.json").write_text(json.dumps(bare))
    (folder / "bare/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    extended = extend_tokenizer(str(folder / "bare"), None, None)
    assert extended.chat_template == CHAT_TEMPLATE and extended.convert_tokens_to_ids(END) is not None
    return "one sentence each, with file and key; a tokenizer without end and template is given ours"


@case(15, "every label masked; conversations longer than the window", "stop, or say what is lost", "mask receipt")
def masked(lab: Lab, out: str | None) -> str:
    folder = lab.copy(lab.uninterrupted)
    done = lab.train(folder, "sft.method=full", ONE[0], "sft.context=8", module="sft", without=without(out))
    refused(done, "sft.context", "an exchange of over 8 tokens")
    (folder / "asked.jsonl").write_text('{"messages": [{"role": "user", "content": "Да?"}]}\n' * 9)
    refused(lab.train(lab.fresh(), f"data.dialogues=[{{paths: {folder / 'asked.jsonl'}}}]"), "assistant")
    chapters = "stages=[{name: short, context: 1024, packing: documents, overlong: drop, gate: tell}]"
    folder = lab.fresh()
    done = lab.train(folder, chapters, "sft=null", "train.max_steps=1", "train.batch_size=1")
    assert done.status == 0, done.text[-1500:]
    ledger = read_json(folder / "runs/tiny/stages/short/receipts/ledger.json")["measured"]
    lost = f"{ledger['dropped']:,} lost ({ledger['dropped'] / ledger['in']:.1%})"
    assert ledger["dropped"] > 0 and lost in done.text, done.text[-1500:]
    return f"nothing to learn is refused; chapters over the window, by the recipe's leave: {lost}"


@case(17, "a bad RoPE dict; frequencies that are not the recipe's", "refused before the first step", "rope")
def bad_rope(lab: Lab, out: str | None) -> str:
    folder = lab.fresh()
    said = ""
    for rope in ("{rope_type: yarn}", "{rope_type: yern, factor: 2}", "{rope_theta: fast}") if out is None else ():
        done = lab.train(folder, f"model.from_config.rope_parameters={rope}")
        said = refused(done, "model")
    other = {"where": "shridhar_ft.starting:build_model", "do": "other frequencies", "after": True}
    done = lab.train(folder, *ONE, faults=[other], without=without(out))
    assert done.status == 1 and "rope receipt does not hold" in done.text, f"{done.status}: {done.text[-900:]}"
    assert not (folder / "runs/tiny/stages/short/checkpoints").exists()
    return f"one sentence ({said[:60]}…); doubled frequencies fail the receipt before the first step"


class Payload:
    """A pickle that runs a command where it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        import os

        return os.system, (f"touch {self.canary}",)


@case(
    19,
    "a pickle's payload; a zip bomb, a ../ member, a line of SQL of 1 GB, a hostile template",
    "refused, nothing executed, memory capped",
    "pickles",
    "archive size",
    "archive names",
    "statement size",
)
def hostile(lab: Lab, out: str | None) -> str:
    folder = trained_to(lab, 4)
    canary = folder / "canary"
    if out in (None, "pickles"):
        held = checkpoint(folder, 4)
        torch.save(Payload(canary), held / "optimizer.pt")
        facts = {key: value for key, value in read_json(held / "MANIFEST.json").items() if key not in ("files", "seal")}
        write_manifest(held, facts)  # whoever writes a file can write its hash too
        text = resumed(lab, folder, without=without(out))
        assert "optimizer.pt asks for posix.system" in text and not canary.exists()
    with taken_out(out):
        peak = hostile_files(folder)
    assert not canary.exists()

    (folder / "base").mkdir()
    shutil.copy(lab.prepared / "runs/tiny/tokenizer/tokenizer.json", folder / "base")
    looping = "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": looping}
    (folder / "base/tokenizer_config.json").write_text(json.dumps(settings))
    assert extend_tokenizer(str(folder / "base"), None, None).chat_template == CHAT_TEMPLATE
    return f"pickle set aside unopened; archives and dump refused ({peak >> 20} MiB); a base's template never rendered"


def hostile_files(folder: Path) -> int:
    """Try a bomb, a name that leads out, and a line without an end; the peak of memory in bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("book.fb2", b"\0" * (80 << 20))
    outside = io.BytesIO()
    with zipfile.ZipFile(outside, "w") as archive:
        archive.writestr("../../canary", b"x")
    for raw, told in ((packed, "would unpack to"), (outside, "leads out of the archive")):
        (folder / "b.fb2.zip").write_bytes(raw.getvalue())
        ends(lambda: read_all(folder / "b.fb2.zip"), told)
    with (folder / "dump.sql").open("wb") as file:
        file.write(b"INSERT INTO t VALUES (1,'")
        file.truncate(1 << 30)
    tracemalloc.start()
    ends(lambda: list(Dump([folder / "dump.sql"], "k").batches()), "no end within 64 MiB")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 512 << 20, f"{peak >> 20} MiB at the peak"
    return peak


def read_all(file: Path) -> None:
    with open_archive(file) as archive:
        archive.check_all()


@case(
    20,
    "an adapter without a tensor, on another base; a grown, tied vocabulary merged",
    "refused; parity",
    "adapter tensors",
    "adapter base",
)
def adapters(lab: Lab, out: str | None) -> str:
    from peft import PeftModel

    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}

    def grown() -> Any:
        """The same tied base each time, its vocabulary four tokens larger."""
        model = build_model(LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=True), 0, "sdpa")
        model.resize_token_embeddings(104, mean_resizing=False)
        return model

    lab.number += 1
    folder = lab.root / f"adapter{lab.number}"
    tuned = attach(grown(), Tuning(method="lora", rank=2), grown=True)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    tuned.save_pretrained(folder)
    ids = torch.arange(40)[None]
    wanted = tuned.eval()(ids).logits.detach()
    merged = load_adapter(grown(), str(folder), trainable=False).merge_and_unload().eval()
    apart = float((merged(ids).logits.detach() - wanted).abs().max())
    assert apart < 1e-4, f"merged logits are {apart:g} apart"

    load = (
        (lambda model: load_adapter(model, str(folder), trainable=False))
        if out != "adapter tensors"
        else (lambda model: PeftModel.from_pretrained(model, str(folder)))
    )
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = ends(lambda: load(grown()), "1 tensors are missing")
    with taken_out(out):
        other = on_another_base(lab)
    return f"merged logits within {apart:.1g}; {said.split(': ')[1][:60]}; {other.split(': ')[1][:60]}"


def on_another_base(lab: Lab) -> str:
    """An adapter whose base was exchanged under the same path: the sentence that refuses it."""
    tokenizer = load_tokenizer(lab.prepared / "runs/tiny/tokenizer")
    lab.number += 1
    base, adapter = lab.root / f"base{lab.number}", lab.root / f"adapter{lab.number}"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

    def store(seed: int) -> Any:
        model = build_model(LlamaConfig(vocab_size=len(tokenizer), **sizes), seed, "sdpa")
        model.save_pretrained(base)
        return model

    def load() -> Any:
        config = LlamaConfig.from_pretrained(base)
        return load_weights(Weights(str(base), None, (str(adapter),)), config, tokenizer, "sdpa", torch.float32)

    model = store(0)
    known = AdapterBase.of(Weights(str(base)), weights_hash(model), (), None, model.config)
    attach(model, Tuning(method="lora", rank=2), grown=False).save_pretrained(adapter)
    known.write(adapter)
    load()
    store(1)
    return ends(load, "trained on another base")
