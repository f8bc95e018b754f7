"""The configuration: one TOML file, overridden by environment variables, checked as a whole before anything starts.

Every field says its unit and its reason in its ``description``; ``deploy/node.example.toml`` shows all of them. The environment overrides
the file: ``CERVINODE_NODE__PORT=104``; a whole table or list is given as JSON: ``CERVINODE_PEERS='[{"ae_title": ...}]'``.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from pipelines.errors import ConfigError
from pipelines.types import SeriesRole

ENVIRONMENT_PREFIX = "CERVINODE_"
ANY_PEER = "*"
_MIN_TOKEN = 16  # characters
_PACKAGED_MODELS = Path(__file__).parent.parent / "onnx_models"


def check_ae_title(text: str) -> str:
    """Return the title without its padding (PS3.5 6.2, VR AE: at most 16 characters, no control character, no backslash)."""
    title = text.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError("an AE title has 1 to 16 characters, not counting spaces at its ends")
    if not (title.isascii() and title.isprintable()) or "\\" in title:
        raise ValueError("an AE title has only printable ASCII characters and no backslash")
    return title


AeTitle = Annotated[str, AfterValidator(check_ae_title)]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeTable(_Table):
    """[node]: the listener and what it keeps."""

    ae_title: AeTitle = Field(default="CERVINODE", description="our own AE title; associations that call another one are rejected")
    host: str = Field(
        default="127.0.0.1",
        description="address to listen on; DICOM has neither login nor encryption, so opening it to a network is a decision ('0.0.0.0')",
    )
    port: int = Field(
        default=11112, ge=0, le=65535, description="TCP port; 11112 is the registered DICOM port that needs no root, 0 takes a free one"
    )
    storage_root: Path = Field(
        default=Path("cervinode-data"), description="folder of studies, results and ledger; a worker host mounts the same one"
    )
    models_root: Path = Field(default=_PACKAGED_MODELS, description="folder of model bundles; by default those that came with the program")
    trusted_keys: tuple[PublicKey, ...] = Field(
        default=(),
        description="public keys (64 hex digits, `cervinode models keygen`) of those who may release bundles; empty accepts unsigned ones",
    )
    systems_path: Path | None = Field(
        default=None, description="folder with further system declarations (*.py, run at start); none by default"
    )
    max_associations: int = Field(
        default=25, ge=1, le=1000, description="associations at a time; a PACS opens 20 and more when it forwards"
    )
    max_pdu_bytes: int = Field(
        default=131072, ge=0, description="largest PDU we accept, 0 for no limit; pynetdicom's 16 kB costs half the speed"
    )
    quiet_s: float = Field(
        default=60.0, ge=0, description="seconds without a new image after which a study counts as complete (DICOM has no end signal)"
    )
    min_free_mb: int = Field(
        default=2048, ge=0, description="megabytes of free disk below which images are refused with 0xA700, before the disk is full"
    )
    language: Literal["en", "zh"] = Field(
        default="en", description="of the sentences in reports and captures; codes keep their own meanings"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that node and workers log; JSON lines on stderr, without names of patients"
    )


class BrokerTable(_Table):
    """[broker]: the queue between node and workers."""

    url: str = Field(
        default="",
        description="Redis URL (redis://host:6379/0); empty starts a private Redis inside storage_root, which only this machine can reach",
    )


class WorkerTable(_Table):
    """[worker]: how jobs are run and how often they are tried."""

    embedded: int = Field(
        default=1, ge=0, le=64, description="worker processes that the node itself starts; 0 where workers run on other hosts"
    )
    job_timeout_s: int = Field(
        default=1800, ge=10, description="seconds after which a running job is stopped and counts as a failed attempt"
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="attempts per job before it is FAILED; a job that kills its worker must not do so for ever"
    )
    heartbeat_s: float = Field(
        default=10.0,
        gt=0,
        description="seconds between two signs of life of a worker; silent for 12 of them it counts as dead (a library call may block)",
    )


class DeliveryTable(_Table):
    """[delivery]: how results are sent again when a peer is not there."""

    retry_first_s: float = Field(default=5.0, gt=0, description="seconds before the second try; it doubles with every further one")
    retry_max_s: float = Field(
        default=300.0, gt=0, description="longest pause between two tries; there is no last one, a PACS may be down for a weekend"
    )
    max_rejections: int = Field(default=5, ge=1, description="times a peer may answer 'failed' for an object before it counts as rejected")
    timeout_s: float = Field(default=30.0, gt=0, description="seconds to wait for a peer's answer")


class Peer(_Table):
    """[[peers]]: a remote AE that we know. Who is not listed is refused."""

    ae_title: AeTitle = Field(description="its AE title")
    host: str = Field(min_length=1, description="its address, for what we send")
    port: int = Field(ge=1, le=65535, description="its TCP port")
    quiet_s: float | None = Field(
        default=None, ge=0, description="seconds, instead of [node] quiet_s, for a peer that sends slower or in several associations"
    )
    may_send: bool = Field(default=True, description="whether it may open associations to us; false for a mere destination")
    query: bool = Field(
        default=False,
        description="whether it is asked (C-FIND) what belongs to a study that it sent, and for what is missing (C-MOVE to our AE title)",
    )
    report: Literal["comprehensive-3d", "comprehensive", "enhanced", "text"] = Field(
        default="comprehensive-3d",
        description="richest kind of structured report that its viewers show; it gets the first from here down that it takes",
    )
    graphic: bool = Field(
        default=True,
        description="whether it gets the report that puts the numbers beside the tumour's outline; false where its viewers show that badly",
    )
    may_show_nothing: bool = Field(
        default=False,
        description="acknowledges that it takes neither a report nor captures, so that nobody sees a result there; else that is an error",
    )


class Route(_Table):
    """[[routes]]: whose studies run which systems, and where the results go."""

    from_: tuple[str, ...] = Field(
        default=(ANY_PEER,),
        validation_alias=AliasChoices("from", "from_"),
        serialization_alias="from",
        description="calling AE titles; '*' is every peer that may send, never an unknown caller",
    )
    modalities: tuple[str, ...] = Field(
        default=(), description="runs when the study holds one of these; empty: any, so that a CT gets a REFUSED report instead of silence"
    )
    systems: tuple[str, ...] = Field(min_length=1, description="names of prediction systems, as `cervinode models list` shows them")
    to: tuple[AeTitle, ...] = Field(default=(), description="AE titles of the peers that get the results; empty keeps them here only")
    expect: tuple[SeriesRole, ...] = Field(default=(), description="roles that a study must hold; empty: those that each system requires")
    incomplete: Literal["run", "hold", "refuse"] = Field(
        default="run",
        description="what to do after the quiet time with a study that lacks one, or images that its sender has: run what can run, hold it"
        " and warn, or refuse it",
    )
    hold_s: float = Field(default=3600.0, gt=0, description="seconds that 'hold' lasts, then it runs as it is")
    wait_s: float | None = Field(
        default=None,
        ge=0,
        description="longest time in seconds that a job waits for clinical values, the node status among them; 0: never; by default as its"
        " system declares, a day in those that come with the program",
    )


class WebTable(_Table):
    """[web]: the HTTP interface."""

    host: str = Field(default="127.0.0.1", description="address to listen on; it speaks plain HTTP, so a network needs a proxy with TLS")
    port: int = Field(default=11180, ge=0, le=65535, description="TCP port; 0 takes a free one")
    token: str = Field(
        default="",
        repr=False,
        description="secret of at least 16 characters that callers present (Authorization: Bearer ...); empty: there is no interface",
    )

    @model_validator(mode="after")
    def _token_is_long(self) -> Self:
        if self.token and (len(self.token) < _MIN_TOKEN or not (self.token.isascii() and self.token.isprintable())):
            raise ValueError(f"the token needs at least {_MIN_TOKEN} characters, printable ASCII ones")
        return self


class Settings(BaseSettings):
    """All settings of a node. Immutable; made by :func:`load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    node: NodeTable = NodeTable()
    broker: BrokerTable = BrokerTable()
    worker: WorkerTable = WorkerTable()
    delivery: DeliveryTable = DeliveryTable()
    web: WebTable = WebTable()
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose content comes in as arguments."""
        return (env_settings, init_settings)

    @model_validator(mode="after")
    def _peers_and_routes_fit(self) -> Self:
        titles = [p.ae_title for p in self.peers]
        if doubled := sorted({t for t in titles if titles.count(t) > 1}):
            raise ValueError(f"[[peers]]: {doubled[0]!r} is listed twice")
        if deaf := [p.ae_title for p in self.peers if p.query and not p.may_send]:
            raise ValueError(f"[[peers]]: {deaf[0]!r} is to be queried but may not send, so it could not send what is missing")
        senders = {p.ae_title for p in self.peers if p.may_send}
        for route in self.routes:
            if unknown := sorted(set(route.from_) - senders - {ANY_PEER}):
                raise ValueError(f"[[routes]]: 'from' names {unknown[0]!r}, which is no peer that may send")
            if unknown := sorted(set(route.to) - set(titles)):
                raise ValueError(f"[[routes]]: 'to' names {unknown[0]!r}, which is not among the peers")
        return self

    def peer(self, ae_title: str) -> Peer | None:
        """Return the peer with this AE title, or ``None`` when there is no such peer."""
        return next((p for p in self.peers if p.ae_title == ae_title), None)

    def destinations(self) -> list[Peer]:
        """Return the peers that get results of some route."""
        wanted = {title for route in self.routes for title in route.to}
        return [peer for peer in self.peers if peer.ae_title in wanted]

    def quiet_s(self, calling_ae_title: str) -> float:
        """Return the quiet time of a calling AE in seconds."""
        peer = self.peer(calling_ae_title)
        return self.node.quiet_s if peer is None or peer.quiet_s is None else peer.quiet_s


def load_settings(path: Path | None = None) -> Settings:
    """Return the settings of a TOML file and the environment; without a file, of the environment alone.

    Relative paths in the file are taken from the file's own folder.

    Raises
    ------
    ConfigError
        One sentence with the file, the table, the field and the value that is wrong.
    """
    where = str(path) if path else "environment"
    content = _read_toml(path) if path else {}
    try:
        return Settings(**content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from error
    except SettingsError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that gives another process exactly these settings: ours without its own variables, plus one per table."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(ENVIRONMENT_PREFIX)}
    tables = settings.model_dump(mode="json", by_alias=True)
    return kept | {f"{ENVIRONMENT_PREFIX}{name.upper()}": json.dumps(table) for name, table in tables.items()}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    table = content.get("node")
    if isinstance(table, dict):
        for key in ("storage_root", "models_root", "systems_path"):
            if isinstance(table.get(key), str):
                table[key] = path.parent.absolute() / Path(table[key]).expanduser()
    return content


def _first_problem(error: ValidationError) -> str:
    """Return the first problem as ``[node] port: input should be ... (value 99999)``, and how many more there are."""
    problems = error.errors()
    first = problems[0]
    place = ""
    if first["loc"]:
        table, *rest = first["loc"]
        entry = rest.pop(0) if rest and isinstance(rest[0], int) else None
        number = "" if entry is None else f" number {int(entry) + 1}"
        place = f"[{table}]{number} {'.'.join(str(r) for r in rest)}".strip() + ": "
    hidden = isinstance(first["input"], dict) or not place or "token" in place  # an error must not print a secret
    value = "" if hidden else f" (value {first['input']!r})"
    more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
    return place + first["msg"].removeprefix("Value error, ") + value + more
