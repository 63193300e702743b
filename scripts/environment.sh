# Sourced by scripts/demo and scripts/test: `make_environment [EXTRA]` has a .venv in the checkout with `ics` in it.
# `choose_environment FOLDER VERSION [RESOLUTION]` before it takes another folder, one version of Python, and what uv calls
# a resolution: highest, or lowest-direct for the lowest versions that pyproject.toml allows.
#
# Uses uv where it runs, else python3 -m venv and pip. A second call installs nothing: a stamp in .venv holds the hash of
# what was installed from. A .venv that was left half made, or whose Python is gone, is made anew.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

# Usage: choose_environment FOLDER VERSION [RESOLUTION]; an empty VERSION is any Python from 3.11 on.
choose_environment() {
    venv="$root/$1"
    version="$2"
    resolution="${3:-highest}"
    python="$venv/bin/python"
    unfinished="$venv/.unfinished"
}
choose_environment .venv ""

say() { printf '%s\n' "$*" >&2; }

stop() {
    say "$*"
    exit 1
}

# A command on the PATH may be a shim that cannot run (pyenv makes such), so try it.
have_uv() { uv --version >/dev/null 2>&1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the command of the Python that was asked for; nothing where none is found.
find_version() {
    local candidate
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python python3; do
        if [[ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" == "$version" ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

find_python() {
    local candidate
    if [ -n "$version" ]; then
        candidate="$(find_version)"
        [ -n "$candidate" ] || stop "Python $version was asked for and is not on the PATH; install it (or uv, which brings one)."
        printf '%s\n' "$candidate"
        return
    fi
    for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "ics needs Python 3.11 or newer, found none on the PATH; install Python 3.11+ (or uv, which brings one) and run this again."
}

# Prints the hash of everything that decides what is installed; fails where the Python of .venv does not run.
fingerprint() {
    "$python" - "$root" <<'PYTHON' 2>/dev/null
import hashlib, pathlib, sys
assert sys.version_info >= (3, 11)
root = pathlib.Path(sys.argv[1])
print(hashlib.sha256((root / "pyproject.toml").read_bytes() + f"{root} {sys.version}".encode()).hexdigest())
PYTHON
}

make_venv() {
    local base
    if have_uv; then
        base="${version:+$(find_version)}"
        uv venv --quiet --clear --python "${base:-${version:->=3.11}}" "$venv" || stop "uv could not make $venv; what it said is above."
    else
        base="$(find_python)" || exit 1
        rm -rf "$venv"
        "$base" -m venv "$venv" ||
            stop "$base could not make $venv; where Python comes without its venv module, install that (python3-venv on Debian) or uv."
    fi
    : >"$unfinished"
}

install_project() {
    local options=()  # expanded with care below: an empty array is an error under `set -u` in bash before 4.4
    [ -t 2 ] || options+=(--quiet)
    if have_uv; then
        # uv leaves compiling to the first import. Where Python is told to keep nothing of that, each process would compile
        # all of torch anew, which takes seconds.
        [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || options+=(--compile-bytecode)
        uv pip install ${options[@]+"${options[@]}"} --resolution "$resolution" --python "$python" --editable "$1" >&2
    elif [ "$resolution" != highest ]; then
        stop "The lowest versions are found by uv, which is not here; type pip install uv."
    else
        # A .venv that uv made has no pip.
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 || make_venv
        "$python" -m pip install ${options[@]+"${options[@]}"} --disable-pip-version-check --editable "$1" >&2
    fi
}

# Usage: make_environment [EXTRA]; EXTRA names optional dependencies in pyproject.toml, and includes the plain ones.
make_environment() {
    local extra="${1:-}" key stamp
    stamp="$venv/.installed"
    if [ -e "$unfinished" ] || ! key="$(fingerprint)"; then
        say "Making $venv ..."
        make_venv
        key="$(fingerprint)" || stop "the Python in $venv does not run; delete that folder and run this again."
    fi
    grep -qsxF -e "$key $extra" "$stamp" && return
    say "Installing ics and what it needs into $venv (some minutes the first time: torch is large) ..."
    : >"$unfinished"
    install_project "$root${extra:+[$extra]}" || stop "The installation failed; what went wrong is above. Run this again once that is mended."
    grep -qsF -e "$key " "$stamp" || : >"$stamp"
    printf '%s\n' "$key " ${extra:+"$key $extra"} >>"$stamp"
    rm -f "$unfinished"
}
