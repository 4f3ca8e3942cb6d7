"""Faulty training scripts after public bug reports, with their repaired twins: what ``check`` and ``audit`` find.

    python benchmarks/wild.py --cases DIR [--out docs/results/wild.md] [--identical] [--stop] [CASE …]

``DIR`` holds a folder for each case: ``about.json`` (``doors``, ``expects``, ``handles``), the faulty script, and
``well.py``, the same repaired. Found: a problem whose check the case expects, in what either command says. A repaired
script or a look-alike with any problem is a false alarm. With ``--identical`` every script runs a second time without
the audit, and the parameters and the random generator after every step of every optimizer are compared; with ``--stop``
up to the step at which the audit has seen enough.

With ``--out`` each script's row is kept next to it as it comes (``.jsonl``), and a killed run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Names that cases use for a check that has another one.
ALIASES = {"gradient_clipping": "clipping"}


def watch_steps(until: int) -> Callable[[], dict[str, Any]]:
    """Hash an optimizer's parameters and torch's generator after each of its steps; what comes back gives the hash.

    The hook is the same with the audit and without, so that equal hashes are equal trainings. The script is stopped
    after ``until`` steps, where that is not 0.
    """
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    running, steps = hashlib.sha256(), [0]

    def after(optimizer: torch.optim.Optimizer, arguments: Any, options: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                running.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        running.update(torch.get_rng_state().numpy().tobytes())
        steps[0] += 1
        if steps[0] == until:
            raise SystemExit(0)

    register_optimizer_step_post_hook(after)

    def digest() -> dict[str, Any]:
        return {"digest": running.hexdigest()[:32], "steps": steps[0]}

    return digest


def run_one(script: Path, audited: bool, stop: bool, until: int) -> dict[str, Any]:
    """In a process of its own: run a script, with the audit or without."""
    from stillroom.diagnose.audit.script import read_script, run_script
    from stillroom.diagnose.audit.session import audit_script

    found: dict[str, Any] = {}
    digest = watch_steps(until)
    start = time.perf_counter()
    if audited:

        def known(diagnosis: Any, last: bool) -> None:
            found["findings"] = [
                {"check": one.check, "verdict": one.verdict, "summary": one.summary, "location": one.location}
                for one in diagnosis.findings
                if one.needs_attention
            ]
            if last:
                found.update(digest())

        found["exit"] = audit_script(script, [], stop=stop, known=known)
    else:
        found["exit"] = run_script(script, [], read_script(script), lambda ended: found.update(digest()))
    return {**found, "seconds": time.perf_counter() - start}


def _child(log: str, out: str, *arguments: Any) -> None:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    found = run_one(*arguments)
    sys.stdout.flush()
    Path(out).write_text(json.dumps(found))


def in_process(script: Path, audited: bool, stop: bool, until: int = 0) -> dict[str, Any]:
    """Run one script in a process of its own, which is forked from one that has imported torch, and read its result."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "torch.utils.data", "sklearn.datasets", "stillroom.diagnose.audit.session"]
    )
    with tempfile.TemporaryDirectory() as name:
        log, out = Path(name) / "log", Path(name) / "found.json"
        process = context.Process(target=_child, args=(str(log), str(out), script, audited, stop, until))
        process.start()
        process.join()
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        if not out.is_file():
            return {"exit": process.exitcode, "findings": [], "error": lines[-1:]}
        found: dict[str, Any] = json.loads(out.read_text())
    scores = [line for line in lines if line.startswith("top1")]
    return {**found, "top1": scores[-1] if scores else None}


