"""Ultrasound: decoding, calibration, the B-mode region alone, frame choice, ranking, and outlines that people drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    UID,
    EnhancedUSVolumeStorage,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from pipelines.errors import InputError, MissingSequence, UndecodablePixels
from pipelines.imaging.series import read_series
from pipelines.imaging.ultrasound import choose_ultrasound, rank_ultrasound, read_frame
from pipelines.types import UltrasoundFrame
from tests.us import REGION, SPACING_CM, Outline, Picture, compress, make, make_report, paint, rectangle, region, sector, write

pytestmark = pytest.mark.filterwarnings(  # real files hold UIDs that break PS3.5 9.1
    "ignore:Invalid value for VR UI:UserWarning",
    r"ignore:The value length \(67\) exceeds the maximum length of 64 allowed for VR UI:UserWarning",
)

INSIDE = np.s_[REGION[0] : REGION[2] + 1, REGION[1] : REGION[3] + 1]
TRUTH = (paint(Picture())[0, ..., 0] * sector())[INSIDE].astype(np.float32)  # tissue alone, grey


def _read(tmp_path: Path, *images: Dataset) -> UltrasoundFrame:
    return choose_ultrasound(read_series(write(tmp_path, *images)))


def _interior(frame: UltrasoundFrame) -> np.ndarray:
    """Pixels that are surely within the sector found, and away from its edge."""
    return np.abs(frame.grey - TRUTH)[10:150, 80:180]


@pytest.mark.parametrize(
    ("picture", "syntax"),
    [
        (Picture(), None),
        (Picture(planar=1), None),
        (Picture(photometric="MONOCHROME2"), None),
        (Picture(photometric="MONOCHROME1"), None),
        (Picture(photometric="PALETTE COLOR"), None),
        (Picture(photometric="YBR_FULL"), None),
        (Picture(photometric="YBR_FULL", planar=1), None),
        (Picture(photometric="YBR_FULL_422"), None),
        (Picture(), RLELossless),
        (Picture(photometric="PALETTE COLOR"), RLELossless),
        (Picture(photometric="PALETTE COLOR"), JPEGLSLossless),
        (Picture(), JPEGLSLossless),
    ],
)
def test_encodings_of_one_image_give_the_same_pixels(tmp_path: Path, picture: Picture, syntax: UID | None) -> None:
    image = make(picture)
    frame = _read(tmp_path, compress(image, syntax) if syntax else image)
    assert frame.grey.shape == TRUTH.shape and frame.grey.dtype == np.float32
    assert _interior(frame).max() <= (1.0 if picture.photometric.startswith("YBR") else 1e-3)
    assert frame.score == 100


def test_jpeg_baseline_ultrasound_is_decoded(tmp_path: Path) -> None:
    frame = _read(tmp_path, compress(make(), JPEGBaseline8Bit))
    assert _interior(frame).mean() < 3  # lossy
    assert "lossy compression" in frame.problems and frame.score == 90


def test_big_endian_palette_gives_the_same_pixels(tmp_path: Path) -> None:
    image = make(Picture(photometric="PALETTE COLOR"))
    for colour in ("Red", "Green", "Blue"):
        element = image[f"{colour}PaletteColorLookupTableData"]
        element.VR, element.value = "OW", np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
    pixels = np.frombuffer(image.PixelData, np.uint8).reshape(-1, 2)[:, ::-1]  # 8 bits in OW: PS3.5 8.1.2
    image.PixelData = pixels.tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert _interior(_read(tmp_path, image)).max() <= 1e-3


def test_only_tissue_of_the_bmode_region_is_left(tmp_path: Path) -> None:
    frame = _read(tmp_path, make())
    assert frame.box == (30, 40, 230, 300)
    outside = ~sector()[INSIDE]
    assert paint(Picture())[0, ..., 0][INSIDE][outside].max() == 255  # there was text
    assert frame.grey[6:14, 4:50].max() == 0  # and it is gone
    assert frame.hidden[6:14, 4:50].all()
    assert not frame.hidden[60:150, 80:180].any()


def test_deltas_become_millimetres_whatever_their_sign(tmp_path: Path) -> None:
    down, along = SPACING_CM
    frame = _read(tmp_path, make(Picture(regions=(region(delta=(-down, along)),))))
    assert frame.spacing_mm == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("item", [region(units=(0, 0)), region(units=(3, 4)), region(delta=(0.0, 0.03))])
def test_uncalibrated_region_has_no_millimetres_and_says_so(tmp_path: Path, item: Dataset) -> None:
    frame = _read(tmp_path, make(Picture(regions=(item,))))
    assert frame.spacing_mm is None
    assert "not calibrated in cm: no millimetres" in frame.problems
    assert frame.box == (30, 40, 230, 300)


def test_without_regions_the_sector_is_found_from_the_pixels(tmp_path: Path) -> None:
    frame = _read(tmp_path, make(Picture(regions=())))
    rows, columns = np.nonzero(sector())
    assert frame.spacing_mm is None
    assert np.abs(np.array(frame.box) - (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)).max() <= 4
    assert "no region is declared: the sector was found from the pixels" in frame.problems
    assert frame.grey.max() < 255


def test_coloured_calipers_are_painted_over_and_reported(tmp_path: Path) -> None:
    frame = _read(tmp_path, make(Picture(colour="caliper")))
    marked = np.s_[120 - 30, 150 - 40 : 160 - 40]
    assert frame.hidden[marked].all()
    assert frame.grey[marked].max() < 225 and frame.grey[marked].min() > 0
    assert any("graphics on the tissue, painted over" in p for p in frame.problems)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_white_calipers_far_above_all_tissue_are_painted_over(tmp_path: Path, photometric: str) -> None:
    frame = _read(tmp_path, make(Picture(colour="white caliper", photometric=photometric)))
    marked = np.s_[120 - 30, 150 - 40 : 160 - 40]
    assert frame.hidden[marked].all() and 0 < frame.grey[marked].min() <= frame.grey.max() < 225
    assert any("graphics on the tissue, painted over" in p for p in frame.problems)


def test_saturated_tissue_is_no_graphics(tmp_path: Path) -> None:
    image = make()
    pixels = np.frombuffer(image.PixelData, np.uint8).astype(float) * 1.3  # clipped: a spike at 255, and all levels below
    image.PixelData = np.clip(pixels, 0, 255).astype(np.uint8).tobytes()
    frame = _read(tmp_path, image)
    assert np.count_nonzero(frame.grey == 255) > 50
    assert "no graphics on the tissue" in frame.reasons


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (Picture(colour="doppler"), "coloured: Doppler, elastography or a tinted display"),
        (Picture(regions=(region(), region(data_type=2))), "it declares colour flow on its B-mode region"),
        (Picture(regions=(region(spatial_format=2),)), "it declares an M-mode region"),
        (Picture(regions=(region(spatial_format=3, data_type=3),)), "it declares a PW spectral Doppler region"),
        (Picture(regions=(region(box=(0, 0, 30, 30)),)), "it declares nothing but icons"),
        (Picture(regions=(), attributes={"ImageType": ["ORIGINAL", "PRIMARY", "", "0011"]}), "is colour Doppler by its ImageType"),
        (Picture(attributes={"SeriesDescription": "Shear wave cervix"}), 'is elastography: "Shear wave"'),
        (Picture(attributes={"SOPClassUID": EnhancedUSVolumeStorage}), "is a 3D ultrasound volume"),
        (Picture(attributes={"SOPClassUID": SecondaryCaptureImageStorage}), "is no ultrasound image but Secondary Capture"),
    ],
)
def test_other_modes_are_left_out_with_a_reason(tmp_path: Path, picture: Picture, sentence: str) -> None:
    ranked = rank_ultrasound(read_series(write(tmp_path, make(picture))))
    assert [c.frame_number for c in ranked] == [None]
    assert sentence in ranked[0].reasons[0]
    with pytest.raises(MissingSequence, match="no B-mode ultrasound image found"):
        choose_ultrasound(read_series(tmp_path.glob("*.dcm")))


def test_other_regions_beside_the_bmode_region_are_named_and_hidden(tmp_path: Path) -> None:
    bar = region(spatial_format=0, data_type=13, box=(60, 150, 119, 159))
    trace = region(spatial_format=4, data_type=10, box=(231, 40, 239, 299))
    frame = _read(tmp_path, make(Picture(regions=(region(), bar, trace))))
    assert "left out: a grey bar region and a trace region" in frame.reasons
    assert frame.hidden[30:90, 110:120].all() and frame.grey[30:90, 110:120].max() == 0


def test_damaged_pixels_are_refused_by_name(tmp_path: Path) -> None:
    image = make()
    image.PixelData = image.PixelData[:1000]
    series = read_series(write(tmp_path, image))
    with pytest.raises(UndecodablePixels, match="image 1: "):
        read_frame(series[0].instances[0], series[0].header)
    assert rank_ultrasound(series)[0].problems


def test_middle_frame_is_taken_where_nothing_says_more(tmp_path: Path) -> None:
    frame = _read(tmp_path, make(Picture(frames=5)))
    assert frame.frame_number == 3 and "frame 3 of 5: the middle frame" in frame.reasons


def test_representative_frame_of_the_scanner_is_taken(tmp_path: Path) -> None:
    frame = _read(tmp_path, make(Picture(frames=5, attributes={"RepresentativeFrameNumber": 2})))
    assert frame.frame_number == 2 and "frame 2 of 5: the scanner's representative frame" in frame.reasons


def test_frame_with_the_largest_outlined_section_is_taken(tmp_path: Path) -> None:
    image = make(Picture(frames=5, lesion_scale=(0.5, 0.7, 0.9, 1.0, 0.6)))
    outlines = [Outline(image, rectangle(120, 140, 120 + side, 140 + side), frame=n) for n, side in ((1, 10), (4, 60), (5, 30))]
    frame = _read(tmp_path, image, make_report(*outlines))
    assert frame.frame_number == 4
    assert "frame 4 of 5: the largest outlined section" in frame.reasons
    assert frame.roi is not None and frame.roi.sum() == 60 * 60


def test_best_image_is_calibrated_clean_and_transvaginal(tmp_path: Path) -> None:
    plain = {"StudyDescription": "US", "ImageType": ["ORIGINAL", "PRIMARY", "", "0001"], "SeriesDescription": ""}
    images = [
        make(Picture(number=1, colour="caliper")),
        make(Picture(number=2)),
        make(Picture(number=3, regions=(region(units=(0, 0)),))),
        make(Picture(number=4, attributes=plain)),
        make(Picture(number=5, colour="doppler")),
        make(Picture(number=6, regions=())),
    ]
    ranked = rank_ultrasound(read_series(write(tmp_path, *images)))
    assert [int(c.source.InstanceNumber) for c in ranked] == [2, 1, 4, 3, 6, 5]
    assert [c.score for c in ranked] == [100, 90, 80, 70, 40, 0]


def test_of_equal_images_the_later_is_chosen(tmp_path: Path) -> None:
    frame = _read(tmp_path, make(Picture(number=1)), make(Picture(number=2)))
    assert int(frame.source.InstanceNumber) == 2


READ = {
    "us/weasis/ybr422-raw.dcm": ((480, 616), 0.0616),
    "us/weasis/ybrFull-RLE.dcm": ((368, 400), 0.095368),
    "us_mr_pydicom/JPGLosslessP14SV1_1s_1f_8b.dcm": ((721, 997), 0.254767),
    **{
        f"us_mr_pydicom/OBXXXX1A{kind}.dcm": ((459, 680), 0.262288)
        for kind in ("", "_2frame", "_expb", "_expb_2frame", "_rle", "_rle_2frame")
    },
    **{f"us_mr_pydicom/gdcm-US-ALOKA-16{kind}.dcm": ((392, 304), 0.382653) for kind in ("", "_big")},
}
REFUSED = {
    "us/weasis/US-RGB-8-epicard-Banded-bigendian.dcm": "25% of it is coloured",
    "us/weasis/palette-multiframe-jpeg-ls.dcm": "31% of it is coloured",
    **{f"us_mr_pydicom/US1_{kind}.dcm": "12% of it is coloured" for kind in ("J2KI", "J2KR", "UNCI", "UNCR")},
}


def test_every_real_ultrasound_file_is_expected(shared_data: Path) -> None:
    paths = [p for folder in ("us/weasis", "us_mr_pydicom") for p in sorted((shared_data / folder).glob("*.dcm"))]
    found = set()
    for path in paths:
        try:
            series = read_series([path])
        except InputError:
            continue
        if series[0].header.modality == "US":
            found.add(str(path.relative_to(shared_data)))
    assert found == {*READ, *REFUSED}


@pytest.mark.parametrize("name", READ)
def test_real_ultrasound_is_read_with_its_calibration(shared_data: Path, name: str) -> None:
    frame = choose_ultrasound(read_series([shared_data / name]))
    shape, spacing = READ[name]
    assert frame.grey.shape == shape
    assert frame.spacing_mm == pytest.approx((spacing, spacing), abs=1e-5)
    assert 0 <= frame.grey.min() < 5 and 150 < frame.grey.max() <= 255


@pytest.mark.parametrize("name", REFUSED)
def test_real_colour_doppler_is_left_out(shared_data: Path, name: str) -> None:
    with pytest.raises(MissingSequence, match=REFUSED[name]):
        choose_ultrasound(read_series([shared_data / name]))


def test_encodings_of_one_real_image_agree(shared_data: Path) -> None:
    for family in ("OBXXXX1A", "gdcm-US-ALOKA-16"):
        frames = [choose_ultrasound(read_series([shared_data / name])) for name in READ if family in name]
        for frame in frames[1:]:
            np.testing.assert_array_equal(frame.grey, frames[0].grey)


def test_calipers_of_the_cx50_read_what_is_burned_in(shared_data: Path) -> None:
    frame = choose_ultrasound(read_series([shared_data / "us_mr_pydicom" / "OBXXXX1A.dcm"]))
    assert frame.spacing_mm is not None
    down, along = (302 - 291) * frame.spacing_mm[0], (499 - 460) * frame.spacing_mm[1]
    assert np.hypot(down, along) / 10 == pytest.approx(1.063, abs=5e-4)  # cm; the image says 1.06


def test_text_and_calipers_around_real_sectors_are_removed(shared_data: Path) -> None:
    cx50 = choose_ultrasound(read_series([shared_data / "us_mr_pydicom" / "OBXXXX1A.dcm"]))
    assert cx50.grey[12:40, 0:150].max() == 0  # "Cist Mag 1.06 cm"
    epiq = choose_ultrasound(read_series([shared_data / "us_mr_pydicom" / "JPGLosslessP14SV1_1s_1f_8b.dcm"]))
    assert epiq.grey[:100].max() == 0 and epiq.grey[640:].max() == 0  # text, ECG and heart rate
    assert epiq.grey[200:500, 300:700].mean() > 10


def test_white_calipers_and_text_on_real_tissue_are_removed(shared_data: Path) -> None:
    epiq = choose_ultrasound(read_series([shared_data / "us_mr_pydicom" / "JPGLosslessP14SV1_1s_1f_8b.dcm"]))
    for row, column in ((319, 629), (435, 689)):  # the hollow crosses of "Asc Ao Diam 3.3 cm", in pixels of the whole image
        cross = epiq.hidden[row - 9 - epiq.box[0] : row + 10 - epiq.box[0], column - 9 - epiq.box[1] : column + 10 - epiq.box[1]]
        assert np.count_nonzero(cross) == 4 * (5 * 7 - 1) and not cross[9, 9]  # arms of 3 x 5 pixels, their dark edges
    assert epiq.grey.max() < 230 and "graphics on the tissue, painted over on 0.2% of the sector" in epiq.problems
    aloka = choose_ultrasound(read_series([shared_data / "us_mr_pydicom" / "gdcm-US-ALOKA-16.dcm"]))
    assert aloka.grey.max() < 180  # the digits "12" of "127/128" are 190, the brightest tissue is 167
