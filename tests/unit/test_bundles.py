"""Bundles that are not what they claim are refused when loaded, and verification names every reason."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines.errors import BundleError, ConfigError
from pipelines.models.arrays import read_array
from pipelines.models.bundle import load_bundle, sign_bundle
from pipelines.models.golden import make_golden, probe
from pipelines.models.graph import foreign_parts
from pipelines.models.manifest import Manifest
from pipelines.models.signature import check, make_key, read_key, sign
from pipelines.models.verify import find_problems
from pipelines.systems import catalogue
from tests.bundles import classifier_graph, write_bundle

SPECS = catalogue()
SPEC = SPECS["olnm_mri"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose features have a training range in which the probability depends on everything."""
    folder = write_bundle(tmp_path / "models", SPEC)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for feature in manifest["decision"]["features"]:
        feature.update(low=-100.0, high=300.0)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(make_golden(folder, Manifest.model_validate(manifest)).model_dump_json())
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Change the manifest, and make it fit the files again, as somebody would who means to deceive."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for path in folder.iterdir():
        if path.suffix in (".onnx", ".npy"):
            content = path.read_bytes()
            manifest["files"][path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def set_at(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_good_bundle_loads_and_has_no_problem(folder: Path) -> None:
    assert load_bundle(folder, SPEC).manifest.golden
    assert find_problems(folder, SPECS) == []


def test_one_changed_byte_in_any_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    trusted = [make_key(tmp_path / "key")]
    sign_bundle(folder, read_key(tmp_path / "key"))
    files = sorted(folder.iterdir())
    assert {"manifest.json", "manifest.sig", "classifier.onnx", "golden_decision.npy"} <= {p.name for p in files}
    for path in files:
        before = path.read_bytes()
        flip_a_byte(path)
        with pytest.raises(BundleError, match=r"signature|altered") as caught:
            load_bundle(folder, SPEC, trusted_keys=trusted)
        assert path.name in str(caught.value) or path.stem == "manifest"
        assert find_problems(folder, SPECS, trusted_keys=trusted)
        path.write_bytes(before)
    assert load_bundle(folder, SPEC, trusted_keys=trusted)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "notes.txt", ".hidden.npy"])
def test_unlisted_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name} is in the folder but not in the manifest"):
        load_bundle(folder, SPEC)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "run.py", "../outside.npy", "/etc/hosts.npy", "sub/a.npy", "manifest.json"])
