# What is open about a real Windows machine, on one page to send back. It needs a Python with
# PyTorch for CUDA and the wheel of giant-kitten, and nothing else. It fills the card for some
# seconds: close what you have not saved.
#
#   powershell -ExecutionPolicy Bypass -File gpu-check.ps1                         the Python in PATH
#   powershell -ExecutionPolicy Bypass -File gpu-check.ps1 -Python venv\Scripts\python.exe
#
# The page is gpu-check.md in the current folder. The same on any system, without this file:
#   python -m giant_kitten._card gpu-check.md
param([string]$Python = "python", [string]$Page = "gpu-check.md")
$ErrorActionPreference = "Stop"
& $Python -m giant_kitten._card $Page
exit $LASTEXITCODE
