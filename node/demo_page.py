"""One self-contained page that shows result objects as a reader would want to see them.

Everything on it comes out of the DICOM objects that the receiving PACS got, and the images they refer to: nothing internal.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from structured_reports.attributes import OVERVIEW_SERIES
from structured_reports.wording import percent_words

_OUTLINE_RGB = (255, 170, 40)
_MAX_SLICES = 6
_TILE_PX = 420

_STYLE = (Path(__file__).parent / "demo_page.css").read_text(encoding="utf-8")


def render_page(objects: Sequence[Path], study: Iterable[Path], summary: Mapping[str, Any]) -> str:
    """Return the HTML page for the objects that came back and the study they came from."""
    datasets = [pydicom.dcmread(path) for path in objects]
    by_kind: dict[str, list[Dataset]] = {"SR": [], "SEG": [], "SC": []}
    for dataset in datasets:
        kind = {SegmentationStorage: "SEG", SecondaryCaptureImageStorage: "SC"}.get(dataset.SOPClassUID, "SR")
        by_kind[kind].append(dataset)
    sources = {str(d.SOPInstanceUID): path for path in study for d in [pydicom.dcmread(path, specific_tags=["SOPInstanceUID"])]}
    overviews, captures = ([c for c in by_kind["SC"] if (c.SeriesNumber == OVERVIEW_SERIES) is first] for first in (True, False))
    parts = [*_capture_section("Overview", overviews), _results(summary), *_capture_section("Secondary captures", captures)]
    parts += [_seg_section(seg, sources) for seg in by_kind["SEG"]]
    parts += [_sr_section(sr) for sr in by_kind["SR"]]
    parts += [_objects_section(summary), _timings_section(summary)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Cervinode results</title><style>{_STYLE}</style></head>'
        "<body><header>DEMO MODEL, NOT FOR CLINICAL USE. Research software; the model was trained on synthetic phantoms.</header>"
        f'<main><h1>What came back to the PACS</h1><p class="dim">{html.escape(str(summary["study"]))}</p>'
        f"{''.join(parts)}</main></body></html>"
    )


def _results(summary: Mapping[str, Any]) -> str:
    rows = []
    for result in summary["results"]:
        title = html.escape(str(result["title"]))
        if result["probability"] is None:
            reasons = "".join(f"<p>{html.escape(r)}</p>" for r in result["reasons"])
            rows.append(f'<section><h2>{title}</h2><div class="big">{result["status"]}</div>{reasons}</section>')
            continue
        percent, mark, words = 100 * result["probability"], "", ""
        number = html.escape(percent_words(result["probability"], 1))
        if result["threshold"] is not None:  # a system of several classes has none
            threshold = 100 * result["threshold"]
            mark, words = f'<i style="left:{threshold:.1f}%"></i>', f' <span class="dim">(threshold {threshold:.1f} %)</span>'
        rows.append(
            f'<section><h2>{title}</h2><div class="result"><div class="big">{number}</div><div>'
            f'<div class="bar"><b style="width:{percent:.1f}%"></b>{mark}</div>'
            f"<p><strong>{html.escape(result['call'])}</strong>{words}</p>"
            "</div></div></section>"
        )
    return "".join(rows)


def _capture_section(heading: str, captures: Sequence[Dataset]) -> list[str]:
    if not captures:
        return []
    figures = [
        f'<figure><img alt="" src="{_png(Image.fromarray(c.pixel_array))}"><figcaption>{html.escape(str(c.SeriesDescription))}'
        f", image {c.get('InstanceNumber', '')}</figcaption></figure>"
        for c in sorted(captures, key=lambda c: (c.get("SeriesNumber") or 0, c.get("InstanceNumber") or 0))
    ]
    return [f'<section><h2>{heading}</h2><div class="grid wide">{"".join(figures)}</div></section>']


def _seg_section(seg: Dataset, sources: Mapping[str, Path]) -> str:
    """Draw the outline of the segmentation's largest frames on the images that the frames say they were derived from."""
    frames = hd.seg.Segmentation.from_dataset(seg).pixel_array
    frames = frames[None] if frames.ndim == 2 else frames
    order = np.argsort(-frames.reshape(len(frames), -1).sum(axis=1), kind="stable")[:_MAX_SLICES]
    figures = []
    for index in sorted(int(i) for i in order):
        derived = seg.PerFrameFunctionalGroupsSequence[index].DerivationImageSequence[0].SourceImageSequence[0]
        path = sources.get(str(derived.ReferencedSOPInstanceUID))
        if path is None:
            continue
        source = pydicom.dcmread(path)
        picture = _outline(source.pixel_array.astype(float), frames[index] > 0)
        caption = f"{html.escape(str(source.SeriesDescription))}, image {source.get('InstanceNumber', '?')}"
        figures.append(f'<figure><img alt="" src="{_png(picture)}"><figcaption>{caption}</figcaption></figure>')
    label = html.escape(str(seg.SegmentSequence[0].SegmentLabel))
    return f'<section><h2>Segmentation: {label}</h2><div class="grid">{"".join(figures)}</div></section>'


