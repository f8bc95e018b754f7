"""The commands about destinations: what each takes, in the words of an administrator."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError, Namespace

from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from node.cli import FAILED, OK, parse_address, say
from node.cli_commands import settings_of
from node.config import Peer, Settings
from node.destinations import address_of, describe_blindness, is_blind, probe_all, richest_report
from node.dicom.probe import KINDS, Profile, probe, syntax_name
from pipelines.errors import ConfigError
from structured_reports.variants import REPORT_CLASSES

_WHAT_IT_MEANS = dict(
    zip(
        REPORT_CLASSES,
        ("everything: coded values, tree, references", "everything", "everything", "text lines, no coded values"),
        strict=True,
    )
)


def probe_peer(args: Namespace) -> int:
    """Print what a peer takes; exit code 1 when a radiologist would see nothing there and nobody has said that this is meant."""
    settings = settings_of(args)
    peer = _find(settings, args.to)
    profile = probe(address_of(peer), calling_ae_title=settings.node.ae_title, timeout_s=args.timeout)
    if args.json:
        say(json.dumps(_as_json(peer, profile), indent=2))
    else:
        for line in [*_table(peer, profile), *_view(peer, profile)]:
            say(line)
    return FAILED if is_blind(peer, profile) else OK


def check_destinations(settings: Settings) -> None:
    """Ask every destination what it takes, and say it.

    Raises
    ------
    ConfigError
        One would show the radiologist nothing, and its settings do not say that this is meant.
    """
    peers = settings.destinations()
    blind = []
    for peer, answer in zip(peers, probe_all(settings, peers).values(), strict=True):
        if not isinstance(answer, Profile):
            say(f"destination {peer.ae_title}: not checked, {answer}")
        elif is_blind(peer, answer):
            blind.append(describe_blindness(peer))
        else:
            say(f"destination {peer.ae_title}: {'; '.join(f'{what} {how}' for what, how in _seen(peer, answer).items())}")
    if blind:
        raise ConfigError(f"[[peers]]: {'; '.join(blind)}")


def _find(settings: Settings, target: str) -> Peer:
    """Return the peer of that name, or one at that address with default settings."""
    if peer := settings.peer(target):
        return peer
    try:
        title, host, port = parse_address(target)
    except ArgumentTypeError as error:
        known = ", ".join(p.ae_title for p in settings.peers) or "none"
        raise ConfigError(f"{target!r} is neither a peer of the configuration (known: {known}) nor AET@HOST:PORT") from error
    same = settings.peer(title)
    return same.model_copy(update={"host": host, "port": port}) if same else Peer(ae_title=title, host=host, port=port)


def _seen(peer: Peer, profile: Profile) -> dict[str, str]:
    """Return what a radiologist will see, and how."""
    report = profile.report_class(richest_report(peer))
    return {
        "report": f"as {KINDS[report]}" if report else "no",
        "captures": "yes" if SecondaryCaptureImageStorage in profile.accepted else "no",
        "segmentation": "yes" if SegmentationStorage in profile.accepted else "no",
    }


def _table(peer: Peer, profile: Profile) -> list[str]:
    name = profile.implementation_version or "unnamed"
    pdu = f"{profile.max_pdu_bytes} bytes" if profile.max_pdu_bytes else "any size"
    lines = [f"{address_of(peer)} is {name} ({profile.implementation_class_uid or 'no UID'}), PDUs of {pdu}", ""]
    lines.append(f"  {'what the node may send':<24}{'taken':<7}as")
    for kind, label in KINDS.items():
        syntaxes = profile.accepted.get(kind, ())
        words = ", ".join(syntax_name(s) for s in syntaxes)
        lines.append(f"  {label:<24}{'yes' if syntaxes else 'no':<7}{words}".rstrip())
    return [*lines, ""]


def _view(peer: Peer, profile: Profile) -> list[str]:
    """Return what the radiologist will see, if the viewer shows what the archive takes."""
    report, seen = profile.report_class(richest_report(peer)), _seen(peer, profile)
    remarks = {
        "report": _WHAT_IT_MEANS[report] if report else "",
        "captures": "summary page and heat maps",
        "segmentation": "the outline on the slices" if SegmentationStorage in profile.accepted else "left out; jobs end with omissions",
    }
    lines = ["  What a radiologist will see there"]
    lines += [f"    {what:<14}{how}{f' ({remarks[what]})' if how != 'no' or what == 'segmentation' else ''}" for what, how in seen.items()]
    if peer.report != "comprehensive-3d":
        lines.append(f"    The configuration limits the report to {peer.report!r} and below.")
    if profile.shows_nothing(richest_report(peer)):
        lines += ["", f"  NOTHING would be visible. {'may_show_nothing is set.' if peer.may_show_nothing else describe_blindness(peer)}"]
    else:
        lines += ["", "  'Taken' means stored. Whether the viewer shows it is best seen with a demo study: docs/destinations.md."]
    return lines


def _as_json(peer: Peer, profile: Profile) -> dict[str, object]:
    report = profile.report_class(richest_report(peer))
    return {
        "ae_title": peer.ae_title,
        "host": peer.host,
        "port": peer.port,
        "sop_classes": [
            {"name": label, "sop_class_uid": kind, "transfer_syntaxes": list(profile.accepted.get(kind, ()))}
            for kind, label in KINDS.items()
        ],
        "implementation_class_uid": profile.implementation_class_uid,
        "implementation_version": profile.implementation_version,
        "max_pdu_bytes": profile.max_pdu_bytes,
        "report": report,
        "segmentation": SegmentationStorage in profile.accepted,
        "captures": SecondaryCaptureImageStorage in profile.accepted,
        "shows_nothing": profile.shows_nothing(richest_report(peer)),
        "may_show_nothing": peer.may_show_nothing,
    }
