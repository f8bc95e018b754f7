"""The console: pages for people who enter clinical values and look after jobs. It works without scripts.

=======================  ===========================================================================================
``GET /``                studies that wait for clinical values, and what became of the latest jobs
``GET /studies/U``       form of the values that the systems of study U name
``POST /studies/U``      enter them, as ``PUT /api/studies/U/clinical`` does
``GET /find?study=U``    go to a study
``GET, POST /login``     present the token once; a cookie stands for it until it expires or the token changes
``POST /logout``         forget the cookie
=======================  ===========================================================================================
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from node.clinical import enter
from node.jobs import JobState
from node.log import fields
from node.storage.ledger import Ledger
from node.storage.records import Job, ReceivedStudy
from node.web import pages
from node.web.pages import Field, FormPage
from pipelines.errors import InputError
from pipelines.features.clinical import KNOWN, parse
from pipelines.spec import ClinicalInput, PipelineSpec

COOKIE_NAME = "cervinode_console"
_SESSION_S = 12 * 3600  # a working day
_STUDY = re.compile(r"/studies/([0-9.]{1,64})")
_MAX_JOBS = 100  # on the first page

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a browser asks for. ``cookie`` is the value of ours, ``form`` the fields of a POST."""

    method: str
    path: str
    caller: str
    cookie: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A page, or with ``location`` the way to another; ``cookie`` sets ours for so many seconds."""

    status: HTTPStatus
    html: str = ""
    location: str = ""
    cookie: tuple[str, int] | None = None


class Console:
    """Answers requests. Called from several threads; it keeps nothing between them."""

    def __init__(self, token: str, *, ledger: Ledger, specs: Mapping[str, PipelineSpec]) -> None:
        self._token, self._ledger, self._specs = token.encode(), ledger, specs

    def answer(self, request: Request) -> Answer:
        """Return what a request gets."""
        if request.path == "/login":
            return self._log_in(request)
        if not self._is_session(request.cookie):
            return _go("/login") if request.method == "GET" else _error(HTTPStatus.UNAUTHORIZED, "You are not logged in.")
        if request.method == "POST" and not hmac.compare_digest(request.form.get("csrf", "").encode(), self._csrf(request).encode()):
            return _error(HTTPStatus.FORBIDDEN, "This form is not from this session. Open the page again.")
        match request.method, request.path:
            case "POST", "/logout":
                return _go("/login", cookie=("", 0))
            case "GET", "/":
                return self._overview(request)
            case "GET", "/find":
                return self._find(request.query.get("study", "").strip())
        study = self._ledger.study(found[1]) if (found := _STUDY.fullmatch(request.path)) else None
        if study is None:
            return _error(HTTPStatus.NOT_FOUND, "There is nothing here.")
        return self._show(request, study) if request.method == "GET" else self._enter(request, study)

    def _log_in(self, request: Request) -> Answer:
        if request.method == "GET":
            return Answer(HTTPStatus.OK, pages.render_login())
        if not hmac.compare_digest(request.form.get("token", "").strip().encode(), self._token):
            log.warning("console login failed", extra=fields(caller=request.caller))
            return Answer(HTTPStatus.UNAUTHORIZED, pages.render_login(problem="That is not the token of this node."))
        until = str(int(time.time()) + _SESSION_S)
        return _go("/", cookie=(f"{until}.{self._sign('session', until)}", _SESSION_S))

    def _sign(self, purpose: str, words: str) -> str:
        return hmac.new(self._token, f"{purpose} {words}".encode(), hashlib.sha256).hexdigest()

    def _is_session(self, cookie: str) -> bool:
        until, _, signature = cookie.partition(".")
        genuine = hmac.compare_digest(signature.encode(), self._sign("session", until).encode())
        return genuine and until.isdecimal() and int(until) > time.time()

    def _csrf(self, request: Request) -> str:
        return self._sign("form", request.cookie)

    def _overview(self, request: Request) -> Answer:
        waiting = [(job, missing) for job in self._ledger.jobs(JobState.WAITING) if (missing := self._missing(job))]
        jobs = self._ledger.jobs(last=_MAX_JOBS)
        titles = {name: spec.title for name, spec in self._specs.items()}
        return Answer(HTTPStatus.OK, pages.render_overview(waiting, jobs, titles=titles, csrf=self._csrf(request)))

    def _missing(self, job: Job) -> list[str]:
        """Return the titles of the values that a waiting job lacks; it may wait for images only."""
        known = {v.name for v in job.order.clinical}
        return [KNOWN[c.name].title for c in self._inputs(job.order.system) if c.required and c.name not in known]

    def _inputs(self, system: str) -> tuple[ClinicalInput, ...]:
        """Return the values that a system predicts with, and those that its rules of inclusion look at."""
        if system not in self._specs:
            return ()
        spec = self._specs[system]
        named = {c.name for c in spec.clinical}
        return (*spec.clinical, *(ClinicalInput(rule.name, required=rule.wait_s > 0) for rule in spec.inclusion if rule.name not in named))

    def _find(self, uid: str) -> Answer:
        if re.fullmatch(r"[0-9.]{1,64}", uid) and self._ledger.study(uid):
            return _go(f"/studies/{uid}")
        return _error(HTTPStatus.NOT_FOUND, "Nothing of this study was received here.")

    def _show(self, request: Request, study: ReceivedStudy) -> Answer:
        saved = "Saved." if request.query.get("saved") else ""
        return Answer(HTTPStatus.OK, pages.render_form(self._form(request, study, stated={}, problems={}, message=saved)))

    def _enter(self, request: Request, study: ReceivedStudy) -> Answer:
        """Enter what has changed; if one value is wrong, none, and each is named beside its field."""
        uid = study.study_instance_uid
        now = {f.name: f.value for f in self._fields(study)}
        stated = {name: request.form[name].strip() for name in now if name in request.form}
        problems = {name: problem for name, text in stated.items() if text and (problem := _problem_with(name, text))}
        if problems:
            form = self._form(request, study, stated=stated, problems=problems, message="")
            return Answer(HTTPStatus.UNPROCESSABLE_ENTITY, pages.render_form(form))
        changed = {name: text or None for name, text in stated.items() if text != now[name]}
        if changed:
            enter(self._ledger, uid, changed, how=f"entered on the console from {request.caller}", actor=f"console {request.caller}")
        return _go(f"/studies/{uid}?saved={len(changed)}")

    def _form(
        self, request: Request, study: ReceivedStudy, *, stated: Mapping[str, str], problems: Mapping[str, str], message: str
    ) -> FormPage:
        jobs = self._ledger.jobs(study_instance_uid=study.study_instance_uid)
        shown = [f.after(stated.get(f.name), problems.get(f.name, "")) for f in self._fields(study)]
        titles = {name: spec.title for name, spec in self._specs.items()}
        return FormPage(study=study, fields=shown, jobs=jobs, titles=titles, csrf=self._csrf(request), message=message)

    def _fields(self, study: ReceivedStudy) -> list[Field]:
        """Return the values that the systems of a study name, those that one of them requires first; before it has jobs, of all systems."""
        jobs = self._ledger.jobs(study_instance_uid=study.study_instance_uid)
        inputs = [one for system in dict.fromkeys([j.order.system for j in jobs] or self._specs) for one in self._inputs(system)]
        entered = {e.name: e for e in self._ledger.clinical(study.study_instance_uid)}
        found = {v.name: f"{v.words}, {v.source}" for job in jobs for v in job.order.clinical if v.name not in entered}
        required = {one.name for one in inputs if one.required}
        made = []
        for name in sorted(dict.fromkeys(one.name for one in inputs), key=lambda name: name not in required):
            entry, definition = entered.get(name), KNOWN[name]
            value = "" if entry is None or entry.value is None else entry.words if definition.choices else f"{entry.value:.12g}"
            made.append(
                Field(
                    name,
                    definition,
                    value=value,
                    required=name in required,
                    source=entry.source if entry else "",
                    found=found.get(name, ""),
                )
            )
        return made


def _problem_with(name: str, text: str) -> str:
    """Return what is wrong with a value as it was typed, as a sentence; nothing if nothing is."""
    try:
        parse(name, text, source="")
    except InputError as error:
        words = str(error).removeprefix(f"{name}: ")
        return f"{words[0].upper()}{words[1:]}."
    return ""


def _go(location: str, *, cookie: tuple[str, int] | None = None) -> Answer:
    return Answer(HTTPStatus.SEE_OTHER, location=location, cookie=cookie)


def _error(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, pages.render_message(status.phrase, words))
