"""The entry for ``gunicorn -c gunicorn.conf.py wsgi:app``; ``HMACFS_CONFIG`` names the configuration file."""

from hmacfs.server.application import load_app

app = load_app()
