"""A callback for the ``Trainer`` of transformers."""

from __future__ import annotations

from typing import Any

from stillroom.integrations import CallbackAudit

try:
    from transformers import TrainerCallback
except ImportError:  # a class all the same, so that its documentation can be read
    TrainerCallback = None


class TrainerAudit(CallbackAudit, TrainerCallback or object):  # type: ignore[misc]
    """Watches the trainings of a transformers ``Trainer`` that distils, and says what is wrong with them.

    ``trainer = MyTrainer(…, callbacks=[TrainerAudit(out="diagnosis")])``; nothing else changes. What is found is
    printed after the first steps and, where that changed, at the end; ``diagnosis`` holds it.
    Where ``train()`` raises, the Trainer calls no callback any more: ``close()`` then ends the watch, as the next
    ``train()`` does.

    Args:
        teacher: the module or modules that teach; None: found.
        student: the module or modules that learn; None: found.
        steps: how many steps are watched, the first and some later ones.
        out: a folder for ``diagnosis.json`` and ``diagnosis.html``; None writes none.

    Raises:
        BadInput: transformers is not installed.
    """

    _watches, _framework, _callback = "Trainer.train", "transformers", TrainerCallback

    def close(self, *, finished: bool = True) -> None:
        """Watch no more; judge what was watched, where a training is watched."""
        self._audit.end(finished=finished)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch."""
        self._audit.begin(is_main=state.is_world_process_zero)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge what was watched."""
        self._audit.end()
