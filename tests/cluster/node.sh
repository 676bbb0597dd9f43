# shellcheck shell=bash disable=SC2154
# (SC2154: lib.sh sets what is not set here.)
# A real single-node Kubernetes in a network namespace of its own. Sourced after lib.sh; needs root and the programs in $bin.
#
# All of it is named after the checkout, so that two checkouts on one machine do not meet, and a run that was killed is found and cleared:
#   folder              /var/tmp/trainingsession-CHECKOUT   (state, logs, certificates, images, volumes)
#   network namespace   ts-CHECKOUT, joined to the machine by a veth pair of that name; pods and services live inside it, also their iptables rules
#   cgroup              /trainingsession-CHECKOUT
# Nothing here writes to the machine's own iptables, /etc or /var/lib/kubelet, but for sockets of device plugins, whose place the kubelet has
# built in; what the kubelet changes in sysctl is put back by node_down.

dir=/var/tmp/trainingsession-$checkout
netns=ts-$checkout
cgroup=trainingsession-$checkout
node=node
dns_ip=10.96.0.10
cni_network=trainingsession-$checkout
node_processes=(etcd apiserver controller-manager scheduler containerd kubelet devices proxy coredns volumes)
pause_image=localhost/trainingsession/pause:1
# The kubelet insists on values of its own for these, for the whole machine.
kubelet_sysctls=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

ctr_node() { ctr --address "$dir/containerd.sock" --namespace k8s.io "$@"; }

# ---- processes ---------------------------------------------------------------------------------------------------------------------

started_at() { awk '{sub(/.*\) /, ""); print $20}' "/proc/$1/stat" 2>/dev/null; } # field 22, counted after the command's name

# A pid file holds the pid and when that process started: after a reboot the same number may be somebody else's.
running() {
  local pid began
  read -r pid began 2>/dev/null <"$dir/run/$1.pid" || return 1
  [[ -n $began && $(started_at "$pid") == "$began" ]]
}

start() {
  local name=$1 pid
  shift
  # nsenter, not `ip netns exec`: that gives a private view of mounts, which would hide the kubelet's from containerd.
  setsid nsenter --net="/run/netns/$netns" "$@" >"$dir/log/$name.log" 2>&1 </dev/null {lock_fd}>&- &
  pid=$!
  echo "$pid $(started_at "$pid")" >"$dir/run/$name.pid"
}

node_answers() {
  local name
  [[ $(cat "$dir/ready" 2>/dev/null) == "$binaries_hash" && -s $kubeconfig ]] || return 1
  for name in "${node_processes[@]}"; do running "$name" || return 1; done
  kc get --raw /readyz --request-timeout=10s >/dev/null 2>&1 && node_ready
}

node_ready() { kc get node "$node" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -q True; }

# By its service address, so that kube-proxy has done its part too.
name_service_answers() { nsenter --net="/run/netns/$netns" timeout 2 bash -c "</dev/tcp/$dns_ip/53"; }

# ---- cgroups -----------------------------------------------------------------------------------------------------------------------

