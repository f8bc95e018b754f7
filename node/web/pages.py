"""The console's pages as HTML. Everything that comes from outside goes through :func:`html.escape`; no patient's name is on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from pathlib import Path

from node.jobs import OVERVIEW, JobState
from node.storage.records import Job, ReceivedStudy
from pipelines.features.clinical import Definition

STYLE = (Path(__file__).parent / "console.css").read_bytes()
_KINDS = {
    JobState.WAITING: "wait",
    JobState.DONE: "good",
    JobState.REFUSED: "note",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "off",
}  # all others are under way


@dataclass(frozen=True)
class Field:
    """One value of the form: what was entered, and what the study itself says (``found``)."""

    name: str
    definition: Definition
    value: str
    required: bool
    source: str
    found: str
    problem: str = ""

    def after(self, stated: str | None, problem: str) -> Field:
        """Return the field as it looks after somebody typed something, right or wrong."""
        return replace(self, value=self.value if stated is None else stated, problem=problem)


@dataclass(frozen=True)
class FormPage:
    """What the page of a study shows."""

    study: ReceivedStudy
    fields: Sequence[Field]
    jobs: Sequence[Job]
    titles: Mapping[str, str]
    csrf: str
    message: str


def render_login(*, problem: str = "") -> str:
    """Return the page that asks for the token."""
    wrong = f'<p class="problem" id="wrong" role="alert">{escape(problem)}</p>' if problem else ""
    described = ' aria-invalid="true" aria-describedby="wrong"' if problem else ""
    return _page(
        "Log in",
        '<section class="card narrow"><h1>Log in</h1><p class="dim">The token is in the configuration of this node, under [web].</p>'
        f'<form method="post" action="/login"><label for="token">Token</label>{wrong}'
        f'<input id="token" name="token" type="password" autocomplete="current-password" required autofocus{described}>'
        '<p class="actions"><button>Log in</button></p></form></section>',
    )


def render_message(title: str, words: str) -> str:
    """Return a page with one sentence."""
    return _page(
        title, f'<section class="card narrow"><h1>{escape(title)}</h1><p>{escape(words)}</p><p><a href="/">All studies</a></p></section>'
    )


def render_overview(waiting: Sequence[tuple[Job, Sequence[str]]], jobs: Sequence[Job], *, titles: Mapping[str, str], csrf: str) -> str:
    """Return the first page: ``waiting`` are jobs with the titles of the values that they wait for, ``jobs`` the latest ones."""
    cards = "".join(_waiting_card(job, missing, titles) for job, missing in waiting)
    none = '<p class="dim">No study waits for clinical values.</p>'
    rows = "".join(_row(job, titles) for job in jobs)
    more = '<p class="dim">The latest ones, the last to change first. All of them: <code>cervinode jobs list</code></p>' if jobs else ""
    find = (
        '<form class="find" action="/find"><label for="study">Study Instance UID</label>'
        '<span><input id="study" name="study" required pattern="[0-9.]+" maxlength="64" spellcheck="false">'
        '<button class="quiet">Open</button></span></form>'
    )
    return _page(
        "Studies",
        f'<h1>Waiting for clinical values</h1><div class="cards">{cards or none}</div>'
        f'<div class="heading"><h2>Jobs</h2>{find}</div>'
        f"{_table(rows) if rows else '<p class=dim>No study has come yet.</p>'}{more}",
        csrf=csrf,
    )


def render_form(page: FormPage) -> str:
    """Return the page of one study."""
    uid = page.study.study_instance_uid
    wrong = [f for f in page.fields if f.problem]
    said = f'<p class="saved" role="status">{escape(page.message)}</p>' if page.message else ""
    if wrong:
        links = "".join(f'<li><a href="#{f.name}">{escape(f.definition.title)}</a>: {escape(f.problem)}</li>' for f in wrong)
        said = f'<div class="problems" role="alert" tabindex="-1"><p>Nothing was saved.</p><ul>{links}</ul></div>'
    required, others = ([f for f in page.fields if f.required is needed] for needed in (True, False))
    groups = _group("Required", required) + _group("Used where known", others)
    form = (
        f'<form method="post" action="/studies/{escape(uid)}" class="card values">{_csrf(page.csrf)}{groups}'
        '<p class="actions"><button>Save</button><a href="/">Back</a></p></form>'
        if page.fields
        else '<p class="card">The systems that run on this study use no clinical values.</p>'
    )
    rows = "".join(_row(job, page.titles) for job in reversed(page.jobs))
    came = f"last image {_when(page.study.last_received_at)} from {escape(page.study.calling_ae_title)}"
    return _page(
        "Clinical values",
        f'<h1>Clinical values</h1><p class="dim">Study <code>{escape(uid)}</code><br>{came}</p>{said}{form}'
        f"<h2>Jobs of this study</h2>{_table(rows) if rows else '<p class=dim>None yet.</p>'}",
        csrf=page.csrf,
    )


def _page(title: str, body: str, *, csrf: str = "") -> str:
    out = f'<form method="post" action="/logout">{_csrf(csrf)}<button class="quiet">Log out</button></form>' if csrf else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} - Cervinode</title><link rel="stylesheet" href="/console.css"></head><body>'
        f'<header><a class="name" href="/">Cervinode</a><span>Research use only</span>{out}</header><main>{body}</main></body></html>'
    )


def _csrf(value: str) -> str:
    return f'<input type="hidden" name="csrf" value="{escape(value)}">'


def _waiting_card(job: Job, missing: Sequence[str], titles: Mapping[str, str]) -> str:
    uid = escape(job.order.study_instance_uid)
    values = "".join(f"<li>{escape(title)}</li>" for title in missing)
    until = f'<p class="dim">waits until {_when(job.waits_until)}</p>' if job.waits_until is not None else ""
    return (
        f'<section class="card waiting"><h3>{escape(_title(job, titles))}</h3><p class="uid"><code>{uid}</code></p>'
        f'<ul>{values}</ul>{until}<p class="actions"><a class="button" href="/studies/{uid}">Enter values'
        f'<span class="hidden"> of study {uid}</span></a></p></section>'
    )


def _table(rows: str) -> str:
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("Changed", "State", "System and study", "Reason"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Jobs">{table}</div>'


def _row(job: Job, titles: Mapping[str, str]) -> str:
    uid = escape(job.order.study_instance_uid)
    omitted = '<span class="state note">omissions</span>' if job.n_omitted else ""
    return (
        f'<tr><td class="when">{_when(job.changed_at)}</td>'
        f'<td><span class="state {_KINDS.get(job.state, "busy")}">{escape(job.state)}</span>{omitted}</td>'
        f'<td>{escape(_title(job, titles))} <span class="dim">version {job.order.version}</span>'
        f'<br><a href="/studies/{uid}"><code>{uid}</code></a></td><td>{escape(job.detail)}</td></tr>'
    )


def _title(job: Job, titles: Mapping[str, str]) -> str:
    return "Overview of the study" if job.order.system == OVERVIEW else titles.get(job.order.system) or job.order.system


def _when(seconds: float | None) -> str:
    """Return a time of the node's own time zone."""
    moment = datetime.fromtimestamp(seconds or 0.0).astimezone()
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M}</time>'


