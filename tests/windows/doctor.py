"""What the doctor says of a card under Windows: the driver's policy, and what the system grants.

Runs in Windows' Python under wine, over the fake nvcuda.dll, without PyTorch: there is none with
CUDA for Windows in the registry.
"""

import ctypes
import os

from giant_kitten import _doctor


def say_all() -> "list[dict]":
    """The findings about the driver and the card."""
    findings = _doctor._Findings(prints=True)
    _doctor._check_driver(findings)
    _doctor._check_devices_by_ourselves(findings)
    return findings.report["findings"]


def main() -> None:
    """The command line."""
    fake = ctypes.CDLL(os.environ["GIANT_KITTEN_CUDA_DRIVER"])
    fake.fake_cuda_grant.argtypes = (ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64)
    findings = say_all()
    assert any("CUDA - Sysmem Fallback Policy" in found["found"] for found in findings)
    (unknown,) = [found for found in findings if "does not tell what it grants" in found["found"]]
    assert 'the option "dedicated"' in unknown["remedy"], unknown
    fake.fake_cuda_grant(0, 3 << 29, 4 << 30)
    said = [found["found"] for found in say_all()]
    for tier, size in (("dedicated", "1.50 GiB"), ("shared", "4.00 GiB")):
        assert any(f"the system grants this process {size} of {tier} memory" in found for found in said), said
    print("the doctor names the policy and the budgets")


if __name__ == "__main__":
    main()