cgroup_hierarchies() {
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
  else
    local folder
    for folder in /sys/fs/cgroup/*/; do
      [[ -e $folder/tasks && ! -L ${folder%/} ]] && echo "${folder%/}"
    done
  fi
}

make_cgroup() {
  local hierarchy
  for hierarchy in $(cgroup_hierarchies); do
    mkdir -p "$hierarchy/$cgroup"
    # Version 1 starts a cpuset empty, and nothing can run in it until it has its parent's.
    if [[ -e $hierarchy/$cgroup/cpuset.cpus && -e $hierarchy/$cgroup/tasks ]]; then
      cat "$hierarchy/cpuset.cpus" >"$hierarchy/$cgroup/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$hierarchy/$cgroup/cpuset.mems"
    fi
  done
}

container_pids() {
  local hierarchy
  for hierarchy in $(cgroup_hierarchies); do
    [[ -d $hierarchy/$cgroup ]] && find "$hierarchy/$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -un
}

remove_cgroup() {
  local hierarchy
  # Beside version 1 there may be a version 2 hierarchy without controllers, where runc makes folders too.
  for hierarchy in $(cgroup_hierarchies) /sys/fs/cgroup/unified; do
    if [[ -d $hierarchy/$cgroup ]]; then find "$hierarchy/$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
  done
}

# ---- up ----------------------------------------------------------------------------------------------------------------------------

node_up() {
  ((EUID == 0)) || fail "A real node needs root: run this as root, start Docker, or name a cluster with TS_KUBECONFIG."
  apt_install containerd=containerd runc=runc /usr/lib/cni/bridge=containernetworking-plugins iptables=iptables conntrack=conntrack \
    ip=iproute2 openssl=openssl nsenter=util-linux pgrep=procps python3=python3
  local began=$SECONDS hint="look into $dir/log"
  mkdir -p "$dir"/{run,log,pki,cni,etcd,volumes,conf}
  echo "$root" >"$dir/checkout"
  sysctl -e "${kubelet_sysctls[@]}" >"$dir/sysctl.before" 2>/dev/null || true
  make_cgroup
  make_network
  make_certificates

  start etcd "$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --log-level warn --unsafe-no-fsync
  start apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$node_ip" --bind-address=0.0.0.0 \
    --secure-port=6443 --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --allow-privileged --cert-dir="$dir/pki" --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --client-ca-file="$dir/pki/ca.crt" --kubelet-client-certificate="$dir/pki/admin.crt" --kubelet-client-key="$dir/pki/admin.key" \
    --kubelet-certificate-authority="$dir/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file="$dir/pki/accounts.key" \
    --service-account-key-file="$dir/pki/accounts.pub"
  start_containerd
  wait_for kube-apiserver 90 "$hint" kc get --raw /readyz
  start controller-manager "$bin/kube-controller-manager" --kubeconfig="$dir/conf/controller-manager" --use-service-account-credentials \
    --service-account-private-key-file="$dir/pki/accounts.key" --root-ca-file="$dir/pki/ca.crt" --cluster-signing-cert-file="$dir/pki/ca.crt" \
    --cluster-signing-key-file="$dir/pki/ca.key" --cert-dir="$dir/pki" --leader-elect=false --allocate-node-cidrs --cluster-cidr=10.244.0.0/16
  start scheduler "$bin/kube-scheduler" --kubeconfig="$dir/conf/scheduler" --cert-dir="$dir/pki" --leader-elect=false
  wait_for containerd 30 "$hint" ctr_node version
  import_pause_image
  start_kubelet
  # Every GPU of a session is handed out by the kubelet's real device manager. What is in the file gpus-unhealthy is none any more.
  start devices "$bin/$devices" --resource nvidia.com/gpu --count "$GPUS" --unhealthy "$dir/gpus-unhealthy" --kubelet-pid "$dir/run/kubelet.pid"
  start_proxy
  start_coredns
  start volumes "$bin/volumes" --kubeconfig "$dir/conf/volumes" --root "$dir/volumes" --node "$node"
  apply_basics
  wait_for "the node" 90 "$hint" node_ready
  wait_for "the cluster's name service" 60 "$hint" name_service_answers
  local name
  for name in "${node_processes[@]}"; do running "$name" || fail "$name ended soon after its start; see $dir/log/$name.log"; done
  echo "$binaries_hash" >"$dir/ready"
  say "The node came up in $((SECONDS - began)) s; its logs are in $dir/log."
}

# The first free 10.203.N.0/24, counted from a number that is this checkout's.
make_network() {
  local third=$((16#${checkout:0:2} % 250))
  while ip -o -4 address show | grep -qF " 10.203.$third."; do third=$(((third + 1) % 250)); done
  node_ip=10.203.$third.2
  ip netns add "$netns"
  ip link add "$netns" type veth peer name eth0 netns "$netns"
  ip address add "10.203.$third.1/24" dev "$netns"
  ip link set "$netns" up
  ip -n "$netns" address add "$node_ip/24" dev eth0
  ip -n "$netns" link set eth0 up
  ip -n "$netns" link set lo up
  ip -n "$netns" route add default via "10.203.$third.1"
  nsenter --net="/run/netns/$netns" sysctl -qw net.ipv4.ip_forward=1
}

# certificate NAME SUBJECT [EXTENSION]
certificate() {
  openssl req -newkey rsa:2048 -nodes -keyout "$dir/pki/$1.key" -subj "$2" -out "$dir/pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$dir/pki/$1.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial -days 3650 -out "$dir/pki/$1.crt" \
    -extfile <(printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n%s\n' "${3:-}") 2>/dev/null
}

# client FILE CERTIFICATE: a kubeconfig with everything inside.
client() {
  local set=("$bin/kubectl" config --kubeconfig "$1")
  {
    "${set[@]}" set-cluster node --server="https://$node_ip:6443" --certificate-authority="$dir/pki/ca.crt" --embed-certs
    "${set[@]}" set-credentials user --client-certificate="$dir/pki/$2.crt" --client-key="$dir/pki/$2.key" --embed-certs
    "${set[@]}" set-context node --cluster=node --user=user
    "${set[@]}" use-context node
  } >/dev/null
}

make_certificates() {
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -days 3650 -subj /CN=ca 2>/dev/null
  openssl genrsa -out "$dir/pki/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$dir/pki/accounts.key" -pubout -out "$dir/pki/accounts.pub" 2>/dev/null
  local name
  certificate apiserver /CN=kube-apiserver \
    "subjectAltName=IP:$node_ip,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate kubelet "/O=system:nodes/CN=system:node:$node" "subjectAltName=IP:$node_ip,DNS:$node"
  for name in controller-manager scheduler; do certificate $name "/CN=system:kube-$name"; done
  certificate proxy /CN=system:kube-proxy
  for name in admin coredns volumes; do certificate $name "/O=system:masters/CN=$name"; done
  for name in kubelet controller-manager scheduler proxy coredns volumes; do client "$dir/conf/$name" $name; done
  rm -f "$kubeconfig"
  client "$kubeconfig" admin
}

start_containerd() {
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
[plugins."io.containerd.grpc.v1.cri"]
  # Where the machine itself runs in a sandbox, lowering a score is not permitted.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "$pause_image"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
TOML
  cat >"$dir/cni/10-bridge.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "$cni_network", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$dir/cni-addresses", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  start containerd containerd --config "$dir/containerd.toml"
}

import_pause_image() {
  python3 "$here/pause_image.py" "$bin/pause" "$pause_image" "$dir/pause.tar"
  ctr_node images import "$dir/pause.tar" >/dev/null
}

# A kubelet that starts takes over what an earlier one noted of its devices, and for a while counts none where their plugin does not come.
forget_devices() {
  if [[ ! -d /var/lib/kubelet/pods ]]; then # no kubelet of the machine's own
    rm -f /var/lib/kubelet/device-plugins/kubelet_internal_checkpoint
  fi
}

start_kubelet() {
  forget_devices
  echo "nameserver $dns_ip" >"$dir/resolv.conf"
  cat >"$dir/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {x509: {clientCAFile: $dir/pki/ca.crt}, anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: $dir/pki/kubelet.crt
tlsPrivateKeyFile: $dir/pki/kubelet.key
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
enforceNodeAllocatable: []
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
resolvConf: $dir/resolv.conf
failSwapOn: false
maxPods: 200
podLogsDir: $dir/log/pods
volumePluginDir: $dir/volume-plugins
# The images cannot be pulled again: nothing may be cleared away to make room on a full disk.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
  start kubelet "$bin/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$dir/conf/kubelet" --root-dir="$dir/kubelet" \
    --cert-dir="$dir/pki" --hostname-override="$node" --node-ip="$node_ip" --node-labels=node.kubernetes.io/instance-type=local
}

start_proxy() {
  cat >"$dir/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $dir/conf/proxy}
clusterCIDR: 10.244.0.0/16
mode: iptables
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
  start proxy "$bin/kube-proxy" --config="$dir/proxy.yaml" --hostname-override="$node"
}

start_coredns() {
  cat >"$dir/Corefile" <<CORE
.:53 {
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $dir/conf/coredns node
  }
}
CORE
  start coredns "$bin/coredns" -conf "$dir/Corefile"
}

apply_basics() {
  kc apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $dns_ip, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$node_ip]}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: trainingsession.dev/folders
reclaimPolicy: Delete
volumeBindingMode: WaitForFirstConsumer
YAML
}

# ---- down --------------------------------------------------------------------------------------------------------------------------

# own_pids PATTERN: the processes that run a program of such a name on behalf of this node. All of them have its folder in their arguments
# (a shim: containerd's socket), so that also what no pid file tells of any more is found, and nothing else is.
own_pids() {
  local file program
  while read -r file; do
    program=$(readlink "${file%/cmdline}/exe" 2>/dev/null) || continue
    program=${program% (deleted)}
    # shellcheck disable=SC2053 # a pattern
    if [[ ${program##*/} == $1 ]]; then basename "${file%/cmdline}"; fi
  done < <(grep -lzF "$dir/" /proc/[0-9]*/cmdline 2>/dev/null)
}

