"""A run's report: one HTML file that holds everything it shows, and the charts in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_text
from .results import Result, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2733; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left }
th { border-bottom: 1px solid #9ab } td:not(:first-child) { font-variant-numeric: tabular-nums }
pre { background: #f2f5f8; padding: .7rem; overflow-x: auto } img { max-width: 100% }
"""


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    "<style>{style}</style><body>{body}</body></html>"
)


def write_report(
    path: str | Path,
    title: str,
    result: Result,
    *,
    settings: Mapping[str, Any],
    command: str,
    pictures: Mapping[str, str | Path] | None = None,
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Write a self-contained page: results, curves, pictures, settings, the command to repeat it.

    `pictures` maps captions to PNG files; `history` is what the training engine logged.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _pre(command)]
    parts += [table_html(table) for table in result.tables]
    parts += [f"<p>{html.escape(note)}</p>" for note in result.notes]
    if len(history) > 1:
        parts.append("<h2>Curves</h2>" + figure_to_svg(plot_history(history)))
    for caption, file in (pictures or {}).items():
        data = base64.b64encode(Path(file).read_bytes()).decode()
        alt = html.escape(caption)
        parts.append(f'<h2>{alt}</h2><img alt="{alt}" src="data:image/png;base64,{data}">')
    rows = [(key, str(value)) for key, value in settings.items()]
    parts.append(table_html(Table("Settings", ("option", "value"), rows)))
    write_page(path, title, parts)


def join_reports(path: str | Path, title: str, reports: Mapping[str, str | Path]) -> None:
    """Write one self-contained page of pages that `write_page` wrote; `reports` names them."""
    links = [f'<a href="#{name}">{html.escape(name)}</a>' for name in reports]
    parts = [f"<h1>{html.escape(title)}</h1><p>{' · '.join(links)}</p>"]
    for name, file in reports.items():
        text = Path(file).read_text(encoding="utf-8")
        body = text[text.index("<body>") + len("<body>") : text.rindex("</body>")]
        parts.append(f'<hr><section id="{html.escape(name)}">{body}</section>')
    write_page(path, title, parts)


def write_page(path: str | Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of pieces of HTML in the style that all our pages have."""
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body="".join(parts))
    write_text(path, page)


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def table_html(table: Table) -> str:
    """Return a table, with its title as heading, as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{body}</table>"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty matplotlib figure (inches) that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw one small chart per logged number against the training step."""
    names = [name for name in history[-1] if name != "step"]
    figure = new_figure(3.2 * len(names), 2.4)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([item["step"] for item in history], [item.get(name) for item in history])
        axes.set(title=name, xlabel="step")
    return figure


def figure_to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element that can stand inside HTML."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mlkit"}):  # same figure, same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure in the format that the ending of `path` names, in one step."""
    from .files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
