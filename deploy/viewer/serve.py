"""Show DICOM results in a real viewer: Orthanc keeps them, OHIF draws them, one address on this machine shows both.

    python deploy/viewer/serve.py demo-output

Everything is on loopback and temporary: Ctrl-C ends it and leaves nothing but the downloaded viewer.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ohif import ViewerError, fetch
from proxy import LOOPBACK, make_server

ORTHANC = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
PORT = 3080
_CACHE = Path(__file__).parents[2] / "build"
_START_S = 30.0
_STOP_S = 20.0


def main() -> int:
    """Start everything, say where to look, and end it at Ctrl-C or SIGTERM."""
    arguments = _parse()
    for how in (signal.SIGINT, signal.SIGTERM):  # both: a shell's background processes are started with SIGINT ignored
        signal.signal(how, _interrupt)
    try:
        ohif = fetch(arguments.cache)
        if arguments.folders:
            _serve(ohif, arguments.folders, arguments.port)
    except KeyboardInterrupt:
        _say("ended")
    except ViewerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show DICOM folders, such as what `cervinode demo` leaves, in Orthanc and OHIF.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="folders of DICOM files; none: only download the viewer")
    parser.add_argument("--port", type=int, default=PORT, help="where the browser finds it; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="where the downloaded viewer is kept (default: %(default)s)")
    return parser.parse_args()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _serve(ohif: Path, folders: list[Path], port: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cervinode-viewer-") as scratch, _orthanc(Path(scratch)) as orthanc:
        try:
            server = make_server(ohif, orthanc, port=port)
        except OSError as error:
            raise ViewerError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
        with server:
            _say(f"{_load(folders, orthanc)} DICOM objects loaded from {', '.join(map(str, folders))}")
            address = f"http://{LOOPBACK}:{server.server_address[1]}"
            _say(f"OHIF:    {address}/")
            for study in _get(orthanc, "/studies?expand"):
                _say(f"         {address}/viewer?StudyInstanceUIDs={study['MainDicomTags']['StudyInstanceUID']}")
            _say(f"Orthanc: http://{LOOPBACK}:{orthanc}/app/explorer.html")
            _say("Ctrl-C ends it. Research software: not for clinical use.")
            server.serve_forever()


@contextmanager
def _orthanc(folder: Path) -> Iterator[int]:
    """Run an Orthanc that keeps its data below ``folder``; yield its HTTP port."""
    for needed in (ORTHANC, PLUGIN):
        if not needed.exists():
            raise ViewerError(f"{needed} is not installed (deploy/system-packages.sh viewer)")
    port = _free_port()
    config = {
        "Name": "Cervinode viewer",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomServerEnabled": False,
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DefaultEncoding": "Utf8",  # Latin1 loses Chinese names in the study list
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        command = [str(ORTHANC), str(folder / "orthanc.json")]
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # Ctrl-C is ours to handle
        try:
            _wait(child, port, folder / "orthanc.log")
            yield port
        finally:
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and child.poll() is None:
        with socket.socket() as s:
            if s.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.1)
    raise ViewerError(f"Orthanc does not start: {log.read_text(errors='replace')[-500:]}")


def _load(folders: list[Path], orthanc: int) -> int:
    """Give every DICOM file below the folders to Orthanc; return how many it took.

    A folder that ``cervinode demo`` left names the study that its results belong to, which is loaded as well.
    """
    taken = 0
    for folder in folders:
        sources = [folder]
        if (summary := folder / "summary.json").is_file():
            sources.append(Path(json.loads(summary.read_text()).get("study_folder", folder)))
        for path in sorted({p for source in sources for p in source.rglob("*") if p.is_file()}):
            taken += _store(path, orthanc)
    if not taken:
        raise ViewerError(f"no DICOM file in {', '.join(map(str, folders))} (run `make demo` first?)")
    return taken


def _store(path: Path, orthanc: int) -> bool:
    request = urllib.request.Request(f"http://{LOOPBACK}:{orthanc}/instances", data=path.read_bytes(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 400:  # not a DICOM file
            return False
        raise ViewerError(f"Orthanc does not take {path}: {error}") from error


def _get(orthanc: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{orthanc}{path}", timeout=60) as answer:
        return json.load(answer)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
