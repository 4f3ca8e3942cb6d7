"""The registry finds a loss by its file; nothing else in the package lists losses."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stillroom
from stillroom.errors import BadInput
from stillroom.losses import functional, loss_classes
from stillroom.losses.base import Loss
from stillroom.losses.registry import labels_alone, loss_class, losses
from stillroom.recipe import parse_recipe

SOURCE = Path(stillroom.__file__).parent

# What CONTRIBUTING shows, whole.
NEW_LOSS = '''
from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from stillroom.losses.base import Citation, Loss, LossConfig, LossInputs, Requires
from stillroom.losses.numerics import batch_mean, check_pair


class LogitL1Config(LossConfig):
    """Mean absolute difference between logits."""

    name: Literal["logit_l1"] = "logit_l1"
    power: float = Field(1.0, ge=1, description="Exponent of the difference.")


def logit_l1(student_logits: Tensor, teacher_logits: Tensor, *, power: float = 1.0) -> Tensor:
    """Mean absolute difference between logits."""
    student, teacher = check_pair(student_logits, teacher_logits)
    return batch_mean((student - teacher).abs().pow(power).mean(1))


class LogitL1(Loss[LogitL1Config]):
    """Mean absolute difference between logits; see :func:`logit_l1`."""

    citation = Citation("Title", "0000.00000", "key")
    family = "logits"
    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one batch."""
        return logit_l1(inputs.student.logits, inputs.teacher_logits, power=self.config.power)
'''

USES = """
import torch, stillroom as sr
from stillroom.losses import functional
from stillroom.losses.registry import build_losses, losses
from stillroom.recipe import parse_recipe

assert "logit_l1" in losses() and "LogitL1" in dir(sr) and "logit_l1" in functional.__all__
recipe = parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": "logit_l1", "power": 2}]})
built = build_losses(recipe.losses)
assert type(built[0]) is sr.LogitL1 and built[0].config == sr.LogitL1(power=2).config
print(functional.logit_l1(torch.ones(1, 2), torch.zeros(1, 2)).item())
try:
    parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": "logit_l2"}]})
except sr.BadInput as error:
    print(error)
from stillroom.cli import run
assert run(["list", "losses", "--json"]) == run(["schema"]) == 0
"""


def test_a_new_file_is_a_new_loss_everywhere(tmp_path: Path) -> None:
    """In a copy of the package: the registry, recipes, Python's names, ``list`` and the schema all have it."""
    shutil.copytree(SOURCE, tmp_path / "stillroom")
    (tmp_path / "stillroom" / "losses" / "logit_l1.py").write_text(NEW_LOSS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USES], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    value, refused, printed = done.stdout.split("\n", 2)
    assert value == "1.0"
    assert refused.startswith("losses.0: got")
    assert "logit_l1" in refused
    listing, end = json.JSONDecoder().raw_decode(printed)
    listed = listing["losses"]
    assert {"name": "logit_l1", "what": "Mean absolute difference between logits."}.items() <= next(
        entry for entry in listed if entry["name"] == "logit_l1"
    ).items()
    assert "Exponent of the difference." in printed[end:]


def test_every_name_leads_to_its_class_and_its_function() -> None:
    assert set(loss_classes()) == {kind.__name__ for kind in losses().values()}
    for name, kind in losses().items():
        assert getattr(stillroom, kind.__name__) is kind
        assert getattr(functional, name).__module__ == kind.__module__
        assert (SOURCE / "losses" / f"{name}.py").is_file()


def test_flags_follow_the_options() -> None:
    assert {name for name, kind in losses().items() if kind.accepts_target} == {"kl"}
    softening = {name for name, kind in losses().items() if kind.has_temperature}
    assert {"kl", "logit_fisher", "feature_fisher", "block_logit", "dkd", "nkd", "ttm"} <= softening
    # Temperatures that soften no logits, or are no option, have other names.
    assert softening.isdisjoint({"cross_entropy", "logit_mse", "feature_mse", "ctkd", "mlkd", "crd"})
    assert labels_alone() == [{"name": "cross_entropy"}]


def test_a_custom_loss_is_not_imported_for_its_flags() -> None:
    entry = {"name": "no.such:Thing", "options": {"temperature": 3}}
    (config,) = parse_recipe({"student": {"name": "mlp"}, "losses": [entry]}).losses
    assert loss_class(config) is Loss
    assert config.softening_temperature is None


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"losses\.0: got .*did you mean 'kl'"):
        parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": "kll"}]})
    with pytest.raises(BadInput, match=r"losses\.0: got 'kl'; expected a mapping with a name, \{name: kl\}"):
        parse_recipe({"student": {"name": "mlp"}, "losses": ["kl"]})
    with pytest.raises(AttributeError, match="no attribute 'KLL'"):
        _ = stillroom.KLL


def test_a_name_that_others_use_is_answered_with_ours() -> None:
    others = [name for kind in losses().values() for name in kind.other_names]
    assert len({*others, *losses()}) == len(others) + len(losses())
    for theirs, ours in (("fitnet", "feature_mse"), ("RKD", "relational"), ("at", "attention_transfer")):
        with pytest.raises(BadInput, match=rf"losses\.0: got .*'{theirs.lower()}' is called {ours} here"):
            parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": theirs}]})


def _names_of_losses(tree: ast.Module) -> list[ast.Constant]:
    """Strings that are a loss's name, unless they are the name in a recipe's entry: ``{"name": "kl"}``."""
    entries = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "name"
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in losses()]
    return [node for node in strings if id(node) not in entries]


# Names of losses that mean something else as well.
ORDINARY_WORDS = {"correlation"}


def test_no_other_file_asks_for_a_loss_by_its_name_or_class() -> None:
    """Other code asks the flags of ``stillroom.losses.base.Loss``."""
    classes = {*loss_classes(), *(kind.Config.__name__ for kind in losses().values())}
    words = {*classes, *(f"{quote}{name}{quote}" for name in losses() for quote in "'\"")}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        # What reads other people's code names torch's functions.
        of_torch = ("diagnose/audit", "diagnose/checks/loss", "diagnose/checks/loop")
        if path.parent in (SOURCE / "losses", *(SOURCE / place for place in of_torch)):
            continue
        text, where = path.read_text(encoding="utf-8"), path.relative_to(SOURCE)
        if not any(word in text for word in words):
            continue
        tree = ast.parse(text)
        named_here = (node for node in _names_of_losses(tree) if node.value not in ORDINARY_WORDS)
        found += [f"{where}:{node.lineno}: {node.value!r}" for node in named_here]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                named = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)} & classes
                found += [f"{where}:{node.lineno}: isinstance of {name}" for name in sorted(named)]
    assert not found


def test_the_page_of_losses_is_that_of_the_registry() -> None:
    from stillroom.cli.listing import loss_index

    page = Path(__file__).parents[2] / "docs" / "losses.md"
    # python -c "from stillroom.cli.listing import loss_index as i; print(i(), end='')" > docs/losses.md
    assert page.read_text() == loss_index()
