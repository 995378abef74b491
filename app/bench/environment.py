"""What the computer around the bench is like: rules, buffers, permissions, GPU. Only looks; changes nothing."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.profile import Profile

BASLER_VENDOR = "2676"
USBFS_MB = 1000
"""Basler's advice for USB3 cameras."""
RULE_FOLDERS = (Path("/etc/udev/rules.d"), Path("/lib/udev/rules.d"), Path("/usr/lib/udev/rules.d"))
USBFS = Path("/sys/module/usbcore/parameters/usbfs_memory_mb")
NVIDIA = Path("/proc/driver/nvidia/gpus")
GPU_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Computer:
    """Where to look; tests look elsewhere.

    Attributes:
        rule_folders: of udev.
        usbfs: file with the size of the USB buffer, MB.
        nvidia: folder with one entry a GPU.
        platform: as `sys.platform`.
        groups: names of the groups that the user is in, or None to ask the system.
    """

    rule_folders: Sequence[Path] = RULE_FOLDERS
    usbfs: Path = USBFS
    nvidia: Path = NVIDIA
    platform: str = field(default_factory=lambda: sys.platform)
    groups: frozenset[str] | None = None


def hints(profile: Profile, computer: Computer) -> list[str]:
    """One line for everything that keeps real devices of this profile from working on this computer."""
    if not computer.platform.startswith("linux"):
        return []
    found = []
    if profile.camera.driver == "basler":
        if not _has_rule(computer.rule_folders):
            found.append(
                f"camera: no udev rule for Basler (vendor {BASLER_VENDOR}) in "
                f"{', '.join(map(str, computer.rule_folders))}; "
                "install the one that comes with pylon, then plug the camera in again"
            )
        size = usbfs_mb(computer.usbfs)
        if size is not None and size < USBFS_MB:
            found.append(
                f"camera: the USB buffer is {size} MB, frames may be lost below {USBFS_MB} MB; "
                f"as root: echo {USBFS_MB} > {computer.usbfs}"
            )
    if profile.stage.driver == "thorlabs" and not _may_use_serial_ports(computer):
        found.append(
            "stage: you are not in the group dialout and may not open serial ports; "
            "as root: usermod -aG dialout YOURNAME, then log in again"
        )
    return found


def usbfs_mb(path: Path) -> float | None:
    """Size of the USB buffer, MB; infinite for the kernel's 0, no limit; None where the system does not say."""
    try:
        size = int(path.read_text())
    except (OSError, ValueError):
        return None
    return math.inf if size == 0 else size


def gpus(computer: Computer) -> list[str]:
    """Names of the NVIDIA GPUs, asked of their own tool or of the kernel; torch is not needed."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        try:
            done = subprocess.run(
                [tool, "--query-gpu=name", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=GPU_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        if done.returncode == 0:
            return [line.strip() for line in done.stdout.splitlines() if line.strip()]
    try:
        return [f"NVIDIA GPU {entry.name}" for entry in sorted(computer.nvidia.iterdir())]
    except OSError:
        return []


def _has_rule(folders: Sequence[Path]) -> bool:
    for folder in folders:
        try:
            files = sorted(folder.glob("*.rules"))
        except OSError:
            continue
        for file in files:
            try:
                if BASLER_VENDOR in file.read_text(errors="replace"):
                    return True
            except OSError:
                continue
    return False


def _may_use_serial_ports(computer: Computer) -> bool:
    if computer.groups is not None:
        return "dialout" in computer.groups
    if os.name != "posix" or os.geteuid() == 0:
        return True
    import grp

    try:
        dialout = grp.getgrnam("dialout").gr_gid
    except KeyError:
        return True
    return dialout in os.getgroups()
