"""Foreign validators and readers: what they say of a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.foreign import need

# The standard's 2022 tables do not know the private scheme and the Device UID that IHE AI Results asks for.
EXPECTED_WARNINGS = ("99CERVINODE", "DeviceUID(0018,1002)")


def run(tool: str, *arguments: str | Path) -> str:
    """Return what a foreign tool says, both streams."""
    path = need(tool, "deploy/system-packages.sh test; dcmqi is in the [test] extra")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, timeout=500, check=False)
    return (done.stdout + done.stderr).decode("utf-8", errors="replace")


def pixelmed(report: Path) -> list[str]:
    """Return what PixelMed's template validator has against a report (about ten seconds)."""
    jars = Path("/usr/share/java")
    need(jars / "pixelmed.jar")
    limits = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("ExprOp", "TotalOp", "ExprGrp")]  # its rules exceed Java's
    lines = run("java", *limits, "-Xss64m", "-cp", f"{jars}/*", "com.pixelmed.validate.DicomSRValidator", report).splitlines()
    assert "Root Template Validation Complete" in lines, lines[-5:]
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def complaints(path: Path, *severities: str) -> list[str]:
    """Return what dciodvfy has against a file, but for the expected."""
    lines = run("/usr/bin/dciodvfy", "-new", path).splitlines()
    assert lines, "dciodvfy always names the IOD"
    return [line for line in lines if line.startswith(severities) and not any(known in line for known in EXPECTED_WARNINGS)]


def differences(*paths: Path) -> list[str]:
    """Return in what dcentvfy finds that files of one patient, study or series contradict each other."""
    return [line for line in run("/usr/bin/dcentvfy", *paths).splitlines() if line.startswith("Error")]
