"""Pages that `make docs` writes from the code, and links that lead out of the site."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from pydantic import BaseModel

from stillroom.cli.checklist import cell

_SHIM = "https://unpkg.com/iframe-worker/shim"  # what the theme's `offline` writes into each page
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for name, make in {
        "commands": commands,
        "recipe": lambda: schema("recipe"),
        "study": lambda: schema("study"),
        "files": file_reference,
        "python": python_reference,
    }.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(make()) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a link to a file of the repository, outside the site, into the file's name."""

    def name_file(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        outside = place.startswith("..") or place.endswith((".json", ".jsonl"))
        if "://" in target or not outside:
            return link[0]
        place = place.removeprefix("../")
        return f"`{place}`" if place.endswith(text.strip("`")) else f"{text} (`{place}`)"

    return _LINK.sub(name_file, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let names in tables break behind an underscore, and say in each cell what its column is, for narrow windows."""
    return re.sub(r"<table>.*?</table>", lambda table: _labelled(table[0]), html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the script that lets the search work from the disk from the site itself, not from elsewhere."""
    return output.replace(_SHIM, get_relative_url("javascripts/iframe-worker.js", page.url))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same in the page for addresses that lead nowhere, which has those of a server's root."""
    return output_content.replace(_SHIM, "/javascripts/iframe-worker.js")


def _labelled(table: str) -> str:
    heads = [re.sub(r"<[^>]*>", "", head) for head in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)]

    def label(row: re.Match[str]) -> str:
        places = iter(heads)
        return re.sub(r"<td", lambda _: f'<td data-label="{next(places, "")}"', row[0])

    table = re.sub(r"<tr>.*?</tr>", label, table, flags=re.DOTALL)
    return re.sub(r"<code>[^<]*</code>", lambda code: code[0].replace("_", "_<wbr>"), table)


def commands() -> Iterator[str]:
    """Every command with its arguments and options, from the command line itself."""
    import typer

    from stillroom.cli import add_commands
    from stillroom.cli.app import app

    add_commands()
    group: Any = typer.main.get_command(app)
    yield from ("# Commands", "", "`stillroom COMMAND --help` prints the same. Exit codes: 0 done, 1 the answer is no, "
                "2 bad input, 130 interrupted: the same command goes on.", "")  # fmt: skip
    for name, command in group.commands.items():
        yield from (f"## {name}", "", _literal(command.help or ""), "")
        yield from ("| argument | default | what |", "|---|---|---|")
        for each in command.params:
            names = " ".join(each.opts if each.opts[0].startswith("-") else (each.metavar or each.name.upper(),))
            value = f" {each.metavar or _choices(each)}".rstrip() if names.startswith("-") else ""
            yield f"| `{names}{value}` | {_default(each)} | {cell(getattr(each, 'help', '') or '')} |"
        yield ""


def _choices(option: Any) -> str:
    """The values that an option takes, where these are few."""
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    return f"[{', '.join(map(str, kind))}]" if isinstance(kind, type) and issubclass(kind, StrEnum) else ""


def _default(each: Any) -> str:
    """What holds where an argument is left out; empty where that is nothing."""
    value = getattr(each.default, "value", each.default)
    if each.required:
        return "required"
    return "" if value is None or callable(value) or value in (False, (), []) else f"`{value}`"


def schema(what: str) -> Iterator[str]:
    """Every field of a recipe or a study, by its place in the file."""
    from stillroom.recipe import Recipe
    from stillroom.study.config import Study

    tree = (Recipe if what == "recipe" else Study).model_json_schema()
    about = f"Every field of a {what}. `stillroom schema {what}` prints it as JSON Schema, for completion in an editor."
    more = (
        "The fields of each loss: [Losses](../losses.md)."
        if what == "recipe"
        else "Those of `recipe`: [Recipe](recipe.md)."
    )
    yield from (
        f"# {what.capitalize()}",
        "",
        f"{about} The resolved file in each run's folder holds them all. {more}",
        "",
    )
    yield from ("| field | type | default | what |", "|---|---|---|---|")
    yield from _rows(tree, tree.get("$defs", {}), "", frozenset())


def _rows(node: Mapping[str, Any], known: Mapping[str, Any], place: str, above: frozenset[str]) -> Iterator[str]:
    for key, field in node.get("properties", {}).items():
        default = f"`{field['default']}`" if "default" in field else ""
        yield f"| `{place}{key}` | {_type(field)} | {cell(default)} | {cell(field.get('description', ''))} |"
        names = [name for name in _references(field) if name not in above]
        # A union of losses has a page of its own.
        if len(names) == 1 and not (key == "recipe" and place == ""):
            yield from _rows(known[names[0]], known, f"{place}{key}.", above | {names[0]})


def _references(field: Mapping[str, Any]) -> list[str]:
    parts = [field, *field.get("anyOf", ()), field.get("items", {}), field.get("additionalProperties") or {}]
    return [part["$ref"].rpartition("/")[2] for part in parts if isinstance(part, dict) and "$ref" in part]


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part) for part in field["anyOf"]))
    # A config's fields are the rows that follow.
    return str(field.get("const") or field.get("type") or ("fields" if _references(field) else "any"))


