"""The IBSI code of each pyradiomics feature that is defined as IBSI defines it (Zwanenburg et al., Radiology 2020;295:328-338).

"Defined alike" is measured: on the digital phantom of IBSI 1 each of these agrees with the reference value within its published tolerance
(tests/conformance/test_ibsi.py). Features that have no code here, and why, are listed in docs/ibsi.md.

First-order numbers are those of the intensities themselves (reference manual, section 3.3), not of the histogram (3.4), as pyradiomics
does not bin for them; entropy and uniformity it does bin for. Names are those of the codes in DICOM (CID 7466 to 7501) where DICOM has
the code, else the reference manual's.
"""

from __future__ import annotations

from collections.abc import Mapping

_SHAPE = {
    "Elongation": ("Q3CK", "Elongation"),
    "Flatness": ("N17B", "Flatness"),
    "Maximum3DDiameter": ("L0JK", "Maximum 3D Diameter of a Mesh"),
    "MeshVolume": ("RNU0", "Volume of Mesh"),
    "Sphericity": ("QCFX", "Sphericity"),
    "SurfaceArea": ("C0JK", "Surface Area of Mesh"),
    "SurfaceVolumeRatio": ("2PR5", "Surface to Volume Ratio"),
    "VoxelVolume": ("YEKZ", "Volume from Voxel Summation"),
}
_FIRST_ORDER = {
    "10Percentile": ("QG58", "10th Intensity Percentile"),
    "90Percentile": ("8DWT", "90th Intensity Percentile"),
    "Energy": ("N8CA", "Intensity Energy"),
    "Entropy": ("TLU2", "Intensity Histogram Entropy"),
    "InterquartileRange": ("SALO", "Intensity Interquartile Range"),
    "Maximum": ("84IY", "Maximum Intensity"),
    "Mean": ("Q4LE", "Mean Intensity"),
    "MeanAbsoluteDeviation": ("4FUA", "Intensity Mean Absolute Deviation"),
    "Median": ("Y12H", "Median Intensity"),
    "Minimum": ("1GSF", "Minimum Intensity"),
    "Range": ("2OJQ", "Intensity Range"),
    "RobustMeanAbsoluteDeviation": ("1128", "Intensity Robust Mean Absolute Deviation"),
    "RootMeanSquared": ("5ZWQ", "Root Mean Square Intensity"),
    "Skewness": ("KE2A", "Intensity Skewness"),
    "Uniformity": ("BJ5W", "Intensity Histogram Uniformity"),
    "Variance": ("ECT3", "Intensity Variance"),
}
_GLCM = {
    "Autocorrelation": ("QWB0", "Autocorrelation of GLCM"),
    "ClusterProminence": ("AE86", "Cluster Prominence of GLCM"),
    "ClusterShade": ("7NFM", "Cluster Shade of GLCM"),
    "ClusterTendency": ("DG8W", "Cluster Tendency of GLCM"),
    "Contrast": ("ACUI", "Contrast of GLCM"),
    "Correlation": ("NI2N", "Correlation of GLCM"),
    "DifferenceAverage": ("TF7R", "Difference Average of GLCM"),
    "DifferenceEntropy": ("NTRS", "Difference Entropy of GLCM"),
    "DifferenceVariance": ("D3YU", "Difference Variance of GLCM"),
    "Id": ("IB1Z", "Inverse Difference of GLCM"),
    "Idm": ("WF0Z", "Inverse Difference Moment of GLCM"),
    "Idmn": ("1QCO", "Normalized Inverse Difference Moment of GLCM"),
    "Idn": ("NDRX", "Normalized Inverse Difference of GLCM"),
    "Imc1": ("R8DG", "First Measure of Information Correlation of GLCM"),
    "Imc2": ("JN9H", "Second Measure of Information Correlation of GLCM"),
    "InverseVariance": ("E8JP", "Inverse Variance of GLCM"),
    "JointAverage": ("60VM", "Joint Average of GLCM"),
    "JointEnergy": ("8ZQL", "Angular Second Moment of GLCM"),
    "JointEntropy": ("TU9B", "Joint Entropy of GLCM"),
    "MaximumProbability": ("GYBY", "Joint Maximum of GLCM"),
    "SumAverage": ("ZGXS", "Sum Average of GLCM"),
    "SumEntropy": ("P6QZ", "Sum Entropy of GLCM"),
    "SumSquares": ("UR99", "Joint Variance of GLCM"),
}
_GLRLM = {
    "GrayLevelNonUniformity": ("R5YN", "Gray Level Nonuniformity in Runs"),
    "GrayLevelNonUniformityNormalized": ("OVBL", "Normalized Gray Level Nonuniformity in Runs"),
    "GrayLevelVariance": ("8CE5", "Gray Level Variance in Runs"),
    "HighGrayLevelRunEmphasis": ("G3QZ", "High Gray Level Run Emphasis"),
    "LongRunEmphasis": ("W4KF", "Long Runs Emphasis"),
    "LongRunHighGrayLevelEmphasis": ("3KUM", "Long Run High Gray Level Emphasis"),
    "LongRunLowGrayLevelEmphasis": ("IVPO", "Long Run Low Gray Level Emphasis"),
    "LowGrayLevelRunEmphasis": ("V3SW", "Low Gray Level Run Emphasis"),
    "RunEntropy": ("HJ9O", "Run Entropy"),
    "RunLengthNonUniformity": ("W92Y", "Run Length Nonuniformity"),
    "RunLengthNonUniformityNormalized": ("IC23", "Normalized Run Length Nonuniformity"),
    "RunPercentage": ("9ZK5", "Run Percentage"),
    "RunVariance": ("SXLW", "Run Length Variance"),
    "ShortRunEmphasis": ("22OV", "Short Runs Emphasis"),
    "ShortRunHighGrayLevelEmphasis": ("GD3A", "Short Run High Gray Level Emphasis"),
    "ShortRunLowGrayLevelEmphasis": ("HTZT", "Short Run Low Gray Level Emphasis"),
}
_GLSZM = {
    "GrayLevelNonUniformity": ("JNSA", "Gray Level Nonuniformity of Size Zone Counts"),
    "GrayLevelNonUniformityNormalized": ("Y1RO", "Normalized Gray Level Nonuniformity of Size Zone Counts"),
    "GrayLevelVariance": ("BYLV", "Gray Level Variance in Size Zones"),
    "HighGrayLevelZoneEmphasis": ("5GN9", "High Gray Level Zone Emphasis"),
    "LargeAreaEmphasis": ("48P8", "Large Zone Emphasis"),
    "LargeAreaHighGrayLevelEmphasis": ("J17V", "Large Zone High Gray Level Emphasis"),
    "LargeAreaLowGrayLevelEmphasis": ("YH51", "Large Zone Low Gray Level Emphasis"),
    "LowGrayLevelZoneEmphasis": ("XMSY", "Low Gray Level Zone Emphasis"),
    "SizeZoneNonUniformity": ("4JP3", "Zone Size Nonuniformity"),
    "SizeZoneNonUniformityNormalized": ("VB3A", "Normalized Zone Size Nonuniformity"),
    "SmallAreaEmphasis": ("5QRC", "Small Zone Emphasis"),
    "SmallAreaHighGrayLevelEmphasis": ("HW1V", "Small Zone High Gray Level Emphasis"),
    "SmallAreaLowGrayLevelEmphasis": ("5RAI", "Small Zone Low Gray Level Emphasis"),
    "ZoneEntropy": ("GU8N", "Zone Size Entropy"),
    "ZonePercentage": ("P30P", "Size Zone Percentage"),
    "ZoneVariance": ("3NSA", "Zone Size Variance"),
}
_GLDM = {
    "DependenceEntropy": ("FCBV", "Dependence count entropy"),
    "DependenceNonUniformity": ("Z87G", "Dependence count non-uniformity"),
    "DependenceNonUniformityNormalized": ("OKJI", "Dependence count non-uniformity normalized"),
    "DependenceVariance": ("DNX2", "Dependence count variance"),
    "GrayLevelNonUniformity": ("FP8K", "Grey level non-uniformity of NGLDM"),
    "GrayLevelVariance": ("1PFV", "Grey level variance of NGLDM"),
    "HighGrayLevelEmphasis": ("OAE7", "High grey level count emphasis"),
    "LargeDependenceEmphasis": ("IMOQ", "High dependence emphasis"),
    "LargeDependenceHighGrayLevelEmphasis": ("9QMG", "High dependence high grey level emphasis"),
    "LargeDependenceLowGrayLevelEmphasis": ("NBZI", "High dependence low grey level emphasis"),
    "LowGrayLevelEmphasis": ("TL9H", "Low grey level count emphasis"),
    "SmallDependenceEmphasis": ("SODN", "Low dependence emphasis"),
    "SmallDependenceHighGrayLevelEmphasis": ("JA6D", "Low dependence high grey level emphasis"),
    "SmallDependenceLowGrayLevelEmphasis": ("EQ3F", "Low dependence low grey level emphasis"),
}
_NGTDM = {
    "Busyness": ("NQ30", "Busyness of NGTDM"),
    "Coarseness": ("QCDE", "Coarseness of NGTDM"),
    "Complexity": ("HDEZ", "Complexity of NGTDM"),
    "Contrast": ("65HE", "Contrast of NGTDM"),
    "Strength": ("1X9X", "Strength of NGTDM"),
}
_CLASSES = {"shape": _SHAPE, "firstorder": _FIRST_ORDER, "glcm": _GLCM, "glrlm": _GLRLM, "glszm": _GLSZM, "gldm": _GLDM, "ngtdm": _NGTDM}
CODES: Mapping[str, tuple[str, str]] = {f"{kind}_{name}": code for kind, named in _CLASSES.items() for name, code in named.items()}


def identify(name: str) -> tuple[str, str] | None:
    """Return code and name of a feature ``<role>:<block>:<image type>_<class>_<feature>``, whatever image type it is computed on."""
    return CODES.get("_".join(name.rsplit(":", 1)[-1].split("_")[-2:]))
