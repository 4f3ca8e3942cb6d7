"""Jobs on a Ray cluster: the same bytes as on this machine, and clear words where there is none."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stillroom.errors import BadInput
from stillroom.study.engine.jobs import perform
from stillroom.study.engine.ray import RayEngine
from stillroom.study.engine.ray_client import ClusterOptions, _compare, locate
from study.engine.jobs import do, dying, endless, is_free, job, left_by, not_this_one, one, recipe, saved, until

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that somebody started: one node, this machine, loopback alone."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as folder:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.delenv("RAY_ADDRESS", raising=False)
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port=0"]
        here = ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--include-dashboard=false"]
        size = ["--num-cpus=2", "--object-store-memory=80000000", "--disable-usage-stats"]
        head = subprocess.Popen([*command, *here, *size], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = Path(folder, "ray_current_cluster")
        try:
            until(lambda: address.exists() and bool(address.read_text()))
            yield address.read_text().strip()
        finally:
            family = psutil.Process(head.pid).children(recursive=True)
            head.terminate()
            head.wait(600)
            for process in psutil.wait_procs(family, timeout=30)[1]:
                process.kill()


def test_runs_on_a_cluster_are_those_of_this_machine_whatever_dies_or_is_closed(
    place: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one test: each connection to the cluster has processes of its own, which import for seconds."""
    names = ("one", "two", "again")
    kept = recipe() | {"cache": {"enabled": True}}
    kinds = {"one": kept, "two": recipe(threads=2, epochs=None, steps=3), "again": kept}
    content = dying(place)
    killed, whole = job(place / "killed", content), job(place / "whole", content)
    busy = endless(place / "busy", save_seconds=1e6)
    monkeypatch.setenv("STILLROOM_CACHE", "answers")
    not_this_one(place)
    with RayEngine(cluster, None, place / "study") as engine:
        assert (engine.slots, engine.name) == (2, "ray")
        refused = job(place / "refused", {**recipe(), "sead": 1})
        ended = do(engine, [*(job(place / f"ray-{name}", kinds[name]) for name in names), refused])
        assert ended.pop(refused.id).reason == "sead: unknown field 'sead'; did you mean 'seed'?"
        assert {outcome.ending for outcome in ended.values()} == {"done"}
        # One that dies harms no other; what is under way when the study closes saves first.
        engine.submit(busy)
        until((place / "busy" / "metrics.jsonl").exists)
        assert not saved(busy)
        engine.submit(killed)
        crashed = []
        while not crashed:
            crashed = engine.wait(600)
        assert [(outcome.id, outcome.ending) for outcome in crashed] == [(killed.id, "crashed")]
        assert crashed[0].reason.startswith("its process on the cluster died: WorkerCrashedError")
        assert not is_free(busy)
    until(lambda: is_free(busy), patience=600)
    assert saved(busy), "what is cancelled saves first"
    # SIGTERM, as where a node is withdrawn: the run saves first.
    content = dying(place, "SIGTERM", save_seconds=1e6)
    stopped, undisturbed = job(place / "stopped", content), job(place / "undisturbed", content)
    with RayEngine("auto", 2, place / "study", threads=1) as engine:
        assert "a run saved first" in one(engine, stopped).reason
        assert saved(stopped)
        assert {each.ending for each in do(engine, [killed, whole, stopped, undisturbed]).values()} == {"done"}
    assert left_by(killed) == left_by(whole)
    assert left_by(stopped) == left_by(undisturbed)
    assert '{"event": "resume", "step": 9}' in (place / "stopped" / "timing.jsonl").read_text()
    assert [path.name for path in (place / "study").iterdir()] == ["state"], "the token is gone"
    with socket.create_connection(locate(cluster), timeout=600):
        pass  # the cluster is still there
    assert list((place / "answers").glob("*/cache.json")), "the tasks know where answers are kept"
    monkeypatch.setenv("STILLROOM_CACHE", "others")
    for name in names:
        perform(job(place / f"local-{name}", kinds[name]))
        assert left_by(place / f"ray-{name}") == left_by(place / f"local-{name}"), name


def test_a_ray_of_our_own_listens_to_this_machine_alone_and_its_loss_is_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("STILLROOM_DATA", str(place))
    with RayEngine(None, 2, place / "study", patience=2) as engine:
        assert engine.slots == 2
        assert one(engine, job(place / "run")).ending == "done"
        family = psutil.Process(engine._client.pid).children(recursive=True)
        open_to = {c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert open_to <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert open_to
        busy = endless(place / "busy")
        engine.submit(busy)
        until(lambda: saved(busy))
        next(process for process in family if process.name() == "gcs_server").kill()
        for _ in range(2):
            with pytest.raises(
                BadInput, match=r"expected a Ray cluster that stays: it is gone; finished runs are kept"
            ):
                engine.wait(600)
    gone, alive = psutil.wait_procs(family, timeout=600)
    assert not alive
    assert gone
    until(lambda: is_free(busy), patience=600)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("127.0.0.1:PORT", "a Ray cluster that answers there (Connection refused)"),
        ("ray://127.0.0.1:PORT", "a Ray cluster that answers there (Connection refused)"),
        ("somewhere", "auto, host:port or ray://host:port"),
    ],
)
def test_a_cluster_that_is_not_there_is_reported_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], address: str, shown: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.replace("PORT", str(free.getsockname()[1]))
    with pytest.raises(BadInput) as error:
        RayEngine(address, 2, tmp_path)
    assert str(error.value) == f"--address: got {address!r}; expected {shown}"
    assert capfd.readouterr() == ("", ""), "Ray's own words are not for the terminal"


def test_the_environment_names_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(BadInput, match="--address: got 'nowhere'"):
        RayEngine(None, 2, tmp_path)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput) as error:
        RayEngine(None, 2, tmp_path)
    assert str(error.value) == "--engine: got 'ray'; expected the extra: pip install 'stillroom[ray]'"


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        ({"torch": "2.6.0"}, "torch 2.7.0 on every node: node b (10.0.0.2) has torch 2.6.0"),
        ({"stillroom": None}, "stillroom 0.1.0 on every node: node b (10.0.0.2) has no stillroom"),
        ({"code": "e"}, "the code of stillroom on every node as it is here: that of node b (10.0.0.2) differs"),
        ({"seen": ""}, "a folder that every node of the cluster sees: node b (10.0.0.2) does not"),
    ],
)
def test_a_node_that_differs_is_named(there: dict[str, str | None], shown: str) -> None:
    here = {"stillroom": "0.1.0", "torch": "2.7.0", "code": "d", "seen": "token"}
    plan = ClusterOptions(address="a:1", cpus=None, folder="/study", patience=20, cwd=os.getcwd())
    _compare(plan, "node b (10.0.0.2)", here, here)
    with pytest.raises(BadInput) as error:
        _compare(plan, "node b (10.0.0.2)", here | there, here)
    assert error.value.expected == shown