def file_reference() -> Iterator[str]:
    """Every model of the files that stillroom writes."""
    import importlib
    import pkgutil

    import stillroom.schema as package

    about = (
        "What lies in the folders of runs, studies and diagnoses. Each class is used by the writer and by every reader."
    )
    yield from ("# Files", "", f"{about} Which file holds which: [Architecture](../architecture.md#run-folder).", "")
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"stillroom.schema.{info.name}")
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
        kinds = [kind for kind in kinds if kind.__module__ == module.__name__ and kind.model_fields]
        if not kinds:
            continue
        yield from (f"## {info.name}", "", _literal((module.__doc__ or "").strip().splitlines()[0]), "")
        for kind in kinds:
            yield from (f"### {kind.__name__}", "", _literal((kind.__doc__ or "").strip().splitlines()[0]), "")
            yield from ("```python", *fields(kind), "```", "")


def fields(kind: type[BaseModel]) -> Iterator[str]:
    """The fields of a file as its class writes them, each with what is said of it."""
    written = dict(re.findall(r"^    (\w+): ([^=\n]+?)(?: = .*)?$", inspect.getsource(kind), re.MULTILINE))
    for name, field in kind.model_fields.items():
        about = f"  # {field.description}" if field.description else ""
        yield f"{field.alias or name}: {written.get(name, 'inherited').partition('  #')[0]}{about}"


def python_reference() -> Iterator[str]:
    """Every public name, from its docstring."""
    import stillroom

    losses = {name for name in stillroom.__all__ if name not in stillroom._HOME and not name.startswith("__")}
    yield from ("# Python", "", "`import stillroom as sr`. Every name is imported when it is first used.", "")
    for name in sorted(set(stillroom.__all__) - losses, key=str.lower):
        value = getattr(stillroom, name)
        place = value.__name__ if isinstance(value, ModuleType) else f"{value.__module__}.{name}"
        if callable(value) and isinstance(value, ModuleType):  # a package that can be called: by a function of the API
            place = f"stillroom.api.{name}"
        if not name.startswith("__"):
            yield from (f"::: {place}", "")
    yield from ("## Losses", "", "Classes; their pure functions are in `stillroom.losses.functional`. By family and "
                "paper: [Losses](../losses.md).", "", ", ".join(f"`sr.{name}`" for name in sorted(losses)))  # fmt: skip


def _literal(text: str) -> str:
    """A help text as Markdown, which it is but for brackets that look like links."""
    return re.sub(r"\[(?=[^\]]*\])", r"\\[", text.replace("\b", ""))
