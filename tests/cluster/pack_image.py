"""Packs an image in OCI layout for `ctr images import`, without the layers that the node already has.

pack_image.py LAYOUT NAME                  reads the digests of the node's content from stdin, writes the archive
pack_image.py --size STORAGE IMAGE BASE    says how large the image is; both images as `buildah inspect` describes them
"""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any


def blob(layout: Path, digest: str) -> Path:
    """Where the layout keeps the content of that digest."""
    return layout / "blobs" / digest.replace(":", "/")


def manifest_of(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The descriptor of the layout's newest image, and its manifest."""
    descriptor = json.loads((layout / "index.json").read_text())["manifests"][-1]
    return descriptor, json.loads(blob(layout, descriptor["digest"]).read_text())


def pack(layout: Path, name: str, present: set[str]) -> None:
    """Writes the archive to stdout: index, manifest and configuration always, layers where the node lacks them."""
    descriptor, manifest = manifest_of(layout)
    own = [descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    for kept in (layout / "blobs" / "sha256").iterdir():  # of earlier builds
        if f"sha256:{kept.name}" not in own:
            kept.unlink()
    named = {**descriptor, "annotations": {"io.containerd.image.name": name}}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        for digest in own:
            if digest not in present:
                archive.add(blob(layout, digest), arcname=f"blobs/{digest.replace(':', '/')}")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a small file that exists only in memory."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def size(storage: Path, image: str, base: str) -> str:
    """The image's size on disk, in words, and how much of it is not its base's."""
    records = next(storage.glob("*-layers/layers.json")).read_text()
    bytes_of = {layer["diff-digest"]: layer["diff-size"] for layer in json.loads(records) if "diff-digest" in layer}

    def total(description: str) -> float:
        return sum(bytes_of[layer] for layer in json.loads(description)["OCIv1"]["rootfs"]["diff_ids"]) / 1e6

    return f"{total(image):.0f} MB, {total(image) - total(base):.0f} MB above its base"


if __name__ == "__main__":
    if sys.argv[1] == "--size":
        print(size(Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
    else:
        pack(Path(sys.argv[1]), sys.argv[2], set(sys.stdin.read().split()))
