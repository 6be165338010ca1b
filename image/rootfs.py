#!/usr/bin/env python3
"""Lays out all that the image holds: the program with its file capability, and the names by which the meshes call it.

Usage: image/rootfs.py PROGRAM OUTPUT.tar     an archive that builders unpack; anybody can make it
       image/rootfs.py PROGRAM FOLDER         a new folder; root alone can give the file its capability
"""

import io
import os
import struct
import sys
import tarfile

PROGRAM = "mesh-init"
# What Istio and Linkerd put into `command`, or have as their images' entry points.
LINKS = (
    "usr/lib/linkerd/linkerd2-network-validator",
    "usr/lib/linkerd/linkerd2-proxy-init",
    "usr/local/bin/pilot-agent",
    "usr/local/bin/proxy-init",
)

CAP_NET_ADMIN = 12
VFS_CAP_REVISION_2 = 0x02000000
# cap_net_admin+p: permitted, not effective, so that the program also starts where the capability was not granted and can
# say so. The structure is linux/capability.h's vfs_cap_data: the magic, then permitted and inheritable of two words.
CAPABILITY = struct.pack("<5I", VFS_CAP_REVISION_2, 1 << CAP_NET_ADMIN, 0, 0, 0)


def folders():
    """All folders that the links need, outermost first."""
    found = set()
    for link in LINKS:
        parts = link.split("/")[:-1]
        found.update("/".join(parts[: end + 1]) for end in range(len(parts)))
    return sorted(found)


def write_archive(program, path):
    """Writes the same bytes for the same program, whoever makes it, and when."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:

        def add(name, kind, mode, **more):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            for field, value in more.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(program) if kind == tarfile.REGTYPE else None)

        # All of its bytes are ASCII, as a PAX header's text has to be.
        attribute = {"SCHILY.xattr.security.capability": CAPABILITY.decode("ascii")}
        add(PROGRAM, tarfile.REGTYPE, 0o755, size=len(program), pax_headers=attribute)
        for folder in folders():
            add(folder, tarfile.DIRTYPE, 0o755)
        for link in LINKS:
            add(link, tarfile.SYMTYPE, 0o777, linkname=f"/{PROGRAM}")


def write_folder(program, path):
    """Writes a tree for a builder that copies it with its extended attributes."""
    os.umask(0o022)
    os.mkdir(path)
    target = os.path.join(path, PROGRAM)
    with open(target, "wb") as file:
        file.write(program)
    os.chmod(target, 0o755)
    os.setxattr(target, "security.capability", CAPABILITY)
    for folder in folders():
        os.mkdir(os.path.join(path, folder))
    for link in LINKS:
        os.symlink(f"/{PROGRAM}", os.path.join(path, link))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        program = file.read()
    if not program.startswith(b"\x7fELF"):
        sys.exit(f"rootfs: {sys.argv[1]} is not a program for Linux")
    write = write_archive if sys.argv[2].endswith(".tar") else write_folder
    write(program, sys.argv[2])


main()
