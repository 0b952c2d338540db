"""A report as one HTML page that needs no other file and reaches no network."""

from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from scratchlab.evaluation.gallery_page import visible
from scratchlab.study import report_tables as tables
from scratchlab.study import report_words as words
from scratchlab.study.report import Report
from scratchlab.study.report_figures import figures
from scratchlab.study.report_guide import reading

FOLDER = Path(__file__).parent / "pages"


def to_html(report: Report) -> str:
    """The page, with plotly's script and the report as JSON inside."""
    drawn = figures(report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    return environment.get_template("report.html.j2").render(
        report=report,
        w=words,
        reading=reading(report),
        t=tables,
        rows=words.rows(report),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly()) if drawn else "",
        data=as_data(report.to_json()),
        figures=as_data(drawn),
        drawn=drawn,
    )


def as_data(content: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element, or begin another."""
    text = orjson.dumps(content).decode()
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _plotly() -> str:
    """Plotly's own script, which comes with its package."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")
