"""Export beside peft: time and peak memory of merging an adapter and writing the model, each way in its own process.

    python bench/export.py --base PATH [--rank 16] [--dtype bfloat16] [--out result.json]

`peft` is merge_and_unload + save_pretrained. The peak is the process's own (VmHWM) less what it had once its libraries
were imported; mapped files count, as they do for the system.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shridhar_ft.runfolder import begin_peak_rss, environment, peak_rss_bytes


def make_adapter(base: str, rank: int, folder: Path) -> None:
    """An adapter on every linear layer, with weights that change something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
    adapted = get_peft_model(
        model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter *= 0.05
    adapted.save_pretrained(folder)


def by_peft(base: str, adapter: str, out: str, dtype: str) -> None:
    """The usual way."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), use_safetensors=True)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def streamed(base: str, adapter: str, out: str, dtype: str) -> None:
    """Tensor by tensor."""
    from transformers import AutoConfig, AutoTokenizer

    from shridhar_ft.export.merge_stream import Plan, plan_merge
    from shridhar_ft.weights import Weights

    Path(out).mkdir(parents=True)
    config = AutoConfig.from_pretrained(base)
    plan = plan_merge(Weights(base, adapters=(adapter,)), config, AutoTokenizer.from_pretrained(base))
    assert isinstance(plan, Plan), plan
    plan.write(Path(out), dtype, 4_000_000_000)
    config.save_pretrained(out)


WAYS = {"peft": by_peft, "streamed": streamed}


def measure(way: str, base: str, adapter: str, out: str, dtype: str) -> dict[str, float]:
    """One way, in this process."""
    import peft  # noqa: F401 - both ways are measured without their imports
    import transformers  # noqa: F401

    begin_peak_rss()
    before = peak_rss_bytes()
    started, used = time.monotonic(), time.process_time()
    WAYS[way](base, adapter, out, dtype)
    return {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
        "peak_bytes_added": peak_rss_bytes() - before,
    }


def differences(first: Path, second: Path) -> float:
    """Largest difference of a weight between two model folders."""
    from shridhar_ft.export.tensors import Stored

    a, b = Stored(first, "model*.safetensors"), Stored(second, "model*.safetensors")
    return max(float((a.read(name).float() - b.read(name).float()).abs().max()) for name in a.names())


def main() -> None:
    """Run both ways and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folders", nargs=2)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.base, *given.folders, given.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(given.base, given.rank, Path(folder) / "adapter")
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--base", given.base, "--dtype", given.dtype, "--way", way]
            command += ["--folders", f"{folder}/adapter", f"{folder}/{way}"]
            found[way] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        weights = sum(file.stat().st_size for file in (Path(folder) / "streamed").glob("*.safetensors"))
        apart = differences(Path(folder) / "peft", Path(folder) / "streamed")
    result = {"base": Path(given.base).name, "dtype": given.dtype, "written_bytes": weights, "apart": apart, **found}
    print(json.dumps(result, indent=1))
    if given.out:
        Path(given.out).write_text(json.dumps({**result, **environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
