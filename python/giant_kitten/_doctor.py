"""`giant-kitten doctor`: checks the installation and suggests remedies."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from typing import Any

from . import _driver, _library, _status, _variable
from ._report import size
from ._torch import alloc_conf, install

FALLBACK_POLICY = (
    'the setting "CUDA - Sysmem Fallback Policy" of the NVIDIA Control Panel cannot be read here. With "Prefer No '
    'Sysmem Fallback", a full card refuses memory, and giant-kitten chooses what lies in host memory. With "Driver '
    'Default" or "Prefer Sysmem Fallback", the driver moves what does not fit by itself: giant-kitten then stays '
    "within what the system grants, and other allocations of the process may be moved"
)
SET_DEDICATED = 'set the option "dedicated" to less than the card has free, or the driver may move memory by itself'

# The driver has no more in one system.
MOST_DEVICES = 64


class _Findings:
    """Collects findings and prints them, and counts those that need a remedy."""

    def __init__(self, prints: bool) -> None:
        self._prints = prints
        self.problems = 0
        # The keys are a promise to programs: docs/pytorch.md.
        self.report: dict[str, Any] = {
            "version": None, "library": None, "python": platform.python_version(), "executable": sys.executable,
            "torch": None, "cuda": None, "driver": None, "problems": 0, "findings": [], "devices": [],
        }  # fmt: skip

    def say(self, name: str, found: str, remedy: str = "") -> None:
        """Adds a finding; without a name, it is about the same as the one before."""
        findings = self.report["findings"]
        about = name or (findings[-1]["about"] if findings else "")
        findings.append({"about": about, "found": found, "remedy": remedy or None})
        self.problems += bool(remedy)
        self.report["problems"] = self.problems
        if self._prints:
            print(f"{'!' if remedy else ' '} {name:12} {found}")
            if remedy:
                print(f"{'':15}{remedy}")


def doctor(as_json: bool = False) -> int:
    """Prints what was found and how to solve each problem; returns the number of problems."""
    findings = _Findings(prints=not as_json)
    complete = _check(findings)
    if as_json:
        print(json.dumps(findings.report, indent=2))
    elif complete:
        print(_counted(findings.problems))
    return findings.problems


def _check(findings: _Findings) -> bool:
    """Checks everything; returns whether nothing was missing that later checks need."""
    if not _check_library(findings):
        return False
    if not _check_variables(findings):
        return False
    torch = _check_torch(findings)
    _check_driver(findings)
    if torch is None:
        _check_devices_by_ourselves(findings)
        return True
    for device in range(torch.cuda.device_count()):
        try:
            # This only queries the device. Other programs may need it: no heap or reserve is made.
            _say_device(findings, device, _library.read_json("gk_device_json", device))
        except _library.Error as why:
            findings.say(f"cuda:{device}", "cannot be used", str(why))
    return True


def _check_devices_by_ourselves(findings: _Findings) -> None:
    """Says what the driver has where PyTorch does not tell how many devices there are."""
    for device in range(MOST_DEVICES):
        try:
            found = _library.read_json("gk_device_json", device)
        except _library.Error as why:
            if device == 0:
                findings.say("driver", "has no GPU that can be used", str(why))
            return
        _say_device(findings, device, found)


def _counted(problems: int) -> str:
    if problems == 0:
        return "no problems found"
    return "1 problem found" if problems == 1 else f"{problems} problems found"


def _check_library(findings: _Findings) -> bool:
    try:
        version = _library.version()
    except _library.Error as why:
        findings.say("library", "cannot be loaded", str(why))
        return False
    findings.report.update(version=version, library=str(_library.library_path()))
    findings.say("library", f"giant-kitten {version}, {_library.library_path()}")
    findings.say("python", f"{platform.python_version()}, {sys.executable}")
    return True


def _check_variables(findings: _Findings) -> bool:
    """Checks the environment variables; returns whether the library takes their options."""
    if _variable.wanted() and not _status.is_installed():
        try:
            # It sets nothing, and reads the options of the variable.
            _library.call("gk_configure", b"")
        except _library.Error as why:
            findings.say("variable", "its options are wrong", str(why))
            return False
    findings.say("variable", _variable.meaning())
    ignored = _status.variable_ignored()
    if ignored:
        findings.say("", "giant-kitten is not in use", ignored)
    for name in alloc_conf.VARIABLES:
        text = os.environ.get(name, "")
        if "backend" in text:
            findings.say(name, text, "the choice of a backend is ignored while giant-kitten is in use: remove it")
        if "expandable_segments" in text:
            findings.say(name, f"{text}: no effect, giant-kitten's segments are always expandable")
    return True


def _check_torch(findings: _Findings) -> Any:
    """PyTorch, with giant-kitten installed and a GPU; None if one of them is missing."""
    try:
        import torch
    except ImportError as why:
        findings.say("torch", f"cannot be imported ({why})", "install a CUDA build of PyTorch next to giant-kitten")
        return None
    except Exception as why:
        # A PyTorch whose libraries are missing fails with whatever its loader raises.
        remedy = "install PyTorch again: `python -c 'import torch'` has to work first"
        findings.say("torch", f"cannot be imported ({type(why).__name__}: {why})", remedy)
        return None
    findings.report.update(torch=str(torch.__version__), cuda=torch.version.cuda)
    findings.say("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    try:
        install.install()
    except _library.Error as why:
        findings.say("torch", "cannot be used", str(why))
        return None
    if not torch.cuda.is_available():
        remedy, seen = "is the NVIDIA driver installed, and recent enough for this PyTorch?", "CUDA_VISIBLE_DEVICES"
        if seen in os.environ:
            remedy = f"{seen}={os.environ[seen]} hides every GPU that it does not name: unset it, or name a GPU"
        findings.say("driver", "PyTorch finds no GPU", remedy)
        return None
    return torch


def _check_driver(findings: _Findings) -> None:
    version = _driver.version()
    findings.report.update(driver=version)
    if version:
        findings.say("driver", version)
    if sys.platform == "win32":
        findings.say("policy", FALLBACK_POLICY)


def _say_device(findings: _Findings, device: int, found: dict[str, Any]) -> None:
    findings.report["devices"].append({"index": device, **found})
    card = f"the card has {size(found['dedicated_total'])}, {size(found['dedicated_free'])} of it free"
    findings.say(f"cuda:{device}", f"{found['device']}: dedicated {size(found['dedicated_capacity'])}; {card}")
    _check_reserve(findings, found)
    _say_what_is_granted(findings, found)
    remedy = ""
    if found["rung"] == "none":
        reasons = "; ".join(found["rungs_refused"])
        remedy = f"the driver offers no shared memory (it needs CUDA 12.2 or later): {reasons}"
    elif found["shared_capacity"] == 0:
        remedy = 'the host has no memory to spare: close programs, or set the option "shared"'
    findings.say("", f"shared {size(found['shared_capacity'])} by {found['rung']}", remedy)
    if found["rung"] != "none":
        findings.say("", _budget(found))
    if found["rung"] == "pinned":
        findings.say("", "memory cannot change tier on this driver: actions take tensors out and back instead, because")
        for reason in found["rungs_refused"]:
            findings.say("", f"  {reason}")


def _check_reserve(findings: _Findings, found: dict[str, Any]) -> None:
    """Says when the options keep more of the card than it has."""
    given = _library.Activation()
    _library.call("gk_defaults", ctypes.byref(given))
    capacity = found["dedicated_capacity"]
    if capacity == 0:
        findings.say("", "nothing of the card is left", 'make the option "headroom" smaller, or leave it out')
        return
    for name, kept in (("reserve", given.reserve), ("persist", given.persist)):
        if kept != _library.AUTO and kept > capacity:
            remedy = f"{name}:{size(kept)} is more than the card has, so every weight would lie in shared memory: "
            remedy += "give less, or leave the option out"
            findings.say("", f"the option {name} keeps all of it", remedy)


def _say_what_is_granted(findings: _Findings, found: dict[str, Any]) -> None:
    """Says what the operating system grants, in the figures of Windows' Task Manager."""
    if found["granted_unknown"]:
        findings.say("", f"the system does not tell what it grants: {found['granted_unknown']}", SET_DEDICATED)
    for tier in ("dedicated", "shared"):
        granted, usage = found[f"{tier}_granted"], found[f"{tier}_usage"]
        if granted:
            remedy = ""
            if usage > granted:
                remedy = f"it has taken {size(usage - granted)} away: close other programs that use the card"
            text = f"the system grants this process {size(granted)} of {tier} memory, {size(usage)} are in use"
            findings.say("", text, remedy)


def _budget(found: dict[str, Any]) -> str:
    left = max(0, min(found["shared_budget"], found["shared_total"] // 2 - found["shared_others"]))
    return (
        f"half of the host's {size(found['shared_total'])} is for all processes of this user: others hold "
        f"{size(found['shared_others'])}, so this process may take {size(left)} on all devices together"
    )
