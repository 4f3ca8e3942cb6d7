"""A finished run's student for the Hugging Face hub: weights, recipe, model card; uploaded where it is asked for."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from stillroom.errors import BadInput, format_error
from stillroom.files import parse_yaml, write_text
from stillroom.run.export import SUFFIXES, export_run
from stillroom.schema.base import read_json
from stillroom.schema.run import SUMMARY, RunSummary
from stillroom.tasks import TASK_INFO

_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_TOKEN = re.compile(r"hf_\w+")


def push_run(
    run: Path, name: str, *, private: bool = True, form: str = "safetensors", pixels: bool = False
) -> dict[str, Any]:
    """Upload a run's student with a model card; the files are written to ``RUN/export/hub`` first, and stay there.

    Access is what ``huggingface_hub`` finds, as ``hf auth login`` or ``HF_TOKEN`` left it; no token is read or written
    here.

    Args:
        run: a finished run's folder.
        name: of the repository, ``OWNER/NAME``.
        private: whether a new repository is private.
        form: ``safetensors``, or what is uploaded in addition, as :func:`stillroom.run.export.export_run` takes it.
        pixels: the graph takes uint8 images.

    Returns:
        ``folder`` and ``url``.

    Raises:
        BadInput: the run, the name or the form cannot be used, the package is missing, or the hub refuses or cannot be
            reached.
        RunFailed: the exported model does not answer as the student does.
    """
    if not _NAME.fullmatch(name):
        raise BadInput("--push", name, "OWNER/NAME, a repository of the Hugging Face hub")
    folder = write_hub_folder(run, form, pixels=pixels)
    try:
        client: Any = importlib.import_module("huggingface_hub").HfApi()
    except ImportError:
        raise BadInput("--push", name, "the extra: pip install 'stillroom[hub]'") from None
    try:
        client.create_repo(repo_id=name, private=private, exist_ok=True)
        client.upload_folder(repo_id=name, folder_path=str(folder), commit_message="student of stillroom")
    except Exception as error:  # of the network, or the hub's own
        reason = _TOKEN.sub("hf_…", format_error(error, 200))
        expected = (
            f"a hub that can be reached and lets you write ({reason}); `hf auth login` gives access. The files are in "
            f"{folder}: `hf upload {name} {folder}` sends them later"
        )
        raise BadInput("--push", name, expected) from None
    return {"folder": str(folder), "url": f"https://huggingface.co/{name}"}


def write_hub_folder(run: Path, form: str = "safetensors", *, pixels: bool = False) -> Path:
    """Write ``README.md`` (the model card), ``model.safetensors`` and ``recipe.yaml`` to ``RUN/export/hub``.

    Of paths in the recipe the last part alone is left. Another form is written next to the weights, as ``model.onnx``;
    what an earlier call wrote there is removed.
    """
    folder = run / "export" / "hub"
    for suffix in SUFFIXES.values():
        (folder / f"model.{suffix}").unlink(missing_ok=True)
    for each in dict.fromkeys(("safetensors", form)):
        graph = folder / f"model.{SUFFIXES.get(each, each)}"
        export_run(run, each, graph, pixels=pixels and each == form)
    recipe = _without_folders(parse_yaml((run / "recipe.yaml").read_text(encoding="utf-8")))
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    write_text(folder / "README.md", model_card(read_json(RunSummary, run / SUMMARY), graph.name, pixels=pixels))
    return folder


def _without_folders(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: Path(value).name
            if key in ("path", "weights", "logits", "unlabelled", "tokenizer") and isinstance(value, str)
            else _without_folders(value)
            for key, value in content.items()
        }
    return [_without_folders(each) for each in content] if isinstance(content, list) else content


def model_card(summary: RunSummary, file: str = "model.safetensors", *, pixels: bool = False) -> str:
    """The card of a run's student, Markdown with the hub's header: what it is, how good, how made, how far that goes.

    The header names no license: that is the owner's to choose.

    Args:
        summary: the run's.
        file: the weights' name, or that of a graph next to them.
        pixels: whether the graph takes uint8 images.
    """
    info = TASK_INFO[summary.task]
    image = summary.data.vocabulary is None
    kind = "image-classification" if image else "text-classification"
    measures = {"student": summary.as_dict(), **{name: each.as_dict() for name, each in summary.teachers.items()}}
    rows = []
    for who, each in measures.items():
        found = {**each, **(each.get("measures") or {})}
        if found.get(info.primary.name) is not None:
            cells = [one.written(found.get(one.name)) for one in info.measures]
            size = f"{found['parameters']:,}" if found.get("parameters") else "–"
            rows.append(f"| {who} | {_plain(found['model'])} | {' | '.join(cells)} | {size} |")
    heads = ["", "model", *(measure.title for measure in info.measures), "parameters"]
    losses = ", ".join(loss.name for loss in summary.losses)
    teachers = ", ".join(_plain(each.model) for each in summary.teachers.values())
    trained = f"distilled from {teachers}" if summary.distilled else "trained from labels alone"
    header = {
        "library_name": "stillroom",
        "pipeline_tag": kind,
        "tags": ["knowledge-distillation", "stillroom"] if summary.distilled else ["stillroom"],
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    return f"""---
{front}
---
# {_plain(summary.name)}

{_plain(summary.model)}, {trained} on {_plain(summary.data.name)}: {summary.data.train:,} training and \
{summary.count:,} test {"images" if image else "texts"}, {summary.data.classes} {info.outputs}.

| {" | ".join(heads)} |
|{"---|" * len(heads)}
{chr(10).join(rows)}

On the test split, after the last epoch. One run with seed {summary.seed}: the spread between seeds is not known.

Losses: {losses}; {summary.epochs:g} epochs, {summary.steps:,} steps, {summary.precision}. `recipe.yaml` has every \
option; of its paths the last part alone is written.

```python
from safetensors.torch import load_file
state = load_file("model.safetensors")  # of {_plain(summary.model)}, {summary.data.classes} outputs
```
Input: {"×".join(map(str, summary.data.shape))}, as `student.preprocess` in `recipe.yaml` says.
{_graph_lines(file, pixels, "images" if image else "ids")}"""


def _graph_lines(file: str, pixels: bool, given: str) -> str:
    """How the graph next to the weights is run; empty where there is none."""
    if file.endswith(".safetensors"):
        return ""
    if file.endswith(".pt2"):
        code = f'import torch\nlogits = torch.export.load("{file}").module()(inputs)'
    else:
        session = f'onnxruntime.InferenceSession("{file}")'
        code = f'import onnxruntime\nlogits = {session}.run(None, {{"{given}": inputs}})[0]'
    takes = "uint8 images; the preprocess is inside" if pixels else "what the preprocess gives"
    return f"""
`{file}` needs no code of the model; it takes {takes}:
```python
{code}
```
"""


def _plain(text: str) -> str:
    """A text that Markdown and its tables take as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
