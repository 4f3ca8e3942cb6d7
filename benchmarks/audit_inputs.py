"""Scripts that end, start and import in unusual ways: what ``stillroom audit`` says, and whether it keeps the exit code.

    python benchmarks/audit_inputs.py [--out docs/results/audit-inputs.md] [CASE …]

Each case is a small distillation with one fault (the student's probabilities go into ``F.cross_entropy``), in a form
that is awkward for a command that runs another's script. It runs twice: with ``python`` and with ``stillroom audit``.
Kept: the same exit code, the same standard output but for the diagnosis at its end, and no line of ours in a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

HEAD = """\
import os, sys, signal, time
import torch
import torch.nn.functional as F
from torch import nn
"""
NETS = """
torch.manual_seed(0)
teacher, student = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3))
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
"""
STEP = """\
with torch.no_grad():
    target = teacher(x).argmax(1)
loss = F.cross_entropy(student(x).softmax(1), target)  # the fault
optimizer.zero_grad()
loss.backward()
optimizer.step()
"""


def indent(text: str, levels: int = 1) -> str:
    """Lines of a script, so many levels deeper, and none before them."""
    return textwrap.indent(text.strip(), "    " * levels) + "\n"


LOOP = "\nfor step in range(8):\n    x = torch.randn(8, 4)\n" + indent(STEP)
PLAIN = HEAD + NETS + LOOP
GUARDED = HEAD + f"\ndef train(rank=0):\n{indent(NETS + LOOP)}    return student, float(loss)\n"
LOADER = f"""
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return torch.full((4,), float(i))

def main():
{indent(NETS)}    loader = torch.utils.data.DataLoader(Data(), 8, num_workers=2, multiprocessing_context=METHOD)
    for epoch in range(2):
        for x in loader:
{indent(STEP, 3)}    print("end", sum(p.sum().item() for p in student.parameters()))

if __name__ == "__main__":
    main()
