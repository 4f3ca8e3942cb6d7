"""What each level of the teacher's answer brought, where the study took it apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.report.fields import Fields
from stillroom.report.figures import Chart, Figure, axis, escaped, layout, rounded
from stillroom.report.formats import DASH, amount
from stillroom.report.palette import LIGHT
from stillroom.report.read import read_object

DISSECTION = "dissection.json"
_ROW, _AROUND = 46, 70


@dataclass(frozen=True)
class Part:
    """A part of the gain: what it is, how large, and its share of the whole."""

    name: str
    note: str
    mean: float | None
    low: float | None
    high: float | None
    share: float | None

    @property
    def told(self) -> str:
        """Its size in points, with its interval."""
        if self.mean is None:
            return DASH
        return _signed(self.mean) + (f" [{_signed(self.low)}, {_signed(self.high)}]" if self.low is not None else "")

    @property
    def share_told(self) -> str:
        """Its share of the whole."""
        return DASH if self.share is None else f"{amount(100 * self.share, 0)}%"


@dataclass(frozen=True)
class Dissected:
    """One pair taken apart: the plot, the parts and the whole, the sentence, the single levels against labels."""

    pair: str
    chart: Chart | None
    parts: tuple[Part, ...]
    total: Part
    gains: tuple[Part, ...]
    told: str


def dissections(folder: Path) -> tuple[Dissected, ...]:
    """What ``dissection.json`` says of each pair; nothing where there is none.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / DISSECTION
    if not path.is_file():
        return ()
    fields = Fields(path, read_object(path))
    fields.one_of("schema", (1,))
    return tuple(_dissected(place, each) for place, each in enumerate(fields.listed("pairs")))


def _dissected(place: int, fields: Fields) -> Dissected:
    pair, total = fields.text("pair"), _part(fields.inside("total"))
    parts = tuple(_part(each) for each in fields.listed("parts"))
    gains = tuple(_part(each) for each in fields.listed("gains"))
    chart = None
    if total.mean is not None and all(part.mean is not None for part in parts):
        title = "What each part of the teacher’s answer brought"
        figure = _figure(parts, total)
        chart = Chart(f"dissection-{place}", title, _WORDS, _AROUND + _ROW * (len(parts) + 1), figure)
    return Dissected(pair, chart, parts, total, gains, fields.text("text"))


_WORDS = (
    "Each bar begins where the one above it ends; together they make up what the whole answer brought over labels. "
    "Whiskers are 95% intervals of each part by itself, over the seeds."
)


def _part(fields: Fields) -> Part:
    return Part(
        fields.text("name"),
        fields.maybe_text("note") or "",
        fields.maybe_number("mean"),
        fields.maybe_number("low"),
        fields.maybe_number("high"),
        fields.maybe_number("share"),
    )


def _figure(parts: Sequence[Part], total: Part) -> Figure:
    begins, at = [], 0.0
    for part in parts:
        begins.append(at)
        at += part.mean or 0.0
    rows = [*parts, total]
    bases = [*begins, 0.0]
    means = [part.mean or 0.0 for part in rows]
    colours = [LIGHT["gained" if mean >= 0 else "lost"] for mean in means[:-1]] + [LIGHT["student"]]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escaped(part.name) for part in rows],
                "x": rounded(means),
                "base": rounded(bases),
                "marker": {"color": colours},
                "width": 0.62,
                "customdata": [[escaped(part.told, 60), escaped(part.note, 90)] for part in rows],
                "hovertemplate": "<b>%{y}</b> %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(
                        (part.high or 0.0) - (part.mean or 0.0) if part.high is not None else 0.0 for part in rows
                    ),
                    "arrayminus": rounded(
                        (part.mean or 0.0) - (part.low or 0.0) if part.low is not None else 0.0 for part in rows
                    ),
                    "color": LIGHT["ink"],
                    "thickness": 1.4,
                    "width": 4,
                },
            }
        ],
        "layout": layout(
            xaxis=axis("Points over labels", zeroline=True),
            yaxis=axis("", autorange="reversed", showgrid=False),
            hovermode="closest",
        ),
    }


def _signed(value: float | None) -> str:
    if value is None:
        return DASH
    return ("+" if value > 0 else "") + amount(value, 2)
