"""setup.cfg has all there is to say. This keeps what a build makes along the way out of the project's folder: a build
by root would leave files there that its user cannot replace, and a later one would pack modules that are gone."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import setup

scratch = tempfile.mkdtemp(prefix="hmac-file-server-build-")
atexit.register(shutil.rmtree, scratch, ignore_errors=True)
options = {"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}}
if "sdist" in sys.argv:  # packs its egg-info, and looks for it beside this file
    del options["egg_info"]
    facts = Path("hmac_file_server.egg-info")
    if not facts.exists():
        atexit.register(shutil.rmtree, facts.absolute(), ignore_errors=True)

setup(options=options)
