"""``python -m stillroom.study.engine.worker``: does jobs, one after another, for the process that started it.

Jobs come as lines of JSON on standard input, outcomes go as lines of JSON to standard output. When standard input ends,
nobody waits for the jobs any more, and the process ends at once.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import MutableMapping
from dataclasses import asdict
from itertools import takewhile
from queue import SimpleQueue
from types import FrameType
from typing import IO

from stillroom.study.engine.base import Job
from stillroom.study.engine.pipes import claim_standard_streams

SLOT_VARIABLE = "STILLROOM_SLOT"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def main() -> None:
    """Do jobs until standard input ends."""
    # Ctrl-C reaches every process of the terminal; whoever started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As that of the command line: a run saves first.
    signal.signal(signal.SIGTERM, _interrupt)
    faulthandler.enable()
    incoming, answers = claim_standard_streams()
    jobs: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(incoming, jobs), daemon=True).start()
    take_gpu(os.environ)
    # Here, not above: torch must find the GPU chosen, and the seconds that it takes pass while a job is on its way.
    import torch

    from stillroom.study.engine.jobs import attempt

    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(1)  # a copy of its driver has imported torch without that variable
    while True:
        outcome = attempt(Job(**json.loads(jobs.get())))
        try:
            answers.send(asdict(outcome))
        except OSError:
            os._exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _read(incoming: IO[bytes], jobs: SimpleQueue[bytes]) -> None:
    for line in incoming:
        jobs.put(line)
    # Whatever goes on: a run goes on from its last save when somebody wants it again.
    os._exit(0)


def take_gpu(environment: MutableMapping[str, str]) -> None:
    """Leave to this process one of the GPUs that it sees, another for each worker as far as they go.

    Args:
        environment: the process's, changed in place; torch reads it when it first looks for GPUs.
    """
    gpus = visible_gpus(environment.get(_VISIBLE), None if _VISIBLE in environment else _nvidia_smi())
    slot = environment.get(SLOT_VARIABLE, "")
    if len(gpus) > 1 and slot.isdecimal():
        environment[_VISIBLE] = gpus[int(slot) % len(gpus)]


def visible_gpus(named: str | None, listing: str | None) -> list[str]:
    """The GPUs that a process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        named: that variable's value, if it is set.
        listing: what ``nvidia-smi -L`` prints, if it is not.

    >>> visible_gpus("2,3,-1,0", None)
    ['2', '3']
    >>> visible_gpus(None, "GPU 0: NVIDIA A (UUID: GPU-1)\\n  MIG 1g Device 0: (UUID: MIG-2)\\nGPU 1: B (UUID: GPU-3)")
    ['MIG-2', 'GPU-3']
    """
    if named is not None:
        # CUDA takes no notice of what comes after an entry that is none.
        return list(takewhile(lambda entry: entry and not entry.startswith("-"), map(str.strip, named.split(","))))
    found: list[str] = []
    for uuid in re.findall(r"\(UUID: ([\w-]+)\)", listing or ""):
        # A GPU that is cut into parts cannot be used as a whole.
        if uuid.startswith("MIG-") and found and found[-1].startswith("GPU-"):
            found.pop()
        found.append(uuid)
    return found


def _nvidia_smi() -> str | None:
    # Asked of the driver's own tool: torch, once it has looked, no longer reads the environment.
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        return subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)
