"""`stillroom explain` from end to end, on runs of a few seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stillroom.cli import run as command
from stillroom.errors import BadInput
from stillroom.explain import concept_counts, concepts, learning_speed, on_grid, stability
from stillroom.explain.explanation import explain
from stillroom.explain.runs import load_images, load_runs, runs_in, weight_distance_at
from stillroom.files import write_text
from stillroom.observer import Observer
from stillroom.recipe import parse_recipe
from stillroom.run.run import execute

RECIPE: dict[str, Any] = {
    "data": {"source": "shapes", "shapes": {"image_size": 16, "train": 96, "test": 40}, "batch_size": 32},
    "student": {"name": "resnet8", "options": {"width": 4}},
    "losses": [{"name": "cross_entropy"}],
    "training": {"epochs": 2, "checkpoints": [0, 1], "record_weight_distance": ["layer1.0.conv1", "layer3.0.conv2"]},
}
# A tap by hand spares the search for one, which traces the student.
OPTIONS: dict[str, Any] = {"images": 6, "grid": 8, "passes": 57, "tap": "layer3"}


Made = dict[str, Path]


def trained(folder: Path, **changes: Any) -> Path:
    recipe = parse_recipe({**RECIPE, **changes})
    execute(recipe, folder, latency=False)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("explained")
    labels = trained(folder / "labels")
    taught = {
        "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": str(labels / "student.safetensors")},
        "losses": [{"name": "kl"}],
    }
    return {"labels": labels, "taught": trained(folder / "taught", **taught)}


@pytest.fixture(scope="module")
def explained(
    made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Copies of the runs, explained once, and what was returned."""
    runs = copies(made, tmp_path_factory.mktemp("entropies"))
    return runs, explain([runs["taught"]], [runs["labels"]], **{**OPTIONS, "tap": None}).as_dict()


def copies(runs: dict[str, Path], folder: Path) -> dict[str, Path]:
    return {name: Path(shutil.copytree(path, folder / name)) for name, path in runs.items()}


