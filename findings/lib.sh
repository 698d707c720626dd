# What every finding shares. It is sourced, and leaves the shell in a scratch folder that goes at exit.
#   packages NAME==VERSION ...   puts a Python with these packages first on the path
# FINDINGS_VENVS names a folder that keeps the environments, one per list; without it each is new and goes too.
set -euo pipefail
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore PYTHONUTF8=1
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -z "${FINDINGS_VENVS:-}" ] || FINDINGS_VENVS=$(mkdir -p "$FINDINGS_VENVS" && cd "$FINDINGS_VENVS" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

packages() {
  local key env
  key=$(printf '%s\n' "$(python3 -V)" "$@" | cksum | cut -d' ' -f1)
  env=${FINDINGS_VENVS:-$scratch}/env-$key
  # The stamp is written last: an installation that was broken off is begun again.
  if [ ! -e "$env/ready" ]; then
    rm -rf "$env"
    python3 -m venv "$env"
    # One after the other: with torch there first, what needs it takes the build that is there.
    local package
    for package in "$@"; do
      "$env/bin/pip" install -q "$package" >"$scratch/pip.log" 2>&1 || { cat "$scratch/pip.log" >&2; return 1; }
    done
    touch "$env/ready"
  fi
  export PATH=$env/bin:$PATH
}
