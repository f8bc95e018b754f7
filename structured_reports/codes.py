"""Every coded concept of the result objects, in one table.

Meanings are never reused with a different sense: a new sense is a new code. Private codes have the scheme ``99CERVINODE``, which every
object that uses them identifies in its Coding Scheme Identification Sequence (PS3.3 C.12.1.1.4). A system's own concepts (its
probability, bounds and calls) are derived from its finding, so that declaring a system needs no code here.
"""

from __future__ import annotations

import zlib

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

from pipelines.types import BundleStatus, Code, Outcome, RoiOrigin, SeriesRole

PRIVATE = "99CERVINODE"
MAX_MEANING = 64  # characters, VR LO, PS3.5 6.2

TITLE = Code("126001", "DCM", "Oncology Measurement Report")  # CID 7021
GRAPHIC_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE_MR = Code("126020", "DCM", "Multiparametric MRI")  # CID 100
PROCEDURE_US = Code("24869-0", "LN", "US Pelvis")
COMMENT = Code("121106", "DCM", "Comment")
AI = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")  # CID 7005
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202

IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")  # TID 1600
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
SOURCE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")
MODALITIES = {
    "MR": Code("MR", "DCM", "Magnetic Resonance"),  # CID 29
    "US": Code("US", "DCM", "Ultrasound"),
}
B_VALUE = Code("113240", "DCM", "Source image diffusion b-value")
PULSE_SEQUENCE = Code("128230", "DCM", "Pulse Sequence Name")
SERIES_ROLE = Code("ROLE", PRIVATE, "Role of the series")
ROLES = {
    SeriesRole.T1W: Code("110804", "DCM", "T1 Weighted MR Signal Intensity"),  # CID 7180
    SeriesRole.T2W: Code("110805", "DCM", "T2 Weighted MR Signal Intensity"),
    SeriesRole.T2W_FS: Code("ROLE.T2W_FS", PRIVATE, "T2 weighted MR with fat suppression"),
    SeriesRole.DWI: Code("113043", "DCM", "Diffusion weighted"),
    SeriesRole.ADC: Code("113041", "DCM", "Apparent Diffusion Coefficient"),
    SeriesRole.CE_T1W: Code("ROLE.CE_T1W", PRIVATE, "T1 weighted MR with contrast agent"),
    SeriesRole.TVUS: Code("ROLE.TVUS", PRIVATE, "Transvaginal ultrasound"),
}

CERVIX = Code("71252005", "SCT", "Cervix uteri")  # CID 4
PELVIS = Code("816092008", "SCT", "Pelvis")
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
NEOPLASM_PRIMARY = Code("372087000", "SCT", "Neoplasm, Primary")  # CID 7151
FINDING_TYPES = {  # of the finding, by its private code
    "P.OLNM": Code("14799000", "SCT", "Neoplasm, Secondary"),
    "P.LNM": Code("14799000", "SCT", "Neoplasm, Secondary"),
    "P.PLNM": Code("14799000", "SCT", "Neoplasm, Secondary"),
    "P.LVSI": Code("371512006", "SCT", "Lymphatic or small blood vessel invasion by tumor"),
}

PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
MM = Code("mm", "UCUM", "millimeter")
MM2 = Code("mm2", "UCUM", "square millimeter")
ML = Code("ml", "UCUM", "milliliter")
MICRO_MM2_PER_S = Code("10-6.mm2/s", "UCUM", "10-6.mm2/s")
MM2_PER_S = Code("mm2/s", "UCUM", "square millimeter per second")
S_PER_MM2 = Code("s/mm2", "UCUM", "second per square millimeter")
PIXELS = Code("{pixels}", "UCUM", "pixels")
LENGTHS = frozenset({"mm", "cm", "mm2", "cm2", "mm3", "cm3", "ml"})  # units that need a calibrated image
THRESHOLD = Code("THRESHOLD", PRIVATE, "Decision threshold of the probability")
THRESHOLD_WITHHELD = Code("THRESHOLD.WIT", PRIVATE, "NO CALL (unlike the training cases); threshold")
CALL = Code("CALL", PRIVATE, "Call of the model at its threshold")
CLASS = Code("CLASS", PRIVATE, "Most probable class")
ICD_O = {  # ICD-O-3 morphology of the classes of histotype_mri, where it has the combination of size, keratin and histology
    "P.HIST.2": Code("8073/3", "ICDO3", "Squamous cell carcinoma, small cell, nonkeratinizing"),
    "P.HIST.4": Code("8071/3", "ICDO3", "Squamous cell carcinoma, large cell, keratinizing"),
    "P.HIST.6": Code("8072/3", "ICDO3", "Squamous cell carcinoma, large cell, nonkeratinizing"),
}
UNPREDICTABLE = Code("UNPREDICTABLE", PRIVATE, "Class that the model cannot predict")
LIMIT = Code("LIMIT", PRIVATE, "Limit of the statement")
USE = Code("USE", PRIVATE, "Permitted use of this result")
RUO = Code("RUO", PRIVATE, "Research use only")
POINTS = Code("POINTS", PRIVATE, "Nomogram, total points")
RISK = Code("RISK", PRIVATE, "Predicted risk category")
LOW_RISK = Code("75976002", "SCT", "Low Risk")  # CID 3118
MODERATE_RISK = Code("25594002", "SCT", "Moderate Risk")
HIGH_RISK = Code("15508007", "SCT", "High Risk")