@pytest.fixture
def runs(made: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return copies(made, tmp_path)


@pytest.fixture
def explained_runs(explained: tuple[Made, dict[str, Any]], tmp_path: Path) -> dict[str, Path]:
    """Runs whose entropies are there."""
    return copies(explained[0], tmp_path)


def test_it_writes_what_the_maps_say(explained: tuple[Made, dict[str, Any]]) -> None:
    runs, content = explained
    assert json.loads((runs["taught"] / "explain.json").read_text()) == content
    assert content["search"] == {"grid": 8, "weight": 6.0, "stop": -2.8, "seed": 0, "passes": 57}
    assert content["images"]["rows"] == [0, 6, 13, 20, 26, 33]
    assert (content["images"]["mask"], content["images"]["excluded"]) == ("masks", [])
    assert [run["role"] for run in content["runs"]] == ["explained", "baseline"]
    for run, reported in zip((runs["taught"], runs["labels"]), content["runs"], strict=True):
        answers = load_file(run / "predictions.safetensors")
        right = answers["student_logits"].argmax(1) == answers["labels"]
        assert reported["accuracy"] == pytest.approx(float(right.double().mean()), rel=1e-5)
    with np.load(runs["taught"] / "explain-maps.npz") as maps:
        foreground = torch.from_numpy(maps["foreground"])
        for place, reported in enumerate(content["runs"]):
            assert reported["tap"] == "layer3"
            assert [each["epoch"] for each in reported["checkpoints"]] == [0, 1, 2]
            entropy = torch.from_numpy(maps[f"entropy-{place}"].astype(np.float32))
            assert entropy.shape == (3, 6, 8, 8)
            # Maps are kept in half precision, so that a cell at the very threshold may fall otherwise.
            found = torch.stack([concepts(each, foreground) for each in entropy])
            counts = [concept_counts(each, foreground) for each in found]
            for each, (n_fg, n_bg, _) in zip(reported["checkpoints"], counts, strict=True):
                assert each["n_fg"] == pytest.approx(float(n_fg.mean()), abs=0.34)
                assert each["n_bg"] == pytest.approx(float(n_bg.mean()), abs=0.34)
            moves = torch.tensor(reported["speed"]["weight_distance"])
            d_mean, _ = learning_speed(torch.stack([each[0] for each in counts]), moves)
            assert reported["speed"]["layer"] == "layer3.0.conv2"
            assert reported["speed"]["d_mean"] == pytest.approx(d_mean, abs=0.3 * float(moves[-1]))
            assert reported["stability"]["rho"] == pytest.approx(stability(found, foreground)[0], abs=0.1)
    assert [one["hypothesis"] for one in content["hypotheses"]] == [1, 2, 3]
    assert {one["what"] for one in content["sensitivity"]} >= {"threshold", "stop", "grid", "position"}
    # The teacher is the student from labels, trained to the end.
    last = content["runs"][1]["checkpoints"][-1]
    assert {key: content["teacher"][key] for key in ("n_fg", "n_bg")} == {key: last[key] for key in ("n_fg", "n_bg")}


def test_the_same_weights_have_the_same_concepts_and_nothing_is_decided(explained_runs: dict[str, Path]) -> None:
    twin = Path(shutil.copytree(explained_runs["labels"], explained_runs["labels"].parent / "twin"))
    content = explain([explained_runs["labels"]], [twin], **OPTIONS).as_dict()
    for one in content["hypotheses"]:
        assert one["verdict"] == "undecided"
        assert all(measure["difference"] == 0 for measure in one["measures"])


def test_a_folder_of_seeds_is_its_runs(runs: dict[str, Path]) -> None:
    folder = runs["labels"].parent / "method"
    for seed in (10, 2):
        shutil.copytree(runs["labels"], folder / f"seed-{seed}")
    (folder / "seed-x").mkdir()
    assert [path.name for path in runs_in([runs["taught"], folder])] == ["taught", "seed-2", "seed-10"]
    assert runs_in([folder / "none"]) == [folder / "none"]


def test_masks_and_boxes_come_from_a_file(runs: dict[str, Path], tmp_path: Path) -> None:
    run = load_runs([runs["labels"]], "layer3")[0]
    _, test = load_images(run, count=6, grid=8, mask="masks")
    boxes = np.tile(np.array([[2, 4, 10, 12]]), (40, 1))
    np.save(tmp_path / "boxes.npy", boxes)
    np.save(tmp_path / "masks.npy", test.masks.numpy().astype(np.uint8))
    sample, _ = load_images(run, count=6, grid=8, mask=str(tmp_path / "boxes.npy"))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:5, 2:6] = True
    assert sample.mask == "boxes"
    assert torch.equal(sample.foreground, expected.expand(6, 8, 8))
    given, _ = load_images(run, count=6, grid=8, mask=str(tmp_path / "masks.npy"))
    own, _ = load_images(run, count=6, grid=8, mask="masks")
    assert torch.equal(given.foreground, own.foreground)
    for name, held in (("few", boxes[:3]), ("floats", boxes / 2), ("sevens", np.full((40, 16, 16), 7))):
        np.save(tmp_path / f"{name}.npy", held)
        with pytest.raises(BadInput, match=r"--mask: .*expected masks of 0 and 1 \[40, 16, 16\] or boxes"):
            load_images(run, count=6, grid=8, mask=str(tmp_path / f"{name}.npy"))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    for name in ("torn", "none"):
        with pytest.raises(BadInput, match=r"a \.npy file that can be read"):
            load_images(run, count=6, grid=8, mask=str(tmp_path / f"{name}.npy"))


