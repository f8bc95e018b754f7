"""What is the same on every page: banner, title, and at the foot which model and software it comes from."""

from __future__ import annotations

from pipelines.types import Prediction
from structured_reports import wording
from structured_reports.canvas import LINE, MUTED, WARNING, Page
from structured_reports.context import ReportContext
from structured_reports.language import Messages

WIDTH, HEIGHT, MARGIN = 1024, 768, 24
TOP, BOTTOM = 98, 708  # y between which a page has its own content


def start_page(prediction: Prediction, context: ReportContext, say: Messages, *, heading: str = "") -> Page:
    """Return a page with banner, title and foot; ``heading`` stands in the place of the version."""
    page = Page(WIDTH, HEIGHT, say.language)
    page.text((MARGIN, 10), wording.banner(prediction.bundle_status, say), size=26, colour=WARNING)
    page.text((WIDTH - MARGIN, 16), say("status.software"), size=17, colour=MUTED, anchor="ra")
    page.box(MARGIN, 48, WIDTH - MARGIN, 49, LINE)
    right = heading or wording.version_words(context, say)
    wide = page.text((WIDTH - MARGIN, 66), right, size=17, anchor="ra")
    title = wording.title(prediction.system, prediction.title, say)
    page.text((MARGIN, 60), title, size=26, width=WIDTH - 2 * MARGIN - (wide + 24 if wide else 0))
    page.box(MARGIN, 716, WIDTH - MARGIN, 717, LINE)
    page.text((MARGIN, 726), wording.model_identity(prediction, say), size=15, colour=MUTED, width=WIDTH - 2 * MARGIN)
    made = say("result.made", software=f"{context.model_name} {context.software_version}", station=context.station)
    words = f"{made} {say('status.unverified')} {say('status.device')}"
    page.text((MARGIN, 746), words, size=15, colour=MUTED, width=WIDTH - 2 * MARGIN)
    return page
