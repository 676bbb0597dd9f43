"""A real API server with etcd on loopback: stores, validates and admits as in a cluster, but no controller runs.

So no Job makes a pod, nothing is collected by owner references, and no namespace ever ends; a test does that itself,
or starts the controllers that it names. There is no kubelet and no scheduler in any case.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from pathlib import Path

import urllib3
from kubernetes import client

from real_mongod import free_port


class RealApiServer:
    """etcd and kube-apiserver, both in `folder`; one token is the administrator's."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        self.tools = tools
        self.port = free_port()
        self.token = secrets.token_hex(16)
        self.processes: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def missing(tools: Path) -> str:
        """Name what is not there; empty when the server can be started."""
        programs = ("etcd", "kube-apiserver", "kube-controller-manager")
        return ", ".join(name for name in programs if not (tools / name).is_file())

    def start(self, *arguments: str) -> None:
        """Start both and return when the server is ready; `arguments` go to the API server's command line."""
        store, peer = free_port(), free_port()
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self._run(
            "etcd", "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{store}", "--advertise-client-urls", f"http://127.0.0.1:{store}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        )  # fmt: skip
        self._run(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={self.port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={self.folder / 'certificates'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}", *arguments,
        )  # fmt: skip
        self._wait()

    def start_controllers(self, *names: str) -> None:
        """Start these controllers of Kubernetes."""
        self._run(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig()}", f"--controllers={','.join(names)}",
            "--leader-elect=false", "--secure-port=0",
        )  # fmt: skip

    def kubeconfig(self) -> Path:
        """Write the administrator's kubeconfig and return its path."""
        cluster = {"server": f"https://127.0.0.1:{self.port}",
                   "certificate-authority": str(self.folder / "certificates" / "apiserver.crt")}  # fmt: skip
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        return kubeconfig

    def client(self) -> client.ApiClient:
        """A client that may do everything."""
        settings = client.Configuration(host=f"https://127.0.0.1:{self.port}")
        settings.api_key = {"authorization": f"Bearer {self.token}"}
        settings.ssl_ca_cert = str(self.folder / "certificates" / "apiserver.crt")
        settings.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0)
        return client.ApiClient(settings)

    def stop(self) -> None:
        """End both; what they stored is of no use any more."""
        for process in reversed(self.processes):
            process.kill()
            process.wait(30)

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self.tools / name), *arguments]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _wait(self) -> None:
        end = time.monotonic() + 120
        http = urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        while True:
            try:
                if http.request("GET", f"https://127.0.0.1:{self.port}/readyz", retries=False, timeout=5).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                pass
            ended = [process.args for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > end:
                log = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the API server did not come up (ended: {ended}):\n{log}")
            time.sleep(0.1)