LONG_AXIS = Code("103339001", "SCT", "Long axis")  # CID 7470
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
AREA = Code("42798000", "SCT", "Area")
DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
VOLUME = Code("118565006", "SCT", "Volume")
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
UPPER_WIDTH = Code("371886008", "SCT", "+, range of upper measurement uncertainty")  # TID 310
LOWER_WIDTH = Code("371885007", "SCT", "-, range of lower measurement uncertainty")
LARGEST_SECTION = Code("M.SECTION", PRIVATE, "On the slice on which the region is largest")
METHODS = {  # by measurement
    "118565006": Code("126030", "DCM", "Sum of segmented voxel method for volume"),  # CID 7474
    "L0JK": Code("M.MESH", PRIVATE, "Largest distance between vertices of the surface mesh"),
    "103339001": LARGEST_SECTION,
    "103340004": LARGEST_SECTION,
    "113041": Code("M.VOXELS", PRIVATE, "Over all voxels of the region"),
}
DERIVATIONS = {  # by measurement, CID 7464
    "113041": Code("373098007", "SCT", "Mean"),
    "103339001": Code("56851009", "SCT", "Maximum"),
}
# In which units each number is stated, the usual one first; those of a private family by the beginning of their code.
_UNITS = {
    B_VALUE: (S_PER_MM2,),
    THRESHOLD: (PERCENT,),
    THRESHOLD_WITHHELD: (PERCENT,),
    UPPER_WIDTH: (PERCENT,),
    LOWER_WIDTH: (PERCENT,),
    POINTS: (NO_UNITS,),
    VOLUME: (ML,),
    AREA: (MM2,),
    DIAMETER: (MM,),
    LONG_AXIS: (MM, PIXELS),
    SHORT_AXIS: (MM, PIXELS),
    ADC: (MICRO_MM2_PER_S, MM2_PER_S),
}
_UNITS_OF_FAMILY = {"P.": (PERCENT,), "SHAP.": (NO_UNITS,)}

RUN_STATUS = Code("111017", "DCM", "CAD Processing and Findings Summary")
ALL_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")  # CID 6047
ALL_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
SOME_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
SERIES_QUALITY = Code("130550", "DCM", "Imaging Series Quality")
LIMITED_QUALITY = Code("RID13", "RADLEX", "Limited quality")  # CID 7036
NON_DIAGNOSTIC_QUALITY = Code("RID14", "RADLEX", "Non-diagnostic quality")
QUALITY_FINDING = Code("111052", "DCM", "Quality Finding")
MISSING_B_VALUE = Code("130583", "DCM", "Expected b-value is missing")  # CID 6315
MISSING_ADC = Code("130585", "DCM", "Expected ADC map is missing")
INCOMPLETE_COVERAGE = Code("130576", "DCM", "Anatomy coverage incomplete")
UNREADABLE = frozenset({"BAD_GEOMETRY", "UNDECODABLE_PIXELS"})  # refusals for which the images are of no use here
ROI_ORIGIN = Code("ROI", PRIVATE, "Origin of the region of interest")
ROI_ORIGINS = {
    RoiOrigin.SEG: Code("ROI.SEG", PRIVATE, "Received with the study as a segmentation"),
    RoiOrigin.RTSTRUCT: Code("ROI.RTSTRUCT", PRIVATE, "Received with the study as an RT structure set"),
    RoiOrigin.SCOORD: Code("ROI.SCOORD", PRIVATE, "Received with the study as an outline in a report"),
    RoiOrigin.MODEL: Code("ROI.MODEL", PRIVATE, "Drawn by a segmentation network, unchecked"),
}
ROI_NOTE = Code("ROI.NOTE", PRIVATE, "Region of interest")
FLAG = Code("FLAG", PRIVATE, "Flag")
OMITTED = Code("OMITTED", PRIVATE, "Measurement omitted")
MODEL = Code("MODEL", PRIVATE, "Model")
SEGMENTER = Code("SEGMENTER", PRIVATE, "Segmentation network")
NOMOGRAM = Code("NOMOGRAM", PRIVATE, "Nomogram line")
CLINICAL = Code("CLINICAL", PRIVATE, "Clinical value used")

