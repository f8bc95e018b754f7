"""The console as a browser without scripts uses it."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

import pytest

from node.config import WebTable
from node.jobs import JobOrder, JobState, OrderedValue
from node.storage.ledger import Ledger
from node.storage.records import PlannedJob, ReceivedInstance
from node.web import pages
from node.web.server import WebServer
from pipelines.spec import ClinicalInput
from pipelines.systems import catalogue

TOKEN = "a token of the tests"
STUDY = "1.2.3"
NAMES = ("age_y", "figo_stage", "rbc_1e12_per_l", "menopause")


class Browser:
    """Keeps the cookie, follows nothing."""

    def __init__(self, server: WebServer) -> None:
        self._server, self.cookie = server, ""

    def ask(self, method: str, path: str, form: Mapping[str, str] | None = None, *, cookie: str | None = None) -> http.client.HTTPResponse:
        """Send a request; the body of the answer is read into ``text``."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        kept = self.cookie if cookie is None else cookie
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"Cookie": kept} if kept else {})
        connection.request(method, path, urlencode(form) if form is not None else None, headers)
        answer = connection.getresponse()
        self.text = answer.read().decode()
        connection.close()
        return answer

    def log_in(self, token: str = TOKEN) -> http.client.HTTPResponse:
        """Present the token."""
        answer = self.ask("POST", "/login", {"token": token})
        self.cookie = answer.headers.get("Set-Cookie", "").split(";")[0]
        return answer

    def csrf(self, path: str = f"/studies/{STUDY}") -> str:
        """Return the hidden value of a page's form."""
        self.ask("GET", path)
        return str(re.findall(r'name="csrf" value="([0-9a-f]+)"', self.text)[0])

    def enter(self, **values: str) -> http.client.HTTPResponse:
        """Fill the form of the study and send all of it, as a browser does."""
        return self.ask("POST", f"/studies/{STUDY}", {"csrf": self.csrf(), **dict.fromkeys(NAMES, ""), **values})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as made:
        for uid in (STUDY, "1.2.4"):
            made.add_instance(ReceivedInstance(f"{uid}.4.5", "1", "1", f"{uid}.4", uid, "MR_SCANNER", "0", 1.0))
        yield made


def _plan(ledger: Ledger, uid: str, system: str, *, waits: str = "", clinical: tuple[OrderedValue, ...] = ()) -> str:
    order = JobOrder(
        job_id=f"{system}-{uid[-1]}-1".replace("_", ""), system=system, bundle_version="1", bundle_digest="d", study_instance_uid=uid,
        version=1, sop_instance_uids=(), created_at=datetime.now(UTC), station="CERVINODE", clinical=clinical,
    )  # fmt: skip
    ledger.plan(uid, [PlannedJob(order, order.job_id, ("PACS",), waits_for=waits, waits_until=2e9 if waits else None)])
    return order.job_id


@pytest.fixture
def browser(ledger: Ledger) -> Iterator[Browser]:
    olnm = catalogue()["olnm_mri"]
    needs = tuple(ClinicalInput(name, required=name != "menopause") for name in NAMES)
    specs = {"olnm_mri": olnm, "lvsi": replace(olnm, name="lvsi", title="Test of <b>LVSI</b>", clinical=needs)}
    known = OrderedValue(name="rbc_1e12_per_l", value=4.5, words="4.5 10^12/L", source="a report <i>")
    _plan(ledger, STUDY, "lvsi", waits="waits for <script>alert(1)</script>", clinical=(known,))
    server = WebServer(WebTable(port=0, token=TOKEN), ledger=ledger, specs=specs)
    server.start()
    yield Browser(server)
    server.stop()


@pytest.fixture
def logged_in(browser: Browser) -> Browser:
    assert browser.log_in().status == 303
    return browser