"""
WAIT = "\nprint('ready', flush=True)\nwhile True:\n    time.sleep(0.05)\n"


@dataclass(frozen=True)
class Case:
    """One script.

    Attributes:
        source: what it holds.
        found: whether the fault is to be found; False where no training is seen.
        arguments: what it is given.
        files: other files next to it.
        send: a signal that it gets once it has printed ``ready``.
        module: the name that it is started by, with ``-m``.
        launch: what stands between ``python`` and the script.
        words: what the audit says.
    """

    source: str
    found: bool = True
    arguments: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    send: int = 0
    module: str = ""
    launch: tuple[str, ...] = ()
    words: str = ""


TWO = """
second = nn.Sequential(nn.Linear(4, 3))
optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (student, second)]
for step in range(8):
    x = torch.randn(8, 4)
    with torch.no_grad():
        target = teacher(x).argmax(1)
    for each, optimizer in zip((student, second), optimizers):
        loss = F.cross_entropy(each(x).softmax(1), target)  # the fault
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
WRAPPED = NETS.replace("nn.Sequential(nn.Linear(4, 3))", "DistributedDataParallel(nn.Sequential(nn.Linear(4, 3)))")
DISTRIBUTED = f"""
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

def train(rank, world):
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    dist.init_process_group("gloo", rank=rank, world_size=world)
{indent(WRAPPED)}{indent(LOOP)}    dist.destroy_process_group()
    if rank == 0:
        print("end", float(loss))
"""
NO_OPTIMIZER = "No optimizer was made"
CASES: dict[str, Case] = {
    "runs to its end": Case(PLAIN + "print('end', float(loss))\n"),
    "raises an error": Case(PLAIN + "{}['lost']\n"),
    "raises in the middle of a step": Case(PLAIN.replace("    loss.backward()", "    1 / (5 - step)\n    loss.backward()")),
    "raises an error from another": Case(PLAIN + "try:\n    {}['lost']\nexcept KeyError as e:\n    raise ValueError('no') from e\n"),
    "sys.exit(3)": Case(PLAIN + "sys.exit(3)\n"),
    "sys.exit of words": Case(PLAIN + "sys.exit('no data')\n"),
    "sys.exit(True)": Case(PLAIN + "sys.exit(True)\n"),
    "os._exit(5)": Case(PLAIN + "print('end', flush=True)\nos._exit(5)\n"),
    "os.abort()": Case(PLAIN + "sys.stdout.flush()\nos.abort()\n", found=False),
    "an exit handler": Case(PLAIN + "import atexit\natexit.register(lambda: print('bye'))\n"),
    "an excepthook of its own": Case(PLAIN + "sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__)\n{}['lost']\n"),
    "forks a child that trains on": Case(
        HEAD + NETS + "child = os.fork()\nif child:\n    os.waitpid(child, 0)\n" + LOOP + "print('end', bool(child), flush=True)\nif not child:\n    os._exit(0)\n"
    ),
    "multiprocessing.Pool": Case(
        GUARDED + "\ndef f(x):\n    return x * x\n\nif __name__ == '__main__':\n    import multiprocessing\n    with multiprocessing.get_context('fork').Pool(2) as pool:\n        print(pool.map(f, [1, 2, 3]))\n    train()\n"
    ),
    "DataLoader workers, fork": Case(HEAD + LOADER.replace("METHOD", "'fork'")),
    "DataLoader workers, spawn": Case(HEAD + LOADER.replace("METHOD", "'spawn'")),
    "DataLoader workers, forkserver": Case(HEAD + LOADER.replace("METHOD", "'forkserver'")),
    "no optimizer": Case(HEAD + "print(nn.Linear(4, 3)(torch.ones(1, 4)).shape)\n", found=False, words=NO_OPTIMIZER),
    "an optimizer that never steps": Case(HEAD + NETS + "print(1)\n", found=False, words="no step was made"),
    "plain classification": Case(PLAIN.replace("teacher(x).argmax(1)", "torch.randint(3, (8,))"), found=False, words="There is no teacher"),
    "trains in a thread": Case(GUARDED + "import threading\nt = threading.Thread(target=train)\nt.start()\nt.join()\n", found=False, words=NO_OPTIMIZER),
    "trains in a subprocess": Case("import subprocess, sys\nsys.exit(subprocess.call([sys.executable, 'real.py']))\n", found=False, files={"real.py": PLAIN}, words=NO_OPTIMIZER),
    "torch.multiprocessing.spawn, two processes": Case(
        HEAD + DISTRIBUTED + "\nif __name__ == '__main__':\n    torch.multiprocessing.spawn(train, (2,), 2)\n", found=False, words=NO_OPTIMIZER
    ),
    "torchrun, two processes": Case(
        HEAD + DISTRIBUTED + "\nif __name__ == '__main__':\n    train(int(os.environ['RANK']), int(os.environ['WORLD_SIZE']))\n",
        launch=("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29512"),
    ),
    "two students, in turns": Case(HEAD + NETS + TWO),
    "two students, one after another": Case(PLAIN + LOOP.replace("student", "second").replace("for step", "second = nn.Sequential(nn.Linear(4, 3))\noptimizer = torch.optim.SGD(second.parameters(), lr=0.1)\nfor step", 1)),
    "reads sys.argv": Case(PLAIN + "print(sys.argv[1:], os.path.basename(sys.argv[0]))\n", arguments=("--out", "x", "--steps", "3", "-v", "--help")),
    "reads __file__": Case(PLAIN + "print(os.path.isabs(__file__), os.path.basename(__file__), __name__, __spec__, __package__)\n"),
    "reads a relative path": Case(PLAIN + "print(open('data.txt').read())\n", files={"data.txt": "seven"}),
    "changes the folder": Case(HEAD + "os.chdir('/')\n" + NETS + LOOP + "print(os.getcwd())\n"),
    "imports a file next to it": Case(
        HEAD + "from losses_ import kd\n" + NETS + LOOP.replace("F.cross_entropy(student(x).softmax(1), target)", "kd(student(x), target)"),
        files={"losses_.py": "import torch.nn.functional as F\ndef kd(z, t):\n    return F.cross_entropy(z.softmax(1), t)  # the fault\n"},
    ),
    "a relative import": Case("from .nets import *\n", found=False, files={"nets.py": PLAIN}),
    "a module of a package, -m": Case(
        "from .nets import *\n" + NETS + LOOP + "print(sys.argv[1:], __package__, __name__)\n", files={"pack/__init__.py": "", "pack/nets.py": HEAD}, module="pack.train", arguments=("--x",)
    ),
    "a package, -m": Case(
        "from .nets import *\n" + NETS + LOOP + "print(sys.argv[1:], __package__, __name__)\n", files={"pack/__init__.py": "", "pack/nets.py": HEAD}, module="pack"
    ),
    "saves its own classes": Case(
        HEAD + "class Net(nn.Sequential):\n    pass\n" + NETS.replace("nn.Sequential(", "Net(") + LOOP + "torch.save(student, 'net.pt')\nprint(type(torch.load('net.pt', weights_only=False)).__module__)\n"
    ),
    "if __name__ == '__main__'": Case(GUARDED + "if __name__ == '__main__':\n    train()\n"),
    "reads standard input": Case(PLAIN + "print(sys.stdin.read() == '')\n"),
    "sends its output to a file": Case(HEAD + "sys.stdout = open('log.txt', 'w')\n" + NETS + LOOP + "print('end')\n"),
    "closes standard output": Case(PLAIN + "print('end', flush=True)\nsys.stdout.close()\n"),
    "errors of warnings": Case(HEAD + "import warnings\nwarnings.simplefilter('error')\n" + NETS + LOOP),
    "torch.jit": Case(HEAD + NETS.replace("nn.Sequential(nn.Linear(4, 3))\n", "torch.jit.script(nn.Sequential(nn.Linear(4, 3)))\n") + "traced = torch.jit.trace(teacher, torch.ones(1, 4))\n" + LOOP + "print(torch.equal(traced(x), teacher(x)))\n"),
    "functional_call, grad and vmap": Case(
        PLAIN + "from torch.func import functional_call, grad, vmap\nw = {k: v.detach() for k, v in student.named_parameters()}\nf = lambda w, x: functional_call(student, w, (x,)).square().sum()\nfor _ in range(3):\n    print(float(vmap(grad(f), (None, 0))(w, x[:, None])['0.weight'].sum()))\n"
    ),
    "anomaly mode, deterministic, float64": Case(HEAD + "torch.autograd.set_detect_anomaly(True)\ntorch.use_deterministic_algorithms(True)\ntorch.set_default_dtype(torch.float64)\n" + NETS + LOOP),
    "Ctrl-C in the middle": Case(PLAIN + WAIT, send=signal.SIGINT),
    "Ctrl-C that the script catches": Case(PLAIN + "try:\n    " + WAIT.strip().replace("\n", "\n    ") + "\nexcept KeyboardInterrupt:\n    print('early')\n", send=signal.SIGINT),
    "SIGTERM in the middle": Case(PLAIN + WAIT, send=signal.SIGTERM),
    "a SIGTERM handler of its own": Case(PLAIN + "def stop(*_):\n    print('saved')\n    sys.exit(7)\nsignal.signal(signal.SIGTERM, stop)\n" + WAIT, send=signal.SIGTERM),
    "SIGKILL in the middle": Case(PLAIN + WAIT, send=signal.SIGKILL, found=False),
    "an empty file": Case("", found=False, words=NO_OPTIMIZER),
}  # fmt: skip


