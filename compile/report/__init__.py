"""``report.html``: what was checked about an engine, as one page that needs no network."""

from kdcmae.compile.report.page import REPORT_FILE, render, write

__all__ = ["REPORT_FILE", "render", "write"]
