#!/usr/bin/env bash
# Makes .venv: the locked packages, mmcv, and kat_mm itself.
#
#   make_env.sh            mmcv without its operators, unless they were compiled before
#   make_env.sh operators  mmcv with them, which detection needs: compiled once, kept in a cache
#
# Every step looks at what is there and does what is missing. So a second call takes seconds, and
# after an interruption the next call goes on. PYTHON=... chooses the Python to make .venv with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONHOME PYTHONPATH # packages from elsewhere would hide what is missing here

say() { printf '[env] %s\n' "$*" >&2; }
die() {
    say "ERROR: $*"
    exit 1
}

# Keeps a folder locked until this script ends; others wait.
lock() { # FOLDER
    command -v flock >/dev/null || return 0
    local fd
    exec {fd}<"$1"
    flock -n "$fd" && return
    say "waiting for another 'make env' that works in $1"
    flock "$fd"
}

require_disk() { # FOLDER GIGABYTES
    local free
    free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    ((free >= $2)) || die "$1 has $free GB free where $2 GB are needed: make room there"
}

# ------------------------------------------------------------------------------------------ Python

python=$PWD/.venv/bin/python

in_range() { # PYTHON
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

version_of() { # PYTHON
    "$1" -c 'import sys; print(sys.version)'
}

find_python() {
    local candidate candidates=(python3 python3.12 python3.11 python3.10) problem
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    problem="no Python from 3.10 to 3.12 among: ${candidates[*]}. Install one, or say where one \
is: make env PYTHON=/path/to/python3.11"
    for candidate in "${candidates[@]}"; do
        in_range "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        problem="$candidate cannot make a virtual environment: install its venv module (the \
package python3-venv on Debian and Ubuntu), or choose another: make env PYTHON=/path/to/python3.11"
    done
    die "$problem"
}

make_venv() {
    if in_range "$python" && "$python" -m pip --version >/dev/null 2>&1; then
        [[ -z ${PYTHON:-} || $(version_of "$python") == "$(version_of "$PYTHON")" ]] && return
    fi
    local base
    base=$(find_python)
    say "making .venv with $base"
    "$base" -m venv --clear .venv
    needed=7
}

# ---------------------------------------------------------------------------------------- packages

check() { "$python" .dev_scripts/check_env.py "$@"; }

# The index that pip was told to use is uv's too.
use_index() {
    [[ -n ${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}} ]] && return
    local index
    index=$("$python" -m pip config list | sed -n "s/^[^ ]*\.index-url='\(.*\)'$/\1/p" | tail -n 1)
    [[ -z $index ]] || export UV_DEFAULT_INDEX=$index
}

uv_install() { "$python" -m uv pip install --quiet --python "$python" "$@"; }

device_of() { stat -c %d "$1" 2>/dev/null; }

needed=1 # gigabytes that packages take: of a new .venv, all of them

# What uv's cache holds on the same disk takes no room: it is linked.
install_locked() {
    if [[ $(device_of "$PWD") == $(device_of "$("$python" -m uv cache dir)") ]]; then
        uv_install --offline --requirements requirements/locked.txt 2>/dev/null && return
    fi
    require_disk "$PWD" $needed
    needed=1
    say 'downloading what is not in the cache (everything: 3 GB, 1 minute)'
    uv_install --requirements requirements/locked.txt
}

install_packages() {
    local damaged turn
    for turn in first second; do
        damaged=$(check packages 2>/dev/null) && return
        # The first turn's packages may have overwritten each other: see OVERWRITTEN there.
        if [[ $turn == first ]]; then
            # Before the long download, not after.
            [[ $want != operators || -f $mmcv_wheel ]] || require_compiler
            say 'installing what differs from the lock'
        fi
        [[ -z $damaged ]] || xargs -d '\n' rm -rf <<<"$damaged"
        "$python" -m pip install --quiet --no-input --disable-pip-version-check \
            "$(grep '^pip==' requirements/locked.txt)" "$(grep '^uv==' requirements/locked.txt)"
        install_locked
    done
    local wrong
    wrong=$(check packages 2>&1 >/dev/null) ||
        die "packages differ from requirements/locked.txt even after their installation:" \
            "$wrong. Remove .venv and call this again"
}

# -------------------------------------------------------------------------------------------- mmcv

locked_version() { # NAME FILE
    sed -n "s/^$1==//p" "requirements/$2.txt"
}

# Operators for the GPUs of this machine where the right nvcc is at hand, else for CPUs.
choose_mmcv() {
    local version tag cuda gpus
    version=$(locked_version onedl-mmcv pins)
    tag=$("$python" -c 'import sys; print("cp{}{}".format(*sys.version_info))')
    cuda=$(locked_version cuda-toolkit locked | cut -d. -f1)
    operators=cpu
    # Compute capabilities such as 9.0, joined to 8.6_9.0.
    gpus=$({ nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true; } |
        { grep -E '^[0-9]+\.[0-9]+$' || true; } | sort -u | paste -sd _)
    if [[ -n $gpus ]]; then
        if nvcc --version 2>/dev/null | grep -q "release $cuda\."; then
            operators=cuda$gpus
        else
            say "mmcv gets operators for CPUs only: for detection on the GPU, put nvcc of CUDA" \
                "$cuda in PATH and call this again"
        fi
    fi
    mmcv_folder=$cache/onedl-mmcv$version-torch$(locked_version torch locked)-$tag-$operators
    mmcv_wheel=$mmcv_folder/onedl_mmcv-$version-$tag-$tag-linux_x86_64.whl
}

