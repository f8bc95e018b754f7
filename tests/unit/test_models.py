"""The life of a bundle at a site, on the command line: installed, promoted, rolled back; every refusal, and what the node makes of it."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from node.audit import BUNDLE_EVENTS, AuditEvent
from node.cli import main
from node.config import load_settings
from node.dispatch import carry_out_requests
from node.intake import Intake
from node.planning import refer_to_bundle
from node.storage.files import StudyStore
from node.storage.ledger import FILE_NAME, Ledger
from pipelines.errors import BundleError, CervinodeError
from pipelines.models.bundle import choose_bundle, load_bundle
from pipelines.models.install import install_bundle
from pipelines.models.promotion import check_person
from pipelines.systems import catalogue
from pipelines.training.evaluation import Evaluation
from pipelines.types import BundleStatus
from tests.bundles import write_bundle

SPEC = catalogue()["olnm_mri"]
PERSON = ["--by", "Dr A. Example"]


class Site:
    """A node's configuration and the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.models, self._capsys = folder, folder / "models", capsys
        self.config = folder / "node.toml"
        self.trust()

    def trust(self, *keys: str) -> None:
        lines = ["[node]", 'storage_root = "data"', 'models_root = "models"', f"trusted_keys = {json.dumps(keys)}"]
        self.config.write_text("\n".join(lines) + "\n")

    def __call__(self, *arguments: str, with_config: bool = True) -> tuple[int, str]:
        """Run ``cervinode models`` and return its exit code and all that it said."""
        code = main(["models", *arguments, *(["--config", str(self.config)] if with_config else [])])
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def bundle(self, version: str, *, sites: tuple[str, ...] = ("Clinic A",), **more: Any) -> Path:
        return write_bundle(self.models, SPEC, version=version, sites=sites, **more)

    def evaluation(self, bundle: Path, **changes: object) -> str:
        """Write what a promotion reads of an evaluation, with changes; ``...`` leaves a value out."""
        found = {
            "bundle_digest": load_bundle(bundle, SPEC).digest,
            "cohort_digest": "c" * 64,
            "n": 120,
            "events": 30,
            "sites": ["Clinic B"],
            "external": True,
            "synthetic": False,
            "auc": {"value": 0.8, "interval": {"low": 0.7, "high": 0.87, "method": "x"}},
            "statement": "x",
        }
        path = self.folder / "evaluation.json"
        path.write_text(json.dumps({name: value for name, value in (found | changes).items() if value != ...}))
        return str(path)

    def in_use(self) -> tuple[str, BundleStatus]:
        choice = choose_bundle(self.models, SPEC, trusted_keys=load_settings(self.config).node.trusted_keys)
        return choice.folder.name, choice.status

    def keygen(self, name: str) -> tuple[str, str]:
        """Make a key; return its file and its public half."""
        path = self.folder / name
        code, said = self("keygen", "--out", str(path), with_config=False)
        assert code == 0
        return str(path), str(json.loads(said.removeprefix("trusted_keys = "))[0])


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, capsys)


