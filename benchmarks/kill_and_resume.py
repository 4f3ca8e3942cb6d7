"""Kill a run at random instants, resume it, and compare every byte with one never killed.

    python benchmarks/kill_and_resume.py recipes/cifar10-resnet56-resnet8.yaml --kills 5 --out runs/kills \
        data.train_limit=2000 data.test_limit=1000 training.epochs=4 training.checkpoints=[2] training.save_seconds=2

The instants are uniform between a tenth and six tenths of the time the whole run took; their seed is printed.
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
    whole = arguments.out / "whole"
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(whole)], check=True, **quiet)
    took = time.perf_counter() - began
    print(f"never killed: {took:.1f} s; instants drawn with seed {arguments.seed}")
    expected = files(whole)
    draw = random.Random(arguments.seed)
    kills, rounds, same = 0, 0, True
    # A run that keeps what it did ends after a few kills; another is then begun.
    while kills < arguments.kills:
        rounds += 1
        killed = arguments.out / f"killed-{rounds}"
        while kills < arguments.kills and kill_once([*command, "--out", str(killed)], draw.uniform(0.1, 0.6) * took):
            kills += 1
            metrics, save = killed / "metrics.jsonl", killed / "state" / "last.pt"
            lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            print(f"SIGKILL {kills}, run {rounds}: {lines} lines of metrics, {'a' if save.exists() else 'no'} save")
        subprocess.run([*command, "--out", str(killed)], check=True, **quiet)
        found = files(killed)
        for name in sorted(expected.keys() | found.keys()):
            equal = expected.get(name) == found.get(name)
            same = same and equal
            print(f"run {rounds}  {'same' if equal else 'DIFFERENT':9}  {name}  {found.get(name, 'missing')[:16]}")
    sys.exit(0 if same else 1)


def kill_once(command: list[str], instant: float) -> bool:
    """Whether the run was still going when the instant came."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(instant)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}")
    return False


if __name__ == "__main__":
    main()
