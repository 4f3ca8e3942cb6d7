"""A callback for the ``Trainer`` of Lightning."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from stillroom.integrations import CallbackAudit
from stillroom.models.external import declare_missing_ops


def _callback() -> Any:
    """Lightning's class of callbacks, of the package that the user imported: it has two names."""
    declare_missing_ops()  # Lightning imports torchvision, through torchmetrics
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda each: each not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    return None


_Callback = _callback()


class LightningAudit(CallbackAudit, _Callback or object):  # type: ignore[misc]
    """Watches a ``fit`` of Lightning that distils, and says what is wrong with it.

    ``Trainer(…, callbacks=[LightningAudit(out="diagnosis")])``; nothing else changes. What is found is printed after
    the first steps and, where that changed, at the end; ``diagnosis`` holds it.

    Args:
        teacher: the module or modules that teach; None: found.
        student: the module or modules that learn; None: found.
        steps: how many steps are watched, the first and some later ones.
        out: a folder for ``diagnosis.json`` and ``diagnosis.html``; None writes none.

    Raises:
        BadInput: Lightning is not installed.
    """

    _watches, _framework, _callback = "Trainer.fit", "lightning", _Callback

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch, after the sanity check."""
        self._audit.begin(is_main=trainer.is_global_zero)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge what was watched."""
        self._audit.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave torch as it was; judge what was watched until then."""
        self._audit.end(finished=False)
