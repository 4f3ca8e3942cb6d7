"""Who does a study's jobs: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stillroom.errors import BadInput
from stillroom.study.engine.base import Engine

if TYPE_CHECKING:
    from stillroom.study.plan import StudyFolder

# Makes the engine once the study's folder and the threads of its jobs are known.
EngineMaker = Callable[["StudyFolder", int], Engine]


def engine_maker(name: str, workers: int | None, address: str | None, fork: bool = False) -> EngineMaker:
    """The maker of an engine.

    Args:
        workers: jobs side by side; left out: as many as the threads of each leave cores for.
        fork: whether this process has done nothing with PyTorch but import it, so that workers may be copies of it.

    Raises:
        BadInput: there is no such engine.
    """

    def local(folder: StudyFolder, threads: int) -> Engine:
        # Here, not above: engines' processes import this package, and not all of them need PyTorch.
        from stillroom.data.reading import num_cores
        from stillroom.study.engine.local import LocalEngine

        return LocalEngine(workers or max(num_cores() // threads, 1), folder.logs, fork=fork)

    def ray(folder: StudyFolder, threads: int) -> Engine:
        from stillroom.study.engine.ray import RayEngine

        return RayEngine(address, workers, folder.path, threads=threads)

    makers = {"local": local, "ray": ray}
    if name not in makers:
        raise BadInput("engine", name, "local or ray")
    return makers[name]
