#!/usr/bin/env bash
# Makes .bench-venv in the checkout: `ics` (editable) and the packages it is held beside, pinned in requirements.txt.
#
#   scripts/bench/suite/environment.sh
#
# Peers live in an environment of their own: cockpit needs an old setuptools, and what they pin concerns no user of `ics`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
source "$here/../../environment.sh"

venv="$root/.bench-venv"
python="$venv/bin/python"
unfinished="$venv/.unfinished"

make_environment fast

pins="$venv/.peers"
if ! cmp -s "$here/requirements.txt" "$pins"; then
    say "Installing the peers into $venv ..."
    if have_uv; then
        uv pip install --quiet --python "$python" --requirement "$here/requirements.txt" >&2 || stop "uv could not install the peers; what it said is above."
    else
        "$python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2 || stop "pip could not install the peers; what it said is above."
    fi
    cp "$here/requirements.txt" "$pins"
fi
say "$python is ready."
