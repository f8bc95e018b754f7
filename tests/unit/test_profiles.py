"""The radiomic profiles of the five papers: how many features of which class, and the names that [CRFE] prints."""

from __future__ import annotations

import sys
from collections import Counter

import highdicom as hd
import numpy as np
import pytest
import scipy.special

from pipelines.errors import InferenceError
from pipelines.features import histogram, radiomics
from pipelines.features.clinical import KNOWN
from pipelines.spec import Histogram, Radiomics
from pipelines.systems import catalogue
from pipelines.types import SeriesRole

SYSTEMS = catalogue()
CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
# By system and block: features of each class, whose sum is the paper's count.
COUNTS = {
    ("olnm_mri", "radiomics", "T1W"): (14, 288, 384, 256, 256, 0, 0),
    ("plnm_us", "radiomics", "TVUS"): (14, 306, 374, 272, 272, 238, 85),
    ("lvsi_mri", "radiomics", "T2W"): (14, 270, 360, 240, 240, 210, 75),
    ("lvsi_mri", "radiomics", "ADC"): (14, 270, 360, 240, 240, 210, 75),
    ("histotype_mri", "shape", "T2W"): (14, 0, 0, 0, 0, 0, 0),
    ("histotype_mri", "radiomics", "T2W"): (0, 162, 216, 144, 144, 126, 45),
}
# [CRFE] Table 3, in its order; the median is that of the histogram.
THIRTY = (
    "log-sigma-2-0-mm-3D_glrlm_LongRunLowGrayLevelEmphasis",
    "log-sigma-2-0-mm-3D_glszm_LargeAreaLowGrayLevelEmphasis",
    "log-sigma-1-0-mm-3D_ngtdm_Strength",
    "log-sigma-2-0-mm-3D_glszm_LargeAreaHighGrayLevelEmphasis",
    "log-sigma-1-0-mm-3D_gldm_DependenceVariance",
    "wavelet-L_glrlm_ShortRunLowGrayLevelEmphasis",
    "wavelet-L_glcm_DifferenceVariance",
    "histogram_Median",
    "wavelet-L_glszm_LargeAreaEmphasis",
    "log-sigma-1-0-mm-3D_glrlm_GrayLevelVariance",
    "log-sigma-2-0-mm-3D_glcm_DifferenceEntropy",
    "exponential_glrlm_RunEntropy",
    "log-sigma-1-0-mm-3D_glrlm_RunLengthNonUniformity",
    "logarithm_glrlm_RunEntropy",
    "wavelet-L_gldm_DependenceVariance",
    "squareroot_gldm_DependenceNonUniformityNormalized",
    "wavelet-H_ngtdm_Strength",
    "log-sigma-1-0-mm-3D_glszm_LargeAreaLowGrayLevelEmphasis",
    "original_glrlm_ShortRunLowGrayLevelEmphasis",
    "log-sigma-2-0-mm-3D_glcm_Idmn",
    "wavelet-L_glcm_Correlation",
    "exponential_glszm_SmallAreaLowGrayLevelEmphasis",
    "logarithm_glszm_LargeAreaHighGrayLevelEmphasis",
    "log-sigma-2-0-mm-3D_glszm_SmallAreaHighGrayLevelEmphasis",
    "exponential_gldm_DependenceNonUniformityNormalized",
    "square_gldm_DependenceNonUniformityNormalized",
    "wavelet-H_glcm_Imc1",
    "log-sigma-2-0-mm-3D_gldm_LargeDependenceLowGrayLevelEmphasis",
    "log-sigma-2-0-mm-3D_firstorder_RootMeanSquared",
    "square_glcm_Correlation",
)


def _image(role: str) -> tuple[hd.Volume, hd.Volume]:
    """Return a textured image and an ellipsoid in it; ultrasound is one slice."""
    shape = (1, 56, 60) if role == "TVUS" else (9, 40, 44)
    rng = np.random.default_rng(3)
    array = (100 + 40 * rng.standard_normal(shape)).cumsum(axis=2).astype(np.float32) / 6
    away = [(np.arange(n) - (n - 1) / 2) / (0.36 * n if n > 1 else 1) for n in shape]
    inside = sum(a**2 for a in np.meshgrid(*away, indexing="ij")) < 1
    image = hd.Volume(array, np.diag([4.0, 1.0, 1.0, 1.0]), "PATIENT")
    return image, image.with_array(inside.astype(np.uint8))


def _block(system: str, name: str, role: str) -> Radiomics:
    return next(b for b in SYSTEMS[system].blocks_of(Radiomics) if b.name == name and SeriesRole(role) in b.roles)


@pytest.mark.parametrize(("key", "counts"), COUNTS.items(), ids=["-".join(key) for key in COUNTS])
def test_profile_has_the_papers_features_class_by_class(key: tuple[str, str, str], counts: tuple[int, ...]) -> None:
    block = _block(*key)
    features = radiomics.extract(*_image(key[2]), block)
    found = Counter(name.split("_")[1] for name in features)
    assert tuple(found[c] for c in CLASSES) == counts
    assert len(features) == sum(counts) == block.count


def test_papers_totals_are_those_of_the_profiles() -> None:
    totals = {key[0]: sum(counts) for key, counts in COUNTS.items() if key[1] == "radiomics"}
    assert totals == {"olnm_mri": 1198, "plnm_us": 1561, "lvsi_mri": 1409, "histotype_mri": 837}
    recorded = {"age_y", "hpv", "figo_group", "node_metastasis", "lvsi", "invasion_depth_mm", "chemotherapy", "radiotherapy"}
    assert recorded <= KNOWN.keys()
    assert totals["histotype_mri"] + 14 + len(histogram.extract(*_image("T2W"))) + len(recorded) == 868


def test_the_thirty_printed_features_exist() -> None:
    spec, (image, mask) = SYSTEMS["histotype_mri"], _image("T2W")
    assert spec.blocks_of(Histogram)
    there = {*radiomics.extract(image, mask, _block("histotype_mri", "radiomics", "T2W")), *histogram.extract(image, mask)}
    assert len(THIRTY) == len(set(THIRTY)) == 30
    assert [name for name in THIRTY if name not in there] == []


def test_profile_without_local_binary_patterns_is_an_error_and_no_shorter_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radiomics, "_restore_scipy_names", lambda: None)
    monkeypatch.delattr(scipy.special, "sph_harm", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.ndimage.interpolation", None)
    with pytest.raises(InferenceError, match="1288 features, the profile declares 1561"):
        radiomics.extract(*_image("TVUS"), _block("plnm_us", "radiomics", "TVUS"))
