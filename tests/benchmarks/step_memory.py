"""Measures peak memory and time of a contrastive training step, by the number of samples embedded at a time.

    python tests/benchmarks/step_memory.py --batch 64 --chunk 0 32 16 8

Each number is measured in its own process; 0 means the whole batch. The memory that the process holds before
the step (model, optimizer and batch) is not included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    """Measure every chunk, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="samples per step")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a clip")
    parser.add_argument("--chunk", type=int, nargs="+", default=[0, 32, 16, 8])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--recompute", action="store_true", help="also recompute activations")
    parser.add_argument("--one", action="store_true", help="measure the first chunk in this process")
    options = parser.parse_args()
    if options.one:
        _measure(options)
        return
    print("| embedded at a time | memory of the step | seconds |\n|---|---|---|", flush=True)
    for chunk in options.chunk:
        words = [word for word in sys.argv[1:] if word != "--chunk"]
        words = [
            f"--batch={options.batch}",
            f"--seconds={options.seconds}",
            f"--precision={options.precision}",
        ]
        words += ["--recompute"] if options.recompute else []
        command = [sys.executable, __file__, *words, "--chunk", str(chunk), "--one"]
        print(
            subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout, end="", flush=True
        )


def _measure(options: argparse.Namespace) -> None:
    import torch

    from ignite_trainer.data.loader import Batch
    from ignite_trainer.protocol.sections import ParameterRule, Setup
    from ignite_trainer.training.engines import make_trainer
    from ignite_trainer.training.parameters import apply_rules
    from model.audioclip import AudioCLIP
    from utils.datasets import Sample
    from utils.tasks import AudioTextContrastive

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, chunk = options.batch, options.chunk[0] or None
    setup = Setup(
        name="x", batch_train=size, chunk=chunk, precision=options.precision, epochs=1, saved_models_path="x"
    )
    torch.manual_seed(0)
    model = AudioCLIP(pretrained=False).to(device)
    if options.recompute:
        model.recompute_activations()
    rules = [ParameterRule(match=r"audio\..*|logit_scale_at"), ParameterRule(match=".*", train=False)]
    plan = apply_rules(model, rules)
    optimizer = torch.optim.SGD(plan.groups, lr=1e-4)
    trainer = make_trainer(
        AudioTextContrastive(), model, optimizer, plan, setup, device=device, progress=False
    )
    audio = 3000.0 * torch.randn(size, 1, round(44100 * options.seconds), device=device)
    batch = Batch(torch.arange(size), Sample(audio, None, [[f"sound {index}"] for index in range(size)]))
    before = _peak(device)
    trainer.run([batch], max_epochs=1)
    peak, start = _peak(device), time.perf_counter()
    trainer.run([batch], max_epochs=2)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    print(f"| {chunk or 'all'} | {(peak - before) / 2**20:,.0f} MiB | {seconds:.2f} |")


def _peak(device: object) -> int:
    """Return the peak number of bytes so far: on a GPU, or resident in the process."""
    import torch

    if str(device) != "cpu":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