REASON = Code("REASON", PRIVATE, "Reason")
FOUND = Code("FOUND", PRIVATE, "Found in the study")
REFUSAL = Code("REFUSAL", PRIVATE, "Why there is no result")
REFUSALS = {
    "INPUT": Code("R.INPUT", PRIVATE, "The study cannot be analysed as it is"),
    "MISSING_SEQUENCE": Code("R.SEQUENCE", PRIVATE, "A required sequence is missing"),
    "BAD_GEOMETRY": Code("R.GEOMETRY", PRIVATE, "The slices do not form a regular volume"),
    "UNDECODABLE_PIXELS": Code("R.PIXELS", PRIVATE, "Pixel data cannot be decoded"),
    "MISSING_ROI": Code("R.ROI", PRIVATE, "There is no usable region of interest"),
    "MISSING_CLINICAL": Code("R.CLINICAL", PRIVATE, "A required clinical value is not known"),
    "INCOMPLETE": Code("R.INCOMPLETE", PRIVATE, "The study is not complete"),
    "MIXED_PATIENTS": Code("R.PATIENTS", PRIVATE, "Images of several patients in one study"),
    "NOT_APPLICABLE": Code("R.APPLICABLE", PRIVATE, "The system was not made for patients like this one"),
}
REFUSAL_OTHER = Code("R.FAILURE", PRIVATE, "The analysis failed for a technical reason")


def scheme_identification() -> CodingSchemeIdentificationItem:
    """Return the item that identifies the private scheme."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE, name="Cervinode private codes", version="4", responsible_organization="Cervinode project"
    )


OVERVIEW = Code("Overview", PRIVATE, "Overview of a study")  # only in the description of its series


def concept(code: Code) -> CodedConcept:
    """Return the code as a highdicom concept."""
    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def units(name: Code) -> tuple[Code, ...]:
    """Return the units in which a number of this concept may be stated, the usual one first; none where the concept is no number's."""
    families = (found for prefix, found in _UNITS_OF_FAMILY.items() if name.scheme == PRIVATE and name.value.startswith(prefix))
    return _UNITS.get(name) or next(families, ())


def stem(finding: Code) -> str:
    """Return the short name of a finding, e.g. ``OLNM`` of ``P.OLNM``: tracking identifiers and descriptions use it."""
    return finding.value.removeprefix("P.")


def lower_bound(finding: Code) -> Code:
    """Return the concept of the probability's lower bound."""
    return Code(f"{finding.value}.LO", PRIVATE, f"{stem(finding)} probability, lower bound")


def upper_bound(finding: Code) -> Code:
    """Return the concept of the probability's upper bound."""
    return Code(f"{finding.value}.HI", PRIVATE, f"{stem(finding)} probability, upper bound")


def beside_outline(finding: Code, status: BundleStatus, *, version: int = 1) -> Code:
    """Return the concept of a finding's probability where it stands on an image.

    From the second version on, the name says which one it is: OHIF leaves the numbers of the outline before on the image when another one
    is opened from beside it and back.

    Viewers show nothing there but names and values of numbers, so the name says first that the number is for research only, and whether
    a demonstration model gave it. It is short, because they cut lines at the edge of the image.
    """
    kind, mark = ("DEMO", "DEMO, RESEARCH ONLY") if status is BundleStatus.DEMO else ("RUO", "RESEARCH ONLY")
    number, said = (str(version), f" v{version}") if version > 1 else ("", "")
    return Code(f"{finding.value}.{kind}{number}", PRIVATE, f"{mark}: {stem(finding)}{said} probability")


def outcome_probability(finding: Code, outcome: Outcome) -> Code:
    """Return the concept of the probability of a class, an axis or an assumption.

    An axis or assumption with a private code is that concept itself. A class's code names the class, and several may share one.
    """
    if outcome.kind != "class" and outcome.code.scheme == PRIVATE:
        return outcome.code
    checksum = zlib.crc32(f"{finding.value}|{outcome.kind}|{outcome.words}".encode())
    return Code(f"P.{checksum:08X}", PRIVATE, f"Probability: {outcome.words}"[:MAX_MEANING])


def call_value(finding: Code, call: str, words: str) -> Code:
    """Return a call, ``positive``, ``negative`` or ``withheld``, as the system words it."""
    return Code(f"{stem(finding)}.{call[:3].upper()}", PRIVATE, words[:MAX_MEANING])


def series_used(role: SeriesRole) -> Code:
    """Return the concept of the note that says which series played a role."""
    return Code(f"USED.{role}", PRIVATE, f"Series used as {role}")


def contribution(finding: Code, feature: str, words: str) -> Code:
    """Return the concept of one feature's Shapley value: a checksum of finding and feature, as features are too many to list."""
    checksum = zlib.crc32(f"{finding.value}|{feature}".encode())
    return Code(f"SHAP.{checksum:08X}", PRIVATE, f"SHAP {words}"[:MAX_MEANING])
