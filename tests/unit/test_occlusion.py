"""Occlusion maps: they find what a network looked at, and are called by their name wherever they are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydicom import Dataset

from pipelines import engine
from pipelines.errors import InferenceError
from pipelines.features.cnn import crop, occlusion_maps, place_maps
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.bundle import load_bundle
from pipelines.models.golden import make_golden
from pipelines.models.manifest import Manifest
from pipelines.models.verify import find_problems
from pipelines.spec import Cnn, PipelineSpec, Radiomics, SliceCrop
from pipelines.systems import catalogue
from pipelines.types import FloatArray, SeriesRole
from structured_reports.language import languages, load_messages
from tests import mr
from tests.bundles import write_bundle
from tests.results import Result, make_result

ROLE = SeriesRole.DWI
SIZE = 64  # pixels a side of the network's view


def _brightness(views: NDArray[np.float32]) -> FloatArray:
    """Answer as a network would that adds up what is brighter than two standard deviations."""
    return np.maximum(views - 2.0, 0).sum(axis=(1, 2, 3), dtype=np.float64)


@pytest.mark.parametrize("size", [64, 128, 130])
def test_map_is_high_where_the_bright_square_is_and_nowhere_else(size: int) -> None:
    views = np.random.default_rng(0).normal(0, 0.3, (3, 1, size, size)).astype(np.float32)
    side, corners = size // 8, [(0, 0), (size // 2, size // 4), (size - size // 8, size - size // 8)]
    for view, (top, left) in zip(views, corners, strict=True):
        view[0, top : top + side, left : left + side] += 5.0
    maps = occlusion_maps(_brightness, views)
    assert maps.shape == (3, 16, 16)
    for one, (top, left) in zip(maps, corners, strict=True):
        inside = np.zeros((16, 16), dtype=bool)
        rows, columns = ([round(16 * at / size), round(16 * (at + side) / size)] for at in (top, left))
        inside[rows[0] : rows[1], columns[0] : columns[1]] = True
        assert one[inside].min() > 0.3 * one.max()
        near = np.zeros((16, 16), dtype=bool)  # a hidden square reaches one cell beyond
        near[max(rows[0] - 1, 0) : rows[1] + 1, max(columns[0] - 1, 0) : columns[1] + 1] = True
        assert one[~near].max(initial=0.0) == 0.0
        assert one[inside].mean() > one[near & ~inside].mean()


def test_what_speaks_against_the_finding_is_not_shown() -> None:
    views = np.random.default_rng(0).normal(0, 0.3, (1, 1, 64, 64)).astype(np.float32)
    views[..., 16:32, 16:32] += 5.0
    assert occlusion_maps(lambda shown: -_brightness(shown), views).max() == 0.0


def test_map_lies_on_the_image_where_the_square_is() -> None:
    pixels = np.random.default_rng(1).normal(100, 3, (1, 120, 160)).astype(np.float32)
    mask = np.zeros((1, 120, 160), dtype=np.uint8)
    mask[0, 30:90, 40:120] = 1
    pixels[0, 70:80, 50:60] += 80.0
    affine = np.array([[0, 0, 0.5, 0], [0, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    image, roi = (hd.Volume(array, affine, coordinate_system="PATIENT") for array in (pixels, mask))
    views = crop(SliceCrop(margin=0.1, size=128), image, roi)
    placed = place_maps(occlusion_maps(_brightness, views.array), views, image).array[0]
    assert placed.max() == 1.0
    assert placed[70:80, 50:60].mean() > 0.7
    row, column = np.average(np.argwhere(placed > 0.5), axis=0)
    assert (row, column) == (pytest.approx(74.5, abs=3), pytest.approx(54.5, abs=3))


def test_network_of_three_dimensions_has_no_occlusion_map() -> None:
    with pytest.raises(InferenceError, match="only of a two-dimensional view"):
        occlusion_maps(_brightness, np.zeros((1, 1, 32, 32, 32), dtype=np.float32))


def _without_map(folder: Path) -> None:
    """Write a network that adds up what is brighter than the mean, and has no map of its own."""
    nodes = [
        helper.make_node("Relu", ["image"], ["bright"]),
        helper.make_node("ReduceMean", ["bright"], ["features"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["features", "one"], ["logit"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("features", "logit")]
    graph = helper.make_graph(nodes, "test", inputs, outputs, [numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (folder / "cnn.onnx").write_bytes(model.SerializeToString())


def _bundle(root: Path, map_kind: str) -> tuple[Path, PipelineSpec]:
    """Write a bundle of one sequence whose network has no map of its own."""
    full, role = catalogue()["olnm_mri"], (SeriesRole.T2W_FS,)
    spec = replace(full, blocks=(replace(full.blocks_of(Radiomics)[0], roles=role), Cnn(role, SliceCrop(0.1, SIZE))))
    folder = write_bundle(root, spec)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    _without_map(folder)
    manifest["cnns"][0] |= {"dim": 1, "map_kind": map_kind}
    manifest["cnns"][0]["input"] |= {"shape": [-1, 1, SIZE, SIZE], "axes": "ncyx"}
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(make_golden(folder, Manifest.model_validate(manifest)).model_dump_json())
    return folder, spec


def test_engine_makes_the_map_of_a_network_that_has_none_and_says_so(tmp_path: Path) -> None:
    folder, spec = _bundle(tmp_path / "models", "occlusion")
    series = read_series(find_dicom_files(mr.write_study(tmp_path / "study")))
    case = engine.load_case(series, choose(series, spec), spec)
    _, evidence = engine.run(spec, load_bundle(folder, spec), case)
    assert evidence.occluded == {SeriesRole.T2W_FS} == set(evidence.activation_maps)
    placed = evidence.activation_maps[SeriesRole.T2W_FS]
    assert placed.geometry_equal(evidence.volumes[SeriesRole.T2W_FS].volume)
    assert placed.array.max() == 1.0
    inside = evidence.rois[SeriesRole.T2W_FS].array > 0
    shown = placed.array.max(axis=(1, 2)) > 0
    assert placed.array[shown][inside[shown]].mean() > 3 * placed.array[shown][~inside[shown]].mean()  # the tumour is what is bright


def test_verification_asks_for_the_map_that_the_manifest_promises(tmp_path: Path) -> None:
    folder, spec = _bundle(tmp_path / "occlusion", "occlusion")
    assert find_problems(folder, {spec.name: spec}) == []
    folder, spec = _bundle(tmp_path / "activation", "class activation")
    assert find_problems(folder, {spec.name: spec}) == ["cnn T2W_FS: cnn.onnx does not have the output cam"]
    own = write_bundle(tmp_path / "own", catalogue()["olnm_mri"])
    manifest = json.loads((own / "manifest.json").read_bytes())
    manifest["cnns"][0]["map_kind"] = "occlusion"
    (own / "manifest.json").write_text(json.dumps(manifest))
    found = [problem for problem in find_problems(own, catalogue()) if "T1W" in problem]
    assert found == ["cnn T1W: cnn.onnx has a class activation map where the manifest says that its map is one of occlusion"]


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


def _pages(result: Result, language: str, *, occluded: bool) -> dict[str, Dataset]:
    """Return the pages of the sequences by their words."""
    evidence = replace(result.evidence, occluded=frozenset({ROLE} if occluded else ()))
    objects = replace(result, evidence=evidence, context=replace(result.context, language=language)).build()
    described = {str(d.get("DerivationDescription", "")): d for d in objects if d.Modality == "OT"}
    return {words: page for words, page in described.items() if "network over the slice" in words}


@pytest.mark.parametrize("language", languages())
def test_captures_call_the_map_by_its_name(result: Result, language: str) -> None:
    as_it_is, occluded = (_pages(result, language, occluded=one) for one in (False, True))
    assert sum("Grad-CAM of the" in words for words in as_it_is) == 3
    assert sum("Grad-CAM of the" in words for words in occluded) == 2
    (name,) = occluded.keys() - as_it_is.keys()
    assert "Occlusion map of the DWI network" in name
    before, after = (pages[words].pixel_array for pages, words in ((as_it_is, name.replace("Occlusion map", "Grad-CAM")), (occluded, name)))
    differs = (before != after).any(axis=(1, 2))
    assert differs[:100].any() and differs[-120:].any()  # title, legend and note
    assert not differs[150:-150].any()  # the picture
    say = load_messages(language)
    for key in ("title", "active", "inactive", "note"):
        ours = say(f"occlusion.{key}", role="T")
        assert "CAM" not in ours and ours != say(f"map.{key}", role="T")
