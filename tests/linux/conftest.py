import subprocess

import pytest

import sampan


@pytest.fixture(scope="session", autouse=True)
def guest():
    """The cached Debian guest; built here when nobody has built it yet."""
    subprocess.run([str(sampan.TOP / "tools/mkguest")], check=True)