class Stopping(Observer):
    """Stops as a kill would, once so many images are done."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.seen: list[tuple[int, int]] = []

    def phase(self, what: str, done: int, total: int) -> None:
        if what != "finding entropies":
            return
        self.seen.append((done, total))
        if done >= self.after:
            raise KeyboardInterrupt


def test_a_stopped_one_goes_on_and_ends_with_the_same_bytes(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.explain.explanation._BLOCK", 3)
    whole = Path(shutil.copytree(runs["taught"], runs["taught"].parent / "whole"))
    explain([whole], **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        explain([runs["taught"]], **OPTIONS, observer=Stopping(9))
    assert not (runs["taught"] / "explain.json").exists()
    watched = Stopping(10_000)
    explain([runs["taught"]], **OPTIONS, observer=watched)
    # Three checkpoints and the teacher, six images each; what was done is counted as done.
    assert watched.seen[0] == (6, 24)
    assert watched.seen[-1] == (24, 24)
    for name in ("explain-maps.npz", "explain/epoch-1.npz"):
        assert (runs["taught"] / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (json.loads((folder / "explain.json").read_text()) for folder in (runs["taught"], whole))
    assert [ours["runs"][0].pop("run"), theirs["runs"][0].pop("run")] == ["taught", "whole"]
    assert ours == theirs


def test_what_is_there_is_not_done_again_but_for_other_options(
    explained_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = explain([explained_runs["labels"]], **OPTIONS)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr("stillroom.explain.explanation.pixel_entropy_with_error", refuse)
        assert explain([explained_runs["labels"]], **OPTIONS) == first
        with pytest.raises(AssertionError, match="asked again"):
            explain([explained_runs["labels"]], **{**OPTIONS, "seed": 1})
    (explained_runs["labels"] / "explain/epoch-1.npz").write_bytes(b"damaged")
    assert explain([explained_runs["labels"]], **OPTIONS) == first


def test_the_command_prints_it(explained_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", str(explained_runs["taught"]), "--baseline", str(explained_runs["labels"])]
    words += ["--images", "6", "--grid", "8", "--passes", "57", "--tap", "layer3"]
    assert command([*words, "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["explain"].endswith("explain.json")
    assert command(words) == 0
    shown = capsys.readouterr().out
    assert "N_fg" in shown
    assert ", from labels, seed 0" in " ".join(shown.split()), "a baseline may have the run's name"
    assert "3. distillation makes the student keep what it once learned: " in shown
    assert "One seed: " in shown


def test_moves_lie_between_the_lines_that_were_written(runs: dict[str, Path]) -> None:
    recipe = parse_recipe({**RECIPE, "training": {**RECIPE["training"], "record_weight_distance": ["layer3.0.conv2"]}})
    lines = [{"step": 2, "epoch": 0.5, "distance": {"layer3.0.conv2": 1.0}}]
    lines.append({"step": 6, "epoch": 1.5, "distance": {"layer3.0.conv2": 2.0}})
    write_text(runs["labels"] / "weight_distance.jsonl", "\n".join(map(json.dumps, lines)), checksum=True)
    from stillroom.run.fidelity.measure import Checkpoint

    kept = [Checkpoint(epoch, Path()) for epoch in (0, 1, 1.5)]
    assert weight_distance_at(runs["labels"], recipe, kept, "layer3") == ("layer3.0.conv2", (0.0, 1.5, 2.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"images": 2}, "--images: got 2; expected 4 or more"),
        ({"grid": 17}, r"grid: got 17; expected 1 to 16 cells .* 16×16"),
        ({"tap": "layr3"}, "student tap: got 'layr3'.*did you mean 'layer3'"),
        ({"mask": "center"}, "--mask: unknown value 'center'; did you mean 'centre'"),
        ({"mask": "positive"}, "--mask: got 'positive'; expected some background in each image; got all of images"),
        ({"passes": 20}, "passes: got 20"),
    ],
)
def test_bad_options_are_refused(runs: dict[str, Path], options: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        explain([runs["labels"]], **{**OPTIONS, **options})
    assert not (runs["labels"] / "explain.json").exists()


def test_runs_that_cannot_be_compared_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    labels = runs["labels"]
    with pytest.raises(BadInput, match=r"run: .*each run once"):
        explain([labels], [labels], **OPTIONS)
    with pytest.raises(BadInput, match="--baseline: got '1 runs'; expected one for each of the 2 runs"):
        explain([labels, runs["taught"]], [labels], **OPTIONS)
    few = {**RECIPE["training"], "checkpoints": []}
    without = trained(tmp_path / "without", training={**few, "epochs": 1})
    with pytest.raises(BadInput, match=r"a run that kept checkpoints: training\.checkpoints=\[0,1,2,5,10\]"):
        explain([without], **OPTIONS)
    other = trained(tmp_path / "other", seed=1)
    with pytest.raises(BadInput, match=r"--baseline: .*of seed 1.*expected the seed of .*, 0"):
        explain([labels], [other], **OPTIONS)
    with pytest.raises(BadInput, match=r"run: .*folder"):
        explain([tmp_path / "nowhere"], **OPTIONS)


def test_masks_brought_to_the_grid_are_the_foreground(explained_runs: dict[str, Path]) -> None:
    from stillroom.data.config import ShapesConfig
    from stillroom.data.synthetic import read_shapes

    explain([explained_runs["labels"]], **OPTIONS)
    masks = read_shapes(ShapesConfig(**RECIPE["data"]["shapes"]), "test").masks
    assert masks is not None
    with np.load(explained_runs["labels"] / "explain-maps.npz") as maps:
        assert np.array_equal(maps["foreground"], on_grid(masks[[0, 6, 13, 20, 26, 33]], 8).numpy())
