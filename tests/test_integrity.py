"""Files that are read again: damage is found by their checksums, a kill never makes a good file a bad one."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from run.conftest import Stop, StopAt
from stillroom.cli import main, run
from stillroom.errors import BadInput
from stillroom.files import (
    CHECKSUMS,
    Log,
    compact_checksums,
    parse_yaml,
    read_bytes,
    verify,
    write_bytes,
    write_text,
)
from stillroom.recipe import apply_override, load_recipe, parse_recipe
from stillroom.run.run import execute
from stillroom.schema.study import InequalityInfo
from stillroom.study.equality import Inequality
from stillroom.study.plan import value_at


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file is read three times, as another process may be writing it; here none does."""
    monkeypatch.setattr("stillroom.files.time.sleep", lambda seconds: None)


def flip(path: Path, bit: int = 101) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.usefixtures("impatient")
def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"{1}\n", checksum=True)
    for bit in range(32):
        flip(path, bit)
        for read in (read_bytes, verify):
            with pytest.raises(BadInput, match=r"a\.json is not what was written"):
                read(path)
        flip(path, bit)
    assert read_bytes(path, required=True) == b"{1}\n"


def test_a_kill_between_the_checksum_and_the_file_leaves_a_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_text(path, "one", checksum=True)

    def killed(self: Path, target: Path) -> Path:
        raise Stop

    for content in ("two", "three"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(Stop):
                write_text(path, content, checksum=True)
        assert read_bytes(path) == b"one"
    compact_checksums(tmp_path)
    assert len((tmp_path / CHECKSUMS).read_text().splitlines()) == 1
    assert read_bytes(path) == b"one"


@pytest.mark.usefixtures("impatient")
def test_every_flipped_bit_of_a_growing_log_is_found_and_a_torn_line_left_out(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    for number in range(3):
        log.append(f"{number}\n")
    whole = log.path.read_bytes()
    for bit in range(8 * len(whole)):
        flip(log.path, bit)
        with pytest.raises(BadInput, match=r"log\.jsonl is not what was written"):
            read_bytes(log.path)
        flip(log.path, bit)
    for torn in (b"", b"{", b"3"):
        log.path.write_bytes(whole + torn)
        assert read_bytes(log.path) == whole
    # A kill before the line itself, and one in the middle of the very first line.
    log.path.write_bytes(whole[:-2])
    assert read_bytes(log.path) == whole[:-2]
    log.path.write_bytes(whole[:1])
    assert read_bytes(log.path) == b""


def test_a_log_goes_on_and_is_cut_only_where_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Log(path).append("1\n")
    Log(path).append("2\n")
    flip(path, 3)
    with pytest.raises(BadInput):
        Log(path).cut(2)
    flip(path, 3)
    Log(path).cut(2)
    Log(path).append("3\n")
    assert read_bytes(path) == b"1\n3\n"


@pytest.mark.usefixtures("impatient")
def test_a_damaged_log_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Log(path).append('{"answers": 96}\n')
    whole = path.read_bytes()
    flip(path, 11)
    with pytest.raises(BadInput, match=r"log\.jsonl is not what was written"):
        Log(path).append('{"answers": 0}\n')
    # A line that a kill cut short is no damage: it goes.
    path.write_bytes(whole + b'{"ans')
    Log(path).append("2\n")
    assert read_bytes(path) == whole + b"2\n"


@pytest.mark.usefixtures("impatient")
def test_a_flipped_list_of_checksums_refuses_or_changes_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_text(tmp_path / name, name, checksum=True)
    # A bit of each byte, another one each time.
    for byte in range(0, (tmp_path / CHECKSUMS).stat().st_size, 3):
        bit = 8 * byte + byte % 8
        flip(tmp_path / CHECKSUMS, bit)
        for name in ("a", "b"):
            with contextlib.suppress(BadInput):
                assert read_bytes(tmp_path / name) == name.encode()
        flip(tmp_path / CHECKSUMS, bit)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and one that was stopped after its first evaluation."""
    home = tmp_path_factory.mktemp("integrity")
    recipe = {
        "data": {"train_limit": 64, "test_limit": 40, "batch_size": 32},
        "student": {"name": "resnet8", "options": {"width": 2}},
        "training": {
            **{"epochs": 2, "log_every": 1, "precision": "float32", "device": "cpu", "threads": 1},
            **{"checkpoints": [0, 1], "record_weight_distance": ["linear"]},
        },
    }
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    execute(parse_recipe(recipe), home / "finished", latency=False)
    with pytest.raises(Stop):
        execute(parse_recipe(recipe), home / "stopped", hooks=[StopAt(3)], latency=False)
    return home


Copy = Callable[[str], Path]


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Copy:
    return lambda name: Path(shutil.copytree(made / name, tmp_path / name))


def test_a_finished_runs_checksums_are_those_of_its_files(made: Path) -> None:
    for folder in (made / "finished", made / "finished" / "checkpoints"):
        done = subprocess.run(["sha256sum", "--check", "--strict", CHECKSUMS], cwd=folder, check=False)
        assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (made / "finished" / CHECKSUMS).read_text().splitlines()}
    assert listed == {path.name for path in (made / "finished").iterdir() if path.is_file()} - {CHECKSUMS}


@pytest.mark.parametrize("name", ["state/last.pt", "metrics.jsonl", "weight_distance.jsonl", "recipe.yaml"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_stopped_run_does_not_go_on_with_a_damaged_file(
    made: Path, copy: Copy, name: str, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy("stopped")
    size = 8 * (out / name).stat().st_size
    # The logs go on beyond the last save, and what lies there is written again.
    flip(out / name, int(share * size) if not name.endswith("jsonl") else 11)
    assert run(["train", str(made / "recipe.yaml"), "--out", str(out), "--resume"]) == 2
    assert Path(name).name in capsys.readouterr().err


READERS = {
    "--resume": ["train", "recipe.yaml", "--out", "RUN", "--resume"],
    "export": ["export", "RUN"],
    "diagnose": ["diagnose", "RUN"],
    "explain": ["explain", "RUN", "--images", "4"],
    "report": ["report", "RUN"],
}


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("student.safetensors", ("--resume", "export", "explain")),
        ("checkpoints/epoch-0000.safetensors", ("explain",)),
        # The weights alone are exported without a look at the rest.
        ("summary.json", tuple(name for name in READERS if name != "export")),
        ("recipe.yaml", tuple(name for name in READERS if name != "export")),
        ("metrics.jsonl", ("diagnose", "report")),
        ("predictions.safetensors", ("diagnose", "report")),
        ("timing.jsonl", ("--resume", "diagnose", "report")),
        ("environment.json", ("report",)),
        ("class_relations.jsonl", ("report",)),
        ("class_relations.json", ("report",)),
    ],
)
def test_every_command_refuses_a_damaged_file_that_it_reads(
    made: Path, copy: Copy, name: str, commands: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy("finished")
    flip(out / name, 4 * (out / name).stat().st_size)
    for command in commands:
        words = {"RUN": str(out), "recipe.yaml": str(made / "recipe.yaml")}
        assert run([words.get(word, word) for word in READERS[command]]) == 2, command
        error = capsys.readouterr().err
        assert f"{Path(name).name} is not what was written" in error, command


def test_weights_outside_a_run_need_no_checksum(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "finished" / "student.safetensors", tmp_path / "mine.safetensors")
    write_text(tmp_path / "other", "x", checksum=True)
    verify(tmp_path / "mine.safetensors")


# --- YAML and messages


def bomb(depth: int) -> str:
    """Nine aliases in nine, so many deep."""
    lines = [f"x0: &x0 [{', '.join('a' * 9)}]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join([*lines, f"student: {{name: mlp, options: {{x: *x{depth - 1}}}}}"])


def test_aliases_are_bounded_before_they_expand(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text in (bomb(8), "student: {name: mlp, options: &a {x: *a}}", "x: [" + "1, " * 100_001 + "]"):
        path.write_text(text)
        with pytest.raises(BadInput, match="more than 100,000 values"):
            load_recipe(path)
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_overrides_are_bounded_likewise() -> None:
    for value in ("&a [*a]", "0x" + "f" * 6000, "{a: 1, a: 2}"):
        with pytest.raises(BadInput, match="a value in YAML"):
            apply_override({}, f"student.options={value}")


@pytest.mark.parametrize("part", ["9" * 5000, "²", "-1"])
def test_a_position_that_is_no_number_of_python_is_refused(part: str) -> None:
    content = {"losses": [{"name": "kl"}]}
    with pytest.raises(BadInput, match="an item of the list by name or position"):
        apply_override(content, f"losses.{part}.weight=1")
    assert value_at(content, f"losses.{part}.weight", "none") == "none"


def test_no_message_is_longer_than_a_thousand_characters_or_than_a_line() -> None:
    for content in ({"x" * 5000: 1}, {"student": {"name": ["y"] * 5000}}, {"seed": -(16**9000)}, {"a\n\x1b[31m": 1}):
        with pytest.raises(BadInput) as error:
            parse_recipe(content)
        assert len(str(error.value)) <= 1000
        assert str(error.value).isprintable()


def test_an_inequality_of_all_seeds_is_written_and_read() -> None:
    found = Inequality("tuning", ("labels",), (("all", None),), "labels has no trials").as_dict()
    assert InequalityInfo.model_validate(found).seed is None


def test_a_command_interrupted_while_it_is_imported_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("stillroom.cli.run", interrupted)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as left:
        main(["train", "my recipe.yaml"])
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; to go on: stillroom train 'my recipe.yaml'\n"
