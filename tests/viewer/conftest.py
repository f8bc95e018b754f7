"""The viewer of ``make viewer``, started as it is started there, with every study of :mod:`tests.viewer.cases`; and a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.e2e import servers
from tests.foreign import missing, need
from tests.viewer import cases
from tests.viewer.browser import PATIENCE_S, Ohif

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

_ROOT = Path(__file__).parents[2]
_SERVE = _ROOT / "deploy" / "viewer" / "serve.py"
SCREENSHOTS = _ROOT / "build" / "screenshots"
# Software rendering: a test machine has no graphics card.
_FLAGS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-sandbox"]


@dataclass(frozen=True)
class Viewer:
    """Where it answers, and its process and log."""

    ohif: str
    orthanc: str
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How the viewer is started, once all that it needs is here."""
    servers.require(servers.ORTHANC, servers.DICOMWEB)
    fetched = subprocess.run([sys.executable, str(_SERVE)], capture_output=True, text=True, check=False)
    if fetched.returncode:
        missing("OHIF", f"it cannot be fetched: {fetched.stderr.strip()}")
    return [sys.executable, str(_SERVE), "--port", "0"]


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> dict[str, cases.Case]:
    """Every study by name."""
    folder = tmp_path_factory.mktemp("studies")
    makers = (cases.phantom, cases.chinese, cases.versions, cases.refused, cases.failed, cases.refused_ultrasound)
    made = {make.__name__: make(folder / make.__name__) for make in makers}
    return made | {name: cases.ultrasound(folder / name, name) for name in cases.ULTRASOUND}


@pytest.fixture(scope="session")
def viewer(tmp_path_factory: pytest.TempPathFactory, command: list[str], studies: dict[str, cases.Case]) -> Iterator[Viewer]:
    """The running viewer with all studies loaded."""
    log = tmp_path_factory.mktemp("viewer") / "viewer.log"
    with servers.process([*command, *(str(case.folder) for case in studies.values())], log) as child:
        yield wait_for_viewer(child, log)


def wait_for_viewer(child: subprocess.Popen[bytes], log: Path) -> Viewer:
    """Return where a starting viewer answers, as it prints it."""
    servers.wait_until(lambda: "Ctrl-C" in log.read_text() or child.poll() is not None, seconds=60, what="the viewer starts")
    ohif, orthanc = (re.search(rf"^{name}: +(\S+)$", log.read_text(), re.MULTILINE) for name in ("OHIF", "Orthanc"))
    assert ohif and orthanc, log.read_text()
    return Viewer(ohif[1], orthanc[1].partition("/app/")[0], child, log)


@pytest.fixture(scope="session")
def chromium() -> Iterator[BrowserContext]:
    """A headless browser that keeps OHIF's scripts from one page to the next."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("google-chrome") or need("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=_FLAGS)
        context = browser.new_context(viewport={"width": 1600, "height": 900})
        context.set_default_timeout(1000 * PATIENCE_S)
        yield context
        browser.close()


@pytest.fixture
def ohif(viewer: Viewer, chromium: BrowserContext) -> Iterator[Ohif]:
    """A fresh page."""
    with open_page(chromium, viewer.ohif) as page:
        yield page


@contextmanager
def open_page(chromium: BrowserContext, address: str) -> Iterator[Ohif]:
    """Yield a fresh page; at the end, no script of it may have failed and nothing may have been asked of another host."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page = chromium.new_page()
    failures: list[Any] = []
    hosts: set[str | None] = set()
    page.on("pageerror", lambda error: failures.append(error))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    yield Ohif(page, address, SCREENSHOTS)
    page.close()
    assert failures == []
    assert hosts <= {"127.0.0.1", None}  # None: blob: and data:
