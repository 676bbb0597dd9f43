"""Packs one static program into an image archive that containerd imports: pause_image.py PROGRAM IMAGE-NAME OUTPUT."""

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path


def tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar archive of the files, each given as its bytes and mode; the same input gives the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def image(program: Path, name: str) -> bytes:
    """The image in the form of `docker save`: one layer with the program, which is also the entry point."""
    layer = tar({program.name: (program.read_bytes(), 0o755)})
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return tar(
        {
            "config.json": (json.dumps(config).encode(), 0o644),
            "layer.tar": (layer, 0o644),
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
        }
    )


if __name__ == "__main__":
    Path(sys.argv[3]).write_bytes(image(Path(sys.argv[1]), sys.argv[2]))
