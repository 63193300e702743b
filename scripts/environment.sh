# Sourced by scripts/demo and scripts/test: `make_environment [EXTRA]` has a .venv in the checkout with `ics` in it.
#
# Uses uv where it runs, else python3 -m venv and pip. A second call installs nothing: a stamp in .venv holds the hash of
# what was installed from. A .venv that was left half made, or whose Python is gone, is made anew.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"
unfinished="$venv/.unfinished"

say() { printf '%s\n' "$*" >&2; }

stop() {
    say "$*"
    exit 1
}

# A command on the PATH may be a shim that cannot run (pyenv makes such), so try it.
have_uv() { uv --version >/dev/null 2>&1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
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
        uv venv --quiet --clear --python '>=3.11' "$venv" || stop "uv could not make $venv; what it said is above."
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
        uv pip install ${options[@]+"${options[@]}"} --python "$python" --editable "$1" >&2
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
