"""What is the same on every page: banner, title, and at the foot which model and software it comes from.

Viewers write into the corners of what they show (OHIF: date and series, window, number of the image), so all of it stands in the middle.
"""

from __future__ import annotations

from pipelines.types import BundleStatus, Prediction, Refusal
from structured_reports import wording
from structured_reports.canvas import LINE, MUTED, TEXT, WARNING, Page
from structured_reports.context import ReportContext
from structured_reports.language import Messages

WIDTH, HEIGHT, MARGIN = 1024, 768, 24
TOP, BOTTOM = 100, 708  # y between which a page of full height has its own content
FOOT = HEIGHT - BOTTOM  # pixels at the foot of a page of any height
_CORNER, _NARROW_CORNER = 170, 110  # pixels that are left free to either side of the upper two lines, and of those at their edge and below
_TITLE_SIZES = (24, 21, 18)
_DIGITS = 16  # of the bundle's digest; the report has all


def start_page(prediction: Prediction, context: ReportContext, say: Messages, *, heading: str = "", height: int = HEIGHT) -> Page:
    """Return a page with banner, title and foot; ``heading`` stands in the place of the version."""
    identity = wording.model_identity(prediction, say, digits=_DIGITS)
    return _start(context, say, status=prediction.bundle_status, title=prediction.title, heading=heading, identity=identity, height=height)


def start_refusal_page(refusal: Refusal, context: ReportContext, say: Messages, *, heading: str, height: int) -> Page:
    """Return the page of a system that gave no result; ``heading`` as in :func:`start_page`."""
    return _start(context, say, status=context.bundle_status, title=refusal.title, heading=heading, identity="", height=height)


def start_overview_page(context: ReportContext, say: Messages, *, status: BundleStatus | None, height: int) -> Page:
    """Return the page of all systems of a study."""
    return _start(context, say, status=status, title="", heading="", identity=say("overview.identity"), height=height)


def _start(
    context: ReportContext, say: Messages, *, status: BundleStatus | None, title: str, heading: str, identity: str, height: int
) -> Page:
    page, middle = Page(WIDTH, height, say.language), WIDTH / 2
    wide, wider = WIDTH - 2 * _CORNER, WIDTH - 2 * _NARROW_CORNER
    page.text((middle, 6), wording.banner(status, say), size=26, colour=WARNING, anchor="ma", width=wide)
    title = wording.title(context.spec.name, title, say) if title else say("overview.title")
    size = next((size for size in _TITLE_SIZES if page.width(title, size=size) <= wide), _TITLE_SIZES[-1])
    page.text((middle, 52), title, size=size, anchor="mm", width=wide)
    below = heading or ". ".join(filter(None, (wording.version_words(context, say), say("status.software"))))
    page.text((middle, 69), below, size=17, colour=TEXT if heading else MUTED, anchor="ma", width=wider)
    page.box(MARGIN, 93, WIDTH - MARGIN, 94, LINE)
    foot = height - FOOT
    page.box(_NARROW_CORNER, foot + 8, WIDTH - _NARROW_CORNER, foot + 9, LINE)
    page.text((middle, foot + 18), identity, size=15, colour=MUTED, anchor="ma", width=wider)
    made = say("result.made", software=f"{context.model_name} {context.software_version}", station=context.station)
    words = f"{made} {say('status.unverified')} {say('status.device')}"
    page.text((middle, foot + 38), words, size=15, colour=MUTED, anchor="ma", width=wider)
    return page