def test_listed_file_of_a_wrong_kind_or_place_is_refused(folder: Path, name: str) -> None:
    content = pickle.dumps({"a": 1})
    if "/" not in name and name != "manifest.json":
        (folder / name).write_bytes(content)
    rewrite(folder, set_at("files", name, value={"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}))
    with pytest.raises(BundleError, match="has no place in a bundle"):
        load_bundle(folder, SPEC)


def test_pickled_array_is_refused(folder: Path) -> None:
    np.save(folder / "classifier_background.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    rewrite(folder)
    with pytest.raises(BundleError, match="cannot be read as an array of numbers"):
        _ = load_bundle(folder, SPEC).model
    assert any("cannot be read as an array" in p for p in find_problems(folder, SPECS))


def test_array_of_text_or_an_archive_is_no_array_of_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.savez(tmp_path / "archive", np.zeros(2))
    for name in ("text.npy", "archive.npz", "none.npy"):
        with pytest.raises(BundleError):
            read_array(tmp_path / name)


def test_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "classifier.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "classifier.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"classifier\.onnx is missing"):
        load_bundle(folder, SPEC)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at("status", value="validated"), "cannot call itself validated"),
        (set_at("status", value="research"), "trained on synthetic cases is a demo"),
        (set_at("method_digest", value="0" * 64), "trained under another version of the method"),
        (set_at("system", value="other"), "other"),
        (set_at("decision", "threshold", value=2), "decision.*threshold"),
    ],
)
def test_false_claim_is_refused_by_loading_and_verifying(folder: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    rewrite(folder, change)
    with pytest.raises(BundleError, match=words):
        load_bundle(folder, SPEC)
    assert any(words.split(".*")[0] in p for p in find_problems(folder, SPECS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at("parity", value=[]), "classifier.onnx has no parity record"),
        (set_at("parity", 0, "max_abs_difference", value=2e-5), "differs by 2.0e-05 (at most 1e-05 allowed)"),
        (set_at("parity", 0, "rows", value=0), "has no parity record"),
        (set_at("golden", value=[]), "decision: it has no golden cases"),
        (set_at("decision", "platt", "a", value=1.1001), "decision: its golden cases come out"),
        (set_at("decision", "features", 0, "mean", value=100.1), "decision: its golden cases come out"),
        (set_at("decision", "platt", "a", value=-1), "does not rise with the classifier's probability"),
        (set_at("decision", "features", 0, "low", value=2e6), "its range runs from 2e+06 down to 300"),
        (set_at("decision", "features", 0, "name", value="entropy"), "its name is not <role>:<block>:<feature>"),
        (lambda m: m["decision"]["features"][1].update(name=m["decision"]["features"][0]["name"]), "is an input twice"),
        (lambda m: m["decision"]["features"].pop(), "not rows of"),
        (set_at("segmenter", "input", "shape", value=[-1, 1, 32, 32]), "where the manifest says float32 [-1, 1, 32, 32]"),
        (set_at("segmenter", "input", "shape", 0, value=1), "where the manifest says float32 [1, 1, 64, 64]"),
        (set_at("segmenter", "input", "name", value="picture"), "segmenter.onnx has no input 'picture', but image"),
        (set_at("segmenter", "input", "axes", value="nyx"), "the axes 'nyx' of segmenter.onnx"),
        (set_at("segmenter", value=None), "segmenter.onnx is used by nothing"),
        (set_at("segmenter", "file", value="classifier.onnx"), "does not have the output logits"),
    ],
)
def test_verification_names_what_a_manifest_gets_wrong(folder: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    rewrite(folder, change)
    assert any(words in p for p in find_problems(folder, SPECS)), find_problems(folder, SPECS)


def test_verification_names_all_problems_at_once(folder: Path) -> None:
    rewrite(folder, lambda m: (set_at("parity", value=[])(m), set_at("decision", "platt", "a", value=-1)(m), m.update(status="research")))
    problems = find_problems(folder, SPECS)
    assert len({*problems}) == len(problems) >= 6  # three graphs without parity record, calibration, golden cases, status


def test_background_that_was_not_standardised_is_named(folder: Path) -> None:
    rows = read_array(folder / "classifier_background.npy")
    np.save(folder / "classifier_background.npy", rows * 1e4)
    rewrite(folder)
    assert any("values that no standardised feature has" in p for p in find_problems(folder, SPECS))
    np.save(folder / "classifier_background.npy", rows[:, :-1])
    rewrite(folder)
    assert any("classifier_background.npy has shape" in p for p in find_problems(folder, SPECS))


def test_retrained_classifier_fails_the_golden_cases_of_the_old_one(folder: Path) -> None:
    n = len(load_bundle(folder, SPEC).manifest.decision.features)
    (folder / "classifier.onnx").write_bytes(classifier_graph(np.linspace(0.501, -0.3, n)).SerializeToString())
    rewrite(folder)
    assert any(p.startswith("decision: its golden cases come out") for p in find_problems(folder, SPECS))


def _classifier(**changes: str) -> onnx.ModelProto:
    model = classifier_graph(np.linspace(0.5, -0.3, 6))
    if "domain" in changes:
        model.graph.node[0].domain = changes["domain"]
    if "opset" in changes:
        model.opset_import.append(helper.make_opsetid(changes["opset"], 1))
    return model


def _with_external_data() -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.zeros(3, dtype=np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    branch = helper.make_graph([helper.make_node("Identity", ["far"], ["y"])], "branch", [], [], [tensor])
    model = _classifier()
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    return model


@pytest.mark.parametrize(
    ("model", "needs"),
    [
        (_classifier(), []),
        (_classifier(domain="com.evil"), ["the operator com.evil.LinearClassifier"]),
        (_classifier(opset="com.microsoft"), ["the operator set 'com.microsoft'"]),
        (_with_external_data(), ["data in another file"]),
    ],
)
def test_what_a_graph_needs_beyond_itself_is_found(tmp_path: Path, model: onnx.ModelProto, needs: list[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert foreign_parts(path) == needs


def test_graph_that_is_not_self_contained_is_named_and_not_run(folder: Path) -> None:
    (folder / "classifier.onnx").write_bytes(_with_external_data().SerializeToString())
    rewrite(folder)
    problems = [p for p in find_problems(folder, SPECS) if p.startswith("decision: ")]
    assert problems == ["decision: classifier.onnx is not self-contained: it needs data in another file"]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_are_an_error_or_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "some.onnx"
    path.write_bytes(content)
    try:
        assert isinstance(foreign_parts(path), list)
    except BundleError as error:
        assert "some.onnx is no ONNX model" in str(error)


def test_probe_is_part_of_the_format() -> None:
    values = probe((2, 3, 170))
    assert values.shape == (2, 3, 170)
    assert (values.min(), values.max()) == (0, 1)
    assert np.array_equal(probe((4,)) * 1020, [0, 772, 523, 274])


def test_unsigned_bundle_is_refused_where_keys_are_trusted(folder: Path) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        load_bundle(folder, SPEC, trusted_keys=["a" * 64])


def test_signature_of_a_stranger_is_refused_where_keys_are_trusted(folder: Path, tmp_path: Path) -> None:
    trusted = make_key(tmp_path / "ours")
    make_key(tmp_path / "strange")
    sign_bundle(folder, read_key(tmp_path / "strange"))
    with pytest.raises(BundleError, match="not among the trusted keys"):
        load_bundle(folder, SPEC, trusted_keys=[trusted])
    assert load_bundle(folder, SPEC)


def test_broken_signature_is_refused_even_where_no_key_is_trusted(folder: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    path = sign_bundle(folder, read_key(tmp_path / "key"))
    rewrite(folder, set_at("intended_use", value="everything"))
    with pytest.raises(BundleError, match="its signature is broken"):
        load_bundle(folder, SPEC)
    path.write_text("{}")
    with pytest.raises(BundleError, match="the signature cannot be read"):
        load_bundle(folder, SPEC)


def test_signature_does_not_fit_another_purpose(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    signature = sign(b"content", purpose="manifest", key=read_key(tmp_path / "key"))
    check(signature, b"content", purpose="manifest", trusted_keys=[signature.public_key], where=tmp_path)
    with pytest.raises(BundleError, match="broken"):
        check(signature, b"content", purpose="in_use", trusted_keys=[], where=tmp_path)


def test_altered_bundle_is_not_signed(folder: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    flip_a_byte(folder / "classifier.onnx")
    with pytest.raises(BundleError, match=r"classifier\.onnx was altered.*it was not signed"):
        sign_bundle(folder, read_key(tmp_path / "key"))


def test_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read this key"):
        read_key(path)


def test_key_is_never_overwritten_and_must_be_one(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="cannot be written"):
        make_key(tmp_path / "key")
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ConfigError, match="no unencrypted private key"):
        read_key(tmp_path / "text")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")