def _outline(pixels: NDArray[np.float64], mask: NDArray[np.bool_]) -> Image.Image:
    """Return the surroundings of the mask, enlarged, with its outline."""
    window = _surroundings(mask)
    pixels, mask = pixels[window], mask[window]
    low, high = np.percentile(pixels, (1, 99.5))
    grey = Image.fromarray(np.clip((pixels - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8))
    scale = max(1, round(_TILE_PX / max(mask.shape)))
    rgb = np.asarray(grey.resize((mask.shape[1] * scale, mask.shape[0] * scale), Image.Resampling.BICUBIC).convert("RGB")).copy()
    large = np.kron(mask, np.ones((scale, scale), dtype=bool))
    inner = large.copy()
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            inner &= np.roll(large, step, axis)
    rgb[large & ~inner] = _OUTLINE_RGB
    return Image.fromarray(rgb)


def _surroundings(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a square of three times the mask's extent around it, as far as the image goes."""
    spans = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    half = round(1.5 * max(int(s[-1] - s[0]) for s in spans)) + 8
    centres = [int(s[0] + s[-1]) // 2 for s in spans]
    return (slice(max(0, centres[0] - half), centres[0] + half), slice(max(0, centres[1] - half), centres[1] + half))


def _sr_section(sr: Dataset) -> str:
    title = sr.ConceptNameCodeSequence[0].CodeMeaning
    flags = f"{sr.get('CompletionFlag', '')}, {sr.get('VerificationFlag', '')}"
    items = "".join(_sr_item(item) for item in sr.ContentSequence)
    return (
        f"<section><h2>Structured report: {html.escape(str(sr.SeriesDescription))}</h2>"
        f'<p class="dim">{html.escape(str(title))} ({flags})</p>'
        f'<ul class="sr">{items}</ul></section>'
    )


def _sr_item(item: Dataset) -> str:
    name = html.escape(str(item.ConceptNameCodeSequence[0].CodeMeaning)) if item.get("ConceptNameCodeSequence") else "Reference"
    children = "".join(_sr_item(child) for child in item.get("ContentSequence", []))
    nested = f'<ul class="sr">{children}</ul>' if children else ""
    if item.ValueType == "CONTAINER":
        is_open = "" if name == "Image Library" else " open"
        return f"<li><details{is_open}><summary>{name}</summary>{nested}</details></li>"
    return f'<li><span class="k">{name}:</span> <span class="v">{html.escape(_sr_value(item))}</span>{nested}</li>'


def _sr_value(item: Dataset) -> str:
    match item.ValueType:
        case "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            return f"{measured.NumericValue:g} {'' if unit.CodeValue == '1' else unit.CodeValue}".strip()
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "TEXT":
            return str(item.TextValue)
        case "UIDREF":
            return str(item.UID)
        case "PNAME":
            return str(item.PersonName)
        case "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            return f"{pydicom.uid.UID(reference.ReferencedSOPClassUID).name} …{str(reference.ReferencedSOPInstanceUID)[-12:]}"
        case other:
            return f"[{other}]"


def _objects_section(summary: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td><a href="{html.escape(o["path"])}">{html.escape(o["path"])}</a></td><td>{html.escape(o["sop_class"])}</td>'
        f"<td><code>{o['sop_instance_uid']}</code></td></tr>"
        for o in summary["objects"]
    )
    return f"<section><h2>Objects</h2><table><tr><th>File</th><th>SOP class</th><th>SOP Instance UID</th></tr>{rows}</table></section>"


def _timings_section(summary: Mapping[str, Any]) -> str:
    timings = summary["timings_s"]
    longest = max(timings.values(), default=1.0) or 1.0
    rows = "".join(
        f'<tr><td>{html.escape(stage)}</td><td class="n">{seconds:.2f} s</td><td style="width:60%">'
        f'<div class="stage" style="width:{100 * seconds / longest:.1f}%"></div></td></tr>'
        for stage, seconds in timings.items()
    )
    return f"<section><h2>Timings</h2><table>{rows}</table></section>"


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