def _group(title: str, fields: Sequence[Field]) -> str:
    if not fields:
        return ""
    return f"<fieldset><legend>{escape(title)}</legend><div class=fields>{''.join(_field(f) for f in fields)}</div></fieldset>"


def _field(f: Field) -> str:
    notes = [f"In the study: {f.found}"] if f.found else []
    notes += [f.source[0].upper() + f.source[1:]] if f.source else []
    mark = '<span class="missing">missing</span>' if f.required and not (f.value or f.found) else ""
    problem = f'<p class="problem" id="{f.name}-problem">{escape(f.problem)}</p>' if f.problem else ""
    about = "".join(f'<p class="dim">{escape(note)}</p>' for note in notes)
    described = f'aria-describedby="{f.name}-about{f" {f.name}-problem" if f.problem else ""}"' + (
        ' aria-invalid="true"' if f.problem else ""
    )
    return (
        f'<div class="field{" wrong" if f.problem else ""}"><label for="{f.name}">{escape(f.definition.title)} {mark}'
        f'<span class="unit">{escape(_hint(f.definition))}</span></label>{problem}'
        f'{_control(f, described)}<div id="{f.name}-about">{about}</div></div>'
    )


def _control(f: Field, described: str) -> str:
    if not f.definition.choices:
        kept = f'value="{escape(f.value)}" inputmode="decimal" autocomplete="off"'
        return f'<input id="{f.name}" name="{f.name}" {kept} {described}>'
    words = list(dict.fromkeys([*f.definition.choices, *([f.value] if f.value else [])]))  # a wrong word stays to be seen
    options = "".join(f"<option{' selected' if word == f.value else ''}>{escape(word)}</option>" for word in words)
    return f'<select id="{f.name}" name="{f.name}" {described}><option value="">not known</option>{options}</select>'


def _hint(definition: Definition) -> str:
    """Return unit and range in words."""
    if definition.choices:
        return "from the list"
    return f"{definition.unit or 'number'}, {definition.low:.12g} to {definition.high:.12g}"
