"""Kill a run at random instants, resume it, and compare every byte with one never killed.

    python benchmarks/kill_and_resume.py recipes/cifar10-resnet56-resnet8.yaml --kills 5 --out runs/kills \
        data.train_limit=2000 data.test_limit=1000 training.epochs=4 training.checkpoints=[2] training.save_seconds=2

The instants are uniform between a fifth and four fifths of the time the whole run took; their seed is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

CLOCKS = {"timing.jsonl", "environment.json"}


def files(run: Path) -> dict[str, str]:
    found = {str(p.relative_to(run)): p for p in sorted(run.rglob("*")) if p.is_file()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in found.items() if name not in CLOCKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_intermixed_args()
    command = [sys.executable, "-m", "stillroom", "distill", str(arguments.recipe), *arguments.overrides, "--resume"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole, killed = arguments.out / "whole", arguments.out / "killed"
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(whole)], check=True, **quiet)
    took = time.perf_counter() - began
    print(f"never killed: {took:.1f} s; instants drawn with seed {arguments.seed}")
    draw = random.Random(arguments.seed)
    kills = 0
    while kills < arguments.kills:
        process = subprocess.Popen([*command, "--out", str(killed)], **quiet)
        # Never so late that a run which lost nothing could end, often late enough for a save before it.
        instant = draw.uniform(0.2, 0.8) * took
        try:
            process.wait(instant)
            print("it ended before the next instant")
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            metrics = killed / "metrics.jsonl"
            lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            print(
                f"SIGKILL {kills} after {instant:.2f} s: {lines} lines of metrics, "
                f"{'a' if (killed / 'state' / 'last.pt').exists() else 'no'} save"
            )
    subprocess.run([*command, "--out", str(killed)], check=True, **quiet)
    a, b = files(whole), files(killed)
    for name in sorted(a.keys() | b.keys()):
        print(f"{'same' if a.get(name) == b.get(name) else 'DIFFERENT':9}  {name}  {a.get(name, 'missing')[:16]}")
    sys.exit(a != b)


if __name__ == "__main__":
    main()
