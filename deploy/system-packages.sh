#!/usr/bin/env bash
# Make sure that what pip cannot install is there: a C compiler for pyradiomics (serve), the small PACS behind the viewer (viewer),
# and the foreign tools, the R package and the browser that judge our results (test). Installs with apt where that is possible,
# otherwise says what is missing.
set -euo pipefail

pacs=("/usr/sbin/Orthanc:orthanc" "/usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb")
pacs+=("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc:fonts-wqy-microhei")  # the letters of Chinese captures
case "${1:-}" in
  serve) needed=() ; headers=1 ;;
  viewer) needed=("${pacs[@]}") ; headers=0 ;;
  test) needed=("${pacs[@]}" "/usr/bin/storescu:dcmtk" "/usr/bin/dciodvfy:dicom3tools" "/usr/bin/redis-server:redis-server"
                "/usr/share/java/pixelmed.jar:libpixelmed-java" "java:default-jre-headless" "/usr/lib/R/site-library/pROC:r-cran-proc")
        # Ubuntu has no such package; there the tests in a browser are skipped.
        grep -qs '^ID=ubuntu' /etc/os-release || needed+=("chromium:chromium")
        headers=0 ;;
  *) echo "usage: $0 serve|viewer|test" >&2; exit 2 ;;
esac

have() { [[ "$1" == /* ]] && [[ -e "$1" ]] || command -v "$1" >/dev/null 2>&1; }

if [[ $headers == 1 ]]; then
  python="${PYTHON:-python3}"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Cervinode needs Python 3.11 or newer" >&2; exit 1; }
  needed=("cc:gcc")
  include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  [[ -e "$include/Python.h" ]] || needed+=("Python.h:python3-dev")
  "$python" -c 'import ensurepip' 2>/dev/null || needed+=("ensurepip:python3-venv")
fi

missing=()
for pair in "${needed[@]}"; do have "${pair%%:*}" || missing+=("${pair##*:}"); done
[[ ${#missing[@]} == 0 ]] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "please install: ${missing[*]} (names of Debian packages)" >&2; exit 1
fi
sudo=""
[[ $(id -u) == 0 ]] || sudo="sudo"
echo "installing system packages: ${missing[*]}"
$sudo apt-get update -qq
# Servers that the packages bring are not to start by themselves: tests start their own, on loopback.
$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
