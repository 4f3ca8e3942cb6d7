"""What is wrong with a loss function, from its answers to random logits."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stillroom.diagnose.check import Check, check_all
from stillroom.diagnose.checks.loss import properties
from stillroom.diagnose.checks.loss.call import find_loss_function, make_instance, name_of
from stillroom.diagnose.checks.loss.context import LossContext
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.errors import BadInput, format_error, nearest
from stillroom.models.external import declare_missing_ops

# Causes before what follows from them.
CHECKS: tuple[Check[LossContext], ...] = (
    properties.student_no_gradient,
    properties.teacher_gradient,
    properties.roles_swapped,
    properties.probabilities_for_logits,
    properties.temperature_one_sided,
    properties.batch_split,
    properties.teacher_unused,
    properties.labels_unused,
    properties.weights_swapped,
    properties.loss_scale,
    properties.target_constant,
    properties.loss_minimum,
    properties.ignored_rows,
    properties.half_precision,
    properties.loss_identity,
)
_NUMBERS = ("teacher_unused", "labels_unused", "loss_scale", "target_constant", "loss_minimum", "half_precision")
# A problem of one check explains those of the checks on the right: one fault, one problem.
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "student_no_gradient": ("teacher_gradient", "batch_split", "weights_swapped", "ignored_rows", *_NUMBERS),
    "roles_swapped": _NUMBERS,
    "probabilities_for_logits": _NUMBERS,
    "temperature_one_sided": _NUMBERS,
    "teacher_gradient": ("teacher_unused", "labels_unused", "loss_minimum"),
    "teacher_unused": ("weights_swapped",),
    "labels_unused": ("weights_swapped",),
    "batch_split": ("target_constant", "loss_minimum", "ignored_rows"),
    "target_constant": ("loss_minimum",),
    "loss_minimum": ("half_precision",),
    "loss_scale": ("half_precision",),
}


def check_loss(
    loss: Any,
    *,
    num_classes: int = 10,
    roles: Mapping[str, str] | None = None,
    features: Sequence[int] | None = None,
    sequences: bool | None = None,
    name: str | None = None,
    checks: Sequence[Check[LossContext]] = CHECKS,
) -> Diagnosis:
    """Check a loss function of your own: call it on random logits, train nothing.

    Args:
        loss: any callable of (student_logits, teacher_logits, labels) in any order, with or without labels; what an
            argument is, is read from its name. A module or a class works, too, and a :class:`stillroom.Loss` of logits.
            It returns a scalar.
        num_classes: classes K that it is meant for.
        roles: argument → ``student``, ``teacher``, ``labels``, ``student_features``, ``teacher_features`` or ``mask``,
            where names do not tell.
        features: shape of one sample's features, such as ``(64, 8, 8)``, of a loss that compares features.
        sequences: whether the logits are [B, L, K]; left out: where the loss takes them with labels or a mask, or
            its text speaks of tokens, positions or sequences.
        name: what the diagnosis calls it; default: its own name.
        checks: what is checked.

    Returns:
        The findings, problems first. ``loss_identity`` says what the loss is: its ``terms``, with their temperatures,
        coefficients and the factors that faults have put on them.

    Raises:
        BadInput: it cannot be called; the message says what was tried.

    >>> import torch.nn.functional as F
    >>> def kd(student_logits, teacher_logits, labels, T=4.0):
    ...     soft = F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1))
    ...     return 0.1 * F.cross_entropy(student_logits, labels) + 0.9 * soft
    >>> print(check_loss(kd, num_classes=10).problems[0].summary)
    0.1 · CE + 0.9 · KL(teacher‖student) at τ = 4, its KL term 160 times too weak: averaged over K = 10 classes
    (`reduction='mean'`), and τ² = 16 is missing.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise BadInput("num_classes", num_classes, "a whole number of 2 or more")
    shape = tuple(features) if features is not None else None
    generator = torch.get_rng_state()
    try:
        given = find_loss_function(loss, num_classes=num_classes, roles=roles, feature_shape=shape)
        context = LossContext(given, num_classes, loss, sequences=sequences)
        findings = check_all(checks, context, FOLLOWS)
    finally:
        torch.set_rng_state(generator)
    return Diagnosis.of(name or name_of(loss), findings, kind="loss")


def load_loss(target: str) -> Any:
    """Import what ``FILE.py:NAME`` or ``package.module:NAME`` names, without running a script's main part.

    Raises:
        BadInput: the file or the name does not exist, or its import fails.

    >>> load_loss("torch.nn.functional:kl_div").__name__
    'kl_div'
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise BadInput("loss", target, "FILE.py:FUNCTION or package.module:FUNCTION, such as losses.py:kd_loss")
    declare_missing_ops()  # a file that imports transformers imports torchvision
    before, arguments = torch.get_rng_state(), sys.argv
    try:
        sys.argv = [place]
        module: Any = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except BadInput:
        raise
    except SystemExit:
        expected = "a module that can be imported; it exits when it is: its main part belongs under"
        raise BadInput("loss", target, f"{expected} `if __name__ == '__main__':`") from None
    except Exception as error:
        raise BadInput("loss", target, f"a module that can be imported; it raised {format_error(error)}") from None
    finally:
        torch.set_rng_state(before)
        sys.argv = arguments
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            hint = nearest(part, public) if public else "it defines nothing that can be called"
            raise BadInput("loss", target, f"a name that {place} has ({hint})")
        # A method is that of an object made with the class's defaults.
        owner = (
            make_instance(found, 10) if inspect.isclass(found) and inspect.isfunction(vars(found).get(part)) else found
        )
        found = getattr(owner, part)
    return found


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise BadInput("loss", str(path), "a Python file that exists")
    if (path.parent / "__init__.py").is_file() and re.search(r"^\s*from\s+\.", path.read_text(errors="ignore"), re.M):
        # A file of a package, with relative imports: its name begins where the packages do.
        names, folder = [path.stem], path.resolve().parent
        while (folder / "__init__.py").is_file():
            names.insert(0, folder.name)
            folder = folder.parent
        return _load_module(".".join(names), folder)
    name = f"_checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput("loss", str(path), "a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and inspect find a class's module here.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _load_module(name: str, folder: Path | None = None) -> Any:
    place = str(folder or Path.cwd())
    sys.path.insert(0, place)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(place)