kill_own() { # SIGNAL PATTERN
  local pid
  for pid in $(own_pids "$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

none_left() { [[ -z $("$@") ]]; }

within() { # SECONDS COMMAND…: whether the command succeeds in that time
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < until)) || return 1
    sleep 0.1
  done
}

node_down() {
  [[ -d $dir || -e /run/netns/$netns || -e /sys/class/net/$netns || -d $(cgroup_hierarchies | head -n1)/$cgroup ]] || return 0
  ((EUID == 0)) || fail "A node of an earlier run is there, and only root can take it down: run this as root."
  rm -f "$dir/ready"
  # The kubelet first: it would start again what is stopped here.
  kill_own KILL kubelet
  local pid daemons='@(containerd|kube*|etcd|coredns|volumes|devices-*)'
  for pid in $(container_pids); do kill -KILL "$pid" 2>/dev/null || true; done
  within 5 none_left container_pids || true
  # containerd sees the containers end and dismisses their shims, which then remove their sockets.
  within 5 none_left own_pids 'containerd-shim*' || true
  # Nothing has to end gracefully: what it would write goes with it, and kube-apiserver would take a minute.
  kill_own KILL "$daemons"
  kill_own KILL 'containerd-shim*'
  within 5 none_left own_pids '*' || true
  # shellcheck disable=SC2038 # the names come from inside the files
  find "$dir/containerd-state" -path '*runtime.v2.task*' -name address -exec sed -n 's#^unix://##p' {} + 2>/dev/null | xargs -r -d '\n' rm -f || true
  awk -v prefix="$dir/" 'index($2, prefix) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
  ip netns del "$netns" 2>/dev/null || true
  ip link del "$netns" 2>/dev/null || true
  remove_cgroup
  if [[ -s $dir/sysctl.before ]]; then sysctl -q -e -p "$dir/sysctl.before" >/dev/null 2>&1 || true; fi
  # What CNI and the kubelet keep outside, at places that cannot be set.
  local result sandbox
  for result in /var/lib/cni/results/"$cni_network"-*-eth0; do
    sandbox=${result##*/"$cni_network"-}
    rm -f "$result" "/var/lib/cni/results/cni-loopback-${sandbox%-eth0}-lo"
  done
  find /var/log/containers -maxdepth 1 -lname "$dir/*" -delete 2>/dev/null || true
  rmdir /var/log/containers /run/containerd/s /run/containerd /var/lib/cni/results /var/lib/cni 2>/dev/null || true
  forget_devices
  if [[ ! -d /var/lib/kubelet/pods ]] && ! pgrep -x kubelet >/dev/null; then # no kubelet of the machine's own, and no other checkout's
    rm -f /var/lib/kubelet/device-plugins/*.sock
    rmdir /var/lib/kubelet/device-plugins /var/lib/kubelet 2>/dev/null || true
  fi
  ! grep -qF " $dir/" /proc/mounts || fail "Some mounts below $dir could not be removed; not deleting it: $(grep -F " $dir/" /proc/mounts | cut -d' ' -f2 | head -n3)"
  rm -rf "$dir"
}