require_compiler() {
    local header
    "${CXX:-c++}" -std=c++17 -x c++ -o /dev/null - <<<$'#include <vector>\nint main() {}' ||
        die "mmcv needs a C++17 compiler, and ${CXX:-c++} does not work: install one (the package" \
            'g++ on Debian and Ubuntu), or name it: make env CXX=...'
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [[ -f $header ]] ||
        die "mmcv needs $header: install Python's headers (the package python3-dev on Debian and" \
            'Ubuntu), or choose a Python that has them: make env PYTHON=...'
}

build_mmcv() {
    local part=$mmcv_folder.part jobs log
    jobs=$(nproc)
    log=$part/build.log
    require_compiler
    require_disk "$TMPDIR" 2
    say "building mmcv, operators for $operators: about $((18 / jobs + 1)) minutes on $jobs cores"
    rm -rf "$part" "$mmcv_folder"
    mkdir -p "$part"
    (
        # ninja and the build's Python come from .venv; torch looks for them in PATH.
        export PATH=$PWD/.venv/bin:$PATH MAX_JOBS=$jobs
        if [[ $operators == cpu ]]; then
            export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
        else
            export FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${operators#cuda}
            TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST//_/;}
        fi
        # Isolation would hide torch and leave the operators out; pip's own cache ignores torch.
        "$python" -m pip wheel --verbose --no-input --disable-pip-version-check --no-cache-dir \
            --no-build-isolation --no-deps --no-binary onedl-mmcv --wheel-dir "$part" \
            "onedl-mmcv==$(locked_version onedl-mmcv pins)" 2>&1 | tee "$log" |
            { grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\]' || true; } |
            { while read -r step; do printf ' %s' "$step"; done; echo; } >&2
    ) || {
        tail -n 30 "$log" >&2
        die "mmcv did not build; the whole log is $log"
    }
    mv "$part" "$mmcv_folder" # a wheel in the cache is a whole one
}

# As pip builds it where it sees no torch: enough for classification and segmentation.
install_mmcv_without_operators() {
    local version
    version=$(locked_version onedl-mmcv pins)
    [[ $(check version onedl-mmcv) == "$version" ]] && return
    say "installing mmcv without its operators; for detection: make operators"
    uv_install --no-deps --reinstall --no-binary onedl-mmcv "onedl-mmcv==$version"
}

install_mmcv() {
    check mmcv "$mmcv_wheel" >/dev/null && return
    if [[ $want != operators && ! -f $mmcv_wheel ]]; then
        install_mmcv_without_operators
        return
    fi
    mkdir -p "$cache" || die "cannot write to $cache: name another place with XDG_CACHE_HOME=..."
    lock "$cache"
    local origin problem
    for origin in cached built; do
        if [[ $origin == built ]]; then
            build_mmcv
        elif [[ ! -f $mmcv_wheel ]]; then
            continue
        fi
        say "installing mmcv from $mmcv_wheel"
        if uv_install --no-deps --reinstall "$mmcv_wheel" &&
            problem=$(check mmcv "$mmcv_wheel"); then
            return
        fi
        say "the $origin mmcv does not work: ${problem:-it cannot be installed}"
        rm -rf "$mmcv_folder"
    done
    die "mmcv's operators do not work here, for the reason above. If the compiler is at fault," \
        'name another: make env CXX=...'
}

# ------------------------------------------------------------------------------------------ kat_mm

install_project() {
    check project && return
    say 'installing kat_mm, editable'
    uv_install --no-deps --no-build-isolation --reinstall --editable .
}

want=${1:-basis}
[[ $want == basis || $want == operators ]] || die "usage: $0 [operators]"
[[ $(uname -sm) == 'Linux x86_64' ]] ||
    die "the locked versions are for Linux x86_64, this is $(uname -sm): see docs/install.md for pip"
cache=$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/kat_mm")
lock "$PWD"
make_venv
# What a build leaves behind when it is killed, the next call removes.
export TMPDIR=$PWD/.venv/tmp
rm -rf "$TMPDIR"
mkdir "$TMPDIR"
use_index
choose_mmcv
install_packages
install_mmcv
install_project
if compgen -G '.venv/lib/python*/site-packages/mmcv/_ext*.so' >/dev/null; then
    say "ready: .venv with torch $(locked_version torch locked) and mmcv's operators"
else
    say "ready: .venv with torch $(locked_version torch locked), for classification and" \
        "segmentation. Detection needs mmcv's operators: make operators"
fi
