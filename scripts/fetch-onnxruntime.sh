#!/bin/sh
# Fetches ONNX Runtime, checked by digest, into target/onnxruntime (or DIR):
#
#   scripts/fetch-onnxruntime.sh [--openvino] [DIR]
#
#   DIR/lib/libonnxruntime.so   the library; a server built into target/ finds it there by itself
#   DIR/openvino/               with --openvino: the OpenVINO execution provider as a plug-in (x86-64 only)
#
# Both come from the Python package index, by pip, and keep their licences beside them. Does nothing where the right files
# are there already.
set -eu

version=1.32.0
openvino_version=1.8.1

fail() {
    echo "fetch-onnxruntime: $*" >&2
    exit 1
}

openvino=no
dest=
for arg in "$@"; do
    case $arg in
        --openvino) openvino=yes ;;
        -h | --help)
            sed -n '2,10s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        -*) fail "unknown option $arg" ;;
        *)
            [ -z "$dest" ] || fail "more than one directory given: $dest and $arg"
            dest=$arg
            ;;
    esac
done
if [ -z "$dest" ]; then
    root=$(cd "$(dirname "$0")/.." && pwd)
    dest=${CARGO_TARGET_DIR:-$root/target}/onnxruntime
fi

[ "$(uname -s)" = Linux ] || fail "only Linux is known here; give another library by --onnxruntime-lib"
case $(uname -m) in
    x86_64)
        platform=manylinux_2_28_x86_64
        wheel=99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8
        library=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
        ;;
    aarch64 | arm64)
        platform=manylinux_2_28_aarch64
        wheel=e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054
        library=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
        ;;
    *) fail "no wheel of onnxruntime for $(uname -m); give a library by --onnxruntime-lib" ;;
esac
openvino_wheel=3832643158c8c187fcab6db661cde2a8c06a2b3559d95d0f2411ac0e51c5e924

digest() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d' ' -f1
    else
        shasum -a 256 "$1" | cut -d' ' -f1
    fi
}

need_python() {
    command -v python3 >/dev/null 2>&1 || fail "python3 is needed to download the wheel"
    python3 -m pip --version >/dev/null 2>&1 || fail "pip is needed (python3 -m pip; on Debian: apt-get install python3-pip)"
}

# The temporary directory lies beside the destination, so that the last step is a rename.
begin() {
    need_python
    mkdir -p "$dest"
    tmp=$(mktemp -d "$dest/.fetch.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 1' HUP INT TERM
}

# download REQUIREMENT SHA256: the wheel's contents in $tmp/wheel
download() {
    printf '%s --hash=sha256:%s\n' "$1" "$2" >"$tmp/requirements.txt"
    # The Python version only names the wheel; no Python runs what is in it.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --platform "$platform" --require-hashes \
        -r "$tmp/requirements.txt" -d "$tmp/download" ||
        fail "pip could not download $1 (is the package index reachable?)"
    rm -rf "$tmp/wheel"
    python3 -m zipfile -e "$tmp"/download/*.whl "$tmp/wheel"
    rm -rf "$tmp/download"
}

if [ -f "$dest/lib/libonnxruntime.so" ] && [ "$(digest "$dest/lib/libonnxruntime.so")" = "$library" ]; then
    echo "ONNX Runtime $version is in $dest/lib"
else
    begin
    download "onnxruntime==$version" "$wheel"
    found=$tmp/wheel/onnxruntime/capi/libonnxruntime.so.$version
    [ -f "$found" ] || fail "the wheel holds no libonnxruntime.so.$version"
    got=$(digest "$found")
    [ "$got" = "$library" ] || fail "libonnxruntime.so.$version has the digest $got, expected $library"
    mkdir -p "$dest/lib"
    mv -f "$tmp/wheel/onnxruntime/LICENSE" "$dest/lib/LICENSE.onnxruntime"
    mv -f "$tmp/wheel/onnxruntime/ThirdPartyNotices.txt" "$dest/lib/ThirdPartyNotices.onnxruntime.txt"
    mv -f "$found" "$dest/lib/libonnxruntime.so"
    rm -rf "$tmp"
    echo "ONNX Runtime $version is now in $dest/lib"
fi

[ "$openvino" = yes ] || exit 0
[ "$platform" = manylinux_2_28_x86_64 ] || fail "the OpenVINO plug-in exists for x86-64 only"
if [ "$(cat "$dest/openvino/.wheel" 2>/dev/null)" = "$openvino_wheel" ]; then
    echo "the OpenVINO execution provider $openvino_version is in $dest/openvino"
else
    begin
    download "onnxruntime-ep-openvino==$openvino_version" "$openvino_wheel"
    [ -f "$tmp/wheel/onnxruntime_ep_openvino/libonnxruntime_providers_openvino_plugin.so" ] ||
        fail "the wheel of onnxruntime-ep-openvino holds no plug-in library"
    for notes in "$tmp"/wheel/*.dist-info; do
        mkdir -p "$tmp/wheel/onnxruntime_ep_openvino/licenses"
        mv "$notes" "$tmp/wheel/onnxruntime_ep_openvino/licenses/"
    done
    echo "$openvino_wheel" >"$tmp/wheel/onnxruntime_ep_openvino/.wheel"
    rm -rf "$dest/openvino"
    mv "$tmp/wheel/onnxruntime_ep_openvino" "$dest/openvino"
    echo "the OpenVINO execution provider $openvino_version is now in $dest/openvino"
fi
