"""Runs the scenarios that its input names, patched by gevent as a worker is: DATABASE FOLDER DATABASE-FOLDER."""

from gevent import monkey

monkey.patch_all()

import sys

from tests.live import replication_scenarios

replication_scenarios.main(*sys.argv[1:])
