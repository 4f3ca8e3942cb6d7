"""The user's own model: ``module:function``, imported, called with the keywords it accepts, and checked."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillroom.errors import BadInput, format_error, nearest, shorten
from stillroom.models.external import declare_missing_ops


def build_custom(
    name: str, options: Mapping[str, Any], offered: Mapping[str, int | None], *, field: str = "model"
) -> nn.Module:
    """Call the user's ``module:function`` with those of the offered keywords that it accepts, and all the options.

    A function with ``**kwargs`` is offered everything, less the keywords that it refuses. Where an option has the
    name of an offered keyword, the option wins.

    >>> build_custom("torch.nn:Linear", {"in_features": 4, "out_features": 2}, {"num_classes": 2})
    Linear(in_features=4, out_features=2, bias=True)
    """
    function = find_callable(name, field=field)
    keywords, droppable = _keywords(function, name, options, offered, field)
    before = torch.get_rng_state()
    while True:
        torch.set_rng_state(before)
        try:
            made = function(**keywords)
            break
        except (Exception, SystemExit) as error:
            refused = [key for key in droppable if _refuses(error, key)]
            if not refused:
                raise BadInput(
                    f"{field}.name", name, f"a function that makes a model; it raised {format_error(error)}"
                ) from None
            # It took the keyword by **kwargs and handed it on to something that does not know it.
            for key in refused:
                droppable.remove(key)
                del keywords[key]
    if not isinstance(made, nn.Module):
        raise BadInput(f"{field}.name", name, f"a function that makes an nn.Module, not {shorten(made, 60)}")
    return made


def find_callable(name: str, *, field: str = "model") -> Callable[..., Any]:
    """Import ``module:function`` with the working folder importable, and return the function.

    >>> find_callable("math:sqrt")(9)
    3.0
    """
    module_name, _, attribute = name.partition(":")
    where = f"{field}.name"
    if not module_name or not attribute or ":" in attribute or module_name.startswith("."):
        raise BadInput(where, name, "module:function, such as my_models:make_student")
    declare_missing_ops()
    # A module that draws as it is imported, which it is once a process, must not move the weights drawn next.
    with _working_folder_importable(), torch.random.fork_rng(devices=[]):
        try:
            found: Any = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise BadInput(where, name, f"a module that can be imported; it raised {format_error(error)}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in vars(found) if not key.startswith("_") and callable(getattr(found, key))]
            hint = nearest(part, public) if public else "it defines nothing that can be called"
            raise BadInput(where, name, f"a name that {shorten(module_name)} has ({hint})")
        found = getattr(found, part)
    if not callable(found) or isinstance(found, nn.Module):
        raise BadInput(where, name, f"a function or a class that makes the model, not {shorten(found, 60)}")
    function: Callable[..., Any] = found
    return function


def _keywords(
    function: Callable[..., Any], name: str, options: Mapping[str, Any], offered: Mapping[str, int | None], field: str
) -> tuple[dict[str, Any], list[str]]:
    """The keywords to call with, and those of them that may be dropped again if they turn out not to be expected."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C without a signature
        return dict(options), []
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind in by_keyword}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for key in options:
        if key not in named and not takes_any:
            accepted = f"an option that {name} accepts ({', '.join(named) or 'it accepts none'})"
            raise BadInput(f"{field}.options.{key}", options[key], accepted)
    keywords = dict(options)
    droppable = []
    for key, value in offered.items():
        if key in options or not (key in named or takes_any):
            continue
        # An unknown size is left to the function's own default, where it has one.
        if value is None and not (key in named and named[key].default is inspect.Parameter.empty):
            continue
        keywords[key] = value
        if key not in named:
            droppable.append(key)
    missing = [
        key for key, parameter in named.items() if parameter.default is inspect.Parameter.empty and key not in keywords
    ]
    if missing:
        raise BadInput(f"{field}.options", dict(options), f"a value of {missing[0]!r}, which {name} requires")
    return keywords, droppable


def _refuses(error: BaseException, key: str) -> bool:
    return isinstance(error, TypeError) and "unexpected keyword argument" in str(error) and f"'{key}'" in str(error)


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