def test_verify_names_the_problems_of_one_bundle_or_of_all(site: Site) -> None:
    good, bad = site.bundle("site-1"), site.bundle("site-2")
    (bad / "notes.txt").write_text("x")
    assert site("verify", "olnm_mri/site-1") == (0, f"ok      {good}\n")
    assert site("verify", str(bad)) == (1, f"FAILED  {bad}\n        notes.txt is in the folder but not in the manifest\n")
    code, said = site("verify")
    assert code == 1 and str(good) in said and str(bad) in said
    assert site("verify", "olnm_mri/none")[0] == 1


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def _zip(bundle: Path, path: Path, *, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(bundle.iterdir()):
            archive.write(file, below + file.name)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A bundle that is not installed."""
    return write_bundle(tmp_path / "elsewhere", SPEC, version="site-1", sites=("Clinic A",))


@pytest.mark.parametrize("below", [None, "", "site-1/"])
def test_bundle_is_installed_from_a_folder_or_a_zip_file(site: Site, outside: Path, tmp_path: Path, below: str | None) -> None:
    source = outside if below is None else _zip(outside, tmp_path / "b.zip", below=below)
    code, said = site("install", str(source))
    assert (code, said) == (0, f"{site.models / 'olnm_mri/site-1'}\nin use for olnm_mri: site-1 (research)\n")
    assert contents(site.models / "olnm_mri/site-1") == contents(outside)
    assert site("verify")[0] == 0
    assert [p.name for p in site.models.iterdir()] == ["olnm_mri"]


def test_version_is_never_overwritten(site: Site, outside: Path) -> None:
    assert site("install", str(outside))[0] == 0
    code, said = site("install", str(outside))
    assert code == 1 and "exists already; a version is never overwritten" in said


def _member(name: str, content: bytes = b"x", *, mode: int = 0) -> Callable[[Path, Path], None]:
    def change(path: Path, bundle: Path) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)

    return change


def _bomb(path: Path, bundle: Path) -> None:
    (bundle / "classifier.onnx").write_bytes(bytes(50_000_000))
    _zip(bundle, path)


def _huge_manifest(path: Path, bundle: Path) -> None:
    with (bundle / "manifest.json").open("ab") as file:
        file.write(b" " * 9_000_000)
    _zip(bundle, path)


def _greedy(path: Path, bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["files"]["classifier.onnx"]["size"] = 2**40
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    _zip(bundle, path)


def _without_a_file(path: Path, bundle: Path) -> None:
    (bundle / "classifier.onnx").unlink()
    _zip(bundle, path)


def _cut(path: Path, bundle: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _damaged(path: Path, bundle: Path) -> None:
    content = path.read_bytes()
    at = content.index(b"manifest.json") + 200
    path.write_bytes(content[:at] + bytes(50) + content[at + 50 :])


def _many(path: Path, bundle: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(300):
            archive.writestr(f"{number}.npy", b"")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_member("../evil.npy"), "a bundle is one folder of files"),
        (_member("/etc/evil.npy"), "a bundle is one folder of files"),
        (_member("sub\\evil.npy"), "a bundle is one folder of files"),
        (_member("sub/evil.npy"), "a bundle is one folder of files"),
        (_member("manifest.json"), "each there once"),
        (_member("link.npy", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "a link"),
        (_member("model.pkl"), "'model.pkl', which its manifest does not list"),
        (_bomb, "classifier.onnx is larger than the"),
        (_huge_manifest, "manifest.json is larger than the"),
        (_greedy, "8 GiB"),
        (_without_a_file, "does not hold classifier.onnx"),
        (_many, "more than a bundle may have"),
        (_cut, "cannot be installed"),
        (_damaged, "cannot be installed"),
    ],
)
def test_zip_file_that_is_not_just_a_bundle_is_refused(
    site: Site, outside: Path, tmp_path: Path, change: Callable[[Path, Path], None], words: str
) -> None:
    path = _zip(outside, tmp_path / "b.zip")
    change(path, outside)
    before = sorted(tmp_path.rglob("*"))
    code, said = site("install", str(path))
    assert code == 1 and words in said
    assert [p for p in tmp_path.rglob("*") if p not in before] == [site.models]
    assert list(site.models.iterdir()) == []


def test_folder_with_a_link_or_no_manifest_is_refused(site: Site, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no manifest.json" in site("install", str(tmp_path / "empty"))[1]
    assert "neither a folder nor a ZIP file" in site("install", str(tmp_path / "none"))[1]
    (outside / "more.npy").symlink_to("/etc/passwd")
    assert "more.npy" in site("install", str(outside))[1]


def test_bundle_that_fails_verification_is_not_installed(site: Site, outside: Path) -> None:
    manifest = json.loads((outside / "manifest.json").read_bytes())
    manifest["parity"] = []
    (outside / "manifest.json").write_text(json.dumps(manifest))
    code, said = site("install", str(outside))
    assert code == 1 and "was not installed: segmenter: segmenter.onnx has no parity record" in said
    assert not list(site.models.glob("*/*"))


def test_name_of_a_system_cannot_lead_elsewhere(outside: Path, tmp_path: Path) -> None:
    manifest = json.loads((outside / "manifest.json").read_bytes())
    manifest["system"] = "../.."
    (outside / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is no system's name"):
        install_bundle(outside, tmp_path / "models", specs=catalogue())


def test_best_bundle_is_in_use_until_somebody_decides(site: Site) -> None:
    for version in ("site-1", "site-2", "site-10"):
        site.bundle(version)
    assert site.in_use() == ("site-10", BundleStatus.RESEARCH)
    assert site("promote", "olnm_mri", "site-2", "--to", "research", *PERSON) == (0, "in use for olnm_mri: site-2 (research)\n")
    assert site.in_use() == ("site-2", BundleStatus.RESEARCH)
    site.bundle("site-11")
    assert site.in_use() == ("site-2", BundleStatus.RESEARCH)
    said = site("list")[1]
    assert "* site-2  research" in said and "decided by Dr A. Example" in said and "  site-11  research" in said


def test_external_evaluation_makes_a_bundle_validated_without_touching_it(site: Site) -> None:
    bundle = site.bundle("site-1")
    before = contents(bundle)
    code, said = site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation", site.evaluation(bundle))
    assert (code, said) == (0, "in use for olnm_mri: site-1 (validated)\n")
    assert contents(bundle) == before
    reference = refer_to_bundle(site.models, SPEC)
    assert (reference.version, reference.status) == ("site-1", BundleStatus.VALIDATED)
    assert reference.digest == load_bundle(bundle, SPEC).digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": ["Clinic B", " clinic  a"]}, "is not external: clinic a gave training cases too"),
        ({"sites": []}, "does not name the site of every patient"),
        ({"external": None}, "does not name the site of every patient"),
        ({"synthetic": True}, "is synthetic"),
        ({"bundle_digest": "0" * 64}, "is of another bundle"),
        ({"events": 0}, "0 events in 120 patients"),
        ({"events": 120}, "120 events in 120 patients"),
        ({"events": ...}, "evaluation: events: Field required"),
        ({"cohort_digest": ""}, "evaluation: cohort_digest"),
        ({"auc": {"value": 0.6, "interval": {"low": 0.48, "high": 0.7}}}, "better than chance (AUC 0.480 to 0.700)"),
    ],
)
def test_promotion_to_validated_needs_an_external_evaluation(site: Site, changes: dict[str, object], words: str) -> None:
    evaluation = site.evaluation(site.bundle("site-1"), **changes)
    code, said = site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation", evaluation)
    assert code == 1 and words in said
    assert not (site.models / "in_use.json").exists()


def test_promotion_to_validated_without_evaluation_or_known_training_sites_is_refused(site: Site) -> None:
    bundle = site.bundle("site-1", sites=(" ",))
    assert "only with an evaluation" in site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON)[1]
    said = site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation", site.evaluation(bundle))[1]
    assert "names no training site" in said
    assert "cannot be read" in site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation", "none.json")[1]


@pytest.mark.parametrize("to", ["research", "validated"])
def test_bundle_whose_own_run_is_invalid_is_not_promoted(site: Site, to: str) -> None:
    bundle = site.bundle("site-1", metrics={"lie_detector_valid": 0.0, "permuted_auc": 0.71})
    code, said = site("promote", "olnm_mri", "site-1", "--to", to, *PERSON, "--evaluation", site.evaluation(bundle))
    assert code == 1 and "its training run is INVALID" in said and "shuffled labels" in said
    assert not (site.models / "in_use.json").exists()
    honest = site.bundle("site-2", metrics={"lie_detector_valid": 1.0})
    assert site("promote", "olnm_mri", "site-2", "--to", to, *PERSON, "--evaluation", site.evaluation(honest))[0] == 0
    unknown = site.bundle("site-3", metrics={"permuted_auc": 0.5})
    code, said = site("promote", "olnm_mri", "site-3", "--to", to, *PERSON, "--evaluation", site.evaluation(unknown))
    assert code == (1 if to == "validated" else 0)
    assert ("its training run had no lie detector" in said) is (to == "validated")


def test_bundle_of_several_classes_is_promoted_by_its_mean_area(site: Site) -> None:
    bundle = site.bundle("site-1", classes=(4, 6, 7))
    promote = ("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation")
    assert "the evaluation is of one finding" in site(*promote, site.evaluation(bundle))[1]
    low = {"value": 0.55, "interval": {"low": 0.45, "high": 0.65}}
    assert "better than chance" in site(*promote, site.evaluation(bundle, events=None, auc=low))[1]
    assert site(*promote, site.evaluation(bundle, events=None))[0] == 0
    binary = site.bundle("site-2")
    said = site("promote", "olnm_mri", "site-2", "--to", "validated", *PERSON, "--evaluation", site.evaluation(binary, events=None))[1]
    assert "the evaluation is of several classes" in said


def test_promotion_reads_what_an_evaluation_writes() -> None:
    written = TypeAdapter(Evaluation).json_schema()
    names = {"bundle_digest", "cohort_digest", "n", "events", "sites", "external", "synthetic", "auc"}
    assert names <= written["properties"].keys()
    assert {"value", "interval"} <= written["$defs"]["Estimate"]["properties"].keys()
    assert {"low", "high"} <= written["$defs"]["Interval"]["properties"].keys()


@pytest.mark.parametrize("to", ["research", "validated"])
def test_demo_bundle_is_never_promoted(site: Site, to: str) -> None:
    bundle = site.bundle("demo-1", sites=())
    code, said = site("promote", "olnm_mri", "demo-1", "--to", to, *PERSON, "--evaluation", site.evaluation(bundle))
    assert code == 1 and "it is a demo and cannot be promoted" in said


@pytest.mark.parametrize("name", ["", "  ", "123", "Dr\nX", "\x1b[31m"])
def test_promotion_needs_a_named_person(site: Site, name: str) -> None:
    site.bundle("site-1")
    if name == "\x1b[31m":
        with pytest.raises(BundleError):
            check_person(name)
    code, said = site("promote", "olnm_mri", "site-1", "--to", "research", f"--by={name}")
    assert code == 1 and "names nobody" in said


def test_damaged_missing_or_unknown_bundle_is_not_promoted(site: Site) -> None:
    bundle = site.bundle("site-1")
    (bundle / "classifier.onnx").write_bytes(b"x")
    assert "was altered" in site("promote", "olnm_mri", "site-1", "--to", "research", *PERSON)[1]
    assert "cannot be read" in site("promote", "olnm_mri", "site-9", "--to", "research", *PERSON)[1]
    assert site("promote", "other", "site-1", "--to", "research", *PERSON)[0] == 2


def test_rollback_goes_back_step_by_step(site: Site) -> None:
    first, _ = site.bundle("site-1"), site.bundle("site-2")
    assert site("rollback", "olnm_mri", *PERSON) == (1, "cervinode: no promotion of olnm_mri stands, so there is none to take back\n")
    for arguments in (
        ("site-1", "--to", "research"),
        ("site-1", "--to", "validated", "--evaluation", site.evaluation(first)),
        ("site-2", "--to", "research"),
    ):
        assert site("promote", "olnm_mri", *arguments, *PERSON)[0] == 0
    for expected in ("site-1 (validated)", "site-1 (research)", "site-2 (research)"):  # the last by the rule, as before all promotions
        assert site("rollback", "olnm_mri", *PERSON) == (0, f"in use for olnm_mri: {expected}\n")
    assert site("rollback", "olnm_mri", *PERSON)[0] == 1
    history = json.loads((site.models / "in_use.json").read_bytes())["actions"]
    assert [(a["what"], a["version"]) for a in history] == [
        ("promote", "site-1"), ("promote", "site-1"), ("promote", "site-2"),
        ("rollback", "site-2"), ("rollback", "site-1"), ("rollback", "site-1"),
    ]  # fmt: skip


def test_rollback_to_a_bundle_that_is_gone_changes_nothing(site: Site) -> None:
    for version in ("site-1", "site-2"):
        site.bundle(version)
        assert site("promote", "olnm_mri", version, "--to", "research", *PERSON)[0] == 0
    (site.models / "olnm_mri/site-1/classifier.onnx").unlink()
    code, said = site("rollback", "olnm_mri", *PERSON)
    assert code == 1 and "classifier.onnx is missing" in said
    assert site.in_use() == ("site-2", BundleStatus.RESEARCH)


def test_bundle_replaced_under_the_promoted_name_is_not_used(site: Site) -> None:
    bundle = site.bundle("site-1")
    assert site("promote", "olnm_mri", "site-1", "--to", "research", *PERSON)[0] == 0
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tests"', '"other"'))
    with pytest.raises(BundleError, match=r"is not the one that .* says is in use"):
        site.in_use()
    assert refer_to_bundle(site.models, SPEC).version == ""


@pytest.mark.parametrize("content", ["", "{}x", '{"actions": [{}]}', '{"format_version": 2}'])
def test_damaged_state_is_refused_and_not_taken_for_an_empty_one(site: Site, content: str) -> None:
    site.bundle("site-1")
    (site.models / "in_use.json").write_text(content)
    with pytest.raises(BundleError, match=r"in_use\.json"):
        site.in_use()


def test_state_whose_rollback_has_no_promotion_is_refused(site: Site) -> None:
    site.bundle("site-1")
    assert site("promote", "olnm_mri", "site-1", "--to", "research", *PERSON)[0] == 0
    path = site.models / "in_use.json"
    path.write_text(path.read_text().replace('"promote"', '"rollback"'))
    with pytest.raises(BundleError, match="without its promotion"):
        site.in_use()


def test_every_action_leaves_a_line_in_the_audit_trail(site: Site, outside: Path) -> None:
    assert site("install", str(outside), "--by", "Admin")[0] == 0
    bundle = site.models / "olnm_mri/site-1"
    assert site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON, "--evaluation", site.evaluation(bundle))[0] == 0
    assert site("rollback", "olnm_mri", "--by", "Dr B. Example")[0] == 0
    assert site("promote", "olnm_mri", "site-1", "--to", "validated", *PERSON)[0] == 1  # refused: no line
    settings = load_settings(site.config)
    store, digest = StudyStore(settings.node.storage_root), load_bundle(bundle, SPEC).digest
    with Ledger(settings.node.storage_root / FILE_NAME) as ledger:
        began = datetime.now(UTC).timestamp()
        carry_out_requests(store=store, ledger=ledger, intake=Intake(settings, store=store, ledger=ledger, specs=catalogue()))
        lines = {line.event: line for line in ledger.audit_trail()}
    assert store.requests() == []
    actors = {
        AuditEvent.BUNDLE_INSTALLED: "Admin",
        AuditEvent.BUNDLE_PROMOTED: "Dr A. Example",
        AuditEvent.BUNDLE_ROLLED_BACK: "Dr B. Example",
    }
    assert {event: line.actor for event, line in lines.items()} == actors
    assert all("olnm_mri site-1" in line.detail and digest in line.detail and line.at >= began - 1 for line in lines.values())
    assert "on 120 patients of Clinic B, AUC 0.800" in lines[AuditEvent.BUNDLE_PROMOTED].detail


def test_node_that_trusts_keys_uses_only_what_they_signed(site: Site) -> None:
    bundle = site.bundle("site-1")
    key, public = site.keygen("site.key")
    stranger, _ = site.keygen("stranger.key")
    site.trust(public)
    assert "is not signed" in site("verify")[1]
    assert "is not signed" in site("list")[1]
    assert "is not signed" in site("promote", "olnm_mri", "site-1", "--to", "research", *PERSON, "--key", key)[1]
    assert site("sign", str(bundle), "--key", stranger, with_config=False)[0] == 0
    assert "not among the trusted keys" in site("verify")[1]
    assert site("sign", str(bundle), "--key", key, with_config=False) == (0, f"{bundle / 'manifest.sig'}\n")
    assert site("verify")[0] == 0
    promote = ("promote", "olnm_mri", "site-1", "--to", "research", *PERSON)
    assert "name the key's file (--key)" in site(*promote)[1]
    assert "does not list the key" in site(*promote, "--key", stranger)[1]
    assert site(*promote, "--key", key)[0] == 0
    assert site.in_use() == ("site-1", BundleStatus.RESEARCH)


@pytest.mark.parametrize("trusting", [True, False])
def test_forged_promotion_is_refused(site: Site, trusting: bool) -> None:
    bundle = site.bundle("site-1")
    key, public = site.keygen("site.key")
    assert site("sign", str(bundle), "--key", key, with_config=False)[0] == 0
    assert site("promote", "olnm_mri", "site-1", "--to", "research", *PERSON, "--key", key)[0] == 0
    site.trust(*([public] if trusting else []))
    path = site.models / "in_use.json"
    path.write_text(path.read_text().replace('"research"', '"validated"'))
    with pytest.raises(BundleError, match="its signature is broken"):
        site.in_use()
    state = json.loads(path.read_bytes()) | {"signature": None}
    path.write_text(json.dumps(state))
    if trusting:
        with pytest.raises(BundleError, match="is not signed"):
            site.in_use()
    else:
        assert site.in_use() == ("site-1", BundleStatus.VALIDATED)  # without trusted keys the file system is trusted


def test_signed_bundle_is_installed_with_its_signature(site: Site, outside: Path, tmp_path: Path) -> None:
    key, public = site.keygen("site.key")
    site.trust(public)
    assert "is not signed" in site("install", str(outside))[1]
    assert site("sign", str(outside), "--key", key, with_config=False)[0] == 0
    assert site("install", str(_zip(outside, tmp_path / "b.zip")))[0] == 0
    assert load_bundle(site.models / "olnm_mri/site-1", SPEC, trusted_keys=[public])


def test_wrong_trusted_key_is_a_wrong_configuration(site: Site) -> None:
    site.trust("not a key")
    with pytest.raises(CervinodeError, match="trusted_keys"):
        load_settings(site.config)


def test_page_for_the_administrator_names_every_command_and_audit_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for action in ("list", "verify", "install", "promote", "rollback", "keygen", "sign"):
        assert f"cervinode models {action}" in page
    assert all(event in page for event in BUNDLE_EVENTS)
