"""The shapes that a result can have: classes, withheld calls, other assumptions, ultrasound; outlines, quality and languages."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from pipelines.errors import ConfigError, ResultError
from pipelines.imaging.scoord import fill
from pipelines.systems import catalogue
from pipelines.types import BundleStatus, Code, FrameRegion, Outcome, Refusal, RoiOrigin, SeriesRole
from structured_reports import canvas, codes, wording
from structured_reports.canvas import AGAINST, FOR, MUTED
from structured_reports.check import check_objects
from structured_reports.classes import draw_classes
from structured_reports.contour import measure_axes, trace_outline
from structured_reports.groups import risk
from structured_reports.language import languages, load_messages
from structured_reports.measure import measure
from structured_reports.nomogram import draw_nomogram
from structured_reports.quality import judge, judge_refusal
from structured_reports.source import fit_text, normalise_source
from structured_reports.summary import draw_summary
from structured_reports.waterfall import draw_waterfall
from tests import us
from tests.results import Result, make_classes, make_context, make_prediction, make_result, make_ultrasound

EN = load_messages("en")
UNCALIBRATED = us.Picture(regions=())


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


@pytest.fixture(scope="module")
def ultrasound() -> Result:
    return make_ultrasound()


def items(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return children + [below for child in children for below in items(child)]


def values(report: Dataset, name: Code) -> list[str]:
    """Return the codes that answer a question."""
    answers = (i for i in items(report) if i.ValueType == "CODE" and i.ConceptNameCodeSequence[0].CodeValue == name.value)
    return [i.ConceptCodeSequence[0].CodeValue for i in answers]


def texts(report: Dataset) -> list[str]:
    return [i.TextValue for i in items(report) if i.ValueType == "TEXT"]


def names(report: Dataset) -> list[str]:
    return [i.ConceptNameCodeSequence[0].CodeValue for i in items(report) if i.ValueType == "NUM"]


@pytest.mark.parametrize("seed", range(20))
def test_outline_holds_exactly_the_pixels_of_a_region(seed: int) -> None:
    rows, columns = np.indices((40, 50))
    rng = np.random.default_rng(seed)
    wave = 9 + 3 * np.sin(3 * np.arctan2(rows - 18, columns - 24) + rng.uniform(0, 6))
    mask = np.hypot(rows - 18, columns - 24) < wave
    mask[35:37, 2:5] = True  # a smaller part elsewhere is left out
    outline = trace_outline(mask)
    assert np.array_equal(outline[0], outline[-1])
    filled = fill(FrameRegion("1", None, (outline[:-1, ::-1] - 0.5,), "", "", "2"), mask.shape)
    mask[35:37, 2:5] = False
    assert np.array_equal(filled, mask)


def test_hole_is_not_drawn_and_corners_do_not_join() -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[1:6, 1:6], mask[3, 3], mask[6, 6] = 1, 0, 1
    assert trace_outline(mask).tolist() == [[1, 1], [6, 1], [6, 6], [1, 6], [1, 1]]


def test_axes_are_those_of_an_oblique_ellipse() -> None:
    rows, columns = np.indices((200, 300))
    x, y = (columns - 150) * 0.5, (rows - 100) * 1.0
    along, across = x * math.cos(0.6) + y * math.sin(0.6), -x * math.sin(0.6) + y * math.cos(0.6)
    long_axis, short_axis = measure_axes((along / 40) ** 2 + (across / 15) ** 2 < 1, (1.0, 0.5))
    assert long_axis == pytest.approx(80, abs=1.5)
    assert short_axis == pytest.approx(30, abs=1.5)


def test_class_report_names_the_most_probable_and_what_it_cannot_predict() -> None:
    *_, report = make_classes().build()
    assert values(report, codes.CLASS) == ["8072/3"]
    assert values(report, codes.CALL) == values(report, codes.RISK) == []
    assert "THRESHOLD" not in names(report)
    lacking = [i.TextValue for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == codes.UNPREDICTABLE.value]
    assert lacking == ["Small-cell keratinizing adenocarcinoma", "Small-cell non-keratinizing adenocarcinoma"]
    assert {"P.HIST.LARGE", "P.HIST.NONKER", "P.HIST.ADENO"} <= set(names(report))
    assert any("Most probable: Large-cell non-keratinizing squamous cell carcinoma, probability 79.1 %." in t for t in texts(report))


def test_class_shares_sum_to_100_where_one_is_nearly_certain() -> None:
    shares = [wording.share(p) for p in (0.9999, *(0.0001 / 7,) * 7)]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert max(shares) < 100


def test_withheld_call_states_neither(result: Result) -> None:
    *_, report = replace(result, prediction=make_prediction(call="withheld")).build()
    assert values(report, codes.CALL) == ["OLNM.WIT"]
    assert "14799000" not in {i.ConceptCodeSequence[0].CodeValue for i in items(report) if i.ValueType == "CODE"}
    assert values(report, codes.RISK) == []
    said = " ".join(texts(report))
    assert "No call: unlike the training cases. Probability 71.3 %" in said
    assert "suspected" not in said
    assert risk(make_prediction(call="withheld")) is None


def test_withheld_page_has_the_colours_of_neither_call(result: Result) -> None:
    evidence = replace(result.evidence, contributions=())
    pixels = draw_summary(make_prediction(call="withheld"), evidence, make_context(), say=EN, flags=())
    counts = [(pixels[98:240] == np.array(colour)).all(axis=-1).sum() for colour in (FOR, AGAINST, MUTED)]
    assert counts[:2] == [0, 0]
    assert counts[2] > 1000


def test_other_assumptions_are_numbers_and_words(result: Result) -> None:
    outcomes = tuple(
        Outcome(Code(f"P.LNM.N{i}", "99CERVINODE", f"Probability if MRI nodes are {w}"), p, "alternative", f"MRI nodes {w}")
        for i, (w, p) in enumerate((("negative", 0.31), ("positive", 0.814)))
    )
    *_, report = replace(result, prediction=make_prediction(outcomes=outcomes)).build()
    assert {"P.LNM.N0", "P.LNM.N1"} <= set(names(report))
    assert {"MRI nodes negative: 31.0 %", "MRI nodes positive: 81.4 %"} <= set(texts(report))


def test_conformal_set_is_said_with_its_coverage(result: Result) -> None:
    *_, report = replace(result, prediction=make_prediction(plausible=("positive", "negative"), coverage=0.9)).build()
    assert "Answers not excluded at 90 % coverage: positive, negative" in texts(report)


def test_ultrasound_has_no_segmentation_and_an_outline_on_its_frame() -> None:
    cine = make_ultrasound(us.Picture(frames=3))
    objects = cine.build()
    assert [d.Modality for d in objects] == ["OT"] * 4 + ["SR", "SR"]
    (outline,) = (i for i in items(objects[-2]) if i.ValueType == "SCOORD")
    assert outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 2
    assert objects[3].SourceImageSequence[0].ReferencedFrameNumber == 2
    assert values(objects[-1], codes.ROI_ORIGIN) == ["ROI.SCOORD"]


def test_uncalibrated_image_has_pixels_and_says_so() -> None:
    *_, report = make_ultrasound(UNCALIBRATED).build()
    units = {i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for i in items(report) if i.ValueType == "NUM"}
    assert not units & codes.LENGTHS
    assert "{pixels}" in units
    said = " ".join(texts(report))
    assert "not calibrated: sizes are in pixels" in said
    assert "Maximum 3D diameter: the image is not calibrated, so it has no size in mm" in said


def test_calibrated_image_has_millimetres(ultrasound: Result) -> None:
    found = {m.name.value: (m.value, m.unit.value) for m in measure(ultrasound.evidence)}
    across, down = 2 * us.LESION[3] * us.SPACING_CM[1] * 10, 2 * us.LESION[2] * us.SPACING_CM[0] * 10
    assert found["103339001"] == (pytest.approx(across, abs=0.5), "mm")
    assert found["103340004"] == (pytest.approx(down, abs=0.5), "mm")


@pytest.mark.parametrize(("declared", "written"), [({}, "YES"), ({"BurnedInAnnotation": "NO"}, "NO")])
def test_pictures_of_ultrasound_may_show_a_name_unless_it_is_denied(declared: dict[str, str], written: str) -> None:
    objects = make_ultrasound(us.Picture(attributes=declared)).build()
    assert [d.BurnedInAnnotation for d in objects[:4]] == ["NO", "NO", "NO", written]


def test_lossy_ultrasound_stays_lossy_and_burned_in_text_stays_declared() -> None:
    picture = us.Picture(attributes={"LossyImageCompression": "01", "LossyImageCompressionRatio": "12.5", "BurnedInAnnotation": "YES"})
    result = make_ultrasound(picture)
    objects = result.build()
    assert (objects[3].LossyImageCompression, objects[3].BurnedInAnnotation) == ("01", "YES")
    assert objects[0].BurnedInAnnotation == "NO"  # the summary shows nothing of the image
    for keyword in ("LossyImageCompression", "BurnedInAnnotation"):
        broken = [copy.deepcopy(d) for d in objects]
        setattr(broken[3], keyword, "00" if keyword.startswith("Lossy") else "NO")
        with pytest.raises(ResultError, match=keyword):
            check_objects(broken, result.sources, identity=result.sources[0])


@pytest.mark.parametrize(
    ("problem", "message"),
    [("no outline", "has no outline"), ("outside", "leaves its image"), ("open", "no closed outline"), ("elsewhere", "neither a source")],
)
def test_check_looks_at_the_outlines_of_the_graphic_report(ultrasound: Result, problem: str, message: str) -> None:
    objects = [copy.deepcopy(d) for d in ultrasound.build()]
    graphic = objects[-2]
    (group,) = graphic.ContentSequence[-1].ContentSequence
    (outline,) = (i for i in group.ContentSequence if i.ValueType == "SCOORD")
    if problem == "no outline":
        group.ContentSequence = [i for i in group.ContentSequence if i.ValueType != "SCOORD"]
    elif problem == "outside":
        outline.GraphicData = [*list(outline.GraphicData)[:-2], 500.0, 10.0]
    elif problem == "open":
        outline.GraphicData = list(outline.GraphicData)[:-2]
    else:
        outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.9"
    with pytest.raises(ResultError, match=message):
        check_objects(objects, ultrasound.sources, identity=ultrasound.sources[0])


def test_another_software_s_region_is_not_called_manual(result: Result) -> None:
    roi = replace(result.evidence.roi, origin=RoiOrigin.SEG, segment_algorithm_type="AUTOMATIC", description="Lesion by OtherAI")
    objects = replace(result, evidence=replace(result.evidence, roi=roi, segmenter=None)).build()
    segment = next(d for d in objects if d.Modality == "SEG").SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "Lesion by OtherAI"
    assert any("made by other software" in words for words in texts(objects[-1]))


def test_region_at_the_edge_of_a_volume_is_incomplete_coverage(result: Result) -> None:
    mask = result.evidence.rois[SeriesRole.DWI].array.copy()
    mask[0, 20, 20] = 1
    rois = {**result.evidence.rois, SeriesRole.DWI: result.evidence.rois[SeriesRole.DWI].with_array(mask)}
    source = normalise_source(result.sources[0])
    before, after = (judge(result.prediction, replace(result.evidence, rois=r), source, EN) for r in (result.evidence.rois, rois))
    assert before.findings == ()
    assert after.findings == (codes.INCOMPLETE_COVERAGE,)
    assert "the first or last slice of DWI" in after.flags[-1]


def test_computed_adc_is_a_missing_map_and_has_a_mean(result: Result) -> None:
    image, mask = result.evidence.volumes[SeriesRole.DWI], result.evidence.rois[SeriesRole.DWI]
    header = replace(image.header, b_values=(0.0, 800.0))
    volume = image.volume.with_array(np.full(image.volume.array.shape, 950.0, dtype=np.float32))
    volumes = {**result.evidence.volumes, SeriesRole.ADC: replace(image, role=SeriesRole.ADC, header=header, volume=volume)}
    rois = {**result.evidence.rois, SeriesRole.ADC: mask}
    evidence = replace(result.evidence, volumes=volumes, rois=rois, measurements=())
    *_, report = replace(result, evidence=evidence).build()
    assert values(report, codes.QUALITY_FINDING) == [codes.MISSING_ADC.value]
    adc = next(i for i in items(report) if i.ValueType == "NUM" and i.ConceptNameCodeSequence[0].CodeValue == "113041")
    assert float(adc.MeasuredValueSequence[0].NumericValue) == pytest.approx(950e-6)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        ("MISSING_SEQUENCE", "no DWI with b near 800 s/mm2 series found", (codes.MISSING_B_VALUE,)),
        ("MISSING_SEQUENCE", "no ADC series found", (codes.MISSING_ADC,)),
        ("MISSING_SEQUENCE", "no T1W series found", ()),
        ("BAD_GEOMETRY", "the ADC series has a gap", ()),
    ],
)
def test_refusals_state_coded_findings(code: str, reason: str, expected: tuple[Code, ...]) -> None:
    assert judge_refusal(Refusal("s", "t", code, (reason,))) == expected


def test_refusal_says_as_what_the_bundle_was_in_use(result: Result) -> None:
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "BAD_GEOMETRY", ("Slices are missing.",))
    plain, demo = (replace(result, context=make_context(bundle_status=status)).refuse(refusal)[-1] for status in (None, BundleStatus.DEMO))
    assert "DEMO" not in plain.SeriesDescription
    assert "DEMO" in demo.SeriesDescription[:22]
    assert any("DEMO MODEL" in words for words in texts(demo))
    assert plain.SOPInstanceUID != demo.SOPInstanceUID
    assert values(plain, codes.SERIES_QUALITY) == ["RID14"]


def test_every_model_has_a_device_of_its_own(result: Result) -> None:
    equipment = result.build()[-1].ContributingEquipmentSequence
    ours = [i for i in equipment if i.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"]
    assert [i.ManufacturerModelName for i in ours] == ["olnm_mri 1.0.0", "unet2d 1a2b3c4d5e6f"]
    assert len({i.DeviceUID for i in ours}) == 2


def beside(result: Result) -> list[str]:
    """Return what OHIF writes beside the outline: the names of the first five numbers."""
    graphic = next(d for d in result.build() if d.SeriesNumber == 9202)
    return [i.ConceptNameCodeSequence[0].CodeMeaning for i in items(graphic) if i.ValueType == "NUM" and i.RelationshipType == "CONTAINS"][
        :5
    ]


def test_numbers_beside_the_outline_are_the_five_that_count(result: Result) -> None:
    said = ["DEMO, RESEARCH ONLY: OLNM probability", "Decision threshold of the probability", "Long axis", "Short axis", "Volume"]
    assert beside(result) == said
    research = make_prediction(bundle_status=BundleStatus.RESEARCH)
    assert beside(replace(result, prediction=research))[0] == "RESEARCH ONLY: OLNM probability"
    assert beside(replace(result, prediction=make_prediction(call="withheld")))[1].startswith("NO CALL")
    assert beside(make_classes())[1] == "Probability: Large-cell non-keratinizing squamous cell carcinoma"


def test_names_beside_the_outline_are_short_enough_for_the_edge_of_the_image() -> None:
    for spec in catalogue().values():
        for status in BundleStatus:
            code = codes.beside_outline(spec.finding, status, version=2)
            assert code.meaning.count(" v2 ") == 1
            assert len(code.meaning) <= 40 and len(code.value) <= 16


def test_graphic_report_can_be_left_out(result: Result) -> None:
    objects = replace(result, context=make_context(graphic=False)).build()
    assert [d.SeriesNumber for d in objects[-2:]] == [9101, 9201]


def test_translations_have_the_keys_and_placeholders_of_english() -> None:
    assert {"en", "zh"} <= set(languages())
    for language in languages():
        table = load_messages(language).table
        for key, words in EN.table.items():
            assert set(re.findall(r"\{(\w+)\}", table[key])) == set(re.findall(r"\{(\w+)\}", words)), f"{language}: {key}"
    assert all(words.isascii() for words in EN.table.values())
    assert set(load_messages("zh").table) >= set(EN.table)
    assert fit_text(load_messages("zh")("status.research"), "GB18030") == "仅供研究使用"


def test_phrases_are_sentences_that_the_analysis_says() -> None:
    """A sentence that is worded anew there would stay English here, unnoticed."""
    root = Path(wording.__file__).parents[1]
    sources = " ".join(path.read_text() for folder in ("pipelines", "node") for path in (root / folder).rglob("*.py"))
    for key, words in load_messages("zh").table.items():
        if key.startswith("phrase."):
            template = key.removeprefix("phrase.")
            assert set(re.findall(r"\{(\w+)\}", template)) == set(re.findall(r"\{(\w+)\}", words)), key
            for piece in re.split(r"\{\w+\}", template):
                parts = re.split(r"(?<=slice)s? (?=between)|(?<=s/mm2) ", piece)  # where the source puts the sentence together
                assert all(part.strip(": ") in sources for part in parts), f"{piece!r} of {key!r}"


def test_flags_and_reasons_are_said_in_the_language_of_the_report(result: Result) -> None:
    zh = load_messages("zh")
    (flag,) = result.prediction.flags
    assert zh.translate(flag) == f"150 个特征中有 2 个超出训练范围：{flag.partition(': ')[2]}"
    assert zh.translate("no DWI with b near 800 s/mm2 series found") == "未找到 b 值接近 800 s/mm2 的 DWI 序列"
    assert zh.translate("words of another kind") == "words of another kind"
    assert EN.translate(flag) == flag
    chinese = replace(result, context=make_context(language="zh"))
    *_, refused = chinese.refuse(Refusal("olnm_mri", "t", "MISSING_SEQUENCE", ("no T1W series found",)))
    assert "未找到 T1W 序列" in texts(refused)


def test_chinese_report_has_chinese_classes_answers_points_and_regions(result: Result, ultrasound: Result) -> None:
    chinese = make_context(language="zh")
    reports = [
        replace(one, context=replace(chinese, spec=one.context.spec)).build()[-1]
        for one in (
            replace(result, prediction=make_prediction(plausible=("positive", "negative"), coverage=0.9)),
            make_classes(),
            ultrasound,
        )
    ]
    said = [" ".join(texts(report)) for report in reports]
    assert "在 90 % 覆盖率下未被排除的答案：阳性, 阴性" in said[0]
    assert "由分割网络（unet2d）勾画；最大部分，占标出部分的 97%；补齐层数：0；直径 29 mm" in said[0]
    assert "最可能：大细胞非角化型鳞状细胞癌" in said[1]
    assert "模型无法预测：小细胞角化型腺癌, 小细胞非角化型腺癌" in said[1]
    assert "红细胞：3.9 10^12/L，12 分" in said[2]
    _, report = replace(result, context=chinese).refuse(Refusal("olnm_mri", "t", "INPUT", ("Nothing usable.",)))
    assert any(words.startswith("无结果 - 已拒绝。") for words in texts(report))


def test_chinese_names_every_answer_clinical_value_and_refusal() -> None:
    table = load_messages("zh").table
    for spec in catalogue().values():
        answers = [*(label.code.meaning for label in spec.classes), *(code.meaning for code in spec.axes)]
        answers += [code.meaning for code in spec.alternative.codes] if spec.alternative else []
        assert {f"answer.{words}" for words in answers} <= set(table)
        assert {f"clinical.{name}" for name in spec.clinical_names} <= set(table)
    assert {f"refusal.{code.value}" for code in (*codes.REFUSALS.values(), codes.REFUSAL_OTHER)} <= set(table)


def test_summary_tells_size_region_and_quality_in_short(result: Result) -> None:
    quiet = replace(result, prediction=make_prediction(flags=()))
    (flagged,), (plain,) = ([t for t in texts(r.build()[-1]) if "decision threshold 48.2 %. " in t] for r in (result, quiet))
    sizes = "Tumour: Volume 10.6 ml, Long axis 29.0 mm, Short axis 23.7 mm. Region on T2W_FS, drawn by a segmentation network"
    assert sizes in flagged
    assert flagged.endswith("Input quality: 1 flagged, see QC.")
    assert plain.endswith("Input quality: nothing flagged.")


def test_algorithm_is_identified_with_its_parameters_the_status_first(result: Result) -> None:
    *_, group = (i for i in items(result.build()[-1]) if i.ValueType == "CONTAINER" and "P.OLNM" in names(i))
    told = [i.TextValue for i in group.ContentSequence if i.ValueType == "TEXT" and i.ConceptNameCodeSequence[0].CodeValue == "111002"]
    assert told == [
        "status=demo",
        "operating point=48.2 %, Youden on cross-validation",
        "calibration=Platt",
        "ci=95 %",
        f"pyradiomics={installed_version('pyradiomics')}",
        "binWidth=25",
        "resampling=1 x 1 x native mm",
    ]


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="no words for the language 'tlh'"):
        load_messages("tlh")


def test_language_and_font_are_part_of_every_uid(result: Result) -> None:
    chinese = replace(result, context=make_context(language="zh"))
    first, second = ({d.SOPInstanceUID for d in r.build() if d.Modality != "SEG"} for r in (result, chinese))  # a segmentation has no words
    assert first.isdisjoint(second)


def test_pages_without_a_font_for_their_letters_are_english(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "_font_file", lambda language: None)
    canvas.font.cache_clear()
    assert canvas.drawable(load_messages("zh")) is EN
    assert "fonts-wqy-microhei" in canvas.describe_missing_font("zh")
    assert canvas.describe_missing_font("en") == ""
    canvas.font.cache_clear()


def test_waterfall_ends_where_the_log_odds_do(result: Result) -> None:
    total = result.evidence.base_log_odds + sum(c.log_odds for c in result.evidence.contributions)
    raised = replace(result.evidence, base_log_odds=result.evidence.base_log_odds - total)
    for evidence in (result.evidence, raised):
        pixels = draw_waterfall(result.prediction, evidence, make_context(), say=EN)
        bars = ((pixels == np.array(FOR)).all(axis=-1).sum(), (pixels == np.array(AGAINST)).all(axis=-1).sum())
        positive, negative = (sum(abs(c.log_odds) for c in evidence.contributions if (c.log_odds > 0) == sign) for sign in (True, False))
        assert bars[0] / bars[1] == pytest.approx(positive / negative, rel=0.05)


def test_nomogram_marks_the_patient_where_the_points_are(ultrasound: Result) -> None:
    pixels = draw_nomogram(ultrasound.prediction, ultrasound.evidence, ultrasound.context, say=EN)
    marks = (pixels[180:440, 290:900] == np.array(FOR)).all(axis=-1)
    rows = np.flatnonzero(marks.any(axis=1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    found = [np.flatnonzero(marks[g[0]]).mean() + 290 for g in groups]
    left, right = 300, 890
    assert found == pytest.approx([left + line.points / 100 * (right - left) for line in ultrasound.evidence.nomogram], abs=2)


def test_nomogram_without_agreement_of_its_lines_has_no_scale_of_probabilities(ultrasound: Result) -> None:
    lines = ultrasound.evidence.nomogram
    odd = (replace(lines[0], log_odds=lines[0].log_odds + 0.4), *lines[1:])
    pages = [
        draw_nomogram(ultrasound.prediction, replace(ultrasound.evidence, nomogram=rows), ultrasound.context, say=EN)
        for rows in (lines, odd)
    ]
    written = [(page[565:600, 290:900] > 120).all(axis=-1).sum() for page in pages]
    assert written[1] < written[0] / 3


def test_class_page_draws_every_share_to_scale() -> None:
    result = make_classes()
    pixels = draw_classes(result.prediction, result.evidence, result.context, say=EN)
    left, right = pixels[140:660, :510], pixels[140:660, 520:]
    top = (left == np.array(FOR)).all(axis=-1).sum(axis=1).max()
    second = (left == np.array(AGAINST)).all(axis=-1).sum(axis=1).max()
    assert top / second == pytest.approx(79.1 / 12.8, rel=0.05)
    assert (right == np.array(AGAINST)).all(axis=-1).sum() > 1000
