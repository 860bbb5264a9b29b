"""One page from one output folder: `write_report(out)` reads the records of OUT and writes OUT/report.html.

The report computes nothing: every number it prints stands in a record file. altair, vl-convert-python and jinja2 are
imported only when a page is written.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.report.page import write_report as write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sparring.report import page

        return getattr(page, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