class _Outline(HTMLParser):
    """Collects controls, labels and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.labels: set[str] = set()
        self.controls: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.handlers += [name for name in found if name.startswith("on")]
        self.ids += [found["id"]] if "id" in found else []
        if tag == "label":
            self.labels.add(found["for"])
        if tag in ("input", "select") and found.get("type") != "hidden":
            self.controls.append(found)


def test_nothing_is_shown_before_the_token(browser: Browser) -> None:
    for path in ("/", f"/studies/{STUDY}", f"/find?study={STUDY}", "/nothing"):
        answer = browser.ask("GET", path)
        assert (answer.status, answer.headers["Location"], browser.text) == (303, "/login", "")
    assert browser.ask("POST", f"/studies/{STUDY}", {"age_y": "47"}).status == 401
    assert browser.ask("GET", "/login").status == 200 and STUDY not in browser.text


def test_token_is_entered_once_and_becomes_a_safe_cookie(browser: Browser) -> None:
    answer = browser.log_in()
    attributes = {part.strip() for part in answer.headers["Set-Cookie"].split(";")[1:]}
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= attributes
    assert TOKEN not in answer.headers["Set-Cookie"]
    assert browser.ask("GET", "/").status == 200
    answer = browser.ask("POST", "/logout", {"csrf": browser.csrf("/")})
    assert (answer.status, answer.headers["Location"]) == (303, "/login") and "Max-Age=0" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("token", ["", "another token of 20", TOKEN[:-1], "tökén"])
def test_wrong_token_is_said(browser: Browser, token: str) -> None:
    answer = browser.log_in(token)
    assert answer.status == 401 and "Set-Cookie" not in answer.headers and 'role="alert"' in browser.text


def test_cookie_cannot_be_made_up_or_outlive_its_time(logged_in: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = logged_in.cookie.partition("=")
    until, _, signature = value.partition(".")
    for forged in (
        f"{int(until) + 999999}.{signature}",
        f"{until}.{'0' * 64}",
        f"{until}.",
        ".",
        "x",
        '"',
        f"é.{signature}",
        "1." + signature,
    ):
        cookie = f"{name}={forged}".encode().decode("latin-1")
        assert logged_in.ask("GET", "/", cookie=cookie).status == 303, forged
    assert logged_in.ask("GET", "/").status == 200
    monkeypatch.setattr("node.web.console.time.time", lambda: float(until) + 1)
    assert logged_in.ask("GET", "/").status == 303


def test_form_from_elsewhere_is_refused(logged_in: Browser, ledger: Ledger) -> None:
    other = Browser(logged_in._server)
    other.cookie = ""
    for csrf in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "é"}):
        assert logged_in.ask("POST", f"/studies/{STUDY}", {**csrf, "age_y": "47"}).status == 403
    assert logged_in.ask("POST", "/logout", {}).status == 403
    assert ledger.clinical(STUDY) == []


def test_waiting_study_and_its_missing_values_come_first(logged_in: Browser, ledger: Ledger) -> None:
    done = _plan(ledger, "1.2.4", "olnm_mri")
    ledger.move(done, JobState.QUEUED)
    ledger.move(done, JobState.FAILED, detail="no T1W series & no <img src=x>")
    logged_in.ask("GET", "/")
    waiting, jobs = logged_in.text.split("<h2>Jobs</h2>")
    assert f'href="/studies/{STUDY}"' in waiting and "1.2.4" not in waiting
    assert "<li>Age</li><li>FIGO stage (2018)</li><li>Short axis of the largest lymph node</li></ul>" in waiting, (
        "what the study itself says is not missing"
    )
    assert "no T1W series &amp; no &lt;img src=x&gt;" in jobs and '<span class="state bad">FAILED</span>' in jobs
    assert '<span class="state wait">WAITING</span>' in jobs


def test_what_comes_from_outside_is_escaped(logged_in: Browser) -> None:
    for path in ("/", f"/studies/{STUDY}"):
        logged_in.ask("GET", path)
        assert not _Outline(logged_in.text).tags & {"script", "b", "i", "img"}
        assert "&lt;script&gt;alert(1)" in logged_in.text and "Test of &lt;b&gt;LVSI&lt;/b&gt;" in logged_in.text
    logged_in.enter(age_y='"><script>alert(2)</script>')
    assert "script" not in _Outline(logged_in.text).tags and "alert(2)" in unescape(logged_in.text)


def test_form_names_units_ranges_choices_and_what_is_required(logged_in: Browser) -> None:
    logged_in.ask("GET", f"/studies/{STUDY}")
    required, others = logged_in.text.split("<legend>Used where known</legend>")
    assert "years, 10 to 120" in required and "10^12/L, 0.5 to 10" in required and "<option>IB2</option>" in required
    assert required.count(">missing<") == 3 and "Short axis of the largest lymph node" in required, "one of its rules waits for it"
    assert "In the study: 4.5 10^12/L, a report &lt;i&gt;" in required
    assert 'id="menopause"' in others and "missing" not in others
    assert "MR_SCANNER" in logged_in.text


def test_values_are_entered_as_by_the_api(logged_in: Browser, ledger: Ledger) -> None:
    answer = logged_in.enter(age_y="47", figo_stage="IB2")
    assert (answer.status, answer.headers["Location"]) == (303, f"/studies/{STUDY}?saved=2")
    stored = {e.name: (e.value, e.words) for e in ledger.clinical(STUDY)}
    assert stored == {"age_y": (47.0, "47 years"), "figo_stage": (2.0, "IB2")}
    assert all(e.source.startswith("entered on the console from 127.0.0.1 at ") for e in ledger.clinical(STUDY))
    (line,) = ledger.audit_trail()
    assert (line.event, line.actor) == ("CLINICAL_ENTERED", "console 127.0.0.1") and "47" not in line.detail
    logged_in.ask("GET", answer.headers["Location"])
    assert 'role="status">Saved.' in logged_in.text and 'value="47"' in logged_in.text and "<option selected>IB2</option>" in logged_in.text
    study = ledger.study(STUDY)
    assert study is not None
    ledger.plan(STUDY, [], seen_instance_id=study.last_instance_id)
    assert [s.study_instance_uid for s in ledger.studies_with_new_values()] == [STUDY], "the node will plan anew"


def test_only_what_changed_is_entered_and_an_emptied_field_withdraws(logged_in: Browser, ledger: Ledger) -> None:
    logged_in.enter(age_y="47", menopause="yes")
    assert logged_in.enter(age_y="47", menopause="yes").headers["Location"].endswith("saved=0")
    assert len(ledger.audit_trail()) == 1
    logged_in.enter(age_y="", menopause="yes")
    assert [e.name for e in ledger.clinical(STUDY)] == ["menopause"]
    assert "age_y withdrawn" in ledger.audit_trail()[-1].detail


def test_wrong_values_are_named_by_field_and_none_is_saved(logged_in: Browser, ledger: Ledger) -> None:
    answer = logged_in.enter(age_y="470", figo_stage="IB2", rbc_1e12_per_l="4,2", menopause="perhaps")
    assert answer.status == 422 and ledger.clinical(STUDY) == []
    text = unescape(logged_in.text)
    for name, words in {
        "age_y": "470 is not between 10 and 120 years.",
        "rbc_1e12_per_l": "'4,2' is not a number (with a decimal point).",
        "menopause": "'perhaps' is none of no, yes.",
    }.items():
        assert f'id="{name}-problem">{words}' in text and f'<a href="#{name}">' in text
    controls = {c["id"]: c for c in _Outline(logged_in.text).controls}
    assert [name for name, c in controls.items() if c.get("aria-invalid")] == ["age_y", "rbc_1e12_per_l", "menopause"]
    assert controls["age_y"]["value"] == "470", "what was typed stays"
    assert "<option selected>IB2</option>" in logged_in.text and "<option selected>perhaps</option>" in logged_in.text


def test_other_names_in_the_form_are_not_taken(logged_in: Browser, ledger: Ledger) -> None:
    logged_in.enter(age_y="47", node_metastasis="yes", shoe_size="38")
    assert [e.name for e in ledger.clinical(STUDY)] == ["age_y"]


@pytest.mark.parametrize(
    "path", ["/studies/9.9", "/studies/../x", "/find?study=9.9", "/find?study=%3Cb%3E", "/find", "/nothing", "//evil.example"]
)
def test_what_is_not_here_is_said(logged_in: Browser, path: str) -> None:
    answer = logged_in.ask("GET", path)
    assert answer.status == 404 and "<b>" not in logged_in.text


def test_study_is_found_by_its_uid(logged_in: Browser) -> None:
    answer = logged_in.ask("GET", "/find?study=1.2.4+")
    assert (answer.status, answer.headers["Location"]) == (303, "/studies/1.2.4")
    assert logged_in.ask("GET", "/studies/1.2.4").status == 200


@pytest.mark.parametrize("path", ["/login", "/", f"/studies/{STUDY}"])
def test_pages_work_without_scripts_and_with_a_keyboard(logged_in: Browser, path: str) -> None:
    answer = logged_in.ask("GET", path)
    outline = _Outline(logged_in.text)
    assert {c["id"] for c in outline.controls} == outline.labels and outline.controls
    assert len(outline.ids) == len(set(outline.ids)) and not outline.handlers and "script" not in outline.tags
    assert '<html lang="en">' in logged_in.text and logged_in.text.count("<h1") == 1
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert "style=" not in logged_in.text and answer.headers["Cache-Control"] == "no-store"
    assert logged_in.ask("GET", "/console.css").headers["Content-Type"] == "text/css"


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text; 1.4.11: 3 to 1 for the edges of controls and the focus ring."""
    block = re.findall(r":root \{(.*?)\}", pages.STYLE.decode(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
    pairs = [(text, ground, 4.5) for text in ("ink", "dim", "accent", "on-bad") for ground in ("paper", "card")]
    pairs += [(name, name.removeprefix("on-"), 4.5) for name in colours if name.startswith("on-")]
    pairs += [(line, ground, 3.0) for line in ("edge", "focus") for ground in ("paper", "card")]
    for text, ground, least in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, (text, ground)