# Scripts of PyTorch's examples, of timm and torchvision, in small: no teacher, and nothing to accuse.
SCRIPTS = Path(__file__).parent / "plain_scripts"
for name, *arguments in (
    ("mnist",),
    ("imagenet",),
    ("imagenet", "--seed", "1", "-j", "0"),
    ("word_language_model", "--optimizer"),
    ("word_language_model", "--optimizer", "--model", "Transformer"),
    ("vae",),
    ("siamese",),
    ("timm_like",),
    ("timm_like", "--amp"),
    ("timm_like", "--bce"),
    ("torchvision_reference", "--aux", "--ema"),
    ("torchvision_reference", "--freeze"),
):
    source = (SCRIPTS / f"{name}.py").read_text()
    CASES[" ".join([f"{name}.py", *arguments])] = Case(
        source, found=False, arguments=tuple(arguments), words="There is no teacher"
    )
CASES["word_language_model.py, updated by hand"] = Case(
    (SCRIPTS / "word_language_model.py").read_text(), found=False, words="no optimizer of torch.optim made a step"
)


@dataclass
class Outcome:
    """How one process ended."""

    code: int
    out: str
    err: str
    findings: list[dict[str, str]] = field(default_factory=list)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Check and place of each problem."""
        found = [one for one in self.findings if one["verdict"] == "problem"]
        return [(one["check"], one.get("location") or "") for one in found]


def lay(case: Case, folder: Path) -> list[str]:
    """Write the files of a case; the script, as it is named on the command line."""
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if case.module:
        path = folder / case.module.replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        path.write_text(case.source)
        return ["-m", case.module]
    (folder / "train.py").write_text(case.source)
    return ["train.py"]


def start(command: list[str], folder: Path, send: int) -> Outcome:
    """Run a command in a folder; send it a signal once it has printed ``ready``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            # A process in the background of a shell ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # type: ignore[arg-type,return-value]
        )
        deadline = time.monotonic() + 300
        while send and process.poll() is None and time.monotonic() < deadline:
            if "ready" in (folder / "stdout").read_text():
                process.send_signal(send)
                break
            time.sleep(0.05)
        try:
            code = process.wait(400)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    return Outcome(code, (folder / "stdout").read_text(), (folder / "stderr").read_text())


