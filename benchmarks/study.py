"""One study done in several ways, which must all give the same table; what it takes beyond its runs alone.

    python benchmarks/study.py recipes/studies/digits.yaml --out studies/bench --kills 3 --results docs/results/study.md

Done by one worker, which takes the time of each run with nothing else running; by two; killed at random instants, of
the driver and of workers in turns, and begun again; and by a Ray cluster started with `ray start --head`. Each way has
a cache of its own. The seed of the kills is printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stillroom.files import write_text

TABLES = ("results.json", "runs.csv", "table.csv", "comparisons.csv", "table.tex")


class Way:
    """One way to do the study, in a folder of its own."""

    def __init__(self, name: str, arguments: argparse.Namespace, *options: str) -> None:
        self.name = name
        self.folder: Path = arguments.out / name
        self.command = [sys.executable, "-m", "stillroom", "compare", str(arguments.study), *arguments.overrides]
        self.command += ["--out", str(self.folder), *options]
        self.environment = {**os.environ, "STILLROOM_CACHE": str(arguments.out / f"{name}-cache")}
        self.log: Path = arguments.out / f"{name}.log"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(arguments.out / f"{name}-cache", ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def start(self) -> subprocess.Popen[bytes]:
        log = self.log.open("ab")
        return subprocess.Popen(self.command, env=self.environment, start_new_session=True, stdout=log, stderr=log)

    def to_the_end(self) -> float:
        began = time.perf_counter()
        if code := self.start().wait():
            sys.exit(f"{self.name} ended with exit code {code}; see {self.log}")
        return time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """How long each job took, as its process tells."""
        jobs = json.loads((self.folder / "progress.json").read_text())["jobs"]
        return {name: job["seconds"] for name, job in jobs.items()}

    def tables(self) -> dict[str, str]:
        return {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in TABLES}

    def answers(self) -> dict[str, int]:
        """How often the teacher was asked, by the kind of job."""
        found: dict[str, int] = {}
        with (self.folder / "cost.csv").open() as table:
            for row in csv.DictReader(table):
                found[row["kind"]] = found.get(row["kind"], 0) + int(row["teacher_answers"] or 0)
        return found


def killed(way: Way, kills: int, took: float, draw: random.Random) -> list[str]:
    """Do the study, killing the driver or a worker at random instants; what was killed, and when."""
    hits = []
    process = way.start()
    for number in range(kills):
        time.sleep(draw.uniform(0.08, 0.3) * took)
        if process.poll() is not None:
            break
        workers = psutil.Process(process.pid).children()
        if number % 2 == 0 or not workers:
            process.kill()
            process.wait()
            hits.append("driver")
            time.sleep(1.0)
            process = way.start()
        else:
            draw.choice(workers).send_signal(signal.SIGKILL)
            hits.append("worker")
    if code := process.wait():
        sys.exit(f"{way.name} ended with exit code {code}; see {way.log}")
    return hits


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster on this machine, as a user starts one."""
    ray = str(Path(sys.executable).with_name("ray"))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        line = [ray, "start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false"]
        line += ["--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield "127.0.0.1:6399"
        finally:
            subprocess.run([ray, "stop", "--force"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="write a page of results here")
    parser.add_argument("--overhead", action="store_true", help="one worker and two alone: the ratio, printed only")
    parser.add_argument(
        "--processor", action="store_true", help="the same by seconds of the processor, on a machine that is not quiet"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    if arguments.processor:
        print(processor_overhead(arguments))
        return
    one = Way("one", arguments, "--workers", "1")
    walls = {"one worker": one.to_the_end()}
    two = Way("two", arguments, "--workers", "2")
    walls["two workers"] = two.to_the_end()
    if arguments.overhead:
        print(overhead(one, walls["two workers"]))
        return
    hit = Way("killed", arguments, "--workers", "2")
    hits = killed(hit, arguments.kills, walls["two workers"], random.Random(arguments.seed))
    with cluster() as address:
        ray = Way("ray", arguments, "--engine", "ray", "--address", address, "--workers", "2")
        walls["Ray, two at a time"] = ray.to_the_end()

    same = {way.name: way.tables() == one.tables() for way in (two, hit, ray)}
    built = {
        name: entry["answers"] for name, entry in json.loads((one.folder / "caches.json").read_text())["pairs"].items()
    }
    lines = [
        "# One study, done in four ways",
        "",
        f"Command: `{shlex.join(['python', *sys.argv])}`",
        "",
        f"- The tables ({', '.join(TABLES)}) compared with one worker's, byte for byte: two workers "
        f"{_word(same['two'])}; killed {len(hits)} times ({', '.join(hits)}; seed {arguments.seed}) and begun again "
        f"{_word(same['killed'])}; a Ray cluster {_word(same['ray'])}.",
        f"- Teacher passes, two workers: {two.answers()}; the builds asked {built}.",
        overhead(one, walls["two workers"]),
        f"- Wall times: {', '.join(f'{name} {wall:.1f} s' for name, wall in walls.items())}.",
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if arguments.results:
        write_text(arguments.results, page)
    if not all(same.values()):
        sys.exit("the tables differ")


def processor_overhead(arguments: argparse.Namespace) -> str:
    """Seconds of the processor of the command with two workers, and of its jobs alone, done in this process."""
    from stillroom.study import compare
    from stillroom.study.config import load_study
    from stillroom.study.engine import in_process, jobs

    way = Way("two", arguments, "--workers", "2")
    way.to_the_end()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = used.ru_utime + used.ru_stime
    seconds: dict[str, float] = {}

    def timed(job: jobs.Job) -> dict[str, object]:
        began = time.process_time()
        result = jobs.perform(job)
        seconds[job.id] = time.process_time() - began
        return result

    engine = in_process.InProcessEngine()
    engine._perform = timed
    alone = Way("alone", arguments)
    os.environ["STILLROOM_CACHE"] = alone.environment["STILLROOM_CACHE"]
    compare.compare(load_study(arguments.study, arguments.overrides), alone.folder, lambda folder, threads: engine)
    runs = [took for job, took in seconds.items() if job.startswith("run/")]
    before = sum(seconds.values()) - sum(runs)
    more = command - before - sum(runs)
    return (
        f"- Processor: the command with two workers {command:.1f} s; its {len(runs)} runs by themselves "
        f"{sum(runs):.1f} s, what comes before them {before:.1f} s; the rest {more:.1f} s, {more / len(runs):.2f} s a "
        f"run: (command − before) / runs alone = **{(command - before) / sum(runs):.2f}**."
    )


def overhead(one: Way, wall: float) -> str:
    """What two workers take beyond the runs themselves, as one worker's processes tell these."""
    seconds = one.seconds()
    alone = sum(took for job, took in seconds.items() if job.startswith(("run/", "trial/")))
    before = sum(took for job, took in seconds.items() if job.startswith(("teacher/", "prepare/")))
    return (
        f"- Wall time of two workers {wall:.1f} s, from the command's start to its end, the report included; the "
        f"{sum(job.startswith('run/') for job in seconds)} runs by themselves, one after another in a process that is "
        f"warm, take {alone:.1f} s, training the teacher and keeping its answers {before:.1f} s. "
        f"(wall − before) / (runs alone ÷ 2) = **{(wall - before) / (alone / 2):.2f}**."
    )


def _word(same: bool) -> str:
    return "**the same**" if same else "**not the same**"


if __name__ == "__main__":
    main()
