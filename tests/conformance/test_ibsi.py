"""pyradiomics, through our own door, against the reference values of IBSI 1 on its digital phantom."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.sr._concepts_dict import concepts

from pipelines.features.ibsi import CODES, identify
from pipelines.features.radiomics import extract
from pipelines.spec import Radiomics
from pipelines.types import SeriesRole

_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ibsi"
_CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
_COUNT = 107  # features of these classes in pyradiomics 3.0.1
_DIGITS = 3  # significant ones of a printed reference value

# pyradiomics' name of each coded feature, and the reference table's tag (textures: three dimensions; GLCM and GLRLM: mean over directions).
_TAGS = {
    "shape": "morph_pca_elongation morph_pca_flatness morph_diam morph_volume morph_sphericity morph_area_mesh morph_av morph_vol_approx",
    "firstorder": "stat_p10 stat_p90 stat_energy ih_entropy stat_iqr stat_max stat_mean stat_mad stat_median stat_min stat_range stat_rmad "
    "stat_rms stat_skew ih_uniformity stat_var",
    "glcm": "auto_corr clust_prom clust_shade clust_tend contrast corr diff_avg diff_entr diff_var inv_diff inv_diff_mom inv_diff_mom_norm "
    "inv_diff_norm info_corr1 info_corr2 inv_var joint_avg energy joint_entr joint_max sum_avg sum_entr joint_var",
    "glrlm": "glnu glnu_norm gl_var hgre lre lrhge lrlge lgre rl_entr rlnu rlnu_norm r_perc rl_var sre srhge srlge",
    "glszm": "glnu glnu_norm gl_var hgze lze lzhge lzlge lgze zsnu zsnu_norm sze szhge szlge zs_entr z_perc zs_var",
    "gldm": "dc_entr dcnu dcnu_norm dc_var glnu gl_var hgce hde hdhge hdlge lgce lde ldhge ldlge",
    "ngtdm": "busyness coarseness complexity contrast strength",
}
_AROUND = {"glcm": "cm_{}_3D_avg", "glrlm": "rlm_{}_3D_avg", "glszm": "szm_{}_3D", "gldm": "ngl_{}_3D", "ngtdm": "ngt_{}_3D"}
TAG_OF = {
    code: _AROUND.get(kind, "{}").format(tag)
    for kind, tags in _TAGS.items()
    for code, tag in zip([c for c in CODES if c.startswith(f"{kind}_")], tags.split(), strict=True)
}


class Reference(NamedTuple):
    value: float
    tolerance: float


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    path = _FOLDER / "ibsi1_reference" / "data" / "ibsi_1_reference_values" / "ibsi_1_dig_phantom.csv"
    if not path.is_file():
        pytest.skip("the reference values of IBSI 1 (../shared/data/ibsi/ibsi1_reference) are not here")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter=";") if row["reference value"]]
    return {row["tag"]: Reference(float(row["reference value"]), float(row["tolerance"])) for row in rows}


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    """The phantom's features as ``<class>_<feature>``: no resampling, grey levels as they are (bins of width 1 from 1 on)."""
    folder = _FOLDER / "digital_phantom" / "nifti"
    if not folder.is_dir():
        pytest.skip("the digital phantom of IBSI 1 (../shared/data/ibsi/digital_phantom) is not here")
    image, mask = (sitk.ReadImage(str(folder / name)) for name in ("image/phantom.nii.gz", "mask/mask.nii.gz"))
    affine = np.diag([*image.GetSpacing()[::-1], 1.0])
    volume = hd.Volume(sitk.GetArrayFromImage(image).astype(np.float32), affine, "PATIENT")
    block = Radiomics(
        roles=(SeriesRole.T2W,),
        image_types={"Original": {}},
        classes=dict.fromkeys(_CLASSES, ()),
        settings={"normalize": False, "binWidth": 1},
        count=_COUNT,
    )
    features = extract(volume, volume.with_array(sitk.GetArrayFromImage(mask).astype(np.uint8)), block)
    return {name.removeprefix("original_"): value for name, value in features.items()}


def _allowed(reference: Reference) -> float:
    """Return the published tolerance, and what rounding the reference to three digits may have cost."""
    exponent = math.floor(math.log10(abs(reference.value))) if reference.value else 0
    return reference.tolerance + 0.5 * 10.0 ** (exponent - _DIGITS + 1) * (1 + 1e-9)


@pytest.mark.parametrize("feature", CODES)
def test_feature_agrees_with_the_reference_value(feature: str, measured: dict[str, float], references: dict[str, Reference]) -> None:
    reference = references[TAG_OF[feature]]
    assert measured[feature] == pytest.approx(reference.value, rel=0, abs=_allowed(reference)), f"{feature}: IBSI {TAG_OF[feature]}"


def test_kurtosis_is_not_excess_kurtosis_and_has_no_code(measured: dict[str, float], references: dict[str, Reference]) -> None:
    assert measured["firstorder_Kurtosis"] - 3 == pytest.approx(references["stat_kurt"].value, abs=_allowed(references["stat_kurt"]))
    assert identify("T2W:radiomics:original_firstorder_Kurtosis") is None


@pytest.mark.parametrize(
    ("feature", "tag"), [("MajorAxisLength", "maj_axis"), ("MinorAxisLength", "min_axis"), ("LeastAxisLength", "least_axis")]
)
def test_axis_lengths_divide_by_n_and_have_no_code(
    feature: str, tag: str, measured: dict[str, float], references: dict[str, Reference]
) -> None:
    n = round(measured["shape_VoxelVolume"] / 8)  # voxels of 2 mm
    reference = references[f"morph_pca_{tag}"].value
    with_n_less_one = measured[f"shape_{feature}"] * math.sqrt(n / (n - 1))
    assert with_n_less_one == pytest.approx(reference, abs=0.5 * 10 ** (math.floor(math.log10(reference)) - 2))
    assert identify(f"T2W:radiomics:original_shape_{feature}") is None


def test_every_feature_is_coded_or_listed_as_a_deviation(measured: dict[str, float]) -> None:
    listed = (Path(__file__).parents[2] / "docs" / "ibsi.md").read_text(encoding="utf-8")
    without = [name for name in measured if name not in CODES]
    assert len(without) + len(CODES) == _COUNT
    assert [name for name in without if f"`{name}`" not in listed] == []


def test_codes_are_used_once_and_named_as_in_dicom() -> None:
    codes = [code for code, _ in CODES.values()]
    assert len(set(codes)) == len(codes)
    known = {code: meaning for terms in concepts["IBSI"].values() for code, (meaning, _) in terms.items()}
    assert {code: name for code, name in CODES.values() if code in known and known[code] != name} == {}
    only_in_the_manual = {name for name, (code, _) in CODES.items() if code not in known}
    assert all(name.startswith("firstorder_") for name in only_in_the_manual)


def test_feature_is_identified_whatever_image_it_is_computed_on() -> None:
    assert identify("DWI:radiomics:wavelet-HLL_glcm_JointEntropy") == ("TU9B", "Joint Entropy of GLCM")
    assert identify("T2W:radiomics:log-sigma-2-0-mm-3D_ngtdm_Strength") == ("1X9X", "Strength of NGTDM")
    assert identify("T2W:cnn:17") is None