def check_one(script: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``stillroom check`` says of the loss that a case names."""
    handles = about.get("handles", {})
    if not handles.get("loss"):
        return []
    loss = handles["loss"].split("(")[0]  # the name, without the arguments that some cases add
    done = subprocess.run(
        [sys.executable, "-m", "stillroom", "check", f"{script}:{loss}", "--classes", "10", "--json"],
        capture_output=True,
        text=True,
    )
    try:
        findings = json.loads(done.stdout)["findings"]
    except (json.JSONDecodeError, KeyError):
        return []
    return [one for one in findings if one["verdict"] in ("problem", "warning")]


def judge(case: Path, stop: bool, identical: bool) -> dict[str, Any]:
    """Run one case: what each command found in the faulty script, and what it says of the repaired one."""
    about = json.loads((case / "about.json").read_text())
    about["expects"] = [ALIASES.get(name, name) for name in about["expects"]]
    row: dict[str, Any] = {"id": about["id"], "doors": about["doors"], "expects": about["expects"], "alarms": {}}
    for script in sorted(case.glob("*.py")):
        name = "repaired" if script.name == "well.py" else "faulty"
        said = {"check": check_one(script, about), "audit": _audit(script, stop, identical, row, name)}
        for door, findings in said.items():
            problems = [one for one in findings if one["verdict"] == "problem"]
            if name == "faulty":
                row[door] = [one for one in problems if one["check"] in about["expects"]]
                row[f"{door}_other"] = [one for one in problems if one["check"] not in about["expects"]]
            elif problems:
                row["alarms"][door] = problems
    return row


def _audit(script: Path, stop: bool, identical: bool, row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    audited = in_process(script, True, stop)
    row.setdefault("exit", {})[name] = audited["exit"]
    if audited.get("error"):
        row.setdefault("errors", []).append(f"{name}: {audited['error']}")
    if identical:
        plain = in_process(script, False, stop, audited.get("steps", 0) if stop else 0)
        row.setdefault("identical", {})[name] = "digest" in audited and audited["digest"] == plain.get("digest")
        row.setdefault("steps", {})[name] = audited.get("steps", 0)
    findings: list[dict[str, Any]] = audited["findings"]
    return findings


def page(rows: list[dict[str, Any]], command: str) -> str:
    """The results as Markdown."""
    faulty = [row for row in rows if row["expects"]]
    found = [row for row in faulty if row.get("check") or row.get("audit")]
    alarms = [row for row in rows if row["alarms"]]
    lines = [
        "# Faulty training scripts",
        "",
        f"`{command}`",
        "",
        f"{len(found)} of {len(faulty)} faults found; {len(alarms)} of {len(rows)} repaired or healthy scripts "
        f"accused.",
    ]
    same = [value for row in rows for value in row.get("identical", {}).values()]
    if same:
        steps = sum(count for row in rows for count in row.get("steps", {}).values())
        lines += [
            "",
            f"With and without audit, {sum(same)} of {len(same)} scripts give the same bytes ({steps:,} steps).",
        ]
    lines += ["", "| case | doors | check | audit | of the repaired script |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda each: each["id"]):
        alarm = ", ".join(f"{one['check']} ({door})" for door, each in row["alarms"].items() for one in each) or "–"
        cells = [
            ", ".join(
                f"{one['check']}{' ' + one['location'] if one.get('location') else ''}" for one in row.get(door, [])
            )
            or ("–" if row["expects"] else "")
            for door in ("check", "audit")
        ]
        others = [one["check"] for one in row.get("audit_other", [])]
        if others:
            cells[1] += f" (also {', '.join(others)})"
        lines.append(f"| {row['id']} | {', '.join(row['doors'])} | {cells[0]} | {cells[1]} | {alarm} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="cases; all where none is named")
    parser.add_argument("--cases", type=Path, default=Path(__file__).parent / "wild_cases")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--identical", action="store_true", help="run each script without the audit, too")
    parser.add_argument("--stop", action="store_true", help="stop each script when it has been watched")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "STILLROOM_AUDIT_DEBUG": "1"}
    cases = sorted(
        path.parent for path in args.cases.glob("*/about.json") if not args.names or path.parent.name in args.names
    )
    state = args.out.with_suffix(".jsonl") if args.out is not None else None
    rows = (
        [json.loads(line) for line in state.read_text().splitlines()] if state is not None and state.is_file() else []
    )
    there = {row["id"] for row in rows}
    with ThreadPoolExecutor(args.workers) as pool:
        wanted = [case for case in cases if json.loads((case / "about.json").read_text())["id"] not in there]
        for row in pool.map(lambda case: judge(case, args.stop, args.identical), wanted):
            rows.append(row)
            if state is not None:
                with state.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            hit = [one["check"] for door in ("check", "audit") for one in row.get(door, [])]
            status = "" if not row["expects"] else f"found {hit}" if hit else f"MISSED, wants {row['expects']}"
            other = [one["check"] for one in row.get("audit_other", [])]
            print(
                row["id"],
                status,
                f"other {other}" if other else "",
                f"ALARM {row['alarms']}" if row["alarms"] else "",
                row.get("errors", ""),
                row.get("identical", ""),
                flush=True,
            )
    shown = shlex.join(
        [
            "python",
            "benchmarks/wild.py",
            "--cases",
            str(args.cases),
            *(["--stop"] if args.stop else []),
            *(["--identical"] if args.identical else []),
        ]
    )
    text = page(rows, shown)
    if args.out is not None:
        args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