def run_case(case: Case) -> tuple[Outcome, Outcome]:
    """How a script ends under Python, and under the audit."""
    both = []
    for prefix in ([], ["-m", "stillroom", "audit", "--out", "diagnosis"]):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = [sys.executable, *case.launch, *prefix, *lay(case, folder), *case.arguments]
            done = start(command, folder, case.send)
            found = folder / "diagnosis" / "diagnosis.json"
            if found.is_file():
                done.findings = json.loads(found.read_text())["findings"]
            both.append(done)
    return both[0], both[1]


def faults(case: Case, plain: Outcome, audited: Outcome) -> list[str]:
    """What the audit did otherwise than it should."""
    wrong = []
    # 130 and -SIGINT are the same to a shell.
    same = {-signal.SIGINT: 130}
    if same.get(plain.code, plain.code) != same.get(audited.code, audited.code):
        wrong.append(f"exit code {audited.code} in place of {plain.code}")
    printed = iter(audited.out.splitlines())
    if not all(line in printed for line in plain.out.splitlines()) and not case.launch:
        wrong.append("another standard output")
    problems = audited.problems
    if case.found:
        lines = {name: text.splitlines() for name, text in {"train.py": case.source, **case.files}.items()}
        where = [
            f"{Path(name).name if name != 'train.py' or not case.module.endswith('pack') else '__main__.py'}:{number}"
            for name, text in lines.items()
            for number, line in enumerate(text, 1)
            if "the fault" in line
        ]
        if [check for check, _ in problems] != ["probabilities_for_logits"] or problems[0][1] not in where:
            wrong.append(f"found {problems}, not probabilities_for_logits at {' or '.join(where)}")
        if "probabilities_for_logits" not in audited.out + audited.err:  # standard output may be closed
            wrong.append("the diagnosis is not printed")
    elif problems:
        wrong.append(f"found {problems}")
    if case.words and case.words not in audited.out:
        wrong.append(f"does not say {case.words!r}")
    ours = re.findall(r'File "[^"]*/stillroom/[^"]*", line \d+, in \S+', audited.err)
    if ours:
        wrong.append(f"a traceback with {len(ours)} lines of ours")
    return wrong


@dataclass
class Row:
    """What is written of a case."""

    name: str
    plain: int
    audited: int
    found: str
    wrong: list[str]


def row_of(name: str) -> Row:
    """Run a case and judge it."""
    plain, audited = run_case(CASES[name])
    found = ", ".join(" ".join(one).strip() for one in audited.problems)
    if not found and audited.findings:
        found = audited.findings[0]["summary"].split(":")[0].split(",")[0].rstrip(".")
    return Row(name, plain.code, audited.code, found or "–", faults(CASES[name], plain, audited))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="cases; all where none is named")
    parser.add_argument(
        "--out", type=Path, help="the table; next to it a JSON line a case, so that a killed run goes on"
    )
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    state = args.out.with_suffix(".jsonl") if args.out is not None else None
    rows: dict[str, Row] = {}
    if state is not None and state.is_file():
        for line in state.read_text().splitlines():
            row = Row(**json.loads(line))
            rows[row.name] = row
    names = [name for name in CASES if (not args.names or name in args.names) and name not in rows]
    with ThreadPoolExecutor(args.workers) as pool:
        for done in as_completed([pool.submit(row_of, name) for name in names]):
            row = done.result()
            rows[row.name] = row
            print(f"{row.name}: {'; '.join(row.wrong) or 'as it should'}", flush=True)
            if state is not None:
                with state.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    if args.out is not None:
        args.out.write_text(page([rows[name] for name in CASES if name in rows]))


def page(rows: list[Row]) -> str:
    """The results as Markdown."""
    good = sum(not row.wrong for row in rows)
    lines = [
        "# Scripts of every kind under audit",
        "",
        "`python benchmarks/audit_inputs.py --out docs/results/audit-inputs.md`",
        "",
        "Each script distils with one fault, where it trains at all, and runs twice: with `python` and with `stillroom "
        "audit`. As it should: the same exit code, the lines of its standard output in their order, the fault found by "
        "its name and line (or the words that say why no training was seen), and no line of ours in a traceback. The "
        "last ones stand in for PyTorch's examples and for the training scripts of timm and torchvision; they have no "
        "teacher.",
        "",
        f"**{good} of {len(rows)} as they should.**",
        "",
        "| script | exit code of `python` | of `audit` | found | otherwise than it should |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.plain} | {row.audited} | {row.found} | {'; '.join(row.wrong) or '–'} |" for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
